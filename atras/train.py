"""The experiment on one group of members: train, attack, adversarially train, attack again. Yields plain rows.

What each number means is defined in docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atras.kernels import apply_signs

from .attack import FGSM
from .data import Dataset, Split, pixels
from .engine import Engine, Epoch
from .env import attack_backend
from .evaluate import Score, Tally
from .model import parameter_count
from .protocol import Protocol
from .randomness import permutation, random_targets

Row = dict[str, object]
Progress = Callable[[str, int, float, float], None]
"""Called after each epoch with phase, the steps it had, mean loss and running accuracy of the group."""


@dataclass
class Rows:
    """Rows of the four result frames, as `atras.results` describes them."""

    table: list[Row] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)

    def extend(self, other: Rows) -> None:
        """Append another group's rows."""
        self.table += other.table
        self.metrics += other.metrics
        self.history += other.history
        self.timings += other.timings


def steps_of(protocol: Protocol, train_size: int) -> int:
    """Training steps of a member over both phases, the last, smaller batch of an epoch included."""
    clean, doubled = (-(-n // protocol.batch_size) for n in (train_size, 2 * train_size))
    return protocol.epochs * clean + protocol.adversarial_epochs * doubled


def run_group(
    engine: Engine, data: Dataset, protocol: Protocol, *, evaluation_batch: int = 250, progress: Progress | None = None
) -> Rows:
    """The whole experiment on the members of an engine.

    Args:
        engine: freshly made, at its initial weights.
        data: on the engine's device.
        protocol: what to do.
        evaluation_batch: images a forward pass in evaluation and attack.
        progress: told of every epoch.

    Returns:
        A table row a member, and every metric, epoch and phase behind it.
    """
    group = _Group(engine, data, protocol, evaluation_batch, progress)
    group.first_model()
    group.second_model()
    return group.finish()


class _Group:
    def __init__(
        self, engine: Engine, data: Dataset, protocol: Protocol, evaluation_batch: int, progress: Progress | None
    ) -> None:
        self.engine, self.data, self.protocol = engine, data, protocol
        self.evaluation_batch = evaluation_batch
        self.progress = progress or _silence
        self.attack = FGSM.of(protocol)
        self.honest_attack = FGSM(protocol.epsilon, "true")
        self.finite = torch.ones(len(engine.members), dtype=torch.bool, device=engine.device)
        self.dead = [False] * len(engine.members)
        self.seeds = list(dict.fromkeys(member.seed for member in engine.members))
        self.seed_of = torch.tensor([self.seeds.index(m.seed) for m in engine.members], device=engine.device)
        self.backend = f"{engine.name}/{attack_backend(engine.device, engine.dtype)}"
        self.accuracies: list[dict[str, float | None]] = [{} for _ in engine.members]
        self.rows = Rows()
        self.phase = "trained"

    def first_model(self) -> None:
        """Train on clean images, measure, attack; keep the adversarial copies."""
        with self.timed("train", self.protocol.epochs * self._steps(1)):
            self.train("train", self.protocol.epochs)
        with self.timed("evaluate"):
            self.record("train_accuracy", "train", self.score("train"))
            clean = self.score("test")
            self.record("test_accuracy", "test", clean)
            self.note_dead(clean)
        with self.timed("attack"):
            self.train_signs, _ = self.make_attack("train", self.attack, keep=True)
            self.test_signs, before = self.make_attack("test", self.attack, keep=True)
            self.record("attacked_accuracy_before", "test", before, self.attack, "adaptive")
            if self.attack == self.honest_attack:
                for accuracies in self.accuracies:
                    accuracies["attacked_accuracy_before_true"] = accuracies["attacked_accuracy_before"]
            else:
                _, before_true = self.make_attack("test", self.honest_attack)
                self.record("attacked_accuracy_before_true", "test", before_true, self.honest_attack, "adaptive")

    def second_model(self) -> None:
        """Go on training on clean and adversarial images; measure on the old attack and on a new one."""
        self.phase = "defended"
        with self.timed("adversarial", self.protocol.adversarial_epochs * self._steps(2)):
            self.train("adversarial", self.protocol.adversarial_epochs)
        with self.timed("evaluate"):
            clean, copies = self.score("train"), self.score("train", self.train_signs)
            both = Score(
                [a + b for a, b in zip(clean.correct, copies.correct, strict=True)], clean.n + copies.n, clean.one_class
            )
            self.record(None, "train", clean)
            self.record(None, "train", copies, self.attack, "static")
            self.record("adversarial_train_accuracy", "train+adversarial", both, self.attack, "static")
            clean = self.score("test")
            self.record("adversarial_test_accuracy", "test", clean)
            self.note_dead(clean)
            static = self.score("test", self.test_signs)
            self.record("attacked_accuracy_after_static", "test", static, self.attack, "static")
        with self.timed("attack"):
            _, adaptive = self.make_attack("test", self.honest_attack)
            self.record("attacked_accuracy_after_adaptive", "test", adaptive, self.honest_attack, "adaptive")

    def train(self, phase: str, epochs: int) -> None:
        """Epochs over the clean set (`train`) or the doubled set (`adversarial`)."""
        self.engine.begin_phase(phase)
        signs = self.train_signs if phase == "adversarial" else None
        part = self.data.train
        n = len(part) * (1 if signs is None else 2)
        for epoch in range(1, epochs + 1):
            orders = torch.stack([permutation(seed, phase, epoch, n) for seed in self.seeds]).to(self.engine.device)
            work = Epoch(part.images, part.labels, orders, self.seed_of, signs, self.protocol.epsilon)
            loss_sum, correct = self.engine.epoch(work)
            self.finite &= loss_sum.isfinite()
            self.note_epoch(phase, epoch, loss_sum / n, correct, n)

    def score(self, split: str, signs: Tensor | None = None) -> Score:
        """Evaluate on clean images, or on the adversarial ones that these signs [M, N, C, H, W] make of them."""
        part: Split = getattr(self.data, split)
        tally = Tally(self.engine, self.finite)
        for chunk in self._chunks(part):
            images = pixels(part.images[chunk], self.engine.dtype)
            adversarial = None
            if signs is not None:
                adversarial = apply_signs(images, signs[:, chunk], self.protocol.epsilon, dtype=self.engine.dtype)
            tally.add(images, adversarial, part.labels[chunk])
        return tally.score()

    def make_attack(self, split: str, attack: FGSM, keep: bool = False) -> tuple[Tensor, Score]:
        """Attack every image of a split, evaluate, and return the signs (empty unless kept) with the score."""
        part: Split = getattr(self.data, split)
        tally = Tally(self.engine, self.finite)
        size = len(part.labels) if keep else 0
        kept = torch.empty(
            len(self.engine.members), size, *part.images.shape[1:], dtype=torch.int8, device=part.images.device
        )
        targets = self._targets(split, part) if attack.target == "random" else None
        for chunk in self._chunks(part):
            images = pixels(part.images[chunk], self.engine.dtype)
            attacked = attack(self.engine, images, part.labels[chunk], None if targets is None else targets[:, chunk])
            if keep:
                kept[:, chunk] = attacked.signs
            tally.add(images, attacked.clipped, part.labels[chunk])
            tally.add_gradients(attacked.zero_gradients, attacked.nan_gradients)
        return kept, tally.score()

    def record(
        self,
        column: str | None,
        split: str,
        score: Score,
        attack: FGSM | None = None,
        mode: str = "clean",
        epoch: int | None = None,
    ) -> None:
        """Turn a score into metrics rows, and into a column of the table where it is one."""
        for i, (member, fine) in enumerate(zip(self.engine.members, self.finite.tolist(), strict=True)):
            if column is not None:
                self.accuracies[i][column] = score.correct[i] / score.n if fine else None
            if not fine:
                continue
            self.rows.metrics.append({
                "hidden_layers": member.candidate.name, "seed": member.seed, "phase": self.phase, "epoch": epoch,
                "split": split, "attack": "none" if attack is None else "fgsm",
                "epsilon": 0.0 if attack is None else attack.epsilon,
                "label_source": None if attack is None or attack.target != "none" else attack.label_source,
                "target": None if attack is None else attack.target, "mode": mode,
                "n": score.n, "correct": score.correct[i],
                "zero_gradient_fraction": _at(score.zero_gradient_fraction, i),
                "nan_gradients": _at(score.nan_gradients, i),
                "mean_linf": _at(score.mean_linf, i), "backend": self.backend,
            })  # fmt: skip

    def note_epoch(self, phase: str, epoch: int, losses: Tensor, correct: Tensor, n: int) -> None:
        """History rows of an epoch, its progress, and the test accuracy where that is asked for."""
        steps = -(-n // self.protocol.batch_size)
        mean_losses, accuracies = losses.tolist(), (correct / n).tolist()
        for member, loss, accuracy in zip(self.engine.members, mean_losses, accuracies, strict=True):
            self.rows.history.append({
                "hidden_layers": member.candidate.name, "seed": member.seed, "phase": phase, "epoch": epoch,
                "steps": steps, "mean_loss": loss, "running_accuracy": accuracy,
            })  # fmt: skip
        every = self.protocol.evaluate_every
        if every and epoch % every == 0:
            self.record(None, "test", self.score("test"), epoch=epoch)
        self.progress(phase, steps, sum(mean_losses) / len(mean_losses), sum(accuracies) / len(accuracies))

    def note_dead(self, clean: Score) -> None:
        """Remember which members predict one class for every test image."""
        self.dead = [old or new for old, new in zip(self.dead, clean.one_class, strict=True)]

    def finish(self) -> Rows:
        """The table rows, behind everything recorded so far."""
        for i, member in enumerate(self.engine.members):
            status = "diverged" if not self.finite[i] else "dead" if self.dead[i] else "trained"
            row: Row = {
                "dataset": self.data.name, "hidden_layers": member.candidate.name, "depth": member.candidate.depth,
                "parameters": parameter_count(self.engine.spec, member.candidate.hidden),
                "seed": member.seed, "status": status,
            }  # fmt: skip
            row.update(self.accuracies[i])
            row["recovery_static"] = self._difference(i, "attacked_accuracy_after_static", "attacked_accuracy_before")
            row["recovery_adaptive"] = self._difference(
                i, "attacked_accuracy_after_adaptive", "attacked_accuracy_before_true"
            )
            self.rows.table.append(row)
        return self.rows

    @contextmanager
    def timed(self, phase: str, steps: int = 0) -> Iterator[None]:
        """Append a row to the timings."""
        start = time.perf_counter()
        yield
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        seconds = time.perf_counter() - start
        self.rows.timings.append(
            {"phase": f"{phase}-{self.phase}", "members": len(self.engine.members), "seconds": seconds, "steps": steps}
        )

    def _difference(self, index: int, after: str, before: str) -> float | None:
        high, low = self.accuracies[index][after], self.accuracies[index][before]
        return None if high is None or low is None else high - low

    def _steps(self, sets: int) -> int:
        return -(-sets * len(self.data.train.labels) // self.protocol.batch_size)

    def _targets(self, split: str, part: Split) -> Tensor:
        own = [random_targets(seed, split, part.labels, self.data.classes) for seed in self.seeds]
        return torch.stack(own)[self.seed_of]

    def _chunks(self, part: Split) -> Iterator[slice]:
        for start in range(0, len(part.labels), self.evaluation_batch):
            yield slice(start, start + self.evaluation_batch)


def _silence(phase: str, steps: int, loss: float, accuracy: float) -> None:
    """Progress that nobody asked for."""


def _at(values: list[float] | list[int] | None, index: int) -> float | int | None:
    return None if values is None else values[index]
