"""Variants: what a member has otherwise than the run's other members, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atras.errors import InputError, shown


@dataclass(frozen=True)
class Variant:
    """The settings in which a member differs from others of its run.

    Args:
        settings: pairs of a field of `Protocol` and its value as it is spelled, in the order of the run's axes; empty
            in a run without axes.
    """

    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Such as `learning_rate=0.003 defence=batch(pgd(steps=7))`; empty where there are no settings."""
        return " ".join(f"{field}={value}" for field, value in self.settings)

    def get(self, field: str) -> str | None:
        """The spelled value of a field; None where it is the run's."""
        return dict(self.settings).get(field)

    def without(self, *fields: str) -> Variant:
        """The settings of all other fields."""
        return Variant(tuple(pair for pair in self.settings if pair[0] not in fields))

    def to_list(self) -> list[list[str]]:
        """The settings as JSON values."""
        return [list(pair) for pair in self.settings]

    @classmethod
    def from_list(cls, values: object) -> Variant:
        """What `to_list` gave.

        Raises:
            InputError: if it is something else.
        """
        pairs: list[Any] = values if isinstance(values, list) else [[]]
        if all(isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in pairs):
            return cls(tuple((field, value) for field, value in pairs))
        raise InputError(f"variant (={shown(values)}): expected pairs of a field and its value; restore the record")
