"""The options that choose candidates: from a preset, by name, by family and range, and by depth."""

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
    grid,
    k_complete,
    with_depth,
)

from .kinds import WHOLE, WHOLES
from .option import Option, Setting
from .readers import parse_whole, parse_whole_numbers

Numbers = str | int | Sequence[str | int]
"""Whole numbers as they are written: one, `8,16` or `1-3`, or a list of these."""

FAMILIES = (*FAMILY_KINDS, "grid")

_OPTIONS = {
    "family": Option(
        "search space, where no candidates are named", metavar="|".join(FAMILIES), default="dense",
        meaning="`dense` and `conv` are the k-complete candidates, whose layers grow by one and the same factor: dense "
        "layers behind the stem, or 3x3 convolutions with max-pools and no stem, the paper's other reading. Of either "
        "there are 40. Beside `--hidden` they say of what kind its layers must be. `grid` is every width with every "
        "depth and kernel.",
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
    "widths": Option(
        "widths of a grid's layers", kind=WHOLES, metavar="16,32",
        meaning="Units, or with `--kernels` filters, alike in all layers of a candidate.",
    ),
    "depths": Option("numbers of layers of a grid's candidates", kind=WHOLES, metavar="1-3"),
    "kernels": Option(
        "kernels of a grid's convolutions", kind=WHOLES, metavar="3,5", default="dense layers",
        meaning="Odd; each convolution keeps the image's size and has a 2x2 max-pool while the image has two rows and "
        "columns.",
    ),
}  # fmt: skip

_K_COMPLETE = ("base_widths", "factors", "max_width")
_GRID = ("widths", "depths", "kernels")

SELECTION = {name: Setting(name, option, object, panel="Population") for name, option in _OPTIONS.items()}
"""The settings that choose candidates besides `hidden`, which names them one by one."""


def select_candidates(
    hidden: str | Sequence[str | Sequence[int]] | None = None,
    family: str | None = None,
    depth: Numbers | None = None,
    *,
    start: Sequence[Candidate] = PAPER_CANDIDATES,
    **ranges: Numbers | None,
) -> tuple[Candidate, ...]:
    """Choose candidates: named one by one, or of a family, or those of `start`; then only the depths asked for.

    Args:
        hidden: hidden layers or name of each candidate: `24,192`, or a list of such texts or of lists of widths.
        family: one of `FAMILIES`; None for that of the ranges.
        depth: numbers of hidden layers to keep: `1,2`.
        start: what depth filters where none of the others is given.
        ranges: `base_widths`, `factors` and `max_width` of `k_complete`, of which those left out are the paper's, or
            `widths`, `depths` and `kernels` of `grid`.

    Raises:
        InputError: if a value cannot be read, two ways of choosing are used, a named candidate is of another family, or
            no candidate is left.
    """
    given = {name: value for name, value in ranges.items() if value is not None}
    if family is not None:
        one_of("family", family, FAMILIES)
    chosen = tuple(start)
    if hidden is not None:
        others = [*map(_flag, given), *(["family grid"] if family == "grid" else [])]
        if others:
            raise InputError(
                f"hidden and {others[0]} both choose candidates: name them one by one or by range, not both"
            )
        named = [hidden] if isinstance(hidden, str) else hidden
        chosen = tuple(Candidate.parse(item) if isinstance(item, str) else Candidate(tuple(item)) for item in named)
        _check_family(family, chosen)
    elif given or family is not None:
        chosen = _family(family, given)
    return chosen if depth is None else with_depth(chosen, parse_whole_numbers(depth, "depth", "2 or 1,3"))


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _family(family: str | None, ranges: dict[str, Numbers]) -> tuple[Candidate, ...]:
    """The candidates of a family, or of the one whose ranges are given."""
    kind = family or ("grid" if set(ranges) <= set(_GRID) else "dense")
    strange = [name for name in ranges if name not in (_GRID if kind == "grid" else _K_COMPLETE)]
    if strange:
        own = _GRID if kind == "grid" else _K_COMPLETE
        raise InputError(
            f"{_flag(strange[0])}: expected with another family than {kind}, which has {', '.join(map(_flag, own))}; "
            "leave it out"
        )
    if kind == "grid":
        return grid(*(parse_whole_numbers(ranges.get(name, []), name, "16,32") for name in _GRID))
    most = ranges.get("max_width", PAPER_MAX_WIDTH)
    return k_complete(
        parse_whole_numbers(ranges.get("base_widths", PAPER_BASE_WIDTHS), "base-widths", "8,16"),
        parse_whole_numbers(ranges.get("factors", PAPER_FACTORS), "factors", "2,4"),
        parse_whole(most, "max-width"),  # type: ignore[arg-type]  # of its kind
        kind,
    )


def _check_family(family: str | None, candidates: Sequence[Candidate]) -> None:
    """Refuse named candidates of another family."""
    if family is None:
        return
    kind = type(FAMILY_KINDS[family](1))
    for candidate in candidates:
        if not all(type(layer) is kind for layer in candidate.layers):
            raise InputError(
                f"hidden (={candidate.name!r}): expected a candidate of family {family}; leave out --family, or write "
                f"layers such as {FAMILY_KINDS[family](24)}"
            )
