"""Evaluating and attacking the members of an engine: every measured number as a row of the result frames.

What each number means is defined in docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atras.kernels import apply_signs

from .attack import FGSM
from .data import Dataset, Split, pixels
from .engine import Engine
from .env import attack_backend
from .evaluate import Score, Tally
from .model import parameter_count
from .protocol import Protocol
from .randomness import random_targets

Row = dict[str, object]


@dataclass
class Rows:
    """Rows of the four result frames, as `atras.results` describes them."""

    table: list[Row] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)
    transfer: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict[str, list[Row]]:
        """The rows by frame."""
        return {name: list(rows) for name, rows in vars(self).items()}

    def extend(self, other: Rows) -> None:
        """Append another group's rows."""
        self.table += other.table
        self.metrics += other.metrics
        self.history += other.history
        self.timings += other.timings
        self.transfer += other.transfer
        self.examples += other.examples


class Population:
    """The members of an engine under measurement, and the rows that come of it.

    Args:
        engine: the members, at any point of their training.
        data: on the engine's device.
        protocol: what to do.
        evaluation_batch: images a forward pass in evaluation and attack.
    """

    def __init__(self, engine: Engine, data: Dataset, protocol: Protocol, evaluation_batch: int = 250) -> None:
        self.engine, self.data, self.protocol = engine, data, protocol
        self.evaluation_batch = evaluation_batch
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
        self.pause: Callable[[], None] = lambda: None
        """Called between the chunks of an evaluation; may raise to stop it."""

    def to_dict(self) -> dict[str, Any]:
        """What was measured so far, as JSON values (with NaN), for `restore`."""
        return {
            "phase": self.phase, "finite": self.finite.tolist(), "dead": list(self.dead),
            "accuracies": [dict(accuracies) for accuracies in self.accuracies],
            "rows": self.rows.to_dict(),
        }  # fmt: skip

    def restore(self, record: dict[str, Any]) -> None:
        """Take over what `to_dict` gave."""
        self.phase, self.dead, self.accuracies = record["phase"], list(record["dead"]), list(record["accuracies"])
        self.finite = torch.tensor(record["finite"], dtype=torch.bool, device=self.engine.device)
        self.rows = Rows(**record["rows"])

    def measure_trained(self) -> None:
        """Evaluate the first model, attack it, and keep the signs of its adversarial images."""
        with self.timed("evaluate"):
            self.record("train_accuracy", "train", self.score("train"))
            clean = self.score("test")
            self.record("test_accuracy", "test", clean)
            self.note_dead(clean)
        with self.timed("attack"):
            before = self.make_signs()
            self.record("attacked_accuracy_before", "test", before, self.attack, "adaptive")
            if self.attack == self.honest_attack:
                for accuracies in self.accuracies:
                    accuracies["attacked_accuracy_before_true"] = accuracies["attacked_accuracy_before"]
            else:
                _, before_true = self.make_attack("test", self.honest_attack)
                self.record("attacked_accuracy_before_true", "test", before_true, self.honest_attack, "adaptive")

    def make_signs(self) -> Score:
        """Attack the model as it is, and keep the signs: those of the test images come with their score."""
        self.train_signs, _ = self.make_attack("train", self.attack, keep=True)
        self.test_signs, score = self.make_attack("test", self.attack, keep=True)
        return score

    def measure_defended(self) -> None:
        """Evaluate the second model on clean images, on the kept ones, and on a new attack."""
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
                "split": split, "attack": "none" if attack is None else "fgsm", "attack_parameters": None,
                "epsilon": 0.0 if attack is None else attack.epsilon,
                "label_source": None if attack is None or attack.target != "none" else attack.label_source,
                "target": None if attack is None else attack.target, "mode": mode,
                "n": score.n, "correct": score.correct[i],
                "zero_gradient_fraction": _at(score.zero_gradient_fraction, i),
                "nan_gradients": _at(score.nan_gradients, i),
                "mean_linf": _at(score.mean_linf, i), "mean_l2": _at(score.mean_l2, i), "backend": self.backend,
            })  # fmt: skip

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
            row["worst_case_accuracy_before"] = self.accuracies[i]["attacked_accuracy_before_true"]
            row["worst_case_accuracy_after"] = self.accuracies[i]["attacked_accuracy_after_adaptive"]
            row["recovery_static"] = self._difference(i, "attacked_accuracy_after_static", "attacked_accuracy_before")
            row["recovery_adaptive"] = self._difference(
                i, "attacked_accuracy_after_adaptive", "attacked_accuracy_before_true"
            )
            self.rows.table.append(row)
        return self.rows

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Append a row to the timings."""
        start = time.perf_counter()
        yield
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        self.note_time(phase, time.perf_counter() - start)

    def note_time(self, phase: str, seconds: float, steps: int = 0) -> None:
        """Append what a part of the work took to the timings."""
        self.rows.timings.append(
            {"phase": f"{phase}-{self.phase}", "members": len(self.engine.members), "seconds": seconds, "steps": steps}
        )

    def _difference(self, index: int, after: str, before: str) -> float | None:
        high, low = self.accuracies[index][after], self.accuracies[index][before]
        return None if high is None or low is None else high - low

    def _targets(self, split: str, part: Split) -> Tensor:
        own = [random_targets(seed, split, part.labels, self.data.classes) for seed in self.seeds]
        return torch.stack(own)[self.seed_of]

    def _chunks(self, part: Split) -> Iterator[slice]:
        for start in range(0, len(part.labels), self.evaluation_batch):
            self.pause()
            yield slice(start, start + self.evaluation_batch)


def _at(values: list[float] | list[int] | None, index: int) -> float | int | None:
    return None if values is None else values[index]
