"""Op square against plain torch, which copies whole images: a query but for its forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from atras.kernels import keep_better, propose_bumps, propose_corners
from atras.kernels.square import reference
from atras.testing import assert_close, make_square_inputs

from .side_by_side import DEVICES, fastest, synchronize

EPSILON = 0.3
# Pairs, (C, H, W) and the side of the squares: early and late in a search.
CASES = {
    "400 MNIST pairs, side 13": (400, (1, 28, 28), 13),
    "400 MNIST pairs, side 4": (400, (1, 28, 28), 4),
    "3000 CIFAR-10 pairs, side 4": (3000, (3, 32, 32), 4),
}


class Square:
    """A query but for its forward pass, which makes no image better."""

    param_names = ("device", "case", "norm")
    params = (DEVICES, list(CASES), ["linf", "l2"])
    timeout = 300

    def setup(self, device: str, case: str, norm: str) -> None:
        pairs, shape, self.side = CASES[case]
        self.made = make_square_inputs(pairs, shape, device=device)
        self.drawn = self.made.drawn if norm == "l2" else self.made.drawn[:, : 2 + shape[0]].contiguous()
        self.best, self.tried = self.made.best.clone(), self.made.best.clone()
        self.values = torch.full((pairs,), torch.inf, device=device)
        self.spent = (self.best.double() - self.made.clean.double()).square().sum((1, 2, 3))
        self.bumps = torch.full((2, self.side, self.side), 1 / self.side, device=device)
        expected = self.made.best.clone()
        self.propose_by_torch(expected, norm)
        self.propose(norm)
        assert_close(self.tried, expected, atol=0.0 if norm == "linf" else 1e-6)

    def propose(self, norm: str) -> Tensor | None:
        if norm == "linf":
            propose_corners(self.tried, self.made.clean, self.drawn, side=self.side, epsilon=EPSILON)
            return None
        given = (self.tried, self.best, self.made.clean, self.spent, self.drawn, self.bumps)
        return propose_bumps(*given, epsilon=EPSILON)

    def propose_by_torch(self, tried: Tensor, norm: str) -> Tensor | None:
        numbers = (EPSILON, 0.0, 1.0)
        if norm == "linf":
            reference.propose_corners(tried, self.made.clean, self.drawn, self.side, *numbers)
            return None
        return reference.propose_bumps(tried, self.best, self.made.clean, self.spent, self.drawn, self.bumps, *numbers)

    def query(self, norm: str) -> None:
        after = self.propose(norm)
        spent = None if after is None else (self.spent, after)
        given = (self.values, self.made.logits, self.made.labels, self.drawn)
        keep_better(self.best, self.tried, *given, side=self.side, spent=spent)

    def query_by_torch(self, norm: str) -> None:
        after = self.propose_by_torch(self.tried, norm)
        spent = None if after is None else (self.spent, after)
        given = (self.values, self.made.logits, self.made.labels, self.drawn)
        reference.keep_better(self.best, self.tried, *given, self.side, spent)

    def time_query(self, device: str, case: str, norm: str) -> None:
        self.query(norm)
        synchronize(device)

    def time_query_by_torch(self, device: str, case: str, norm: str) -> None:
        self.query_by_torch(norm)
        synchronize(device)

    def track_times_faster_than_torch(self, device: str, case: str, norm: str) -> float:
        op, torch_seconds = fastest(lambda: self.query(norm), lambda: self.query_by_torch(norm), device=device)
        return torch_seconds / op

    track_times_faster_than_torch.unit = "times"
