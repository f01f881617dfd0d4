"""Op ascent against its definition in plain torch, pairs as an attack on eight networks has them."""

from __future__ import annotations

from atras.kernels import ascent_step, keep_rows
from atras.kernels.ascent import reference
from atras.testing import assert_close, make_ascent_inputs

from .side_by_side import DEVICES, fastest, synchronize

PAIRS, SHAPE, EPSILON = 800, (1, 28, 28), 0.3


class Ascent:
    """A step with momentum, and the keeping of a quarter of the rows."""

    param_names = ("device",)
    params = (DEVICES,)

    def setup(self, device: str) -> None:
        self.given = make_ascent_inputs(PAIRS, SHAPE, EPSILON, device=device)
        self.kept, self.values = self.given[0].clone(), self.given[1]
        self.chosen = self.given[4] < EPSILON / 2
        assert_close(self.step(), self.defined())

    def step(self):
        return ascent_step(*self.given, epsilon=EPSILON, weight=0.75)

    def defined(self):
        return reference.ascent_step(*self.given, EPSILON, 0.75, 0.0, 1.0)

    def time_step(self, device: str) -> None:
        self.step()
        synchronize(device)

    def track_step_times_faster_than_torch(self, device: str) -> float:
        op, torchs = fastest(self.step, self.defined, device=device)
        return torchs / op

    def track_rows_times_faster_than_torch(self, device: str) -> float:
        works = (
            lambda: keep_rows((self.kept,), (self.values,), self.chosen),
            lambda: reference.keep_rows(self.kept, self.values, self.chosen),
        )
        op, torchs = fastest(*works, device=device)
        return torchs / op

    track_step_times_faster_than_torch.unit = track_rows_times_faster_than_torch.unit = "times"
