"""Atras and textbook PyTorch on the same training steps: first that they learn the same, then how long they take.

    python bench/peers.py --dataset mnist --preset paper --steps 20 --json out.json

The upper half of this file, the peers, is what a user would write from the documentation of PyTorch (or JAX), each in
its fastest form; it knows nothing of atras, which only the lower half imports. All start from the same weights and see
the same batches. With dropout off, the losses of the first steps must agree, or nothing is timed and the exit status
is 1. Then, dropout on, all train in turn, round after round, so that a busy machine slows them alike. A step is one
training step of the whole population.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STACK_LIMIT = 32
"""Most networks that a vmap peer stacks: the activations of more do not fit a usual memory."""


# Peers: textbook PyTorch and JAX


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


@dataclass(frozen=True)
class Task:
    """What every contestant is given: which networks, on which images, where."""

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
    """What a step trains on, a row for each of S seeds: images [S, B, C, H, W] in [0, 1], labels and picks [S, B]."""

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


def stacks(task: Task) -> list[list[int]]:
    """Indices of the members that are stacked: those of one depth, at most STACK_LIMIT at once."""
    found = []
    for depth in sorted({len(member.hidden) for member in task.members}):
        same = [index for index, member in enumerate(task.members) if len(member.hidden) == depth]
        found += [same[start : start + STACK_LIMIT] for start in range(0, len(same), STACK_LIMIT)]
    return found


def stack_weights(shapes: dict[str, torch.Size], members: Sequence[Member]) -> dict[str, Tensor]:
    """[M, ...] weights, each network's in the corner of its slot and zeros around it."""
    stacked = {name: torch.zeros(len(members), *shape) for name, shape in shapes.items()}
    for index, member in enumerate(members):
        for name, values in member.weights.items():
            stacked[name][(index, *(slice(size) for size in values.shape))] = values
    return stacked


class Vmap(Contestant):
    """`torch.func`: networks of one depth, padded to the widest, in one stacked pass."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.groups = []
        for indices in stacks(task):
            members = [task.members[index] for index in indices]
            network = Network(task, [max(widths) for widths in zip(*(m.hidden for m in members), strict=True)])
            shapes = {name: values.shape for name, values in network.layers.state_dict().items()}
            weights = stack_weights(shapes, members)
            weights = {name: values.to(task.device).requires_grad_() for name, values in weights.items()}
            optimizer = torch.optim.Adam(weights.values(), lr=task.learning_rate, fused=True)
            rows = torch.tensor([member.seed_row for member in members], device=task.device)
            self.groups.append((indices, network.layers, weights, optimizer, rows))

    def train(self, batches: list[Any]) -> Tensor:
        losses = torch.empty(len(batches), len(self.task.members), device=self.task.device)
        for indices, network, weights, optimizer, rows in self.groups:
            for step, (images, labels) in enumerate(batches):
                shared = len(images) == 1
                x, y = (images[0], labels[0]) if shared else (images[rows], labels[rows])
                optimizer.zero_grad()
                each = torch.vmap(
                    self.loss, in_dims=(None, 0, None, None) if shared else (None, 0, 0, 0), randomness="different"
                )(network, weights, x, y)
                each.sum().backward()
                optimizer.step()
                losses[step, indices] = each.detach()
        return losses

    def loss(self, network: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = torch.func.functional_call(network, weights, (x,))
        return F.cross_entropy(out.float(), y)


class VmapBf16(Vmap):
    precision = "bf16"


class JaxVmap(Contestant):
    """The same stacks as `Vmap` in JAX: one jitted step of `jax.vmap`, Adam written out; its first step compiles."""

    def __init__(self, task: Task) -> None:
        import jax

        self.jax, self.task = jax, task
        jax.config.update("jax_default_matmul_precision", "highest")
        self.device = jax.devices("gpu" if task.device.type == "cuda" else "cpu")[0]
        self.update = jax.jit(self._update, donate_argnums=0)
        self.steps, self.groups = 0, []
        for number, indices in enumerate(stacks(task)):
            members = [task.members[index] for index in indices]
            widest = [max(widths) for widths in zip(*(m.hidden for m in members), strict=True)]
            shapes = {name: values.shape for name, values in Network(task, widest).layers.state_dict().items()}
            weights = {name: self.put(values) for name, values in stack_weights(shapes, members).items()}
            zeros = {name: self.put(torch.zeros(values.shape)) for name, values in weights.items()}
            state = (weights, zeros, {name: values.copy() for name, values in zeros.items()})
            keys = jax.random.split(jax.random.key(number), len(members))
            self.groups.append([indices, state, jax.device_put(keys, self.device)])

    def put(self, values: Tensor) -> Any:
        return self.jax.device_put(values.cpu().numpy().copy(), self.device)

    def prepare(self, batches: Sequence[Batch]) -> list[Any]:
        return [(self.put(batch.images), self.put(batch.labels.int())) for batch in batches]

    def train(self, batches: list[Any]) -> Tensor:
        losses: list[list[tuple[list[int], Any]]] = [[] for _ in batches]
        for group in self.groups:
            indices, state, keys = group
            rows = self.jax.numpy.array([self.task.members[index].seed_row for index in indices])
            for step, (images, labels) in enumerate(batches):
                x, y = (images[0], labels[0]) if len(images) == 1 else (images[rows], labels[rows])
                state, each = self.update(state, keys, self.steps + step + 1, x, y)
                losses[step].append((indices, each))
            group[1] = state
        self.steps += len(batches)
        found = torch.empty(len(batches), len(self.task.members))
        for step, parts in enumerate(losses):
            for indices, each in parts:
                found[step, indices] = torch.tensor(each.tolist())
        return found

    def _update(self, state: Any, keys: Any, step: Any, x: Any, y: Any) -> Any:
        jax, (weights, first, second) = self.jax, state
        axis = None if x.ndim == 4 else 0

        def total(weights: Any) -> Any:
            own = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
            each = jax.vmap(self.loss, in_axes=(0, 0, axis, axis))(weights, own, x, y)
            return each.sum(), each

        gradients, losses = jax.grad(total, has_aux=True)(weights)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate, scale = self.task.learning_rate / (1 - 0.9**step), 1 / (1 - 0.999**step)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jax.numpy.sqrt(v * scale) + 1e-8), weights, first, second
        )
        return (weights, first, second), losses

    def loss(self, weights: Any, key: Any, x: Any, y: Any) -> Any:
        jax, lax = self.jax, self.jax.lax
        for i, layer in enumerate(STEMS[self.task.stem], 1):
            x = lax.conv_general_dilated(x, weights[f"conv{i}.weight"], (1, 1), [(layer.padding, layer.padding)] * 2)
            x = jax.nn.relu(x + weights[f"conv{i}.bias"][:, None, None])
            if layer.pool:
                x = lax.reduce_window(x, -float("inf"), lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            if layer.dropout and self.task.dropout:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - layer.dropout, x.shape)
                x = jax.numpy.where(kept, x / (1 - layer.dropout), 0)
        x = x.reshape(len(x), -1)
        for i in range(1, sum(name.startswith("dense") for name in weights) // 2 + 1):
            x = jax.nn.relu(x @ weights[f"dense{i}.weight"].T + weights[f"dense{i}.bias"])
        out = jax.nn.log_softmax(x @ weights["logits.weight"].T + weights["logits.bias"])
        return -jax.numpy.take_along_axis(out, y[:, None], 1).mean()


PEERS: dict[str, Callable[[Task], Contestant]] = {
    "loop_fp32": Loop,
    "loop_fp32_channels_last": LoopChannelsLast,
    "loop_bf16": LoopBf16,
    "vmap_fp32": Vmap,
    "vmap_bf16": VmapBf16,
    "loop_cuda_graph": LoopCudaGraph,
    "compile_fp32": LoopCompiled,
    "jax_vmap": JaxVmap,
}
DEFAULT_PEERS = ("loop_fp32", "loop_fp32_channels_last", "loop_bf16", "vmap_fp32", "vmap_bf16")
REFERENCE = "loop_fp32"
"""Whose losses the others are compared with."""

COMPILED = ("compile_fp32", "jax_vmap")
ONE_A_DEPTH = ("compile_fp32",)
"""Peers that are too slow to start for more than one candidate a depth; atras then trains the same few."""


# The comparison

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECK_STEPS = 10
WARM_UP_STEPS = 2
FIRST_STEPS, POPULATION = 3, 10


class Tolerance(NamedTuple):
    """Largest relative difference of a loss: in the first steps, of a population's middle network in the mean, ever."""

    first: float
    middle: float
    largest: float


TOLERANCES = {"fp32": Tolerance(1e-4, 1e-4, 1e-2), "bf16": Tolerance(2e-3, 2e-2, 1e-1)}


class Difference(NamedTuple):
    """How far a contestant's losses are from the reference's, relative, and whether that is near enough.

    Another order of summation flips a ReLU or a pooling maximum that lies within rounding of its neighbour, and Adam
    then triples the difference with every step: of the 40 networks on MNIST, the plain loop with its own weights
    changed by one part in ten million has 6 that are off by more than 1e-4 after ten steps, by up to 3e-3; the plain
    loop in bf16 has one that is off by 3e-2. So every network must agree well before that can grow, the middle one of
    a population in the mean of all steps, and every one roughly all the way.

    Args:
        precision: of the contestant.
        members: number of networks.
        first: largest of the first three steps.
        middle: mean over the steps, of the middle network.
        largest: largest of all.
    """

    precision: str
    members: int
    first: float
    middle: float
    largest: float

    @classmethod
    def of(cls, losses: Tensor, reference: Tensor, precision: str) -> Difference:
        """The difference of two [steps, M] tensors of losses."""
        each = ((losses.double() - reference.double()).abs() / reference.double().abs()).cpu()
        middle = each.mean(dim=0).median().item()
        return cls(precision, each.shape[1], each[:FIRST_STEPS].max().item(), middle, each.max().item())

    @property
    def acceptable(self) -> bool:
        """Whether the losses count as equal; not-a-number never does."""
        allowed = TOLERANCES[self.precision]
        near = self.first <= allowed.first and self.largest <= allowed.largest
        return near and (self.members < POPULATION or self.middle <= allowed.middle)


class Atras(Contestant):
    """Atras' own engines, as its plan groups the members, fed as a run feeds them: with indices into the data set."""

    def __init__(self, population: Population, *, dropout: bool) -> None:
        from atras.schedule import ENGINES

        self.population, self.precision = population, population.plan.precision
        spec = population.spec if dropout else without_dropout(population.spec)
        protocol = population.protocol.replace(precision=self.precision)
        self.engines = []
        for group in population.plan.groups:
            parts = [[member] for member in group.members] if group.engine == "loop" else [group.members]
            self.engines += [ENGINES[group.engine](spec, part, protocol, population.device) for part in parts]
        for engine in self.engines:
            engine.begin_phase("train")

    def prepare(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [batch.picks for batch in batches]

    def train(self, batches: list[Tensor]) -> Tensor:
        from atras.engine import Epoch

        data, members, seeds = self.population.data.train, self.population.members, self.population.protocol.seeds
        losses = torch.empty(len(batches), len(members), device=self.population.device)
        for engine in self.engines:
            places = [members.index(member) for member in engine.members]
            rows = torch.tensor([seeds.index(member.seed) for member in engine.members], device=losses.device)
            for step, picks in enumerate(batches):
                result = engine.epoch(Epoch(data.images, data.labels, picks, rows, None, 0.0))
                losses[step, places] = result.losses.mean(1).float()
        return losses

    def run(self, batches: list[Tensor]) -> None:
        """One call for all batches, as a run makes one an epoch: as in the loops, each member may do all its steps."""
        full = all(picks.shape[1] == self.population.batch_size for picks in batches)
        self.train([torch.cat(batches, dim=1)] if full else batches)


def without_dropout(spec: Any) -> Any:
    """The same networks, trained without dropout."""
    from atras.model import Spec

    class WithoutDropout(Spec):
        @property
        def convolutions(self) -> tuple[Any, ...]:
            return tuple(dataclasses.replace(layer, rate256=0) for layer in super().convolutions)

    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return WithoutDropout(**values | {"head_rate256": 0})


class Population:
    """Atras' protocol on some of its candidates, prepared and planned."""

    def __init__(self, protocol: Any, execution: Any) -> None:
        from atras.plan import members_of
        from atras.schedule import prepare

        self.protocol, self.execution, self.members = protocol, execution, members_of(protocol)
        self.device, self.data, self.spec, self.plan = prepare(protocol, execution)
        self.weights = initial_weights(self.spec, self.members)

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return min(self.protocol.batch_size, len(self.data.train.labels))

    def of(self, candidates: Sequence[Any]) -> Population:
        """The same with fewer candidates, planned anew."""
        return Population(self.protocol.replace(candidates=tuple(candidates)), self.execution)

    def task(self, *, dropout: bool) -> Task:
        """What the contestants are given: the networks with the weights that atras starts from."""
        seeds = self.protocol.seeds
        return Task(
            image_shape=self.spec.image_shape,
            classes=self.spec.classes,
            stem=self.spec.stem,
            members=tuple(
                Member(member.candidate.hidden, own, seeds.index(member.seed))
                for member, own in zip(self.members, self.weights, strict=True)
            ),
            learning_rate=self.protocol.learning_rate,
            dropout=dropout,
            device=self.device,
        )

    def batches(self, count: int) -> list[Batch]:
        """Batches of the training set, each drawn anew, in an order of its own for each seed."""
        from atras.data import pixels

        images, labels = self.data.train.images, self.data.train.labels
        found = []
        for step in range(count):
            draws = [torch.Generator().manual_seed(1000 * row + step) for row in range(len(self.protocol.seeds))]
            picks = torch.stack([torch.randperm(len(labels), generator=draw)[: self.batch_size] for draw in draws])
            picks = picks.to(labels.device)
            found.append(Batch(pixels(images[picks], torch.float32), labels[picks], picks))
        return found


def initial_weights(spec: Any, members: Sequence[Any]) -> list[dict[str, Tensor]]:
    """The weights that atras starts each member from, as plain state dicts."""
    from atras.model import initial_parameters

    return [dict(initial_parameters(spec, member.candidate, member.seed, torch.float32)) for member in members]


def every(candidates: Sequence[Any], k: int) -> list[Any]:
    """Every k-th candidate of each depth, at least one, in their order; all for k = 1."""
    chosen = set()
    for depth in {candidate.depth for candidate in candidates}:
        same = [candidate for candidate in candidates if candidate.depth == depth]
        chosen.update(same[min(k - 1, len(same) - 1) // 2 :: k])
    return [candidate for candidate in candidates if candidate in chosen]


class Times(NamedTuple):
    """What was measured: seconds a step by name and round, and the best GEMM by precision in GFLOP/s."""

    seconds: dict[str, list[float]]
    peaks: dict[str, float]


class Contest:
    """Atras and some peers on one population."""

    def __init__(self, population: Population, peers: Sequence[str]) -> None:
        self.population, self.peers = population, tuple(peers)
        self.compile_seconds: dict[str, float] = {}

    def contestants(self, names: Iterable[str], *, dropout: bool) -> Iterator[tuple[str, Contestant]]:
        """Each named contestant at its initial weights, made when its turn comes."""
        task = self.population.task(dropout=dropout)
        for name in names:
            yield name, Atras(self.population, dropout=dropout) if name == "atras" else PEERS[name](task)

    def differences(self) -> dict[str, Difference]:
        """How far each contestant's first losses are from the reference's."""
        batches = self.population.batches(CHECK_STEPS)
        losses, found = {}, {}
        for name, contestant in self.contestants(dict.fromkeys((REFERENCE, "atras", *self.peers)), dropout=False):
            ready = contestant.prepare(batches)
            with self._settings(name):
                start = time.perf_counter()
                first = contestant.train(ready[:1])
                if name in COMPILED:
                    self.compile_seconds[name] = time.perf_counter() - start
                losses[name] = torch.cat([first, contestant.train(ready[1:])])
            found[name] = Difference.of(losses[name], losses[REFERENCE], contestant.precision)
        return found

    def step_seconds(self) -> dict[str, float]:
        """Seconds of a single step of each contestant, to plan by."""
        batches = self.population.batches(2)
        found = {}
        for name, contestant in self.contestants(("atras", *self.peers), dropout=True):
            ready = contestant.prepare(batches)
            self._seconds(name, contestant, ready[:1])
            found[name] = self._seconds(name, contestant, ready[1:])
        return found

    def times(self, steps: int, rounds: int, say: Callable[[str], None]) -> Times:
        """Seconds a step of each contestant in each round, all taking their turn."""
        contestants = dict(self.contestants(("atras", *self.peers), dropout=True))
        batches = self.population.batches(CHECK_STEPS)
        ready = {name: contestant.prepare(batches) for name, contestant in contestants.items()}
        for name, contestant in contestants.items():
            self._seconds(name, contestant, ready[name][:WARM_UP_STEPS])
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        peaks = dict.fromkeys(DTYPES, 0.0)
        for number in range(rounds):
            taken = range(steps * number // rounds, steps * (number + 1) // rounds)
            for name, contestant in contestants.items():
                work = [ready[name][step % len(batches)] for step in taken]
                seconds[name].append(self._seconds(name, contestant, work) / len(work))
            for precision, dtype in DTYPES.items():
                peaks[precision] = max(peaks[precision], gemm_gflops(dtype, self.population.device))
            say(f"round {number + 1} of {rounds} done")
        return Times(seconds, peaks)

    def figures(self, name: str, times: Times) -> dict[str, Any]:
        """What was measured of one contestant, as JSON values."""
        task = self.population.task(dropout=True)
        flops = self.population.batch_size * sum(training_flops(task, member.hidden) for member in task.members)
        seconds = times.seconds[name]
        compiled = {"compile_seconds": self.compile_seconds[name]} if name in COMPILED else {}
        return compiled | {
            "seconds_per_step": statistics.median(seconds),
            "gflops": flops / statistics.median(seconds) / 1e9,
            "seconds_spread": [min(seconds), max(seconds)],
            "members": len(task.members),
        }

    def _seconds(self, name: str, contestant: Contestant, batches: Any) -> float:
        with self._settings(name):
            synchronize(self.population.device)
            start = time.perf_counter()
            contestant.run(batches)
            synchronize(self.population.device)
            return time.perf_counter() - start

    def _settings(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """On a GPU atras trains under its own settings, peers under the fastest that are true fp32."""
        if name == "atras" or self.population.device.type == "cpu":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False)


def gemm_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of the best of a few square matrix products, of a size that takes a fraction of a second."""
    best, size = 0.0, 512
    while True:
        a, b = torch.rand(size, size, device=device).to(dtype), torch.rand(size, size, device=device).to(dtype)
        taken = []
        for _ in range(4):
            synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            taken.append(time.perf_counter() - start)
        best = max(best, 2 * size**3 / min(taken) / 1e9)
        if size == 16384 or 8 * min(taken) > 0.1:
            return best
        size *= 2


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose_candidates(contest: Contest, options: argparse.Namespace, say: Callable[[str], None]) -> Contest:
    """The contest on every k-th candidate of each depth, for the smallest k that fits the budget."""
    population = contest.population
    candidates = population.protocol.candidates
    fewest = every(candidates, len(candidates))
    probe = Contest(population.of(fewest), contest.peers)
    steps = CHECK_STEPS + WARM_UP_STEPS + options.steps
    each = sum(probe.step_seconds().values()) * steps / len(fewest)
    k = next(
        (k for k in range(1, len(candidates)) if each * len(every(candidates, k)) <= options.budget), len(candidates)
    )
    chosen = every(candidates, k)
    cut = f"one candidate in {k} of each depth, {len(chosen)} of {len(candidates)}" if k > 1 else "all candidates"
    say(f"{cut}: about {each * len(chosen):.0f} s (budget {options.budget:g} s)")
    return contest if len(chosen) == len(candidates) else Contest(population.of(chosen), contest.peers)


# The command


class Parser(argparse.ArgumentParser):
    """Errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="peers.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", default="digits", help="digits, mnist, another name that atras knows, or a path")
    add("--preset", default="paper", help="preset of the protocol")
    add("--stem", help="auto, none, conv2 or conv4")
    add("--hidden", action="append", metavar="N,N", help="a candidate; repeat for several; default: the preset's")
    add("--seeds", help="such as 0-4: every candidate is trained with each")
    add("--steps", type=int, default=20, help="timed steps of each contestant")
    add(
        "--rounds", type=int, help="turns that the steps are taken in; default: 5, or fewer where there are fewer steps"
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--engine", default="auto", help="atras' engine; default: what its plan chooses")
    add("--precision", help="atras' precision")
    add("--peer", action="append", choices=["default", *PEERS], metavar="NAME", help=f"{', '.join(PEERS)}, or default")
    add("--budget", type=float, default=480.0, help="seconds to fit in, by training fewer candidates; default: 480")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    if options.rounds is None:
        options.rounds = max(1, min(5, options.steps))
    if not 1 <= options.rounds <= options.steps:
        parser.error(f"steps (={options.steps}), rounds (={options.rounds}): expected 1 <= rounds <= steps")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"json (={str(options.json)!r}): expected a file in a folder that exists; make the folder first")
    return options


def make_population(options: argparse.Namespace) -> Population:
    """The protocol that the options name, prepared.

    Raises:
        InputError: if atras refuses an option.
    """
    from atras.errors import InputError
    from atras.options import parse_seeds, select_candidates
    from atras.protocol import PRESETS, Execution, Protocol

    if options.preset not in PRESETS:
        raise InputError(f"preset (={options.preset!r}): expected one of {', '.join(PRESETS)}")
    given = {
        "stem": options.stem,
        "precision": options.precision,
        "candidates": select_candidates(options.hidden) if options.hidden else None,
        "seeds": None if options.seeds is None else parse_seeds(options.seeds),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    protocol = Protocol(**PRESETS[options.preset] | {"dataset": options.dataset} | changes)
    return Population(protocol, Execution(engine=options.engine, device=options.device))


def choose_peers(named: Sequence[str] | None, device: torch.device) -> tuple[str, ...]:
    """The peers to run: the named ones, or the default ones of the device.

    Raises:
        InputError: if one cannot run here.
    """
    from atras.errors import InputError

    default = (*DEFAULT_PEERS, "loop_cuda_graph") if device.type == "cuda" else DEFAULT_PEERS
    peers = [peer for name in named or ["default"] for peer in (default if name == "default" else (name,))]
    if "loop_cuda_graph" in peers and device.type != "cuda":
        raise InputError("peer (='loop_cuda_graph'): expected a CUDA device; leave it out or add --device cuda")
    if "jax_vmap" in peers and importlib.util.find_spec("jax") is None:
        raise InputError("peer (='jax_vmap'): JAX is not installed; run pip install jax or leave it out")
    return tuple(dict.fromkeys(peers))


def make_contests(options: argparse.Namespace, say: Callable[[str], None]) -> list[Contest]:
    """One contest of the peers that train all candidates, or what fits of them, and one of those that train few.

    Raises:
        InputError: if an option is refused.
    """
    population = make_population(options)
    peers = choose_peers(options.peer, population.device)
    contests = []
    if usual := [peer for peer in peers if peer not in ONE_A_DEPTH]:
        contests.append(choose_candidates(Contest(population, usual), options, say))
    if slow := [peer for peer in peers if peer in ONE_A_DEPTH]:
        few = every(population.protocol.candidates, len(population.protocol.candidates))
        say(f"{', '.join(slow)}: one candidate a depth, {len(few)} in all; its ratio is to atras on the same ones")
        contests.append(Contest(population.of(few), slow))
    return contests


def compete(contest: Contest, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The contest's figures as JSON values: losses first, and times only if those are equal."""
    differences = contest.differences()
    found: dict[str, Any] = {
        "losses_equal": all(difference.acceptable for difference in differences.values()),
        "loss_differences": {
            name: difference._asdict() | {"equal": difference.acceptable} for name, difference in differences.items()
        },
    }
    say(f"losses of {CHECK_STEPS} steps, dropout off, relative to {REFERENCE} (first {FIRST_STEPS}, middle, largest):")
    for name, difference in differences.items():
        say(
            f"  {name:<24} {difference.first:.0e} {difference.middle:.0e} {difference.largest:.0e}"
            + " WRONG" * (not difference.acceptable)
        )
    if not found["losses_equal"]:
        return found
    times = contest.times(options.steps, options.rounds, say)
    found["gemm_peak_gflops"] = times.peaks
    plan = contest.population.plan
    found["atras"] = contest.figures("atras", times) | {"engine": plan.engine, "precision": plan.precision}
    found["peers"] = {name: contest.figures(name, times) for name in contest.peers}
    ratios = {
        name: [theirs / ours for theirs, ours in zip(times.seconds[name], times.seconds["atras"], strict=True)]
        for name in contest.peers
    }
    found["ratios"] = {name: statistics.median(values) for name, values in ratios.items()}
    found["ratios_spread"] = {name: [min(values), max(values)] for name, values in ratios.items()}
    return found


def merged(contests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all contests in one: atras' own are those of the first."""
    found = contests[0]
    for other in contests[1:]:
        found["losses_equal"] &= other["losses_equal"]
        for key in ("loss_differences", "peers", "ratios", "ratios_spread"):
            found[key] = other.get(key, {}) | found.get(key, {})
    return found


def table(found: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The figures as text."""
    environment, protocol, peaks = found["environment"], found["protocol"], found["gemm_peak_gflops"]
    where = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]["model"]
    lines = [
        f"{protocol['dataset']}, stem {protocol['stem']}, {len(protocol['candidates'])} candidates x "
        f"{len(protocol['seeds'])} seeds, batch {protocol['batch_size']}; {where}, "
        f"{environment['cpu']['threads']} threads, torch {environment['versions']['torch']}",
        f"atras: engine {found['atras']['engine']}, {found['atras']['precision']}; GEMM peak fp32 {peaks['fp32']:.0f}, "
        f"bf16 {peaks['bf16']:.0f} GFLOP/s",
        f"medians of {options.rounds} rounds in turn, {options.steps} steps in all; not counted: planning, set-up and "
        f"the first {WARM_UP_STEPS} steps",
        f"{'':<24} members {'s/step':>9} {'[min .. max]':>20} {'GFLOP/s':>8} {'x atras':>8} {'[min .. max]':>15}",
    ]
    for name, row in {"atras": found["atras"], **found["peers"]}.items():
        low, high = row["seconds_spread"]
        line = f"{name:<24} {row['members']:>7} {row['seconds_per_step']:>9.4f} {f'[{low:.4f} .. {high:.4f}]':>20}"
        line += f" {row['gflops']:>8.1f}"
        if name != "atras":
            low, high = found["ratios_spread"][name]
            line += f" {found['ratios'][name]:>8.2f} {f'[{low:.2f} .. {high:.2f}]':>15}"
        lines.append(line)
    return lines + [
        f"{name}: its first step, which compiles, took {found['peers'][name]['compile_seconds']:.1f} s"
        for name in COMPILED
        if name in found["peers"]
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    from atras.env import describe
    from atras.errors import InputError

    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        contests = make_contests(options, say)
        population = contests[0].population
        found = merged([compete(contest, options, say) for contest in contests])
        protocol = population.protocol
        shown = protocol.to_dict() | {"hash": protocol.hash, "stem": population.spec.stem}
        found = {"protocol": shown, **found, "environment": describe(population.device)}
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (InputError, OSError) as error:
        say(f"peers.py: {error}")
        return 2
    wrong = [name for name, difference in found["loss_differences"].items() if not difference["equal"]]
    if wrong:
        say(f"peers.py: losses differ from those of {REFERENCE}: {', '.join(wrong)}; no times are compared")
        return 1
    print("\n".join(table(found, options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
