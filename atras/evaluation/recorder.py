"""Evaluating and attacking the members of an engine: every measured number as a row of the result frames.

What each number means is defined in docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.attacks.attack import Label, Signed
from atras.data.datasets import Dataset, pixels
from atras.engines.engine import Engine
from atras.environment import attack_backend
from atras.experiment.protocol import Protocol
from atras.networks.network import parameter_count

from .counters import Score
from .evaluator import Evaluation, Figures

Row = dict[str, object]

EXAMPLES = 8
"""First test images that frame `examples` shows."""


@dataclass
class Rows:
    """Rows of the result frames, as `atras.results.results` describes them."""

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


class Source(NamedTuple):
    """Where every candidate of a run takes the adversarial training images from.

    Args:
        name: of the candidate that was attacked.
        signs: int8 [S, N, C, H, W], those of its training images for each seed.
        seeds: what S counts.
    """

    name: str
    signs: Tensor
    seeds: tuple[int, ...]

    def signs_for(self, population: Evaluation) -> Tensor:
        """int8 [M, N, C, H, W], each member's by its seed."""
        rows = [self.seeds.index(member.seed) for member in population.engine.members]
        return self.signs[rows]


class Population(Evaluation):
    """The members of an engine under measurement, and the rows that come of it.

    Args:
        source: whose adversarial images the members are trained on; None for their own.

    The others are those of `Evaluation`.
    """

    def __init__(
        self,
        engine: Engine,
        data: Dataset,
        protocol: Protocol,
        evaluation_batch: int = 250,
        source: Source | None = None,
    ) -> None:
        super().__init__(engine, data, protocol, evaluation_batch)
        self.source = source
        self.finite = torch.ones(len(engine.members), dtype=torch.bool, device=engine.device)
        self.dead = [False] * len(engine.members)
        self.backend = f"{engine.name}/{attack_backend(engine.device, engine.dtype)}"
        self.accuracies: list[dict[str, float | None]] = [{} for _ in engine.members]
        self.rows = Rows()
        self.phase = "trained"

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
        """Evaluate and attack the first model, and keep the signs of its adversarial images.

        The clean figures come from the forward passes of the attacks.
        """
        with self.timed("attack"):
            if self.source is None:
                self.train_signs, clean = self.signs_of("train")
            else:
                self.train_signs, clean = self.source.signs_for(self), self.score("train")
            self.record("train_accuracy", "train", clean)
            found, self.test_signs = self.attack_test(self.attack, self.show)
            self.record("test_accuracy", "test", found.clean)
            self.note_dead(found.clean)
            before = found.attacks[self.attack]
            self.record("attacked_accuracy_before", "test", before, self.attack.label, "white-box")
            if self.attack == self.honest_attack:
                self._copy_column("attacked_accuracy_before", "attacked_accuracy_before_true")
            self.record_attacks(found, "attacked_accuracy_before_true", "worst_case_accuracy_before")

    def make_signs(self) -> None:
        """Attack the model as it is with the protocol's attack, and keep the signs."""
        self.train_signs = self.signs_of("train")[0] if self.source is None else self.source.signs_for(self)
        self.test_signs, _ = self.signs_of("test")

    def measure_defended(self) -> None:
        """Evaluate the second model on clean images, on the kept ones, and on new attacks."""
        old = self.attack.label
        copies_of = old if self.source is None else old._replace(parameters=f"source={self.source.name}")
        with self.timed("evaluate"):
            clean, copies = self.score("train"), self.score("train", self.train_signs)
            self.record(None, "train", clean)
            self.record(None, "train", copies, copies_of, "static")
            self.record("adversarial_train_accuracy", "train+adversarial", clean.joined(copies), copies_of, "static")
            static = self.score("test", self.test_signs)
        with self.timed("attack"):
            found, _ = self.attack_test(hear=self.show)
            self.record("adversarial_test_accuracy", "test", found.clean)
            self.note_dead(found.clean)
            self.record("attacked_accuracy_after_static", "test", static, old, "static")
            self.record_attacks(found, "attacked_accuracy_after_white_box", "worst_case_accuracy_after")

    def measure_gap(self, epoch: int) -> None:
        """Compare FGSM and PGD after an epoch: where they part, the model has learned FGSM alone."""
        for attack, score in self.gap().items():
            self.record(None, "train", score, attack.label, "white-box", epoch)

    def record_attacks(self, found: Figures, column: str, worst_column: str) -> None:
        """Record FGSM at the true label, its epsilon curve, the stronger attacks and the worst case over them.

        Args:
            found: of the model as it is.
            column, worst_column: of FGSM and of the worst case, in the table.
        """
        if column not in self.accuracies[0]:
            self.record(column, "test", found.attacks[self.honest_attack], self.honest_attack.label, "white-box")
        for epsilon, score in found.curve.items():
            self.record(None, "test", score, replace(self.honest_attack, epsilon=epsilon).label, "white-box")
        for attack in self.stronger:
            self.record(None, "test", found.attacks[attack], attack.label, "white-box")
        if self.stronger:
            names = " ".join(attack.label.name for attack in (self.honest_attack, *self.stronger))
            worst = Label("worst", names, self.protocol.epsilon, "true", "none")
            self.record(worst_column, "test", found.worst, worst, "white-box")
        else:
            self._copy_column(column, worst_column)

    def show(self, attacked: Signed, logits: Tensor, chunk: slice) -> None:
        """Keep the first images of the test set, for the members of the first seed."""
        for i, member in enumerate(self.engine.members):
            if member.seed != self.protocol.seeds[0] or not logits[i].isfinite().all():
                continue
            for image in range(chunk.start, min(chunk.stop, EXAMPLES)):
                at = image - chunk.start
                self.rows.examples.append({
                    "hidden_layers": member.candidate.name, "seed": member.seed, "phase": self.phase, "image": image,
                    "label": int(self.data.test.labels[image]),
                    "clean_prediction": int(attacked.clean_logits[i, at].argmax()),
                    "attacked_prediction": int(logits[i, at].argmax()), "epsilon": attacked.epsilon,
                    "pixels": _bytes((pixels(self.data.test.images[image], torch.float64) * 255).round(), torch.uint8),
                    "signs": _bytes(attacked.signs[i, at], torch.int8),
                })  # fmt: skip

    def _copy_column(self, column: str, other: str) -> None:
        for accuracies in self.accuracies:
            accuracies[other] = accuracies[column]

    def record(
        self,
        column: str | None,
        split: str,
        score: Score,
        attack: Label | None = None,
        mode: str = "clean",
        epoch: int | None = None,
    ) -> None:
        """Turn a score into metrics rows, and into a column of the table where it is one."""
        self.finite &= score.finite
        called = Label("none", None, 0.0, None, None) if attack is None else attack
        for i, (member, fine) in enumerate(zip(self.engine.members, self.finite.tolist(), strict=True)):
            if column is not None:
                self.accuracies[i][column] = score.correct[i] / score.n if fine else None
            if not fine:
                continue
            self.rows.metrics.append({
                "hidden_layers": member.candidate.name, "seed": member.seed, "phase": self.phase, "epoch": epoch,
                "split": split, "attack": called.name, "attack_parameters": called.parameters,
                "epsilon": called.epsilon, "label_source": called.label_source, "target": called.target, "mode": mode,
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
            row["recovery_static"] = self._difference(i, "attacked_accuracy_after_static", "attacked_accuracy_before")
            row["recovery_white_box"] = self._difference(
                i, "attacked_accuracy_after_white_box", "attacked_accuracy_before_true"
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


def _at(values: list[float] | list[int] | None, index: int) -> float | int | None:
    return None if values is None else values[index]


def _bytes(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.to("cpu", dtype).numpy().tobytes()
