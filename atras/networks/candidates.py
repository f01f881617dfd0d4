"""Which networks there are: candidates and the k-complete search space of the paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atras.errors import InputError, shown

MAX_UNITS = 65_536
"""Widest hidden layer accepted, in units: past it a typing error is likelier than a wish."""

MAX_LAYERS = 1000
"""Most hidden layers accepted, for the same reason."""

MAX_CANDIDATES = 100_000
"""Most candidates that ranges may stand for, likewise."""

PAPER_BASE_WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
PAPER_FACTORS = (2, 4, 8, 16, 32)
PAPER_MAX_WIDTH = 1024


@dataclass(frozen=True, order=True)
class Candidate:
    """One network architecture: the widths of its hidden layers, first to last.

    Args:
        hidden: units of each hidden layer, at least one layer, each in [1, MAX_UNITS].

    Raises:
        InputError: if there is no layer, or a width is not a whole number in range.
    """

    hidden: tuple[int, ...]

    def __post_init__(self) -> None:
        widths = tuple(self.hidden) if isinstance(self.hidden, tuple | list) else ()
        if len(widths) > MAX_LAYERS:
            raise InputError(f"hidden (={shown(self.hidden)}): expected at most {MAX_LAYERS} layers, got {len(widths)}")
        if not widths or not all(type(width) is int and 1 <= width <= MAX_UNITS for width in widths):
            raise InputError(
                f"hidden (={shown(self.hidden)}): expected one or more whole numbers from 1 to {MAX_UNITS}; "
                "write for example 24,192 for two hidden layers"
            )
        object.__setattr__(self, "hidden", widths)

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.hidden)

    @property
    def name(self) -> str:
        """The paper's spelling, such as `24-192`."""
        return "-".join(map(str, self.hidden))

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `24,192` or `24-192`.

        Raises:
            InputError: if the text is anything else.
        """
        if not re.fullmatch(r"\s*\d{1,9}\s*([,-]\s*\d{1,9}\s*)*", text, flags=re.ASCII):
            raise InputError(f"hidden (={shown(text)}): expected widths separated by commas, such as 24,192")
        return cls(tuple(int(width) for width in re.split("[,-]", text)))


def k_complete(
    base_widths: Iterable[int] = PAPER_BASE_WIDTHS,
    factors: Iterable[int] = PAPER_FACTORS,
    max_width: int = PAPER_MAX_WIDTH,
) -> tuple[Candidate, ...]:
    """Every network whose hidden layers grow by one factor from a base width to the widest that is allowed.

    A base width w and a factor k give the layers w, wk, wk^2, ... up to `max_width`. The defaults give the 40
    architectures of the paper in the order of its tables (factors outermost).

    Args:
        base_widths: units of the first hidden layer.
        factors: growth from one layer to the next, each at least 2.
        max_width: units of the widest layer allowed.

    Raises:
        InputError: if a factor is below 2, a base width below 1 or above `max_width`, the ranges are too wide, or
            nothing is left.

    Source: ATRAS, Tables I and II; the rule is read out of the tables (docs/protocol.md).
    """
    found: dict[Candidate, None] = {}
    widths, factors = tuple(base_widths), tuple(factors)
    if max_width > MAX_UNITS:
        raise InputError(f"max_width (={shown(max_width)}): expected a whole number from 1 to {MAX_UNITS}")
    if len(widths) * len(factors) > MAX_CANDIDATES:
        raise InputError(f"base_widths and factors: expected at most {MAX_CANDIDATES} candidates; narrow the ranges")
    if any(factor < 2 for factor in factors):
        raise InputError(f"factors (={shown(factors)}): expected whole numbers of at least 2; a factor of 1 never ends")
    if any(not 1 <= width <= max_width for width in widths):
        raise InputError(f"base_widths (={shown(widths)}): expected whole numbers from 1 to max_width (={max_width})")
    for factor in factors:
        for width in widths:
            hidden = [width]
            while hidden[-1] * factor <= max_width:
                hidden.append(hidden[-1] * factor)
            found.setdefault(Candidate(tuple(hidden)))
    if not found:
        raise InputError("k_complete: expected at least one base width and one factor; none came")
    return tuple(found)


PAPER_CANDIDATES = k_complete()
"""The paper's 40 architectures in the order of its tables."""


def with_depth(candidates: Sequence[Candidate], depths: Iterable[int]) -> tuple[Candidate, ...]:
    """The candidates whose number of hidden layers is one of `depths`, in their order.

    Raises:
        InputError: if none is left.
    """
    wanted = set(depths)
    left = tuple(candidate for candidate in candidates if candidate.depth in wanted)
    if not left:
        there = ", ".join(map(str, sorted({candidate.depth for candidate in candidates})))
        asked = ", ".join(map(shown, sorted(wanted)[:10]))
        raise InputError(f"depth (={asked}): no candidate has it; choose from {there}")
    return left
