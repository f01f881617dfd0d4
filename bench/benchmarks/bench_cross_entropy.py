"""Op cross_entropy against torch's own member by member, and against a copy of the bytes it touches."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atras.kernels import cross_entropy
from atras.testing.inputs import assert_close, make_cross_entropy_inputs

from .side_by_side import DEVICES, bytes_to_copy, fastest, synchronize

# members, rows and classes.
CASES = {"40 members, a batch": (40, 128, 10), "40 members, a test set": (40, 10_000, 10)}


class CrossEntropy:
    """Losses and gradients of all members by vmap."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        logits, self.labels = make_cross_entropy_inputs(*CASES[case], device=device)
        self.logits = logits.requires_grad_()
        for found, expected in zip(self.ours(), self.loop(), strict=True):
            assert_close(found, expected, rtol=1e-5, atol=1e-6)  # sums of up to 10,000 losses, in another order
        self.copy = bytes_to_copy(2 * logits.nbytes, device)  # logits read, gradients written

    def ours(self) -> list[torch.Tensor]:
        return self.differentiated(torch.vmap(cross_entropy)(self.logits, self.labels))

    def loop(self) -> list[torch.Tensor]:
        return self.differentiated(torch.stack([*map(F.cross_entropy, self.logits, self.labels)]))

    def differentiated(self, losses: torch.Tensor) -> list[torch.Tensor]:
        """The losses and their gradients."""
        return [losses.detach(), *torch.autograd.grad(losses.sum(), self.logits)]

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
