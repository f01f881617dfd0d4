"""Families: functions that yield candidates, such as the k-complete search space of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from atras.checks import whole
from atras.errors import InputError, shown

from .candidates import MAX_LAYERS, Candidate
from .layers import Conv, Dense, Layer
from .layers.layer import MAX_UNITS

MAX_CANDIDATES = 100_000
"""Most candidates that ranges may stand for: past it a typing error is likelier than a wish."""

PAPER_BASE_WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
PAPER_FACTORS = (2, 4, 8, 16, 32)
PAPER_MAX_WIDTH = 1024

KINDS: Mapping[str, Callable[[int], Layer]] = MappingProxyType({"dense": Dense, "conv": Conv.pooled})
"""The layer of a width in each kind of k-complete candidates: the two readings of the paper."""


def k_complete(
    base_widths: Iterable[int] = PAPER_BASE_WIDTHS,
    factors: Iterable[int] = PAPER_FACTORS,
    max_width: int = PAPER_MAX_WIDTH,
    kind: str = "dense",
) -> tuple[Candidate, ...]:
    """Every network whose hidden layers grow by one factor from a base width to the widest that is allowed.

    A base width w and a factor k give the layers w, wk, wk^2, ... up to `max_width`. The defaults give the 40
    architectures of the paper in the order of its tables (factors outermost).

    The paper calls widths "nodes". Of kind `dense` they are units behind the run's stem, which is how its tables are
    rebuilt; of kind `conv` they are filters of 3x3 convolutions, each followed by a 2x2 max-pool while the image has
    two rows and columns (`Conv.pooled`), without a stem.

    Args:
        base_widths: units of the first hidden layer.
        factors: growth from one layer to the next, each at least 2.
        max_width: units of the widest layer allowed.
        kind: of the layers, a key of `KINDS`.

    Raises:
        InputError: if a factor is below 2, a base width below 1 or above `max_width`, the ranges are too wide, or
            nothing is left.

    Source: ATRAS, Tables I and II; the rule is read out of the tables (docs/protocol.md).
    """
    candidates: dict[Candidate, None] = {}
    widths, factors = tuple(base_widths), tuple(factors)
    if kind not in KINDS:
        raise InputError(f"kind (={shown(kind)}): expected one of {', '.join(KINDS)}")
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
            candidates.setdefault(Candidate([KINDS[kind](each) for each in hidden]))
    if not candidates:
        raise InputError("k_complete: expected at least one base width and one factor; none came")
    return tuple(candidates)


def grid(widths: Iterable[int], depths: Iterable[int], kernels: Iterable[int] = ()) -> tuple[Candidate, ...]:
    """Every network of so many equal layers: each width with each depth and, of convolutions, each kernel.

    Args:
        widths: units or filters of every layer.
        depths: numbers of layers, each at least 1.
        kernels: odd; of convolutions that keep the image's size, each followed by a 2x2 max-pool while the image has
            two rows and columns (`Conv.pooled`). Without any the layers are dense.

    Returns:
        Widths outermost, kernels innermost.

    Raises:
        InputError: if a number is out of range, there are too many, or nothing is left.
    """
    widths, depths, kernels = tuple(widths), tuple(depths), tuple(kernels)
    if len(widths) * len(depths) * max(len(kernels), 1) > MAX_CANDIDATES:
        raise InputError(f"widths, depths and kernels: expected at most {MAX_CANDIDATES} candidates; narrow the ranges")
    if not widths or not depths:
        raise InputError("grid: expected at least one width and one depth; add --widths and --depths")
    for depth in depths:
        whole("depths", depth, 1, MAX_LAYERS)

    def layers(width: int) -> list[Layer]:
        return [Conv.pooled(width, kernel) for kernel in kernels] if kernels else [Dense(width)]

    made = [Candidate([layer] * depth) for width in widths for depth in depths for layer in layers(width)]
    return tuple(dict.fromkeys(made))


PAPER_CANDIDATES = k_complete()
"""The paper's 40 architectures in the order of its tables."""
