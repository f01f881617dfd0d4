"""Op adam against torch's fused Adam member by member, and against a copy of the bytes it touches."""

from __future__ import annotations

import torch

from atras.kernels import adam
from atras.testing.inputs import assert_close, make_adam_inputs

from .side_by_side import DEVICES, bytes_to_copy, fastest, synchronize

# Parameters of each member.
CASES = {"40 members of 60,000": [60_000] * 40, "400 members of 600": [600] * 400}
RATE = 1e-3


class Adam:
    """One step of all members."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        sizes = CASES[case]
        (parameters, gradients, *_), self.numbers = make_adam_inputs(sizes, device=device)
        self.numbers["steps"].zero_()
        self.numbers["learning_rates"].fill_(RATE)
        self.buffers = [parameters, gradients, torch.zeros_like(parameters), torch.zeros_like(parameters)]
        self.leaves = [torch.nn.Parameter(part.clone()) for part in parameters.split(sizes)]
        for leaf, part in zip(self.leaves, gradients.split(sizes), strict=True):
            leaf.grad = part.clone()
        self.optimizers = [torch.optim.Adam([leaf], lr=RATE, fused=True) for leaf in self.leaves]
        self.ours()
        self.loop()
        # One update, of at most the learning rate, and its rounding beside the parameter.
        assert_close(parameters, torch.cat([leaf.detach() for leaf in self.leaves]), rtol=1e-6, atol=1e-6 * RATE)
        self.copy = bytes_to_copy(7 * parameters.nbytes, device)  # four buffers read, three written

    def ours(self) -> None:
        adam(*self.buffers, **self.numbers)

    def loop(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def time_ours(self, device: str, case: str) -> None:
        self.ours()
        synchronize(device)

    def time_loop(self, device: str, case: str) -> None:
        self.loop()
        synchronize(device)

    def track_share_of_copy(self, device: str, case: str) -> float:
        op, copy = fastest(self.ours, self.copy.clone, device=device)
        return copy / op

    track_share_of_copy.unit = "share of copy bandwidth"
