"""Op ascent: its definition, and every backend against it, bit for bit."""

from __future__ import annotations

import pytest
import torch

from atras.kernels import ascent_step, backends, keep_rows
from atras.testing import assert_close, make_ascent_inputs

# Odd, single, none, and more than an item of work or a program's pixels; the last one is shared among threads.
SHAPES = [(9, (3, 5, 7)), (1, (1, 1, 1)), (0, (1, 4, 4)), (2, (1, 31, 35))]
SHAPES += [] if backends.interpreting() else [(130, (1, 28, 28))]
EPSILON, WEIGHT = 8 / 255, 0.75


def defined(points, before, gradients, clean, sizes, low=0.0, high=1.0):
    """The definition written out: two steps, each clipped to the ball and then to the bounds."""

    def clipped(x):
        return torch.minimum(torch.maximum(x, clean - EPSILON), clean + EPSILON).clamp(low, high)

    wide = sizes[:, None, None, None]
    reached = clipped(torch.where(gradients > 0, points + wide, torch.where(gradients < 0, points - wide, points)))
    if before is None:
        return reached
    return clipped(points + WEIGHT * (reached - points) + (1 - WEIGHT) * (points - before))


def step(points, before, *others, **options):
    return ascent_step(points, before, *others, epsilon=EPSILON, weight=WEIGHT, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("momentum", [False, True], ids=["first", "momentum"])
@pytest.mark.parametrize(("pairs", "shape"), SHAPES, ids=str)
def test_agrees_with_the_definition_bit_for_bit(backend, pairs, shape, momentum, dtype):
    points, before, *others = make_ascent_inputs(pairs, shape, EPSILON, dtype=dtype, device=backend.device)
    before = before if momentum else None
    assert_close(step(points, before, *others), defined(points, before, *others))
    inner = step(points, before, *others, bounds=(0.25, 0.75))
    assert_close(inner, defined(points, before, *others, 0.25, 0.75))


def test_points_stay_in_ball_and_bounds_and_reach_them(backend):
    points, before, gradients, clean, sizes = make_ascent_inputs(4, (1, 9, 9), EPSILON, device=backend.device)
    found = step(points, before, gradients, clean, 10 * sizes)
    assert found.min() == 0
    assert found.max() == 1
    assert ((found - clean).abs().flatten(1).amax(1) - EPSILON).abs().max() < 1e-6


def test_strides_and_the_ambient_grad_mode_do_not_matter(backend):
    given = make_ascent_inputs(4, (3, 6, 5), EPSILON, device=backend.device)
    strided = [each.movedim(1, -1).contiguous().movedim(-1, 1) for each in given[:4]]
    assert not strided[0].is_contiguous()
    found = step(*strided, given[4].clone().requires_grad_())
    assert not found.requires_grad
    assert_close(found, step(*given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("pairs", "shape"), SHAPES, ids=str)
def test_chosen_rows_are_kept_and_no_others(backend, pairs, shape, dtype):
    kept, values, *_ = make_ascent_inputs(pairs, shape, EPSILON, dtype=dtype, device=backend.device)
    chosen = torch.arange(pairs, device=backend.device) % 3 == 0
    values[~chosen] = torch.nan
    expected = torch.where(chosen[:, None, None, None], values, kept)
    strided = values.movedim(1, -1).contiguous().movedim(-1, 1)
    again = kept.clone()
    keep_rows((kept, again), (values, strided), chosen)
    assert_close(kept, expected)
    assert_close(again, expected)


def test_what_does_not_fit_is_refused():
    points, before, gradients, clean, sizes = make_ascent_inputs(3, (1, 2, 2), EPSILON)
    good = {"points": points, "before": before, "gradients": gradients, "clean": clean, "sizes": sizes}
    numbers = {"epsilon": EPSILON, "weight": WEIGHT}
    for change, message in (
        ({"points": points[0]}, r"expected images \[P, C, H, W\], got \(1, 2, 2\)"),
        ({"points": points.half()}, "expected images of dtype float32 or float64, got float16"),
        ({"before": before[:2]}, r"expected before \(3, 1, 2, 2\), torch.float32, cpu, got \(2, 1, 2, 2\)"),
        ({"sizes": sizes.double()}, "make them fit the others"),
        ({"clean": 3}, "expected clean as a torch tensor, got int"),
        ({"epsilon": -0.1}, r"epsilon \(=-0.1\): expected a number from 0 to inf"),
        ({"weight": 1.5}, r"weight \(=1.5\): expected a number from 0 to 1.0"),
        ({"bounds": (1.0, 0.0)}, "expected two numbers, the lower one first"),
    ):
        with pytest.raises(ValueError, match=f"^ascent_step: .*{message}"):
            ascent_step(**{**good, **numbers, **change})
    chosen = torch.ones(3, dtype=torch.bool)
    for (kept, values, rows), message in (
        ((points, before, chosen[:2]), r"expected chosen bool \[3\], got torch.bool \(2,\)"),
        ((points, before, chosen.int()), "expected chosen bool"),
        ((points, before[:2], chosen), "expected values"),
        ((points.expand(3, 1, 2, 2).mT, before, chosen), "expected what is kept contiguous"),
    ):
        with pytest.raises(ValueError, match=f"^keep_rows: {message}"):
            keep_rows((kept,), (values,), rows)
    with pytest.raises(ValueError, match="keep_rows: expected as many values as are kept, got 1 and 2"):
        keep_rows((points, before), (points,), chosen)
