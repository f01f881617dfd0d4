"""Every measured number as a row of the result frames."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from atras.attacks import Attack, Attacked, AttackSpec
from atras.data import Dataset, of_each_class, pixels
from atras.experiment import Protocol
from atras.networks import Member, Network, Spec

from .counters import Score, on_host

Row = dict[str, object]

DISTANCES = ("attacked", "mean_linf", "median_linf", "mean_l2", "median_l2")
"""Columns of `metrics` on how far an attack moved the images that it had to turn."""

EXAMPLES = 8
"""Most test images that frame `examples` shows: the first ones of every class in turn."""

EXAMPLES_BYTES = 2**28
"""Most bytes of all pictures in frame `examples`: it is read whole."""

BALANCED = {
    "attacked_accuracy_after_white_box": "balanced_accuracy_after_white_box",
    "worst_case_accuracy_after": "balanced_accuracy_after_worst_case",
}
"""Columns of the table that have one beside them with the mean over classes."""

MEASURED = (
    "train_accuracy", "test_accuracy", "attacked_accuracy_before", "attacked_accuracy_before_true",
    "adversarial_train_accuracy", "adversarial_test_accuracy", "attacked_accuracy_after_static",
    "attacked_accuracy_after_white_box", "worst_case_accuracy_before", "worst_case_accuracy_after", *BALANCED.values(),
)  # fmt: skip
"""Accuracies of the table; null where the run does not measure them, as it has no training or no defence."""

COMPARED = ("fgsm", "pgd")
"""Attacks that frame `history` has a column each for: they are compared after the epochs of some defences."""

CLEAN = AttackSpec("none", 0.0, None, None)


def examples_kept(candidates: int, image_shape: Sequence[int], attacks: int = 1) -> int:
    """First test images that frame `examples` shows for each of so many candidates.

    Args:
        candidates: of the run.
        image_shape: (C, H, W): a byte a pixel for the image and two for its change, in each of two phases.
        attacks: that are shown.
    """
    return min(EXAMPLES, EXAMPLES_BYTES // (6 * attacks * candidates * math.prod(image_shape)))


def shown_attacks(protocol: Protocol) -> list[Attack]:
    """The attacks that frame `examples` shows: FGSM at the true label, and each further one that is made on the network
    itself, at the run's epsilon where it has that, else at its largest."""
    shown: list[Attack] = [protocol.true_label_attack]
    for asked in (attack for attack in protocol.attacks if attack.surrogate is None):
        strengths = protocol.at_each(asked)
        own = (one for one in strengths if one.norm == "linf" and one.epsilon == protocol.epsilon)
        shown.append(next(own, strengths[-1]))
    return list(dict.fromkeys(shown))


@dataclass
class Rows:
    """Rows of the result frames, as `atras.results` describes them."""

    table: list[Row] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)
    transfer: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    """Each row is of all test images: their values are bytes, one after the other."""

    def to_dict(self) -> dict[str, list[Row]]:
        """The rows by frame."""
        return {name: list(rows) for name, rows in vars(self).items()}

    def extend(self, other: Rows) -> None:
        """Append another group's rows."""
        for name, rows in vars(self).items():
            rows += getattr(other, name)

    def completed(self, shared: Row, group: int | None, defences: Mapping[str, str] = MappingProxyType({})) -> Rows:
        """The rows with what all of a run have in common.

        Args:
            shared: dataset, defence, version and protocol_hash; each frame takes those it has.
            group: number of the group in the plan; None for what concerns all.
            defences: by the names of variants, where theirs are others.
        """
        columns = {
            "table": ("dataset", "defence"),
            "metrics": ("dataset", "defence", "version", "protocol_hash"),
            "history": ("dataset",),
            "transfer": ("dataset", "protocol_hash"),
            "examples": ("dataset",),
            "outcomes": ("dataset", "defence"),
        }
        own = {name: {column: shared[column] for column in wanted} for name, wanted in columns.items()}
        own["timings"] = {"group": group}
        completed = Rows(**{name: [{**own[name], **row} for row in rows] for name, rows in vars(self).items()})
        for row in (row for name in ("table", "metrics", "outcomes") for row in getattr(completed, name)):
            row["defence"] = defences.get(str(row["variant"]), row["defence"])
        return completed


class Recorder:
    """Turns scores into rows, and keeps the state of each member.

    Args:
        members: the population.
        spec: what their networks share.
        data: what they are measured on.
        device: where they are.
        backend: engine and backend of the attack, for the rows.
        first_seed: of which examples are kept.
        examples: test images of which they are, class by class.
    """

    def __init__(
        self,
        members: Sequence[Member],
        spec: Spec,
        data: Dataset,
        device: torch.device,
        backend: str,
        first_seed: int,
        examples: int = EXAMPLES,
    ) -> None:
        self.members, self.spec, self.data, self.device, self.backend = members, spec, data, device, backend
        self.first_seed = first_seed
        self._named = [_who(member) for member in members]
        self.shown = of_each_class(data.test.labels, examples).tolist()
        self.finite = torch.ones(len(members), dtype=torch.bool)
        """On the CPU, as all that asks for it is."""
        self.dead = [False] * len(members)
        self.accuracies: list[dict[str, float | None]] = [dict.fromkeys(MEASURED) for _ in members]
        self.rows = Rows()
        self._places: Sequence[int] = range(len(members))
        self.phase = "trained"
        self.seconds_before = 0.0
        """Seconds that an earlier process spent in what is timed next."""
        self.precision = ""

    def to_dict(self) -> dict[str, Any]:
        """All rows and states so far, as JSON values (with NaN), for `restore`."""
        return {
            "phase": self.phase, "precision": self.precision, "finite": self.finite.tolist(), "dead": list(self.dead),
            "accuracies": [dict(accuracies) for accuracies in self.accuracies],
            "rows": self.rows.to_dict(),
        }  # fmt: skip

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of `history` and of `metrics` so far, for `since`."""
        return len(self.rows.history), len(self.rows.metrics)

    def since(self, counts: tuple[int, int]) -> Rows:
        """The rows of `history` and of `metrics` that came after so many."""
        history, metrics = counts
        return Rows(history=self.rows.history[history:], metrics=self.rows.metrics[metrics:])

    def restore(self, record: dict[str, Any]) -> None:
        """Take over what `to_dict` gave."""
        self.phase, self.precision = record["phase"], record["precision"]
        self.dead, self.accuracies = list(record["dead"]), list(record["accuracies"])
        self.finite = torch.tensor(record["finite"], dtype=torch.bool)
        self.rows = Rows(**record["rows"])

    def note_precision(self, precision: str) -> None:
        """The members train in this arithmetic from now on: behind another one, where a run went on elsewhere."""
        if precision not in self.precision.split("+"):
            self.precision = "+".join(filter(None, [self.precision, precision]))

    @contextmanager
    def only(self, places: Sequence[int]) -> Iterator[None]:
        """Within it, what is recorded is of the members in these places alone, in this order."""
        before, self._places = self._places, places
        try:
            yield
        finally:
            self._places = before

    def record(
        self,
        column: str | None,
        split: str,
        score: Score,
        attack: AttackSpec = CLEAN,
        mode: str = "clean",
        epoch: int | None = None,
    ) -> None:
        """Turn a score into metrics rows, and into a column of the table where it is one."""
        places = list(self._places)
        self.finite[places] &= score.finite
        correct, n, balanced = score.correct, score.n, score.balanced
        outcomes = None if score.outcomes is None else score.outcomes.columns(score.parts)
        for i, (place, fine) in enumerate(zip(places, self.finite[places].tolist(), strict=True)):
            who, accuracies = self._named[place], self.accuracies[place]
            if column is not None:
                accuracies[column] = correct[i] / n if fine else None
            if column in BALANCED:
                accuracies[BALANCED[column]] = balanced[i] if fine else None
            if not fine:
                continue
            self.rows.metrics.append({
                **who, "phase": self.phase, "epoch": epoch,
                "split": split, **attack._asdict(), "mode": mode, "n": n, "correct": correct[i],
                "balanced_accuracy": balanced[i], "majority_share": score.majority_share,
                "zero_gradient_fraction": _at(score.zero_gradient_fraction, i),
                "nan_gradients": _at(score.nan_gradients, i),
                "zero_gradient_images": _at(score.zero_gradient_images, i),
                "unfinished_images": _at(score.unfinished_images, i),
                "blindly_turned_images": _at(score.blindly_turned_images, i),
                "saturated_images": _at(score.saturated_images, i),
                **{name: _at(getattr(score, name), i) for name in DISTANCES},
                "backend": self.backend, "precision": self.precision or None,
            })  # fmt: skip
            if outcomes is not None:
                row = {**who, "phase": self.phase, "mode": mode}
                row |= attack._asdict() | outcomes[i]
                self.rows.outcomes.append(row | ({"made_at": None} if attack.epsilon is None else {}))

    def copy_column(self, column: str, other: str) -> None:
        """Give a column of the table the figures of another one."""
        for accuracies in (self.accuracies[place] for place in self._places):
            accuracies[other] = accuracies[column]
            if other in BALANCED:
                accuracies[BALANCED[other]] = accuracies[BALANCED[column]]

    def note_dead(self, clean: Score) -> None:
        """Remember which members predict one class for every test image, as they are now."""
        for place, dead in zip(self._places, clean.one_class, strict=True):
            self.dead[place] = dead

    def note_epoch(
        self,
        phase: str,
        epoch: int,
        losses: Tensor,
        accuracies: Tensor,
        steps: int,
        robust: Score | None = None,
        compared: Mapping[str, Score] | None = None,
    ) -> None:
        """History rows of an epoch.

        Args:
            phase, epoch: which one.
            losses, accuracies: [M], means over its own batches.
            steps: of the optimizer.
            robust: the score on images held out.
            compared: scores on a few training images by the attack's name, of which those of `COMPARED` have columns.
        """
        self.finite &= losses.isfinite()
        under = compared or {}
        fine = self.finite.tolist()
        for i, who in enumerate(self._named):
            self.rows.history.append({
                **who, "phase": phase, "epoch": epoch,
                "steps": steps, "mean_loss": losses[i].item() if fine[i] else float("nan"),
                "running_accuracy": accuracies[i].item() if fine[i] else None,
                "validation_robust_accuracy": _accuracy_of(robust, i, fine[i]),
                "selected": None,
                **{f"train_accuracy_under_{name}": _accuracy_of(under.get(name), i, fine[i]) for name in COMPARED},
            })  # fmt: skip

    def note_selected(self, phase: str, epochs: Sequence[int]) -> None:
        """Say in the history of a phase which epoch of each member is kept; 0 for none of its own."""
        noted, place = [], 0
        for row in self.rows.history:
            if row["phase"] == phase:  # the rows of an epoch are in the order of the members
                row, place = {**row, "selected": row["epoch"] == epochs[place % len(epochs)]}, place + 1
            noted.append(row)
        self.rows.history = noted

    def show(self, attack: AttackSpec, attacked: Attacked, logits: Tensor, chunk: slice) -> None:
        """Keep a few test images under an attack, for the members of the first seed."""
        shown = [image for image in self.shown if chunk.start <= image < chunk.stop]
        members = [i for i, place in enumerate(self._places) if self.members[place].seed == self.first_seed]
        if not (shown and members) or attacked.clean_logits is None:
            return
        rows = torch.tensor(members, device=logits.device)[:, None]
        at = torch.tensor([image - chunk.start for image in shown], device=logits.device)
        predictions = (each[rows, at].argmax(-1) for each in (attacked.clean_logits, logits))
        finite, before, after, labels = on_host(
            logits.isfinite().flatten(1).all(1)[rows[:, 0]], *predictions, self.data.test.labels[chunk][at]
        )
        change = attacked.clipped[rows, at] - attacked.images.expand_as(attacked.clipped)[rows, at]
        change = change.to("cpu", torch.float16)
        seen = [(pixels(self.data.test.images[image], torch.float64) * 255).round() for image in shown]
        own = [_bytes(values, torch.uint8) for values in seen]
        for i in finite.nonzero()[:, 0].tolist():
            for j, image in enumerate(shown):
                self.rows.examples.append({
                    **self._named[self._places[members[i]]], "phase": self.phase,
                    **attack._asdict(), "image": image, "label": int(labels[j]),
                    "clean_prediction": int(before[i, j]), "attacked_prediction": int(after[i, j]),
                    "pixels": own[j], "change": _bytes(change[i, j], torch.float16),
                })  # fmt: skip

    def finish(self) -> Rows:
        """The table rows, behind everything recorded so far."""
        labels = self.data.test.labels
        majority_share = int(torch.bincount(labels).max()) / len(labels)
        for i, member in enumerate(self.members):
            status = "diverged" if not self.finite[i] else "dead" if self.dead[i] else "trained"
            row: Row = {
                **self._named[i], "depth": member.candidate.depth,
                "parameters": Network(self.spec, member.candidate).parameter_count,
                "status": status, "majority_share": majority_share,
            }  # fmt: skip
            row.update(self.accuracies[i])
            static = ("attacked_accuracy_after_static", "attacked_accuracy_before")
            white_box = ("attacked_accuracy_after_white_box", "attacked_accuracy_before_true")
            row["recovery_static"] = self._difference(i, *static)
            row["recovery_white_box"] = self._difference(i, *white_box)
            self.rows.table.append(row)
        return self.rows

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Append a row to the timings."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.note_time(phase, self.seconds_before + time.perf_counter() - start)
        self.seconds_before = 0.0

    def note_time(self, phase: str, seconds: float, steps: int = 0) -> None:
        """Append the seconds of a part of the work to the timings."""
        self.rows.timings.append(
            {"phase": f"{phase}-{self.phase}", "members": len(self._places), "seconds": seconds, "steps": steps}
        )

    def _difference(self, index: int, after: str, before: str) -> float | None:
        high, low = self.accuracies[index][after], self.accuracies[index][before]
        return None if high is None or low is None else high - low


def _who(member: Member) -> Row:
    """The columns that name a member."""
    return {"hidden_layers": member.candidate.name, "variant": member.variant.name, "seed": member.seed}


def _accuracy_of(score: Score | None, index: int, fine: bool) -> float | None:
    """A member's accuracy in a score; None without one, or where it has diverged or its logits were not finite."""
    return None if score is None or not (fine and bool(score.finite[index])) else score.correct[index] / score.n


def _at(values: Sequence[float | None] | None, index: int) -> float | int | None:
    return None if values is None else values[index]


def _bytes(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.to("cpu", dtype).numpy().tobytes()
