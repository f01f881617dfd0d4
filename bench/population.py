"""Atras in the comparison: its population as the peers are given it, and its engines as one more contestant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

import atras.networks
from atras.data import pixels
from atras.engines import ENGINES, Epoch
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Layer, Network, Spec, members_of
from atras.networks.stems import stem_name
from atras.running.prepare import prepare
from atras.running.task import parts_of
from textbook import Batch, Contestant, Member, Task


class Population:
    """Atras' protocol on some of its candidates, prepared and planned."""

    def __init__(self, protocol: Protocol, execution: Execution) -> None:
        self.protocol, self.execution = protocol, execution
        self.members = members_of(protocol.candidates, protocol.seeds)
        self.device, self.data, self.spec, self.plan = prepare(protocol, execution)
        self.weights = initial_weights(self.spec, self.members)

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return min(self.protocol.batch_size, len(self.data.train.labels))

    def of(self, candidates: Sequence[Candidate]) -> Population:
        """The same with fewer candidates, planned anew."""
        return Population(self.protocol.replace(candidates=tuple(candidates)), self.execution)

    def task(self, *, dropout: bool) -> Task:
        """The task of the contestants: the networks with the weights that atras starts from."""
        seeds = self.protocol.seeds
        return Task(
            image_shape=self.spec.image_shape,
            classes=self.spec.classes,
            stem=self.spec.stem_name,
            members=tuple(
                Member(member.candidate.widths, own, seeds.index(member.seed))
                for member, own in zip(self.members, self.weights, strict=True)
            ),
            learning_rate=self.protocol.learning_rate,
            dropout=dropout,
            device=self.device,
        )

    def batches(self, count: int) -> list[Batch]:
        """Batches of the training set, each drawn anew, in an order of its own for each seed."""
        images, labels = self.data.train.images, self.data.train.labels
        batches = []
        for step in range(count):
            draws = [torch.Generator().manual_seed(1000 * row + step) for row in range(len(self.protocol.seeds))]
            picks = torch.stack([torch.randperm(len(labels), generator=draw)[: self.batch_size] for draw in draws])
            picks = picks.to(labels.device)
            batches.append(Batch(pixels(images[picks], torch.float32), labels[picks], picks))
        return batches


def initial_weights(spec: Spec, members: Sequence[atras.networks.Member]) -> list[dict[str, Tensor]]:
    """The weights that atras starts each member from, as plain state dicts."""
    return [Network(spec, member.candidate).initial_parameters(member.seed, torch.float32) for member in members]


def every(candidates: Sequence[Candidate], k: int) -> list[Candidate]:
    """Every k-th candidate of each depth, at least one, in their order; all for k = 1."""
    chosen = set()
    for depth in {candidate.depth for candidate in candidates}:
        same = [candidate for candidate in candidates if candidate.depth == depth]
        chosen.update(same[min(k - 1, len(same) - 1) // 2 :: k])
    return [candidate for candidate in candidates if candidate in chosen]


class Atras(Contestant):
    """Atras' own engines, as its plan groups the members, fed as a run feeds them: with indices into the data set."""

    def __init__(self, population: Population, *, dropout: bool) -> None:
        self.population, self.precision = population, population.plan.precision
        spec = population.spec if dropout else without_dropout(population.spec)
        protocol = population.protocol.replace(precision=self.precision)
        self.engines = []
        for group in population.plan.groups:
            engine = ENGINES.get(group.engine)
            self.engines += [engine(spec, part, protocol, population.device) for part in parts_of(group)]
        for engine in self.engines:
            engine.begin_phase("train")

    def prepare(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [batch.picks for batch in batches]

    def train(self, batches: list[Tensor]) -> Tensor:
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


class WithoutDropout(Spec):
    """The same networks under the same stem's name, trained without dropout."""

    @property
    def stem_layers(self) -> tuple[Layer, ...]:
        return tuple(dataclasses.replace(layer, dropout=0.0) for layer in super().stem_layers)

    @property
    def stem_name(self) -> str:
        return stem_name(super().stem_layers)  # by which engine `fused` knows its stems


def without_dropout(spec: Spec) -> Spec:
    """The same networks, trained without dropout."""
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return WithoutDropout(**values | {"head_rate256": 0})
