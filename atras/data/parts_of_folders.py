"""Names of the parts of a data set, as folders and files have them."""

from __future__ import annotations

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev"),
}
"""Spellings of each part, in lower case."""


def part_of(name: str) -> str | None:
    """The part that a name stands for, in any case; None for a name that stands for none."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


def tested_on(parts: set[str]) -> str | None:
    """The part that networks are tested on: `test` if it is there, else `validation`, else None."""
    return next((part for part in ("test", "validation") if part in parts), None)


def unused_validation(parts: set[str], name: str) -> tuple[str, ...]:
    """What is said where both are there, a line each."""
    if not {"test", "validation"} <= parts:
        return ()
    return (f"data: not used is the validation part of {name}; to test on it, move the test part away",)
