"""The epochs of a stage that trains: its batches, entered by the call, and what is told and recorded of each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from atras.engines import BatchStep
from atras.evaluation import AllSigns, epsilons_apart, gap_by_name
from atras.networks import StepResult, permutation

from .feed import Feed, Pass
from .selection import Selection, selects_in
from .snapshot import Snapshot
from .steps import epoch_steps
from .tools import Tools
from .turns import Turns

CALL_SECONDS = 1.0
"""Steps are entered by the call, each of about so long: between calls a run can be stopped, saved and told of."""

GROWTH = 16
"""A call has at most so many times the steps of the call before it."""

BatchSteps = Callable[[int, int], BatchStep]
"""From an epoch, and its batches done before, to what trains on each batch."""


class Epochs:
    """The epochs of the stage that was entered last: how many are done, and how far the next one is.

    Args:
        tools: what the group is computed with.
        pause: called between two calls.
    """

    def __init__(self, tools: Tools, pause: Callable[[], None]) -> None:
        self.tools, self.engine, self.protocol, self.pause = tools, tools.engine, tools.protocol, pause
        self.chunk = 1

    def enter(self, stage: str) -> None:
        """Begin a stage, of which nothing is done."""
        self.stage, self.done, self.start = stage, 0, time.perf_counter()
        self.begun = False
        self.selection = Selection(self.engine) if selects_in(self.protocol, stage) else None
        self.losses = torch.zeros(len(self.engine.members), 0, dtype=torch.float64)
        self.correct = torch.zeros(len(self.engine.members), 0, dtype=torch.int64)

    @property
    def untouched(self) -> bool:
        """Whether no step of the stage is done."""
        return self.done == 0 and self.losses.shape[1] == 0

    def tensors(self) -> dict[str, Tensor]:
        """What of a snapshot's tensors is theirs."""
        own = {} if self.selection is None else self.selection.tensors()
        return {"losses": self.losses, "correct": self.correct} | own

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot of the stage was taken."""
        self.done, self.start = snapshot.epoch, self.start - snapshot.seconds
        self.losses, self.correct = snapshot.tensors["losses"], snapshot.tensors["correct"]
        if self.selection is not None:
            self.selection.load(snapshot.tensors)
        self.begun = True

    @property
    def steps_a_batch(self) -> int:
        """Optimizer steps on each batch of the stage."""
        return self.tools.defence.steps_a_batch if self.stage == "adversarial" else 1

    @property
    def seen(self) -> int:
        """How many times the steps on a batch see each of its images."""
        return self.steps_a_batch * (self.tools.defence.views if self.stage == "adversarial" else 1)

    def train(self, epochs: int, n: int, signs: AllSigns | None = None, batch_steps: BatchSteps | None = None) -> None:
        """Epochs over n images: the clean ones, and from the size of the training set on their adversarial copies.

        Args:
            epochs: in all, those done before included.
            n: images of an epoch.
            signs: which make the copies; None where there are none, or `batch_steps` makes them.
            batch_steps: trains on the batches; None for the engine's own steps.
        """
        if not self.begun:
            self.begin_phase(self.stage)
        for epoch in range(self.done + 1, epochs + 1):
            with self.feed(epoch, n, signs, turns=batch_steps is not None) as feed:
                self.train_epoch(feed, n, epoch, batch_steps)
            self.note_epoch(epoch, self.batch_sizes(n), batch_steps is not None and self.tools.defence.compared)
            self.done, self.losses, self.correct = epoch, self.losses[:, :0], self.correct[:, :0]
            if epoch < epochs:
                self.pause()
        if self.selection is not None:
            self.selection.put_back()
            self.tools.recorder.note_selected(self.stage, self.selection.epochs.tolist())
        steps = epochs * -(-n // self.protocol.batch_size) * self.steps_a_batch
        self.tools.recorder.note_time(self.stage, time.perf_counter() - self.start, steps)

    def feed(self, epoch: int, n: int, signs: AllSigns | None, *, turns: bool) -> Feed | Turns:
        """The batches of an epoch; where they come in turns, with the copies made on other networks."""
        evaluator = self.tools.evaluator
        epsilon = epsilons_apart(self.engine.epsilons, self.engine.device)
        orders = torch.stack([permutation(seed, self.stage, epoch, n) for seed in evaluator.seeds])
        augment = self.protocol.augment, tuple(evaluator.seeds), self.stage, epoch
        work = Pass(evaluator.data.train, orders, evaluator.seed_of, signs, epsilon, *augment)
        others = self.tools.defending.others if turns else ()
        size, gathered = self.protocol.batch_size, self.tools.gathered
        return Turns(work, size, gathered, others) if others else Feed(work, size, gathered)

    def begin_phase(self, phase: str) -> None:
        """Begin a phase of the engine, `train` or `adversarial`; its schedule counts the phase's optimizer steps."""
        clean, adversarial = epoch_steps(self.protocol, self.tools.train_size)
        if phase == "train":
            self.engine.begin_phase(phase, self.protocol.epochs * clean, clean)
        else:
            self.engine.begin_phase(phase, self.protocol.adversarial_epochs * adversarial, adversarial)

    def train_epoch(self, feed: Feed | Turns, n: int, epoch: int, batch_steps: BatchSteps | None) -> None:
        """The rest of an epoch, call by call. Nothing that is measured depends on how long a call takes."""
        sizes = self.batch_sizes(n)
        alive = bool(self.tools.recorder.finite.any())
        self.tools.recorder.note_precision(self.protocol.precision)
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
        finite = self.tools.recorder.finite
        losses, correct = ((self.losses * sizes).sum(1)[finite], self.correct.sum(1)[finite])
        n = sizes.sum()
        accuracy = correct.double().mean() / (n * self.seen)
        self.tools.watcher.progress(self.stage, steps * self.steps_a_batch, (losses.mean() / n).item(), accuracy.item())

    def note_epoch(self, epoch: int, sizes: Tensor, compare: bool) -> None:
        """History rows of an epoch, the test accuracy where that is asked for, and, to compare them, FGSM and PGD."""
        n, every = sizes.sum(), self.protocol.evaluate_every
        losses, accuracies = (self.losses * sizes).sum(1) / n, self.correct.sum(1) / (n * self.seen)
        # All evaluations come before the first row: one that is stopped leaves none behind.
        score = self.tools.evaluator.score("test") if every and epoch % every == 0 else None
        gaps = self.tools.evaluators.gaps() if compare else []
        robust = self.tools.evaluators.validate() if self.selection is not None else None
        self.tools.evaluators.forget()
        steps, before = len(sizes) * self.steps_a_batch, self.tools.recorder.counts
        self.tools.recorder.note_epoch(self.stage, epoch, losses, accuracies, steps, robust, gap_by_name(gaps))
        if self.selection is not None and robust is not None:
            self.selection.take(epoch, robust)
        if score is not None:
            self.tools.recorder.record(None, "test", score, epoch=epoch)
        for one, gap in gaps:
            self.tools.measurement.record_gap(epoch, one, gap)
        self.tools.watcher.epoch(self.tools.recorder.since(before))


def next_chunk(steps: int, seconds: float) -> int:
    """Steps of the next call, from what the last one took."""
    return max(1, min(GROWTH * steps, int(steps * CALL_SECONDS / max(seconds, 1e-9))))
