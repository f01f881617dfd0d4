"""The stages of a group of members: train, attack, adversarially train, attack again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from atras.data import Dataset
from atras.engines import KINDS, BatchStep, Engine
from atras.environment import attack_backend
from atras.errors import Interrupted
from atras.evaluation import (
    AllSigns,
    Measurement,
    Recorder,
    Rows,
    Source,
    Sources,
    epsilons_apart,
    examples_kept,
    gap_by_name,
    shown_attacks,
)
from atras.experiment import Protocol
from atras.networks import StepResult, permutation

from .at_epsilons import evaluators_of
from .defending import Defending
from .feed import Feed, Pass
from .selection import Selection, selects_in
from .snapshot import DONE, SIGNS, STAGES, TRAINED, Snapshot, stages_of
from .steps import epoch_steps
from .turns import Turns
from .watcher import Watcher

CALL_SECONDS = 1.0
"""Steps are entered by the call, each of about so long: between calls a run can be stopped, saved and told of."""

GROWTH = 16
"""A call has at most so many times the steps of the call before it."""


def run_group(
    engine: Engine,
    data: Dataset,
    protocol: Protocol,
    *,
    evaluation_batch: int = 250,
    watcher: Watcher | None = None,
    snapshot: Snapshot | None = None,
    source: Source | Sources | None = None,
    chunk: int = 0,
    population: int | None = None,
) -> Rows:
    """The whole experiment on the members of an engine.

    Args:
        engine: freshly made, at its initial weights.
        data: on the engine's device.
        protocol: what to do.
        evaluation_batch: images a forward pass in evaluation and attack.
        watcher: told of the progress, given snapshots, asked whether to stop.
        snapshot: where to go on from; None for the start.
        source: whose adversarial images to train on, besides each member's own where there are several; None for these
            alone.
        chunk: images of each order that are gathered at once, where they are streamed or augmented; 0 for a batch.
        population: candidates of the run, in each of their variants; None for those of the protocol.

    Returns:
        A table row a member, and every metric, epoch and phase behind it.

    Raises:
        Interrupted: if the watcher asked to stop.
    """
    stages = _Stages(engine, data, protocol, evaluation_batch, watcher or Watcher(), source, chunk, population)
    try:
        if snapshot is not None:
            stages.restore(snapshot)
        return stages.run()
    finally:
        stages.let_go()


class _Stages:
    def __init__(
        self,
        engine: Engine,
        data: Dataset,
        protocol: Protocol,
        evaluation_batch: int,
        watcher: Watcher,
        source: Source | Sources | None = None,
        chunk: int = 0,
        population: int | None = None,
    ) -> None:
        self.engine, self.protocol, self.watcher = engine, protocol, watcher
        self.gathered = chunk
        defences = [
            protocol.setting("defence", member.variant).at(epsilon)
            for member, epsilon in zip(engine.members, engine.epsilons, strict=True)
        ]
        self.defence = defences[0]
        self.evaluators = evaluators_of(engine, data, protocol, evaluation_batch)
        self.evaluator = self.evaluators.whole
        backend = f"{engine.name}/{attack_backend(engine.device, engine.dtype)}"
        shown = len(shown_attacks(protocol))
        examples = examples_kept(population or len(protocol.candidates), data.image_shape, shown)
        self.recorder = Recorder(engine.members, engine.spec, data, engine.device, backend, protocol.seeds[0], examples)
        others = source.signs_for(engine.members) if isinstance(source, Sources) else ()
        own = None if isinstance(source, Sources) else source
        self.measurement = Measurement(self.evaluators, self.recorder, own)
        known = self.evaluator.classes, others, self.evaluator.in_range("train")
        self.defending = Defending(engine, defences, protocol.adversarial_epochs, *known)
        self.trained: dict[str, Tensor] = {}
        self.signs: dict[str, Tensor] = {}
        self.chunk = 1
        self.restored: Snapshot | None = None
        self.evaluators.watch(self.pause)
        self.stages = stages_of(protocol)
        self.enter(self.stages[0])

    def run(self) -> Rows:
        work = {
            "train": lambda: self.train(self.protocol.epochs, self.train_size),
            "measure_trained": self.measure_trained,
            "adversarial": self.train_adversarially,
            "measure_defended": self.measurement.defended,
        }
        for stage, after in zip(self.stages, (*self.stages[1:], DONE), strict=True):
            if stage == self.stage:
                work[stage]()
                self.enter(after)
                self.keep()
                if after != DONE:
                    self.stop_if_asked()
        return self.recorder.finish()

    def let_go(self) -> None:
        """End the circle in which the evaluator and the stages hold each other: an engine's memory is free at once."""
        self.evaluators.watch(_never)
        self.evaluators.forget()

    @property
    def train_size(self) -> int:
        """Training images."""
        return len(self.evaluator.data.train)

    def enter(self, stage: str) -> None:
        self.stage, self.epoch, self.start = stage, 0, time.perf_counter()
        self.begun = False
        self.evaluators.forget()
        self.record = self.recorder.to_dict()
        if stage == DONE:
            self.signs = {}
        self.selection = Selection(self.engine) if selects_in(self.protocol, stage) else None
        self.losses = torch.zeros(len(self.engine.members), 0, dtype=torch.float64)
        self.correct = torch.zeros(len(self.engine.members), 0, dtype=torch.int64)

    def measure_trained(self) -> None:
        if not self.protocol.trains:
            self.measurement.given()
            return
        self.measurement.trained()
        if not self.defence.trains:
            return
        if self.watcher.keeps:
            self.trained = self.evaluated(TRAINED)
        self.recorder.phase = "defended"

    def evaluated(self, prefix: str) -> dict[str, Tensor]:
        """The networks as they are evaluated, on the CPU, under names that a prefix begins."""
        return {
            f"{prefix}/{member.name}/{name}": values.cpu().contiguous()
            for index, member in enumerate(self.engine.members)
            for name, values in self.engine.evaluated_parameters(index).items()
        }

    def train_adversarially(self) -> None:
        """The second training, as the defence has it."""
        defence, images = self.defence, self.defence.epoch_images(self.train_size)
        if self.begins():
            self.defending.begin()
        if defence.from_signs:
            self.train(self.protocol.adversarial_epochs, images, self.measurement.train_signs)
        else:
            self.train(self.protocol.adversarial_epochs, images, batch_steps=self.defending.steps)

    @property
    def steps_a_batch(self) -> int:
        """Optimizer steps on each batch of the stage."""
        return self.defence.steps_a_batch if self.stage == "adversarial" else 1

    @property
    def seen(self) -> int:
        """How many times the steps on a batch see each of its images."""
        return self.steps_a_batch * (self.defence.views if self.stage == "adversarial" else 1)

    def train(
        self,
        epochs: int,
        n: int,
        signs: AllSigns | None = None,
        batch_steps: Callable[[int, int], BatchStep] | None = None,
    ) -> None:
        """Epochs over n images: the clean ones, and from the size of the training set on their adversarial copies.

        Args:
            epochs: in all, those done before included.
            n: images of an epoch.
            signs: which make the copies; None where there are none, or `batch_steps` makes them.
            batch_steps: from an epoch, and its batches done before, to what trains on each batch.
        """
        part, evaluator = self.evaluator.data.train, self.evaluator
        epsilon = epsilons_apart(self.engine.epsilons, self.engine.device)
        if not self.begun:
            self.begin_phase(self.stage)
        for epoch in range(self.epoch + 1, epochs + 1):
            orders = torch.stack([permutation(seed, self.stage, epoch, n) for seed in evaluator.seeds])
            augment = self.protocol.augment, tuple(evaluator.seeds), self.stage, epoch
            work = Pass(part, orders, evaluator.seed_of, signs, epsilon, *augment)
            others = () if batch_steps is None else self.defending.others
            size, gathered = self.protocol.batch_size, self.gathered
            with Turns(work, size, gathered, others) if others else Feed(work, size, gathered) as feed:
                self.train_epoch(feed, n, epoch, batch_steps)
            self.note_epoch(epoch, self.batch_sizes(n), batch_steps is not None and self.defence.compared)
            self.epoch, self.losses, self.correct = epoch, self.losses[:, :0], self.correct[:, :0]
            if epoch < epochs:
                self.pause()
        if self.selection is not None:
            self.selection.put_back()
            self.recorder.note_selected(self.stage, self.selection.epochs.tolist())
        steps = epochs * -(-n // self.protocol.batch_size) * self.steps_a_batch
        self.recorder.note_time(self.stage, time.perf_counter() - self.start, steps)

    def begin_phase(self, phase: str) -> None:
        """Begin a phase of the engine, `train` or `adversarial`; its schedule counts the phase's optimizer steps."""
        clean, adversarial = epoch_steps(self.protocol, self.train_size)
        if phase == "train":
            self.engine.begin_phase(phase, self.protocol.epochs * clean, clean)
        else:
            self.engine.begin_phase(phase, self.protocol.adversarial_epochs * adversarial, adversarial)

    def train_epoch(
        self, feed: Feed | Turns, n: int, epoch: int, batch_steps: Callable[[int, int], BatchStep] | None
    ) -> None:
        """The rest of an epoch, call by call. Nothing that is measured depends on how long a call takes."""
        sizes = self.batch_sizes(n)
        alive = bool(self.recorder.finite.any())
        self.recorder.note_precision(self.protocol.precision)
        while (first := self.losses.shape[1]) < len(sizes):
            last = min(first + self.chunk, feed.end(first))
            begin = time.perf_counter()
            if alive:
                step = None if batch_steps is None else batch_steps(epoch, first)
                result = self.engine.epoch(feed.part(first, last)._replace(batch_step=step))
            else:
                result = self.frozen(last - first)
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
        """The result of steps of a group without a finite member: NaN losses; nothing is computed, nothing changes."""
        losses = torch.full((len(self.engine.members), steps), torch.nan, dtype=torch.float64)
        return StepResult(losses, torch.zeros_like(losses, dtype=torch.int64))

    def tell(self, steps: int, sizes: Tensor) -> None:
        finite = self.recorder.finite
        losses, correct = ((self.losses * sizes).sum(1)[finite], self.correct.sum(1)[finite])
        n = sizes.sum()
        accuracy = correct.double().mean() / (n * self.seen)
        self.watcher.progress(self.stage, steps * self.steps_a_batch, (losses.mean() / n).item(), accuracy.item())

    def note_epoch(self, epoch: int, sizes: Tensor, compare: bool) -> None:
        """History rows of an epoch, the test accuracy where that is asked for, and, to compare them, FGSM and PGD."""
        n, every = sizes.sum(), self.protocol.evaluate_every
        losses, accuracies = (self.losses * sizes).sum(1) / n, self.correct.sum(1) / (n * self.seen)
        # All evaluations come before the first row: one that is stopped leaves none behind.
        score = self.evaluator.score("test") if every and epoch % every == 0 else None
        gaps = self.evaluators.gaps() if compare else []
        robust = self.evaluators.validate() if self.selection is not None else None
        self.evaluators.forget()
        steps, before = len(sizes) * self.steps_a_batch, self.recorder.counts
        self.recorder.note_epoch(self.stage, epoch, losses, accuracies, steps, robust, gap_by_name(gaps))
        if self.selection is not None and robust is not None:
            self.selection.take(epoch, robust)
        if score is not None:
            self.recorder.record(None, "test", score, epoch=epoch)
        for one, gap in gaps:
            self.measurement.record_gap(epoch, one, gap)
        self.watcher.epoch(self.recorder.since(before))

    def pause(self) -> None:
        """Between two calls of training, or two steps of an evaluation: keep a snapshot when due, stop when asked."""
        if (now := self.evaluators.attacking()) is not None:
            self.watcher.attacking(self.stage, now.attack.name, now.share)
        if self.watcher.due():
            self.keep()
        if self.watcher.stop():
            self.keep()
            raise Interrupted

    def stop_if_asked(self) -> None:
        """Where the last snapshot is as good as a new one: at a stage's end."""
        if self.watcher.stop():
            raise Interrupted

    def keep(self) -> None:
        if not self.watcher.keeps:
            return
        if self.restored is not None:
            # Its signs are being made again: all else is as it was.
            self.watcher.keep(replace(self.restored, tensors=self.restored.tensors | self.evaluators.tensors()))
            self.kept = True
            return
        training = self.stage in ("train", "adversarial")
        tensors = self.engine.state(optimizer=training and not self.begins())
        tensors |= {"losses": self.losses, "correct": self.correct} | self.trained
        tensors |= self.signs | self.evaluators.tensors() | (self.defending.tensors() if training else {})
        tensors |= {} if self.selection is None else self.selection.tensors()
        record = self.recorder.to_dict()
        if self.stage in ("measure_trained", "measure_defended"):
            # What this stage has recorded is recorded again, from the counters; only pictures are not made again.
            first = len(self.record["rows"]["examples"])
            record = self.record | {"shown": self.recorder.rows.examples[first:]}
        seconds = time.perf_counter() - self.start
        self.watcher.keep(Snapshot(self.stage, self.epoch, seconds, record, tensors))

    def begins(self) -> bool:
        return self.epoch == 0 and self.losses.shape[1] == 0

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken. Adversarial images are made again, from the parameters they are of."""
        self.enter(snapshot.stage)
        self.epoch, self.start = snapshot.epoch, self.start - snapshot.seconds
        self.losses, self.correct = snapshot.tensors["losses"], snapshot.tensors["correct"]
        prefix = f"{TRAINED}/"
        self.trained = {name: values for name, values in snapshot.tensors.items() if name.startswith(prefix)}
        self.begin_phase("train" if snapshot.stage in STAGES[:2] else "adversarial")
        self.evaluators.load(snapshot.tensors)
        if self.selection is not None:
            self.selection.load(snapshot.tensors)
        self.defending.load(snapshot.tensors)
        if self.trained and snapshot.stage != DONE:
            self.make_signs(snapshot)
        self.recorder.restore(snapshot.record)
        self.record = self.recorder.to_dict()
        self.recorder.rows.examples += snapshot.record.get("shown", ())
        if snapshot.stage in ("measure_trained", "measure_defended"):
            self.recorder.seconds_before = snapshot.seconds
        self.engine.load_state(snapshot.tensors)
        self.begun = True

    def make_signs(self, snapshot: Snapshot) -> None:
        """Attack the trained networks once more, and keep the signs from now on if that took long."""
        prefix = f"{TRAINED}/"
        before = {f"{KINDS[0]}/{name.removeprefix(prefix)}": values for name, values in self.trained.items()}
        self.engine.load_state({"steps": torch.tensor(0), **before})
        self.restored, self.kept = snapshot, any(name.startswith(SIGNS) for name in snapshot.tensors)
        self.measurement.make_signs()
        self.restored = None
        own = {name: values for name, values in self.evaluators.tensors().items() if name.startswith(SIGNS)}
        left = {name: values for name, values in self.evaluators.tensors().items() if name not in own}
        self.signs = own if self.kept else {}
        self.evaluators.forget()
        self.evaluators.load(left)


def _never() -> None:
    """Between two steps of an evaluation that nobody watches."""


def next_chunk(steps: int, seconds: float) -> int:
    """Steps of the next call, from what the last one took."""
    return max(1, min(GROWTH * steps, int(steps * CALL_SECONDS / max(seconds, 1e-9))))
