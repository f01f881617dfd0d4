"""Op step against a textbook torch loop over the same members, batches and optimizer in the same run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from atras.kernels import Step, backends
from atras.kernels.step import reference
from atras.testing import assert_close, make_step_inputs

from .side_by_side import DEVICES, fastest

BATCH, CHECKED = 128, 2
STEPS = {"cpu": 2, "cuda": 500}
"""Of a call: on a GPU what Python does around it is to be no part of a step."""
# stem, image shape, hidden widths; no dropout, so that all sides compute the same numbers.
CASES = {
    "8 members, no stem, MNIST": ("none", (1, 28, 28), [[40], [64], [24, 192], [64, 1024]] * 2),
    "2 members, conv2, MNIST": ("conv2", (1, 28, 28), [[40], [24, 192]]),
}


class Textbook:
    """Each member an nn.Sequential with the fastest torch.optim.Adam, stepped in turn."""

    def __init__(self, stem: str, image_shape: tuple[int, int, int], hidden: list[list[int]], device: str) -> None:
        self.members = [build(stem, image_shape, widths).to(device) for widths in hidden]
        self.optimizers = [torch.optim.Adam(member.parameters(), lr=1e-3, fused=True) for member in self.members]

    def train(self, images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Losses [M, steps]."""
        losses: list[list[torch.Tensor]] = [[] for _ in self.members]
        for index in order.split(BATCH):
            x, y = images[index], labels[index]
            for member, optimizer, each in zip(self.members, self.optimizers, losses, strict=True):
                loss = nn.functional.cross_entropy(member(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                each.append(loss.detach())
        return torch.stack([torch.stack(each) for each in losses])


def build(stem: str, image_shape: tuple[int, int, int], widths: list[int]) -> nn.Sequential:
    """A network of torch's own modules."""
    layers: list[nn.Module] = []
    channels = image_shape[0]
    for layer in reference.STEMS[stem]:
        layers += [nn.Conv2d(channels, layer.channels, 3, padding=layer.padding), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if layer.pool else []
        channels = layer.channels
    inputs = nn.Sequential(*layers, nn.Flatten())(torch.zeros(1, *image_shape)).shape[1]
    layers.append(nn.Flatten())
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def useful_flops(stem: str, image_shape: tuple[int, int, int], hidden: list[list[int]]) -> int:
    """Of one image through all members: the forward product of each layer, its weight gradient, and, but for the first
    layer, its input gradient, as if none were sparse."""
    total = 0
    for widths in hidden:
        layers: list[int] = []
        channels, height, width = image_shape
        for layer in reference.STEMS[stem]:
            height, width = height - 2 + 2 * layer.padding, width - 2 + 2 * layer.padding
            layers.append(9 * channels * layer.channels * height * width)
            height, width, channels = height // (1 + layer.pool), width // (1 + layer.pool), layer.channels
        shapes = reference.parameter_shapes(image_shape, 10, stem, widths)[2 * len(layers) :: 2]
        layers += [rows * columns for rows, columns in shapes]
        total += 2 * (3 * sum(layers) - layers[0])
    return total


class OneStep:
    """All members through one optimizer step, out of a call of several."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        stem, image_shape, hidden = CASES[case]
        where = torch.device(device)
        inputs = make_step_inputs(CHECKED * BATCH, image_shape, dtype=torch.float32)
        self.images, self.labels = (tensor.to(where) for tensor in inputs)
        self.order = torch.arange(len(self.labels), device=where)
        self.rates = torch.full((len(hidden),), 1e-3, dtype=torch.float64)
        self.textbook = Textbook(stem, image_shape, hidden, device)
        precision = "bf16" if backends.bf16(where).faster else "fp32"  # what training uses here
        settings = {"stem": stem, "batch": BATCH, "stem_rate256": 0, "threads": torch.get_num_threads()}
        self.step = Step(image_shape, 10, hidden, precision=precision, device=where, **settings)
        for index, member in enumerate(self.textbook.members):
            self.step.set_parameters(index, list(member.parameters()))
        self.gflops = useful_flops(*CASES[case]) * BATCH / 1e9
        # Rounding of the products, and what the first update makes of it.
        self.check(self.ours()[0], 1e-4 if precision == "fp32" else 2e-2)
        self.order = self.order.repeat(STEPS[device] // CHECKED)

    def check(self, losses: torch.Tensor, rtol: float) -> None:
        """The other side is the same network, trained on the same batches."""
        assert_close(losses.cpu(), self.loop().double().cpu(), rtol=rtol)

    def ours(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.step.train(self.images, self.labels, self.order, learning_rates=self.rates)

    def loop(self) -> torch.Tensor:
        return self.textbook.train(self.images, self.labels, self.order)

    def seconds(self, device: str, *works: Callable[[], object]) -> list[float]:
        """Of a step, the fastest of rounds in turn."""
        return [seconds / STEPS[device] for seconds in fastest(*works, device=device)]

    def track_step_seconds(self, device: str, case: str) -> float:
        return self.seconds(device, self.ours)[0]

    def track_gflops(self, device: str, case: str) -> float:
        return self.gflops / self.seconds(device, self.ours)[0]

    def track_times_faster_than_loop(self, device: str, case: str) -> float:
        ours, loop = self.seconds(device, self.ours, self.loop)
        return loop / ours

    track_step_seconds.unit = "seconds"
    track_gflops.unit = "GFLOP/s"
    track_times_faster_than_loop.unit = "times"
