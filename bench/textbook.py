"""Textbook PyTorch: networks, and loops that train them one after the other.

It is what a user would write from the documentation, each loop in its fastest form, and knows nothing of atras.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(NamedTuple):
    """A 3x3 convolution of a stem; ReLU follows, then max-pooling and dropout where there are any."""

    channels: int
    padding: int
    pool: bool
    dropout: float


STEMS = {
    "none": (),
    "conv2": (Convolution(32, 0, True, 0.0), Convolution(64, 0, True, 0.0)),
    "conv4": (
        Convolution(32, 1, False, 0.0),
        Convolution(32, 0, True, 0.25),
        Convolution(64, 1, False, 0.0),
        Convolution(64, 0, True, 0.25),
    ),
}


class Member(NamedTuple):
    """One network to train: its hidden widths, initial weights by name, and its row of the batches."""

    hidden: tuple[int, ...]
    weights: dict[str, Tensor]
    seed_row: int


class Ascent(NamedTuple):
    """Steps up the sign of the loss gradient, within epsilon of the image; pixels are of [0, 1]."""

    epsilon: float
    steps: int
    step_size: float


@dataclass(frozen=True)
class Task:
    """The task of every contestant: its networks, images and device."""

    image_shape: tuple[int, int, int]
    classes: int
    stem: str
    members: tuple[Member, ...]
    learning_rate: float
    dropout: bool
    device: torch.device


class Network(nn.Module):
    """A stem, hidden layers of these widths, logits."""

    def __init__(self, task: Task, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, height, width = task.image_shape
        for i, layer in enumerate(STEMS[task.stem], 1):
            layers[f"conv{i}"] = nn.Conv2d(channels, layer.channels, 3, padding=layer.padding)
            layers[f"conv{i}_relu"] = nn.ReLU()
            channels, height, width = layer.channels, height + 2 * layer.padding - 2, width + 2 * layer.padding - 2
            if layer.pool:
                layers[f"conv{i}_pool"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
            if layer.dropout and task.dropout:
                layers[f"conv{i}_dropout"] = nn.Dropout(layer.dropout)
        layers["flatten"] = nn.Flatten()
        widths = (channels * height * width, *hidden)
        for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
            layers[f"dense{i}"] = nn.Linear(inputs, outputs)
            layers[f"dense{i}_relu"] = nn.ReLU()
        layers["logits"] = nn.Linear(widths[-1], task.classes)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def training_flops(task: Task, hidden: Sequence[int]) -> int:
    """FLOPs of one image's training step: forward, weight gradients, input gradients of all but the first layer."""
    products = []
    channels, height, width = task.image_shape
    for layer in STEMS[task.stem]:
        height, width = height + 2 * layer.padding - 2, width + 2 * layer.padding - 2
        products.append(9 * channels * layer.channels * height * width)
        channels = layer.channels
        if layer.pool:
            height, width = height // 2, width // 2
    products += [inputs * outputs for inputs, outputs in pairwise((channels * height * width, *hidden, task.classes))]
    return 2 * (3 * sum(products) - products[0])


class Batch(NamedTuple):
    """The batch of a step, a row for each of S seeds: images [S, B, C, H, W] in [0, 1], labels and picks [S, B]."""

    images: Tensor
    labels: Tensor
    picks: Tensor


class Contestant:
    """Networks that train on batches. `fp32`, or `bf16` where that is what its products are computed in."""

    precision = "fp32"

    def prepare(self, batches: Sequence[Batch]) -> list[Any]:
        """The batches as this contestant would keep them resident; not timed."""
        return [(batch.images, batch.labels) for batch in batches]

    def train(self, batches: list[Any]) -> Tensor:
        """Train every network on every batch; returns the losses [steps, M]."""
        raise NotImplementedError

    def run(self, batches: list[Any]) -> None:
        """The same for the clock: the losses of single steps are not asked for."""
        self.train(batches)


class Loop(Contestant):
    """One network after the other."""

    memory_format = torch.contiguous_format

    def __init__(self, task: Task) -> None:
        self.task = task
        self.networks = [
            self.network(member).to(task.device, memory_format=self.memory_format) for member in task.members
        ]
        # Measured on a CPU, fused is 2 to 9 times as fast as the other variants of Adam, for every peer's parameters.
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=task.learning_rate, fused=True) for network in self.networks
        ]

    def network(self, member: Member) -> nn.Module:
        network = Network(self.task, member.hidden)
        network.layers.load_state_dict(member.weights)
        return network

    def prepare(self, batches: Sequence[Batch]) -> list[Any]:
        layout = self.memory_format
        return [
            [(x.contiguous(memory_format=layout), y) for x, y in zip(batch.images, batch.labels, strict=True)]
            for batch in batches
        ]

    def train(self, batches: list[Any]) -> Tensor:
        losses = [
            [self.step(index, *batch[member.seed_row]) for batch in batches]
            for index, member in enumerate(self.task.members)
        ]
        return torch.stack([torch.stack(own) for own in losses], dim=1)

    def step(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        self.optimizers[index].zero_grad()
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = self.networks[index](x)
        loss = F.cross_entropy(out.float(), y)
        loss.backward()
        self.optimizers[index].step()
        return loss.detach()


class LoopChannelsLast(Loop):
    memory_format = torch.channels_last


class LoopBf16(LoopChannelsLast):
    precision = "bf16"


def pgd(network: nn.Module, images: Tensor, labels: Tensor, start: Tensor, attack: Ascent) -> Tensor:
    """PGD's adversarial images [B, C, H, W], in the memory format of the images, from images that are moved by `start`
    (the same shape). The network's parameters ask for no gradients."""
    lowest, highest = (images - attack.epsilon).clamp_(min=0.0), (images + attack.epsilon).clamp_(max=1.0)
    x = torch.clamp(images + start, lowest, highest)
    for _ in range(attack.steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), labels, reduction="sum"), x)
        x = torch.clamp(x.detach() + attack.step_size * gradient.sign(), lowest, highest)
    return x


class LoopCompiled(Loop):
    """`torch.compile` of every network; its first step compiles."""

    def network(self, member: Member) -> nn.Module:
        torch._dynamo.config.recompile_limit = 64  # every network has a forward pass of its own
        network = super().network(member)
        network.compile(dynamic=False)
        return network


class LoopCudaGraph(Loop):
    """Each network's whole step captured once in a CUDA graph and replayed."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=task.learning_rate, fused=True, capturable=True)
            for network in self.networks
        ]
        self.captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def step(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        if index not in self.captured:
            self.captured[index] = self.capture(index, x.clone(), y.clone())
        graph, images, labels, loss = self.captured[index]
        images.copy_(x)
        labels.copy_(y)
        graph.replay()
        return loss.clone()

    def capture(self, index: int, x: Tensor, y: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().step(index, x, y)
        torch.cuda.current_stream().wait_stream(side)
        self.networks[index].layers.load_state_dict(self.task.members[index].weights)
        for state in self.optimizers[index].state.values():
            for values in state.values():
                values.zero_()
        graph = torch.cuda.CUDAGraph()
        self.optimizers[index].zero_grad()
        with torch.cuda.graph(graph):
            loss = super().step(index, x, y)
        return graph, x, y, loss
