"""Kinds of values: what a file may hold for an option, and how it is read there and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from atras.loggers import loggers_of

from .readers import (
    parse_attacks,
    parse_candidates,
    parse_defence,
    parse_epsilon,
    parse_epsilons,
    parse_memory,
    parse_number,
    parse_schedule,
    parse_seeds,
    parse_size,
    parse_whole,
)


class Kind(NamedTuple):
    """The way in which values of an option are written.

    Args:
        expected: what a file should hold, for messages.
        types: of a value in a file; no other will do, not even a subclass.
        items: of what a list in its place may hold; empty where none will do.
        read: makes of a value, as written, and the option's name that of the field, or raises an InputError.
    """

    expected: str
    types: tuple[type, ...]
    items: tuple[type, ...] = ()
    read: Callable[[Any, str], Any] = lambda value, _: value

    def fits(self, value: object) -> bool:
        """Whether a value out of a file has one of the types."""
        if type(value) is list and self.items:
            return all(type(item) in self.items for item in value)
        return type(value) in self.types


class _Candidates(Kind):
    """A list of candidates, each a text or a list of widths."""

    def fits(self, value: object) -> bool:
        widths = [item for item in value if type(item) is list] if type(value) is list else []
        return super().fits(value) and all(type(width) is int for each in widths for width in each)


TEXT = Kind("text in quotes", (str,))
WHOLE = Kind("a whole number", (int,), read=parse_whole)
NUMBER = Kind("a number", (float, int), read=parse_number)
TRUTH = Kind("true or false", (bool,))
SIZE = Kind('a whole number, "all" or "default"', (int, str), read=parse_size)
WHOLES = Kind('whole numbers, such as [8, 16] or "8,16"', (int, str), (int,))
SEEDS = Kind('whole numbers, such as [0, 3] or "0-4"', (int, str), (int,), parse_seeds)
EPSILON = Kind('a number or a fraction in quotes, such as 0.05 or "8/255"', (float, int, str), read=parse_epsilon)
EPSILONS = Kind(
    'numbers or fractions in quotes, such as [0, 0.05] or "0,8/255"',
    (float, int, str),
    (float, int, str),
    parse_epsilons,
)
ATTACK_LIST = Kind('attacks, such as ["fgsm", "pgd(steps=40)"] or "fgsm,pgd"', (str,), (str,), parse_attacks)
LOGGER_LIST = Kind(
    'loggers, such as ["tensorboard", "mlflow(experiment=mine)"]', (str,), (str,), lambda value, _: loggers_of(value)
)
AXES = Kind(
    'axes, such as ["learning_rate=0.001,0.003"] or a table with a list of values for each', (str, dict), (str,)
)
TEXTS = Kind("texts in quotes", (), (str,), lambda value, _: tuple(value))
DEFENCE = Kind('text in quotes, such as "batch(pgd(steps=7))"', (str,), read=parse_defence)
SCHEDULE = Kind('text in quotes, such as "cosine(warmup=2)"', (str,), read=parse_schedule)
MEMORY = Kind('bytes, or text such as "4GiB"', (int, str), read=lambda value, _: parse_memory(value))
CANDIDATES = _Candidates('a list of candidates, such as ["40", "24,192"] or [[24, 192]]', (str,), (str, list))

NAMES = Kind('names of candidates, such as ["40", "24-192"]', (str,), (str,), parse_candidates)

BY_TYPE: dict[Any, Kind] = {int: WHOLE, float: NUMBER, bool: TRUTH}
"""The kind of an option by the type of its field, where it names none; otherwise text."""
