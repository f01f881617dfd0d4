"""Op projection against its definition in plain torch, pairs as an attack on eight networks has them."""

from __future__ import annotations

from atras.kernels import boundary_step
from atras.kernels.projection import reference
from atras.testing import assert_close, make_projection_inputs

from .side_by_side import fastest

PAIRS, SHAPE = 800, (1, 28, 28)


class Projection:
    """FAB's step on the CPU."""

    param_names = ("norm",)
    params = (["linf", "l2", "l1"],)

    def setup(self, norm: str) -> None:
        self.given = make_projection_inputs(PAIRS, SHAPE)
        # Plain torch sums hundreds of float32 numbers, and divides the error by what weight is left.
        assert_close(self.step(norm), self.defined(norm), atol=1e-2)

    def step(self, norm: str):
        return boundary_step(*self.given, norm=norm, alpha=0.1, eta=1.05)

    def defined(self, norm: str):
        return reference.boundary_step(*self.given, norm, 0.1, 1.05, 0.0, 1.0)

    def time_step(self, norm: str) -> None:
        self.step(norm)

    def track_times_faster_than_torch(self, norm: str) -> float:
        op, torchs = fastest((lambda: self.step(norm)), (lambda: self.defined(norm)), device="cpu")
        return torchs / op

    track_times_faster_than_torch.unit = "times"
