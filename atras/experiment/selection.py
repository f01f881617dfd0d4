"""The options that choose candidates: from a preset, by name, by range and by depth."""

from __future__ import annotations

from collections.abc import Sequence

from atras.checks import one_of
from atras.errors import InputError
from atras.networks import (
    FAMILY_KINDS,
    PAPER_BASE_WIDTHS,
    PAPER_CANDIDATES,
    PAPER_FACTORS,
    PAPER_MAX_WIDTH,
    Candidate,
    k_complete,
    with_depth,
)

from .kinds import WHOLE, WHOLES
from .option import Option, Setting
from .readers import parse_whole, parse_whole_numbers

_OPTIONS = {
    "family": Option(
        "search space, where no candidates are named", metavar="|".join(FAMILY_KINDS), default="dense",
        meaning="The k-complete candidates, whose layers grow by one and the same factor: of dense layers behind the "
        "stem, or of 3x3 convolutions with max-pools and no stem, the paper's other reading. Of either there are 40. "
        "Beside `--hidden` it says of what kind the layers must be.",
    ),
    "depth": Option(
        "keep candidates with so many hidden layers; 1,2 or repeated", kind=WHOLES, repeat=True, metavar="N",
        default="all",
    ),
    "base_widths": Option(
        "first layers' widths of k-complete candidates", kind=WHOLES, metavar="8,16", default="8,16,...,64",
        meaning="The k-complete candidates are chosen by range: a first layer of each of these widths, each further "
        "one wider by one and the same factor, up to the widest.",
    ),
    "factors": Option("growth from layer to layer", kind=WHOLES, metavar="2,4", default="2,4,8,16,32"),
    "max_width": Option("widest layer", kind=WHOLE, metavar="N", default=str(PAPER_MAX_WIDTH)),
}  # fmt: skip

SELECTION = {name: Setting(name, option, object, panel="Population") for name, option in _OPTIONS.items()}
"""The settings that choose candidates besides `hidden`, which names them one by one."""


def select_candidates(
    hidden: str | Sequence[str | Sequence[int]] | None = None,
    family: str | None = None,
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
        family: kind of the k-complete layers, or of those named.
        depth: numbers of hidden layers to keep: `1,2`.
        base_widths, factors, max_width: the ranges of `k_complete`; those left out are the paper's.
        start: what depth filters where none of the others is given.

    Raises:
        InputError: if a value cannot be read, both ways of choosing are used, a named candidate is of another family,
            or no candidate is left.
    """
    if family is not None:
        one_of("family", family, FAMILY_KINDS)
    ranges = {"base-widths": base_widths, "factors": factors, "max-width": max_width}
    given = [name for name, value in ranges.items() if value is not None]
    if hidden is not None and given:
        raise InputError(f"hidden and {given[0]} both choose candidates: name them one by one or by range, not both")
    chosen = tuple(start)
    if hidden is not None:
        named = [hidden] if isinstance(hidden, str) else hidden
        chosen = tuple(Candidate.parse(item) if isinstance(item, str) else Candidate(tuple(item)) for item in named)
        _check_family(family, chosen)
    elif given or family is not None:
        chosen = k_complete(
            PAPER_BASE_WIDTHS if base_widths is None else parse_whole_numbers(base_widths, "base-widths", "8,16"),
            PAPER_FACTORS if factors is None else parse_whole_numbers(factors, "factors", "2,4"),
            PAPER_MAX_WIDTH if max_width is None else parse_whole(max_width, "max-width"),
            family or "dense",
        )
    return chosen if depth is None else with_depth(chosen, parse_whole_numbers(depth, "depth", "2 or 1,3"))


def _check_family(family: str | None, candidates: Sequence[Candidate]) -> None:
    """Refuse named candidates of another family."""
    if family is None:
        return
    kinds = {type(FAMILY_KINDS[family](1))}
    for candidate in candidates:
        if not {type(layer) for layer in candidate.layers} <= kinds:
            raise InputError(
                f"hidden (={candidate.name!r}): expected a candidate of family {family}; leave out --family, or write "
                f"layers such as {FAMILY_KINDS[family](24)}"
            )
