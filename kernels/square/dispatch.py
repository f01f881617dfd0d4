"""Op square: what it means, its checks and the choice of backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import backends
from . import cpu, reference

BACKENDS = ("cpu", "triton")
DTYPES = (torch.float32, torch.float64)


def propose_corners(
    tried: Tensor, clean: Tensor, drawn: Tensor, *, side: int, epsilon: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> None:
    """Put a square at a corner of the l-infinity ball into every pair's image, in place.

    The pixels of one square become clamp(clean + epsilon or clean - epsilon, *bounds), the same side of the clean image
    for all of a channel; no other pixel is read or written. The results carry no gradient; not for use under vmap.

    Args:
        tried: [P, C, H, W], contiguous, float32 or float64, the best images; changed.
        clean: of its shape and dtype, the clean images.
        drawn: [P, 2 + C] of their dtype, uniform in [-1, 1): the square's row and column, and a channel's side each.
        side: of the square in pixels, from 1 to the shorter side of an image.
        epsilon: radius of the ball, at least 0.
        bounds: lowest and highest pixel allowed.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square attack", algorithm 2.
    """
    _check_images("propose_corners", tried)
    _check_like("propose_corners", "clean", clean, tried.shape, tried.dtype, tried.device)
    _check_drawn("propose_corners", tried, drawn, 2 + tried.shape[1], side)
    _check_numbers("propose_corners", epsilon, bounds)
    numbers = (side, float(epsilon), float(bounds[0]), float(bounds[1]))
    with torch.no_grad():
        backend = backends.choose("square", BACKENDS, tried.device, tried.dtype)
        if backend == "cpu":
            cpu.propose_corners(tried, clean, drawn, *numbers)
        elif backend == "triton":
            from . import gpu_triton

            gpu_triton.propose_corners(tried, clean, drawn, *numbers)
        else:
            reference.propose_corners(tried, clean, drawn, *numbers)


def propose_bumps(
    tried: Tensor,
    best: Tensor,
    clean: Tensor,
    spent: Tensor,
    drawn: Tensor,
    bumps: Tensor,
    *,
    epsilon: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Move the change of two squares, and what is left of the l2 ball, into a bump in the first of them, in place.

    In each channel the first square's change becomes the unit vector along (bump + own change / its norm), times the
    root of the squared norm that both squares had and of the channel's share of epsilon**2 - spent; the second square's
    other pixels become clean ones. All is clipped to the bounds; no pixel outside of the two is written. Sums are in
    float64. The results carry no gradient; not for use under vmap.

    Args:
        tried: [P, C, H, W], contiguous, float32 or float64, the best images; changed.
        best, clean: of its shape and dtype, the best images and the clean ones.
        spent: float64 [P], the squared norm of best - clean.
        drawn: [P, 5 + C] of the images' dtype, uniform in [-1, 1): the squares' rows and columns, which of the bumps
            is taken, the first where the number is below 0, and its sign in each channel.
        bumps: [2, S, S] of the images' dtype, each of norm 1, S from 1 to the shorter side of an image.
        epsilon: radius of the ball, at least 0.
        bounds: lowest and highest pixel allowed.

    Returns:
        float64 [P], the squared norm of tried - clean.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square attack", algorithm 3.
    """
    _check_images("propose_bumps", tried)
    for name, images in (("best", best), ("clean", clean)):
        _check_like("propose_bumps", name, images, tried.shape, tried.dtype, tried.device)
    side = bumps.shape[-1] if bumps.ndim else 0
    _check_drawn("propose_bumps", tried, drawn, 5 + tried.shape[1], side)
    _check_like("propose_bumps", "spent", spent, (len(tried),), torch.float64, tried.device)
    _check_like("propose_bumps", "bumps", bumps, (2, side, side), tried.dtype, tried.device)
    _check_numbers("propose_bumps", epsilon, bounds)
    given = (tried, best, clean, spent, drawn, bumps, float(epsilon), float(bounds[0]), float(bounds[1]))
    with torch.no_grad():
        backend = backends.choose("square", BACKENDS, tried.device, tried.dtype)
        if backend == "cpu":
            return cpu.propose_bumps(*given)
        if backend == "triton":
            from . import gpu_triton

            return gpu_triton.propose_bumps(*given)
        return reference.propose_bumps(*given)


def keep_better(
    best: Tensor,
    tried: Tensor,
    values: Tensor,
    logits: Tensor,
    labels: Tensor,
    drawn: Tensor,
    *,
    side: int,
    spent: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Make the better of its best and its proposed image both of every pair's, in place.

    The value of a proposal is its margin, the highest other logit less the label's. It is kept where that is above the
    best one, unless the best one is above 0 already: what fools stays as it is. Only the pixels of the squares are
    copied, from the one image to the other. A NaN among a pair's logits is never better.

    Args:
        best, tried: [P, C, H, W], contiguous, float32 or float64, alike but in the squares; one of them changed.
        values: [P] of their dtype, contiguous, the margins at the best images; changed where the proposal is better.
        logits: [P, Y] of their dtype, at the proposals.
        labels: int64 [P].
        drawn: of the proposal, [P, 2 or more], or with `spent`, when there are two squares, [P, 4 or more].
        side: of the squares.
        spent: after `propose_bumps`, float64 [P] each: the squared norms that it was given, contiguous, which become
            the kept images', and those that it returned.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.
    """
    _check_images("keep_better", best, tried)
    _check_drawn("keep_better", best, drawn, None, side)
    if drawn.shape[1] < (2 if spent is None else 4):
        raise ValueError(f"keep_better: expected drawn [P, 2 or more], 4 or more with spent, got {_shown(drawn)}")
    pairs, device = len(best), best.device
    _check_like("keep_better", "values", values, (pairs,), best.dtype, device)
    _check_like("keep_better", "logits", logits, (pairs, *logits.shape[1:2]), best.dtype, device)
    _check_like("keep_better", "labels", labels, (pairs,), torch.int64, device)
    for each in spent or ():
        _check_like("keep_better", "spent", each, (pairs,), torch.float64, device)
    if not (values.is_contiguous() and (spent is None or spent[0].is_contiguous())):
        raise ValueError("keep_better: expected contiguous values and squared norms, got strided ones; copy them")
    given = (best, tried, values, logits, labels, drawn, side, spent)
    with torch.no_grad():
        backend = backends.choose("square", BACKENDS, device, best.dtype)
        if backend == "cpu":
            cpu.keep_better(*given)
        elif backend == "triton":
            from . import gpu_triton

            gpu_triton.keep_better(*given)
        else:
            reference.keep_better(*given)


def _check_images(op: str, *changed: Tensor) -> None:
    for images in changed:
        if images.ndim != 4 or images.dtype not in DTYPES:
            expected = "[P, C, H, W] of float32 or float64"
            raise ValueError(f"{op}: expected images {expected}, got {_shown(images)}; convert them")
        if not images.is_contiguous():
            raise ValueError(f"{op}: expected contiguous images, got strides {images.stride()}; make them contiguous")
    _check_like(op, "tried", changed[-1], changed[0].shape, changed[0].dtype, changed[0].device)


def _check_drawn(op: str, images: Tensor, drawn: Tensor, numbers: int | None, side: int) -> None:
    numbers = (drawn.shape[-1] if drawn.ndim else 0) if numbers is None else numbers
    _check_like(op, "drawn", drawn, (len(images), numbers), images.dtype, images.device)
    longest = min(images.shape[-2:])
    if type(side) is not int or not 1 <= side <= longest:
        raise ValueError(f"{op}: side (={side!r}): expected a whole number from 1 to {longest}")


def _check_like(
    op: str, name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    if value.shape != shape or value.dtype != dtype or value.device != device:
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{op}: expected {name} as {kind} {tuple(shape)} on {device}, got {_shown(value)} on {value.device}; "
            "convert it before the call"
        )


def _check_numbers(op: str, epsilon: float, bounds: tuple[float, float]) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise ValueError(f"{op}: epsilon (={epsilon!r}): expected a finite number of at least 0")
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ValueError(f"{op}: bounds (={bounds!r}): expected two numbers, the lower one first")


def _shown(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
