"""Balls inside the range of pixels, against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from atras.attacks.norms import NORMS, near_one, norm_of, projected, random_point, scaled

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


@pytest.mark.parametrize("power", [-140, -100, -40, 0, 40, 100])
def test_no_length_of_a_gradient_is_lost(power: int) -> None:
    usual = torch.randn(9, 1, 5, 7, generator=RNG)
    gradients = usual * 2.0**power
    near = usual if power > -126 else gradients.double() * 2.0**-power  # of subnormal numbers less is left
    expected = scaled(near, 0.5, "l2").float()
    found = scaled(near_one(gradients), 0.5, "l2")
    torch.testing.assert_close(found, expected, rtol=0 if power > -126 else 1e-6, atol=0)
    gradients[3], gradients[:, 0, 0, 0] = 0.0, torch.nan
    found = near_one(gradients)
    assert (found[3] == 0).all()
    assert (found[:, 0, 0, 0] == 0).all()
    assert (norm_of(found, "linf") < 1).all()
