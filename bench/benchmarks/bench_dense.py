"""Op dense against a loop of torch's own, and against the machine's rate of matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atras.kernels import dense
from atras.testing.inputs import assert_near, make_dense_inputs

from .side_by_side import DEVICES, fastest, share_of_gemm_peak, synchronize

# members, B, F and O.
CASES = {
    "8 members, 784 to 64": (8, 128, 784, 64),
    "4 members, 1600 to 1024": (4, 128, 1600, 1024),
    "8 members, 1024 to 10": (8, 128, 1024, 10),
}


class Dense:
    """All members by vmap, forward and backward with every gradient."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        members, rows, inputs, outputs = CASES[case]
        self.tensors = [tensor.requires_grad_() for tensor in make_dense_inputs(*CASES[case], device=device)]
        self.flops = 2.0 * members * rows * inputs * outputs
        self.upstream = torch.rand(members, rows, outputs, device=device)
        for found, expected in zip(self.both(), self.loop(), strict=True):
            assert_near(found, expected, 2e-2)  # rounding changes the sign or winner of one result in 100,000

    def forward(self) -> torch.Tensor:
        y: torch.Tensor = torch.vmap(dense)(*self.tensors)
        return y

    def both(self) -> list[torch.Tensor]:
        return self.differentiated(self.forward())

    def loop(self) -> list[torch.Tensor]:
        found = [torch.relu(F.linear(*tensors)) for tensors in zip(*self.tensors, strict=True)]
        return self.differentiated(torch.stack(found))

    def differentiated(self, y: torch.Tensor) -> list[torch.Tensor]:
        """The result and the gradients."""
        return [y.detach(), *torch.autograd.grad(y, self.tensors, self.upstream)]

    def time_forward(self, device: str, case: str) -> None:
        self.forward()
        synchronize(device)

    def time_forward_and_backward(self, device: str, case: str) -> None:
        self.both()
        synchronize(device)

    def track_useful_gflops(self, device: str, case: str) -> float:
        return share_of_gemm_peak(self.both, 3 * self.flops, device)[0] / 1e9

    def track_share_of_gemm_peak(self, device: str, case: str) -> float:
        return share_of_gemm_peak(self.both, 3 * self.flops, device)[1]

    def track_times_faster_than_loop(self, device: str, case: str) -> float:
        ours, loop = fastest(self.both, self.loop, device=device)
        return loop / ours

    track_useful_gflops.unit = "GFLOP/s"
    track_share_of_gemm_peak.unit = "share"
    track_times_faster_than_loop.unit = "times"
