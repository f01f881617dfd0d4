"""The experiment on one group of members: train, attack, adversarially train, attack again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atras.attacks.registry import BatchAttack
from atras.data.datasets import Dataset
from atras.engines.engine import KINDS, Engine, Epoch, StepResult
from atras.errors import Interrupted
from atras.evaluation.recorder import Population, Rows, Source
from atras.experiment.protocol import Protocol
from atras.networks.randomness import permutation

STAGES = ("train", "measure_trained", "adversarial", "measure_defended")
"""What is done with a group, in this order."""

DONE = "done"
"""The stage of a group that has nothing left to do."""

TRAINED = "trained"
"""Prefix, in a snapshot's tensors, of the parameters that the first training led to."""

CALL_SECONDS = 1.0
"""Steps are entered by the call, each of about so long: between calls a run can be stopped, saved and told of."""

GROWTH = 16
"""A call has at most so many times the steps of the call before it."""


@dataclass(frozen=True)
class Snapshot:
    """Where a group stands; a run that goes on from it gives bitwise what it would have given.

    Args:
        stage: the one under way, of `STAGES`, or `DONE`.
        epoch: finished epochs of it.
        seconds: spent in it.
        record: what was measured so far, as JSON values.
        tensors: the engine's state, the trained parameters, and the losses and correct predictions, [M, S], of the
            steps made in the unfinished epoch.
    """

    stage: str
    epoch: int
    seconds: float
    record: dict[str, Any]
    tensors: dict[str, Tensor]


class Watcher:
    """What a run of a group tells and asks between its calls; this one hears nothing, keeps nothing and never stops."""

    keeps = False
    """Whether `keep` is to be called."""

    def progress(self, phase: str, steps: int, loss: float, accuracy: float) -> None:
        """Steps were made; loss and accuracy are means over the epoch so far and the group's members."""

    def due(self) -> bool:
        """Whether a snapshot is wanted now, in the midst of training. At each stage's end one is made anyway."""
        return False

    def keep(self, snapshot: Snapshot) -> None:
        """Take a snapshot; that of stage `DONE` is the last."""

    def stop(self) -> bool:
        """Whether to stop here: a snapshot is kept, and `Interrupted` raised."""
        return False


def steps_of(protocol: Protocol, train_size: int) -> int:
    """Training steps of a member over both phases, the last, smaller batch of an epoch included."""
    clean, doubled = _epoch_steps(protocol, train_size)
    return protocol.epochs * clean + protocol.adversarial_epochs * doubled


def steps_done(snapshot: Snapshot, protocol: Protocol, train_size: int) -> int:
    """How many of `steps_of` a snapshot has behind it."""
    clean, doubled = _epoch_steps(protocol, train_size)
    within = snapshot.tensors["losses"].shape[1] if "losses" in snapshot.tensors else 0
    if snapshot.stage == "train":
        return snapshot.epoch * clean + within
    before = protocol.epochs * clean
    if snapshot.stage == "measure_trained":
        return before
    if snapshot.stage == "adversarial":
        return before + snapshot.epoch * doubled + within
    return steps_of(protocol, train_size)


def run_group(
    engine: Engine,
    data: Dataset,
    protocol: Protocol,
    *,
    evaluation_batch: int = 250,
    watcher: Watcher | None = None,
    snapshot: Snapshot | None = None,
    source: Source | None = None,
) -> Rows:
    """The whole experiment on the members of an engine.

    Args:
        engine: freshly made, at its initial weights.
        data: on the engine's device.
        protocol: what to do.
        evaluation_batch: images a forward pass in evaluation and attack.
        watcher: told of the progress, given snapshots, asked whether to stop.
        snapshot: where to go on from; None for the start.
        source: whose adversarial images to train on; None for each member's own.

    Returns:
        A table row a member, and every metric, epoch and phase behind it.

    Raises:
        Interrupted: if the watcher asked to stop.
    """
    group = _GroupRun(Population(engine, data, protocol, evaluation_batch, source), watcher or Watcher())
    if snapshot is not None:
        group.restore(snapshot)
    return group.run()


def attack_source(
    engine: Engine, data: Dataset, protocol: Protocol, evaluation_batch: int = 250, watcher: Watcher | None = None
) -> Tensor:
    """Train the members as in the first training, and attack their training images.

    Args:
        engine: freshly made: one candidate with every seed, or with one.
        data, protocol, evaluation_batch: as in `run_group`.
        watcher: asked whether to stop.

    Returns:
        Signs int8 [M, N, C, H, W] of the adversarial training images.

    Raises:
        Interrupted: if the watcher asked to stop.
    """
    group = _GroupRun(Population(engine, data, protocol, evaluation_batch), watcher or Watcher())
    group.train(protocol.epochs, None)
    group.enter("measure_trained")
    return group.population.signs_of("train")[0]


class _GroupRun:
    def __init__(self, population: Population, watcher: Watcher) -> None:
        self.population, self.watcher = population, watcher
        self.engine, self.protocol = population.engine, population.protocol
        self.trained: dict[str, Tensor] = {}
        self.chunk = 1
        self.enter(STAGES[0])

    def run(self) -> Rows:
        work = {
            "train": lambda: self.train(self.protocol.epochs, None),
            "measure_trained": self.measure_trained,
            "adversarial": lambda: self.train(self.protocol.adversarial_epochs, self.population.train_signs),
            "measure_defended": self.population.measure_defended,
        }
        for stage, after in zip(STAGES, (*STAGES[1:], DONE), strict=True):
            if stage == self.stage:
                work[stage]()
                self.enter(after)
                self.keep()
                if after != DONE:
                    self.stop_if_asked()
        return self.population.finish()

    def enter(self, stage: str) -> None:
        self.stage, self.epoch, self.start = stage, 0, time.perf_counter()
        self.begun = False
        self.population.pause = self.stop_if_asked
        self.losses = torch.zeros(len(self.engine.members), 0, dtype=torch.float64)
        self.correct = torch.zeros(len(self.engine.members), 0, dtype=torch.int64)

    def measure_trained(self) -> None:
        self.population.measure_trained()
        if self.watcher.keeps:
            state = self.engine.state(optimizer=False)
            self.trained = {
                f"{TRAINED}/{name.partition('/')[2]}": values for name, values in state.items() if "/" in name
            }
        self.population.phase = "defended"

    def train(self, epochs: int, signs: Tensor | None) -> None:
        """Epochs over the clean set, or over the doubled set that the signs make."""
        population, part = self.population, self.population.data.train
        n = len(part) * (1 if signs is None else 2)
        crafted = signs is not None and self.protocol.train_attack != "fgsm"
        if not self.begun:
            self.engine.begin_phase(self.stage)
        # An evaluation between epochs is not stopped: the last snapshot may be old.
        population.pause = lambda: None
        for epoch in range(self.epoch + 1, epochs + 1):
            orders = torch.stack([permutation(seed, self.stage, epoch, n) for seed in population.seeds])
            orders = orders.to(self.engine.device)
            work = Epoch(part.images, part.labels, orders, population.seed_of, signs, self.protocol.epsilon)
            self.train_epoch(work, epoch, crafted)
            self.note_epoch(epoch, self.batch_sizes(n))
            if crafted:
                population.measure_gap(epoch)
            self.epoch, self.losses, self.correct = epoch, self.losses[:, :0], self.correct[:, :0]
            if epoch < epochs:
                self.pause()
        steps = epochs * -(-n // self.protocol.batch_size)
        population.note_time(self.stage, time.perf_counter() - self.start, steps)

    def train_epoch(self, work: Epoch, epoch: int, crafted: bool) -> None:
        """What is left of an epoch, call by call. Nothing that is measured depends on how long a call takes."""
        n, size = work.orders.shape[1], self.protocol.batch_size
        sizes = self.batch_sizes(n)
        alive = bool(self.population.finite.any())
        while (first := self.losses.shape[1]) < len(sizes):
            last = min(first + self.chunk, len(sizes))
            begin = time.perf_counter()
            part = work._replace(orders=work.orders[:, first * size : last * size])
            if crafted:
                part = part._replace(signs=None, craft=BatchAttack.of(self.protocol, epoch, first))
            result = self.engine.epoch(part) if alive else self.frozen(last - first)
            self.losses = torch.cat([self.losses, result.losses.cpu()], 1)
            self.correct = torch.cat([self.correct, result.correct.cpu()], 1)
            self.chunk = next_chunk(last - first, time.perf_counter() - begin)
            self.tell(last - first, sizes[:last])
            if last < len(sizes):
                self.pause()

    def batch_sizes(self, n: int) -> Tensor:
        """Images in each batch of an epoch, float64."""
        size = self.protocol.batch_size
        return torch.tensor([min(size, n - first) for first in range(0, n, size)], dtype=torch.float64)

    def frozen(self, steps: int) -> StepResult:
        """What steps of a group of which no member is left report: nothing is computed, nothing changes."""
        losses = torch.full((len(self.engine.members), steps), torch.nan, dtype=torch.float64)
        return StepResult(losses, torch.zeros_like(losses, dtype=torch.int64))

    def tell(self, steps: int, sizes: Tensor) -> None:
        finite = self.population.finite.cpu()
        losses, correct = ((self.losses * sizes).sum(1)[finite], self.correct.sum(1)[finite])
        n = sizes.sum()
        self.watcher.progress(self.stage, steps, (losses.mean() / n).item(), (correct.double().mean() / n).item())

    def note_epoch(self, epoch: int, sizes: Tensor) -> None:
        """History rows of an epoch, and the test accuracy where that is asked for."""
        population, n = self.population, sizes.sum()
        losses, accuracies = (self.losses * sizes).sum(1) / n, self.correct.sum(1) / n
        population.finite &= losses.isfinite().to(self.engine.device)
        fine = population.finite.tolist()
        for i, member in enumerate(self.engine.members):
            population.rows.history.append({
                "hidden_layers": member.candidate.name, "seed": member.seed, "phase": self.stage, "epoch": epoch,
                "steps": len(sizes), "mean_loss": losses[i].item() if fine[i] else float("nan"),
                "running_accuracy": accuracies[i].item() if fine[i] else None,
            })  # fmt: skip
        every = self.protocol.evaluate_every
        if every and epoch % every == 0:
            population.record(None, "test", population.score("test"), epoch=epoch)

    def pause(self) -> None:
        """Between two calls: keep a snapshot when one is due, stop when asked."""
        if self.watcher.due():
            self.keep()
        if self.watcher.stop():
            self.keep()
            raise Interrupted

    def stop_if_asked(self) -> None:
        """Where the last snapshot is as good as a new one: at a stage's end, and while measuring."""
        if self.watcher.stop():
            raise Interrupted

    def keep(self) -> None:
        if not self.watcher.keeps:
            return
        tensors = self.engine.state(optimizer=self.stage in ("train", "adversarial") and not self.begins())
        tensors |= {"losses": self.losses, "correct": self.correct} | self.trained
        seconds = time.perf_counter() - self.start
        self.watcher.keep(Snapshot(self.stage, self.epoch, seconds, self.population.to_dict(), tensors))

    def begins(self) -> bool:
        return self.epoch == 0 and self.losses.shape[1] == 0

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken. Adversarial images are made again, from the parameters they are of."""
        self.enter(snapshot.stage)
        self.epoch, self.start = snapshot.epoch, self.start - snapshot.seconds
        self.losses, self.correct = snapshot.tensors["losses"], snapshot.tensors["correct"]
        prefix = f"{TRAINED}/"
        self.trained = {name: values for name, values in snapshot.tensors.items() if name.startswith(prefix)}
        self.engine.begin_phase("train" if snapshot.stage in STAGES[:2] else "adversarial")
        if self.trained and snapshot.stage != DONE:
            before = {f"{KINDS[0]}/{name.removeprefix(prefix)}": values for name, values in self.trained.items()}
            self.engine.load_state({"steps": torch.tensor(0), **before})
            self.population.make_signs()
        self.population.restore(snapshot.record)
        self.engine.load_state(snapshot.tensors)
        self.begun = True


def next_chunk(steps: int, seconds: float) -> int:
    """Steps of the next call, from what the last one took."""
    return max(1, min(GROWTH * steps, int(steps * CALL_SECONDS / max(seconds, 1e-9))))


def _epoch_steps(protocol: Protocol, train_size: int) -> tuple[int, int]:
    clean, doubled = (-(-n // protocol.batch_size) for n in (train_size, 2 * train_size))
    return clean, doubled
