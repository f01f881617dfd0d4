"""Op conv_block against a loop of torch's own convolutions, and against the machine's rate of matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atras.kernels import conv_block
from atras.testing.inputs import assert_near, make_conv_block_inputs

from .side_by_side import DEVICES, fastest, share_of_gemm_peak, synchronize

# members, [B, C, H, W], O, what follows; the layers of the stems.
CASES = {
    "4 members, MNIST's first layer": (4, (128, 1, 28, 28), 32, {"pool": True}),
    "4 members, MNIST's second layer": (4, (128, 32, 13, 13), 64, {"pool": True}),
    "2 members, CIFAR-10's second layer": (2, (128, 32, 32, 32), 32, {"pool": True}),
    "2 members, CIFAR-10's third layer": (2, (128, 32, 15, 15), 64, {"padding": 1}),
}


class ConvBlock:
    """All members by vmap, on inputs whose channels lie innermost, as the block before leaves them."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        members, shape, outputs, self.kind = CASES[case]
        x, *rest, _ = make_conv_block_inputs(members, shape, outputs, device=device)
        self.first = shape[1] < 32  # a first layer's images need no gradient in training
        leaves = [x.movedim(2, -1).contiguous().movedim(-1, 2), *rest]
        self.tensors = [tensor.requires_grad_(i > 0 or not self.first) for i, tensor in enumerate(leaves)]
        side = [length - 2 + 2 * self.kind.get("padding", 0) for length in shape[2:]]
        self.flops = 2.0 * members * shape[0] * outputs * 9 * shape[1] * side[0] * side[1]
        self.upstream = torch.rand_like(self.forward())
        for found, expected in zip(self.both(), self.loop(), strict=True):
            assert_near(found, expected, 2e-2)  # rounding changes the sign or winner of one result in 100,000

    def forward(self) -> torch.Tensor:
        y: torch.Tensor = torch.vmap(lambda *tensors: conv_block(*tensors, **self.kind))(*self.tensors)
        return y

    def both(self) -> list[torch.Tensor]:
        return self.differentiated(self.forward())

    def loop(self) -> list[torch.Tensor]:
        found = []
        for x, weight, bias in zip(*self.tensors, strict=True):
            y = torch.relu(F.conv2d(x, weight, bias, padding=self.kind.get("padding", 0)))
            found.append(F.max_pool2d(y, 2) if self.kind.get("pool") else y)
        return self.differentiated(torch.stack(found))

    def differentiated(self, y: torch.Tensor) -> list[torch.Tensor]:
        """The result and the gradients that training needs."""
        leaves = [tensor for tensor in self.tensors if tensor.requires_grad]
        return [y.detach(), *torch.autograd.grad(y, leaves, self.upstream)]

    def time_forward(self, device: str, case: str) -> None:
        self.forward()
        synchronize(device)

    def time_forward_and_backward(self, device: str, case: str) -> None:
        self.both()
        synchronize(device)

    def track_useful_gflops(self, device: str, case: str) -> float:
        return share_of_gemm_peak(self.both, self.flops * (2 if self.first else 3), device)[0] / 1e9

    def track_share_of_gemm_peak(self, device: str, case: str) -> float:
        return share_of_gemm_peak(self.both, self.flops * (2 if self.first else 3), device)[1]

    def track_times_faster_than_loop(self, device: str, case: str) -> float:
        ours, loop = fastest(self.both, self.loop, device=device)
        return loop / ours

    track_useful_gflops.unit = "GFLOP/s"
    track_share_of_gemm_peak.unit = "share"
    track_times_faster_than_loop.unit = "times"
