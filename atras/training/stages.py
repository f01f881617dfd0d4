"""The stages of a group of members: train, attack, adversarially train, attack again."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from atras.data import Dataset
from atras.engines import KINDS, Engine
from atras.errors import Interrupted
from atras.evaluation import Rows, Source, Sources
from atras.experiment import Protocol

from .epochs import Epochs
from .snapshot import DONE, SIGNS, STAGES, TRAINED, Snapshot, stages_of
from .tools import Tools, tools_of
from .watcher import Watcher


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
    stages = _Stages(
        tools_of(engine, data, protocol, evaluation_batch, watcher or Watcher(), source, chunk, population)
    )
    try:
        if snapshot is not None:
            stages.restore(snapshot)
        return stages.run()
    finally:
        stages.let_go()


class _Stages:
    """A group on its way through its stages.

    Args:
        tools: what it is computed with.
    """

    def __init__(self, tools: Tools) -> None:
        self.tools, self.engine, self.protocol, self.watcher = tools, tools.engine, tools.protocol, tools.watcher
        self.evaluators, self.recorder, self.measurement = tools.evaluators, tools.recorder, tools.measurement
        self.defence, self.defending = tools.defence, tools.defending
        self.trained: dict[str, Tensor] = {}
        self.signs: dict[str, Tensor] = {}
        self.restored: Snapshot | None = None
        self.epochs = Epochs(tools, self.pause)
        self.evaluators.watch(self.pause)
        self.stages = stages_of(self.protocol)
        self.enter(self.stages[0])

    def run(self) -> Rows:
        work = {
            "train": lambda: self.epochs.train(self.protocol.epochs, self.tools.train_size),
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
        """End the circles in which stages are held by what they hold: an engine's memory is free at once."""
        self.evaluators.watch(_never)
        self.epochs.pause = _never
        self.evaluators.forget()

    def enter(self, stage: str) -> None:
        self.stage = stage
        self.epochs.enter(stage)
        self.evaluators.forget()
        self.record = self.recorder.to_dict()
        if stage == DONE:
            self.signs = {}

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
        defence, images = self.defence, self.defence.epoch_images(self.tools.train_size)
        if self.epochs.untouched:
            self.defending.begin()
        if defence.from_signs:
            self.epochs.train(self.protocol.adversarial_epochs, images, self.measurement.train_signs)
        else:
            self.epochs.train(self.protocol.adversarial_epochs, images, batch_steps=self.defending.steps)

    def pause(self) -> None:
        """Between two calls of training, or two steps of an evaluation: keep a snapshot when due, stop when asked."""
        if self.watcher.listens() and (now := self.evaluators.attacking()) is not None:
            self.watcher.attacking(self.stage, now.attack.name, now.share, now.work)
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
        tensors = self.engine.state(optimizer=training and not self.epochs.untouched)
        tensors |= self.epochs.tensors() | self.trained | self.signs | self.evaluators.tensors()
        tensors |= self.defending.tensors() if training else {}
        record = self.recorder.to_dict()
        if self.stage in ("measure_trained", "measure_defended"):
            # What this stage has recorded is recorded again, from the counters; only pictures are not made again.
            first = len(self.record["rows"]["examples"])
            record = self.record | {"shown": self.recorder.rows.examples[first:]}
        seconds = time.perf_counter() - self.epochs.start
        self.watcher.keep(Snapshot(self.stage, self.epochs.done, seconds, record, tensors))

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken. Adversarial images are made again, from the parameters they are of."""
        self.enter(snapshot.stage)
        self.epochs.restore(snapshot)
        prefix = f"{TRAINED}/"
        self.trained = {name: values for name, values in snapshot.tensors.items() if name.startswith(prefix)}
        self.epochs.begin_phase("train" if snapshot.stage in STAGES[:2] else "adversarial")
        self.evaluators.load(snapshot.tensors)
        self.defending.load(snapshot.tensors)
        if self.trained and snapshot.stage != DONE:
            self.make_signs(snapshot)
        self.recorder.restore(snapshot.record)
        self.record = self.recorder.to_dict()
        self.recorder.rows.examples += snapshot.record.get("shown", ())
        if snapshot.stage in ("measure_trained", "measure_defended"):
            self.recorder.seconds_before = snapshot.seconds
        self.engine.load_state(snapshot.tensors)

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
