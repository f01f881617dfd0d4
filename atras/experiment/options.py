"""How options are written: one set of parsers for the command line and for files, and which source outranks which.

`settings` are options as their user wrote them, keyed like the fields of `Protocol` and `Execution`, with `memory` for
`memory_bytes` and, in place of `candidates`, the five keys of `select_candidates`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from atras.attacks import ATTACKS, Attack
from atras.defences import DEFENCES, Defence
from atras.errors import InputError, shown
from atras.networks import (
    PAPER_BASE_WIDTHS,
    PAPER_CANDIDATES,
    PAPER_FACTORS,
    PAPER_MAX_WIDTH,
    Candidate,
    k_complete,
    with_depth,
)
from atras.registry import read_fraction, split_outside

from .protocol import PRESETS, Execution, Protocol, Size

SELECTION = ("hidden", "depth", "base_widths", "factors", "max_width")
"""The settings that choose candidates."""

MAX_COUNT = 10_000
"""Most numbers that ranges such as 0-4 may stand for: past it a typing error is likelier than a wish."""

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}


@dataclass(frozen=True)
class Loaded:
    """What a configuration file says: fields of `Protocol` and `Execution`, a preset's name, a recorded plan."""

    protocol_fields: dict[str, Any] = field(default_factory=dict)
    execution_fields: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    preset: str | None = None


def combine(loaded: Loaded, settings: Mapping[str, Any]) -> tuple[Protocol, Execution, dict[str, Any] | None]:
    """Defaults, then the preset, then a file, then the command line: the later one wins.

    Args:
        loaded: what the file says; `Loaded()` where there is none.
        settings: what the command line says, and a preset's name under `preset`.

    Returns:
        The protocol, the execution, and the file's recorded plan, or None if the command line changed anything that a
        plan depends on.

    Raises:
        InputError: if a value cannot be read or is out of range.
    """
    low = preset_fields(settings.get("preset", loaded.preset)) | loaded.protocol_fields
    fields = low | protocol_fields(settings, low.get("candidates", PAPER_CANDIDATES))
    places = loaded.execution_fields | execution_fields(settings)
    protocol, execution = Protocol(**fields), Execution(**places)
    same_machine = all(
        getattr(execution, name) == getattr(Execution(**loaded.execution_fields), name)
        for name in ("engine", "device", "memory_bytes")
    )
    keep = loaded.plan is not None and protocol == Protocol(**low) and same_machine and not execution.recalibrate
    return protocol, execution, loaded.plan if keep else None


def preset_fields(name: str | None) -> dict[str, Any]:
    """The protocol fields that a preset sets; none without a preset."""
    if name is None:
        return {}
    if name not in PRESETS:
        raise InputError(f"preset (={shown(name)}): expected one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def protocol_fields(settings: Mapping[str, Any], candidates: Sequence[Candidate] = PAPER_CANDIDATES) -> dict[str, Any]:
    """The fields of `Protocol` that settings name, parsed; other keys are passed over.

    Args:
        settings: options as written.
        candidates: what `depth` filters where no other key chooses candidates.

    Raises:
        InputError: if a value cannot be read; ranges are left to `Protocol`.
    """
    names = {item.name for item in dataclasses.fields(Protocol)}
    fields = {
        name: _PARSERS[name](value, name) if name in _PARSERS else value
        for name, value in settings.items()
        if name in names
    }
    if "epochs" in fields:
        fields.setdefault("adversarial_epochs", fields["epochs"])
    chosen = {name: settings[name] for name in SELECTION if name in settings}
    if chosen:
        fields["candidates"] = select_candidates(**chosen, start=candidates)
    return fields


def execution_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Execution` that settings name, parsed; other keys are passed over."""
    names = {item.name for item in dataclasses.fields(Execution)}
    fields = {name: value for name, value in settings.items() if name in names}
    if "memory" in settings:
        fields["memory_bytes"] = parse_memory(settings["memory"])
    if "checkpoint_every" in settings:
        fields["checkpoint_every"] = parse_number(settings["checkpoint_every"], "checkpoint_every")
    return fields


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


def parse_defence(value: str, name: str = "defence") -> Defence:
    """Read a defence by its spelling; an InputError if it is anything else."""
    del name  # the register names it
    return DEFENCES.parse(value)


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
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\s*", str(value), flags=re.ASCII | re.IGNORECASE)
    if isinstance(value, bool) or not found or found[2].lower() not in _UNITS:
        raise InputError(
            f"memory (={shown(value)}): expected bytes or a number with a unit; write for example 4GiB or 512MiB"
        )
    return (
        int(float(found[1]) * _UNITS[found[2].lower()]) if "." in found[1] else int(found[1]) * _UNITS[found[2].lower()]
    )


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
            found = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?", item, flags=re.ASCII)
            low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
            if not low <= high < low + MAX_COUNT - len(numbers):
                raise InputError(f"{name} (={shown(value)}): expected whole numbers; write for example {example}")
            numbers.extend(range(low, high + 1))
    return tuple(numbers)


def select_candidates(
    hidden: str | Sequence[str | Sequence[int]] | None = None,
    depth: str | int | Sequence[str | int] | None = None,
    base_widths: str | int | Sequence[str | int] | None = None,
    factors: str | int | Sequence[str | int] | None = None,
    max_width: str | int | None = None,
    *,
    start: Sequence[Candidate] = PAPER_CANDIDATES,
) -> tuple[Candidate, ...]:
    """Choose candidates: named one by one, or k-complete, or those of `start`; then only the depths asked for.

    Args:
        hidden: hidden layers of each candidate: `24,192`, or a list of such texts or of lists of widths.
        depth: numbers of hidden layers to keep: `1,2`.
        base_widths, factors, max_width: the ranges of `k_complete`; those left out are the paper's.
        start: what depth filters where none of the other four is given.

    Raises:
        InputError: if a value cannot be read, both ways of choosing are used, or no candidate is left.
    """
    ranges = {"base-widths": base_widths, "factors": factors, "max-width": max_width}
    given = [name for name, value in ranges.items() if value is not None]
    if hidden is not None and given:
        raise InputError(f"hidden and {given[0]} both choose candidates: name them one by one or by range, not both")
    chosen = tuple(start)
    if hidden is not None:
        named = [hidden] if isinstance(hidden, str) else hidden
        chosen = tuple(Candidate.parse(item) if isinstance(item, str) else Candidate(tuple(item)) for item in named)
    elif given:
        chosen = k_complete(
            PAPER_BASE_WIDTHS if base_widths is None else parse_whole_numbers(base_widths, "base-widths", "8,16"),
            PAPER_FACTORS if factors is None else parse_whole_numbers(factors, "factors", "2,4"),
            PAPER_MAX_WIDTH if max_width is None else parse_whole(max_width, "max-width"),
        )
    return chosen if depth is None else with_depth(chosen, parse_whole_numbers(depth, "depth", "2 or 1,3"))


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "train_size": parse_size,
    "test_size": parse_size,
    "seeds": parse_seeds,
    "epsilon": parse_epsilon,
    "attacks": parse_attacks,
    "defence": parse_defence,
    "epsilons": parse_epsilons,
    **dict.fromkeys(("epochs", "adversarial_epochs", "batch_size", "evaluate_every"), parse_whole),
    **dict.fromkeys(("head_dropout", "learning_rate", "momentum"), parse_number),
}
"""How the settings that are not plain text are read."""
