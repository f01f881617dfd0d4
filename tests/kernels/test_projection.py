"""Op projection: its definition against solvers, and every backend against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from atras.kernels import backends, boundary_step
from atras.kernels.projection import reference
from atras.testing import assert_close, make_projection_inputs

NORMS = ["linf", "l2", "l1"]
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
# Odd, single, none, and more than an item of work or a vector's lanes.
SHAPES = [(13, (1, 28, 28)), (3, (3, 5, 7)), (1, (1, 1, 1)), (0, (1, 4, 4)), (41, (1, 1, 33))]
if backends.interpreting():  # which takes long over many pixels
    SHAPES = [(4, (3, 5, 7)), (1, (1, 1, 1)), (0, (1, 4, 4)), (1, (1, 28, 28)), (1, (1, 67, 67))]
MANY = (4, (1, 5, 5)) if backends.interpreting() else (40, (1, 28, 28))
"""Pairs enough for two threads."""


def step(given, norm, alpha=0.1, eta=1.05):
    return boundary_step(*given, norm=norm, alpha=alpha, eta=eta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("pairs", "shape"), SHAPES, ids=str)
def test_agrees_with_the_definition_in_float64(backend, pairs, shape, norm, dtype):
    if backend.name == "reference" and dtype == torch.float32:
        pytest.skip("its own sums of float32 are the less exact ones")
    given = make_projection_inputs(pairs, shape, dtype=dtype, device=backend.device, seed=torch.seed() % 2**31)
    wide = [each.double().cpu() for each in given]
    expected = reference.boundary_step(*wide, norm, 0.1, 1.05, 0.0, 1.0)
    found = step(given, norm)
    assert found.dtype == dtype
    # Sums are of doubles; a step, the weight and the mean of two points are rounded, each of at most about 1.
    assert_close(found.double(), expected, atol=1e-10 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_steps_onto_a_boundary_are_the_smallest_there_are(backend, norm):
    pairs = 6 if backends.interpreting() else 30
    points, _, normals, values = make_projection_inputs(pairs, (1, 1, 7), dtype=torch.float64, device=backend.device)
    # From the points themselves, to the boundary and no farther: both steps are then the one that is looked for.
    changes = step((points, points, normals, values), norm, alpha=0.5, eta=1.0) - points
    for point, normal, value, change in zip(points, normals, values.tolist(), changes, strict=True):
        w, x, d = (part.flatten().cpu().numpy() for part in (normal, point, change))
        size = smallest(w, x, value, norm)
        assert (x + d >= 0).all()
        assert (x + d <= 1).all()
        if size is None:  # no point of the box is on the plane: as near as can be
            best = np.where(-np.sign(value) * np.sign(w) > 0, 1 - x, x)
            np.testing.assert_allclose(np.abs(d)[w != 0], best[w != 0], atol=1e-12)
            continue
        np.testing.assert_allclose(w @ d, -value, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(d, ORDERS[norm]), size, atol=2e-5)


def smallest(w: np.ndarray, x: np.ndarray, offset: float, norm: str) -> float | None:
    """Norm of the smallest change d with w d = -offset and x + d in [0, 1], by a solver; None where there is none."""
    limits = list(zip(-x, 1 - x, strict=True))
    if linprog(np.zeros(len(w)), A_eq=w[None], b_eq=[-offset], bounds=limits).status != 0:
        return None
    if norm == "l2":
        plane = {"type": "eq", "fun": lambda d: w @ d + offset}
        start = np.clip(-offset * w / max(w @ w, 1e-12), -x, 1 - x)
        found = minimize(lambda d: d @ d, start, bounds=limits, constraints=[plane], options={"ftol": 1e-14})
        return float(np.sqrt(found.fun))
    size = len(w)
    signed = np.hstack([np.eye(size), -np.eye(size)])  # the change as a difference of two parts of at least 0
    parts = [(0, None)] * (2 * size)
    if norm == "l1":
        return float(
            linprog(np.ones(2 * size), A_ub=np.vstack([signed, -signed]), b_ub=np.hstack([1 - x, x]),
                    A_eq=(w @ signed)[None], b_eq=[-offset], bounds=parts).fun
        )  # fmt: skip
    # linf: the least t with |d| <= t.
    ones = -np.ones((size, 1))
    return float(
        linprog(np.r_[np.zeros(size), 1.0], A_ub=np.block([[np.eye(size), ones], [-np.eye(size), ones]]),
                b_ub=np.zeros(2 * size), A_eq=np.r_[w, 0.0][None], b_eq=[-offset], bounds=[*limits, (0, None)]).fun
    )  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_a_pair_has_its_numbers_whatever_else_is_in_the_list(backend, norm):
    given = make_projection_inputs(*MANY, device=backend.device)
    whole = step(given, norm)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_close(step(given, norm), whole)
    finally:
        torch.set_num_threads(threads)
    some = torch.arange(1, MANY[0], 3)
    alone = step([each[some] for each in given], norm)
    # Torch may sum rows of a list of another length in another order.
    assert_close(alone, whole[some], atol=1e-5 if backend.name == "reference" else 0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_strides_bounds_and_the_ambient_grad_mode_do_not_matter(backend, norm):
    points, clean, normals, values = make_projection_inputs(4, (3, 6, 5), device=backend.device)
    expected = step((points, clean, normals, values), norm)
    strided = [each.movedim(1, -1).contiguous().movedim(-1, 1) for each in (points, clean, normals)]
    assert not strided[0].is_contiguous()
    found = step((*strided, values.requires_grad_()), norm)
    assert not found.requires_grad
    assert_close(found, expected)
    wider = (2 * points - 1, 2 * clean - 1, normals, 2 * values.detach())
    twice = boundary_step(*wider, norm=norm, alpha=0.1, eta=1.05, bounds=(-1.0, 1.0))
    assert_close((twice + 1) / 2, expected, atol=1e-5)  # least distances and sums are rounded at another scale


@pytest.mark.parametrize("norm", NORMS)
def test_nan_stays_with_its_pair(backend, norm):
    given = make_projection_inputs(5, (1, 4, 4), device=backend.device)
    expected = step(given, norm)
    for each in given:
        sick = [other.clone() for other in given]
        sick[[id(other) for other in given].index(id(each))][2] = torch.nan
        found = step(sick, norm)
        others = [0, 1, 3, 4]
        assert_close(found[others], expected[others])


@pytest.mark.parametrize("norm", NORMS)
def test_the_unit_of_the_function_does_not_matter(backend, norm):
    points, clean, normals, values = make_projection_inputs(4, (1, 4, 4), device=backend.device)
    unit = 2.0**-50  # which no rounding depends on
    found = step((points, clean, unit * normals, unit * values), norm)
    assert_close(found, step((points, clean, normals, values), norm))


@pytest.mark.parametrize("norm", NORMS)
def test_a_pixel_of_unknown_normal_counts_as_one_that_has_no_effect(backend, norm):
    points, clean, normals, values = make_projection_inputs(4, (1, 4, 4), device=backend.device)
    normals[..., 1, 2] = 0.0
    expected = step((points, clean, normals, values), norm)
    normals[..., 1, 2] = torch.nan
    assert_close(step((points, clean, normals, values), norm), expected)


def test_what_does_not_fit_is_refused():
    points, clean, normals, values = make_projection_inputs(3, (1, 2, 2))
    good = {"points": points, "clean": clean, "normals": normals, "values": values}
    numbers = {"norm": "l2", "alpha": 0.1, "eta": 1.05}
    for change, message in (
        ({"points": points[0]}, r"expected points \[P, C, H, W\], got \(1, 2, 2\)"),
        ({"points": points.half()}, "expected points of dtype float32 or float64, got float16"),
        ({"clean": clean[:2]}, r"expected clean \(3, 1, 2, 2\), torch.float32, cpu, got \(2, 1, 2, 2\)"),
        ({"values": values.double()}, "make them fit the points"),
        ({"normals": 3}, "expected normals as a torch tensor, got int"),
        ({"norm": "l3"}, r"norm \(='l3'\): expected one of linf, l2, l1"),
        ({"alpha": 1.5}, r"alpha \(=1.5\): expected a number from 0 to 1.0"),
        ({"eta": -1.0}, r"eta \(=-1.0\)"),
        ({"bounds": (1.0, 0.0)}, "expected two numbers, the lower one first"),
    ):
        with pytest.raises(ValueError, match=f"^boundary_step: .*{message}"):
            boundary_step(**{**good, **numbers, **change})
