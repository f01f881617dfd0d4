"""Readers of option values as they are written: one set for the command line and for files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal, cast

from atras.attacks import ATTACKS, Attack
from atras.defences import DEFENCES, Defence
from atras.errors import InputError, shown
from atras.networks import Candidate
from atras.registry import read_fraction, split_outside
from atras.schedules import SCHEDULES, Schedule

Channels = Literal["auto", "first", "last"]
HeldOut = int | Literal["none", "default"]
Size = int | Literal["default", "all"]
Subset = Literal["first", "stratified"]

MAX_COUNT = 10_000
"""Most numbers that ranges such as 0-4 may stand for: past it a typing error is likelier than a wish."""

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}


def parse_epsilon(value: str | float, name: str = "epsilon") -> float:
    """Read an attack strength: a number, or a fraction such as `8/255`.

    Raises:
        InputError: if it is neither; the range is left to `Protocol`.
    """
    return read_fraction(name, value)


def parse_epsilons(value: str | float | Sequence[str | float], name: str = "epsilons") -> tuple[float, ...]:
    """Read attack strengths: numbers or fractions with commas, or a list of these; an InputError if it is another."""
    items = [value] if isinstance(value, str | int | float) else value
    parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
    return tuple(parse_epsilon(part, name) for part in parts)


def parse_attacks(value: str | Sequence[str], name: str = "attack") -> tuple[Attack, ...]:
    """Read attacks: their spellings with commas between them, or a list; an InputError if it is anything else."""
    items = [value] if isinstance(value, str) else value
    if not all(isinstance(item, str) for item in items):
        raise InputError(f"{name} (={value!r}): expected names; write for example fgsm,pgd(steps=40)")
    return tuple(ATTACKS.parse(part) for item in items for part in split_outside(item))


def parse_candidates(value: str | Sequence[str], name: str = "candidates") -> tuple[Candidate, ...]:
    """Read candidates by their names, one or a list; an InputError if one is anything else."""
    del name  # the layers name themselves
    return tuple(Candidate.parse(item) for item in ([value] if isinstance(value, str) else value))


def parse_defence(value: str, name: str = "defence") -> Defence:
    """Read a defence by its spelling; an InputError if it is anything else."""
    del name  # the register names it
    return DEFENCES.parse(value)


def parse_schedule(value: str, name: str = "schedule") -> Schedule:
    """Read a schedule by its spelling; an InputError if it is anything else."""
    del name  # the register names it
    return SCHEDULES.parse(value)


def parse_seeds(value: str | int | Sequence[str | int], name: str = "seeds") -> tuple[int, ...]:
    """Read seeds: `0-4`, `0,3,7`, one number, or a list of these; an InputError if it is anything else."""
    return parse_whole_numbers(value, name, "0-4 or 0,3,7")


def parse_number(value: str | float, name: str) -> float:
    """Read a number; an InputError if it is anything else."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise InputError(f"{name} (={shown(value)}): expected a number; write for example 0.001") from None


def parse_whole(value: str | int, name: str) -> int:
    """Read one whole number; an InputError if it is anything else."""
    if type(value) is int:
        return value
    if not re.fullmatch(r"\s*[+-]?\d{1,19}\s*", str(value), flags=re.ASCII):
        raise InputError(f"{name} (={shown(value)}): expected a whole number; write for example 10")
    return int(value)


def parse_size(value: str | int, name: str = "size") -> Size:
    """Read the number of images to take from a part of a data set: a whole number, `all` or `default`.

    Raises:
        InputError: if it is anything else; the range is left to `Protocol`.
    """
    if value == "all" or value == "default":
        return cast(Size, value)
    try:
        return parse_whole(value, name)
    except InputError:
        raise InputError(
            f"{name} (={shown(value)}): expected a whole number, all or default; write for example 5000"
        ) from None


def parse_memory(value: str | int) -> int:
    """Read an amount of memory: bytes, or a number with a unit from KiB to TiB (powers of 1024) or KB to TB (of 1000).

    Returns:
        Bytes, rounded down.

    Raises:
        InputError: if it is anything else; the range is left to `Execution`.
    """
    if type(value) is int:
        return value
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\s*", str(value), flags=re.ASCII | re.IGNORECASE)
    if isinstance(value, bool) or not match or match[2].lower() not in _UNITS:
        raise InputError(
            f"memory (={shown(value)}): expected bytes or a number with a unit; write for example 4GiB or 512MiB"
        )
    return (
        int(float(match[1]) * _UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * _UNITS[match[2].lower()]
    )


def parse_shard(value: str) -> tuple[int, int]:
    """Read which part of a run is meant: `3/16` is the third of sixteen.

    Returns:
        Its number, from 1, and how many there are.

    Raises:
        InputError: if it is anything else.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", str(value), flags=re.ASCII)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of:
        raise InputError(
            f"shard (={shown(value)}): expected a part and how many there are; write 1/16 to 16/16, or slurm"
        )
    return number, of


def resolve_shard(value: object) -> object:
    """`slurm` as the shard that a task of a Slurm job array computes; all else as it is.

    Raises:
        InputError: if this is no task of a job array, or the array's numbers do not tell which of how many it is.
    """
    if value != "slurm":
        return value
    names = ("ID", "MIN", "MAX", "COUNT")
    found = {name: os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names}
    if not found["ID"]:
        raise InputError(
            "shard (=slurm): expected a task of a job array (SLURM_ARRAY_TASK_ID), got none; sbatch --array"
        )
    try:
        own, low, high, count = (int(found[name]) for name in names)
        step = (high - low) // (count - 1) if count > 1 else 1
        place, rest = divmod(own - low, step)
        if rest or low + step * (count - 1) != high or not 0 <= place < count:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        told = ", ".join(f"{name} {text or 'missing'}" for name, text in found.items())
        raise InputError(
            f"shard (=slurm): expected a job array of evenly spaced numbers, got {told}; write for example --array=1-16"
        ) from None
    return f"{place + 1}/{count}"


def parse_whole_numbers(value: str | int | Sequence[str | int], name: str, example: str) -> tuple[int, ...]:
    """Read whole numbers: one, several with commas, ranges with a hyphen, or a list of these.

    Args:
        value: what was written.
        name, example: how an error names the option, and what it shows as right.

    Raises:
        InputError: if it is anything else, a range runs backwards, or they are more than MAX_COUNT numbers in all.
    """
    numbers: list[int] = []
    for part in [value] if isinstance(value, str | int) else value:
        if type(part) is int:
            numbers.append(part)
            continue
        for item in str(part).split(","):
            match = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?", item, flags=re.ASCII)
            low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if not low <= high < low + MAX_COUNT - len(numbers):
                raise InputError(f"{name} (={shown(value)}): expected whole numbers; write for example {example}")
            numbers.extend(range(low, high + 1))
    return tuple(numbers)
