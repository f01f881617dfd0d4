"""Balls and hyperplanes inside the range of pixels, against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from atras.attacks.norms import NORMS, norm_of, projected, random_point, to_hyperplane

BOUNDS = (0.0, 1.0)
RNG = torch.Generator().manual_seed(torch.seed() % 2**31)


def images(count: int, pixels: int) -> Tensor:
    """Random images, a third of whose pixels lie on the bounds."""
    values = torch.rand(count, 1, 1, pixels, generator=RNG, dtype=torch.float64)
    return (values * 1.5 - 0.25).clamp(*BOUNDS)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_projection_is_the_nearest_point_of_ball_and_box(norm: str) -> None:
    clean = images(12, 6)
    points = clean + 2 * torch.randn(clean.shape, generator=RNG, dtype=torch.float64)
    epsilon = 0.7
    for point, image, ours in zip(points, clean, projected(points, clean, epsilon, norm, BOUNDS), strict=True):
        best = nearest(point.flatten().numpy(), image.flatten().numpy(), epsilon, norm)
        # SLSQP stops within about 1e-8 of the objective, so within 1e-4 of the point.
        np.testing.assert_allclose(ours.flatten().numpy(), best, atol=2e-4)


def nearest(point: np.ndarray, image: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """The nearest point of ball and box by a solver: the change is a difference of two parts of at least 0."""
    size = len(point)

    def moved(parts: np.ndarray) -> np.ndarray:
        return image + parts[:size] - parts[size:]

    most = epsilon if norm == "linf" else 1.0
    limits = [(0, min(most, 1 - each)) for each in image] + [(0, min(most, each)) for each in image]
    ball = {"type": "ineq", "fun": lambda parts: epsilon - parts.sum()}
    solution = minimize(
        lambda parts: ((moved(parts) - point) ** 2).sum(), np.full(2 * size, 1e-3), bounds=limits,
        constraints=[ball] if norm == "l1" else [], method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    return moved(solution.x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 1.0, 40.0])
def test_points_end_inside_ball_and_bounds_in_float32(norm: str, epsilon: float) -> None:
    clean = images(20, 784).float()
    far = clean + 3 * torch.randn(clean.shape, generator=RNG)
    for points in (projected(far, clean, epsilon, norm, BOUNDS), random_point(far.sin(), clean, epsilon, norm, BOUNDS)):
        assert points.min() >= 0
        assert points.max() <= 1
        # Each of the 784 pixels is rounded to a multiple of 2**-24 at most, and so is its distance.
        rounding = {"linf": 2**-24, "l2": 2**-24 * 784**0.5, "l1": 2**-24 * 784}[norm] * 2
        assert (norm_of(points.double() - clean.double(), norm) <= epsilon * (1 + 1e-6) + rounding).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_of_the_ball_stays_where_it_is(norm: str) -> None:
    clean = images(9, 50)
    near = (clean + 0.001 * torch.randn(clean.shape, generator=RNG, dtype=torch.float64)).clamp(*BOUNDS)
    torch.testing.assert_close(projected(near, clean, 5.0, norm, BOUNDS), near, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_steps_onto_a_hyperplane_are_the_smallest_there_are(norm: str) -> None:
    points, normals = images(30, 7), torch.randn(30, 1, 1, 7, generator=RNG, dtype=torch.float64)
    normals[:, :, :, 2] = 0.0
    offsets = 0.4 * torch.randn(30, generator=RNG, dtype=torch.float64)
    changes = to_hyperplane(points, normals, offsets, norm, BOUNDS)
    assert ((points + changes) >= -1e-12).all()
    assert ((points + changes) <= 1 + 1e-12).all()
    for point, normal, offset, change in zip(points, normals, offsets, changes, strict=True):
        w, x, d = (part.flatten().numpy() for part in (normal, point, change))
        size = smallest(w, x, float(offset), norm)
        if size is None:  # no point of the box is on the plane: as near as can be
            best = np.where(-np.sign(float(offset)) * np.sign(w) > 0, 1 - x, x)
            np.testing.assert_allclose(np.abs(d)[w != 0], best[w != 0], atol=1e-12)
            continue
        np.testing.assert_allclose(w @ d, -float(offset), atol=1e-9)
        np.testing.assert_allclose(float(norm_of(change[None], norm)), size, atol=2e-5)


def smallest(w: np.ndarray, x: np.ndarray, offset: float, norm: str) -> float | None:
    """Norm of the smallest change d with w d = -offset and x + d in [0, 1], by a solver; None where there is none."""
    limits = list(zip(-x, 1 - x, strict=True))
    if linprog(np.zeros(len(w)), A_eq=w[None], b_eq=[-offset], bounds=limits).status != 0:
        return None
    if norm == "l2":
        plane = {"type": "eq", "fun": lambda d: w @ d + offset}
        start = np.clip(-offset * w / (w @ w), -x, 1 - x)
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
