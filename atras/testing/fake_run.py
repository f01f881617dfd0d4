"""A fake run, for tests of the commands and pages that read finished runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.datasets import load_digits

from atras.attacks import AttackSpec
from atras.evaluation import Row, Rows
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.results import ACCURACIES, COMPUTED, SCHEMAS, Results, Writer

UNMEASURED: Row = dict.fromkeys(
    ("validation_robust_accuracy", "selected", "train_accuracy_under_fgsm", "train_accuracy_under_pgd")
)
"""Columns of `history` that few runs fill."""


def make_run(
    directory: str | Path | None = None,
    *,
    names: Sequence[str] = ("8-16-32", "24-192", "64-512", "40", "64"),
    seeds: Sequence[int] = (0, 1),
    dataset: str = "digits",
    complete: bool = True,
    outcomes: bool = False,
) -> Results:
    """A fake run: invented figures, written the way a run writes its own.

    Args:
        directory: where; None to keep it in memory.
        names: candidates. The first never trains where there are more than two.
        seeds: of each.
        dataset: its name.
        complete: with what a run records only when asked: several attacks and epsilons, transfer, examples.
        outcomes: with AutoAttack too, and what became of every image.
    """
    candidates = tuple(map(Candidate.parse, names))
    protocol = Protocol(candidates=candidates, seeds=tuple(seeds), epochs=3, adversarial_epochs=3)
    data = {"image_shape": [1, 8, 8], "test_size": 899, "train_size": 898, "sha256": {"x_test": "21edb88d"}}
    writer = Writer(
        directory,
        {
            "protocol": {**protocol.to_dict(), "dataset": dataset},
            "protocol_hash": protocol.hash,
            "version": "0.0",
            "environment": {"device": "cpu", "commit": "0" * 40, "versions": {"python": "3.13"}},
            "data": {"name": dataset, "source": "made up", "status": "unverified", **data},
        },
    )
    made = _FakeRun(dataset, protocol, names)
    for name in names:
        for seed in seeds:
            made.member(name, seed, complete, outcomes)
    if complete:
        made.transfer(seeds)
    writer.append(made.rows)
    return writer.finish({})


def with_axis(run: Results, setting: str, values: Sequence[float | str]) -> Results:
    """A fake run with an axis, in each of whose variants every network has the figures of the given run."""
    frames: dict[str, Any] = {}
    for name in SCHEMAS:
        frame: pl.DataFrame = getattr(run, name)
        if "variant" in frame.columns:
            parts = [frame.with_columns(variant=pl.lit(f"{setting}={value}")) for value in values]
            if setting not in frame.columns:
                parts = [
                    part.with_columns(pl.lit(value).alias(setting)) for part, value in zip(parts, values, strict=True)
                ]
            frame = pl.concat(parts)
        frames[name] = frame
    protocol = run.run["protocol"] | {"axes": [f"{setting}={','.join(map(str, values))}"]}
    return replace(run, run=run.run | {"protocol": protocol}, **frames)


def fake_rows(protocol: Protocol, name: str, seed: int, epochs: int) -> Rows:
    """Made-up rows of one member, as many as a run has that measures FGSM and PGD at several epsilons.

    Args:
        protocol: the run's.
        name, seed: of the member.
        epochs: of each phase, a row of `history` each.
    """
    made = _FakeRun(protocol.dataset, protocol, (name,))
    made.member(name, seed, complete=True, outcomes=False)
    last = [row for row in made.rows.history if row["epoch"] == 1]
    made.rows.history = [row | {"epoch": epoch} for row in last for epoch in range(1, epochs + 1)]
    return made.rows


class _FakeRun:
    """Rows that follow simple laws: larger networks are a little better, attacks grow with epsilon, defence helps."""

    def __init__(self, dataset: str, protocol: Protocol, names: Sequence[str]) -> None:
        self.rows, self.dataset, self.names, self.hash = Rows(), dataset, names, protocol.hash
        self.random = np.random.default_rng(0)
        self.epsilon = protocol.epsilon

    def robust(self, name: str, phase: str, epsilon: float, weakening: float = 0.0) -> float:
        """Accuracy of a candidate under an attack of that strength."""
        widths = [int(width) for width in name.split("-")]
        clean = min(0.80 + 0.02 * math.log2(sum(widths)) - 0.015 * len(widths), 0.97)
        slope = (7.0 if phase == "trained" else 3.0) + 0.6 * len(widths) + weakening
        return max(clean * math.exp(-slope * epsilon), 0.02) + float(self.random.normal(0, 0.008))

    def member(self, name: str, seed: int, complete: bool, outcomes: bool) -> None:
        dead = name == self.names[0] and len(self.names) > 2
        where = {"dataset": self.dataset, "hidden_layers": name, "variant": "", "seed": seed}
        accuracies = {} if dead else self._metrics(where, name, complete, outcomes)
        widths = [int(width) for width in name.split("-")]
        size = sum((a + 1) * b for a, b in itertools.pairwise([64, *widths, 10]))
        before, after = accuracies.get(("fgsm", "trained")), accuracies.get(("fgsm", "defended"))
        figures = dict.fromkeys(ACCURACIES, 0.1 if dead else None) | {
            "test_accuracy": accuracies.get(("none", "trained"), 0.1),
            "attacked_accuracy_before": before,
            "attacked_accuracy_before_true": before,
            "adversarial_test_accuracy": accuracies.get(("none", "defended"), 0.1),
            "attacked_accuracy_after_static": None if after is None else after + 0.08,
            "attacked_accuracy_after_white_box": after,
            "worst_case_accuracy_before": accuracies.get(("worst", "trained")),
            "worst_case_accuracy_after": accuracies.get(("worst", "defended")),
        }
        gain = None if after is None or before is None else after - before
        self.rows.table.append(
            where
            | {
                "majority_share": 0.1,
                "defence": "copies",
                "depth": len(widths),
                "parameters": size,
                "status": "dead" if dead else "trained",
            }
            | figures
            | {"recovery_static": None if gain is None else gain + 0.08, "recovery_white_box": gain}
        )
        for phase, start in (("train", 2.0), ("adversarial", 1.0)):
            for epoch in (1, 2, 3):
                row = {"phase": phase, "epoch": epoch, "steps": 8, "mean_loss": start * (1 + len(widths) / 9) / epoch}
                self.rows.history.append(where | row | {"running_accuracy": 1 - 0.4 / epoch} | UNMEASURED)
        if complete and seed == 0:
            self._examples(where)

    def _metrics(self, where: Row, name: str, complete: bool, outcomes: bool) -> dict[tuple[str, str], float]:
        attacks = {"fgsm": 0.0, "pgd": 2.5, "worst": 3.0} if complete else {"fgsm": 0.0}
        if outcomes:
            attacks = {"fgsm": 0.0, "pgd": 2.5, "autoattack": 2.8 + name.count("-"), "worst": 3.1 + name.count("-")}
        strengths = (0.01, 0.02, self.epsilon, 0.1, 0.2) if complete else (self.epsilon,)
        accuracies = {}
        for phase in ("trained", "defended"):
            cases = [("none", 0.0, 0.0)] + [
                (attack, epsilon, weakening)
                for attack, weakening in attacks.items()
                for epsilon in (strengths if attack != "worst" else (self.epsilon,))
            ]
            counts: dict[str, int] = {}
            for attack, epsilon, weakening in cases:
                accuracy = self.robust(name, phase, epsilon, weakening)
                correct = min(round(899 * accuracy), counts.get("none", 899))
                if attack == "none" or epsilon == self.epsilon:
                    accuracies[attack, phase] = correct / 899
                    counts[attack] = correct
                self.rows.metrics.append(self._metric(where, phase, attack, epsilon, correct))
            if outcomes:
                self._outcomes(where, phase, counts)
        return accuracies

    def _outcomes(self, where: Row, phase: str, counts: dict[str, int]) -> None:
        """Images, the most robust first: an attack turns those from some number on, which AutoAttack's parts share."""
        numbers = np.arange(899)
        for attack, correct in counts.items():
            if attack == "worst":
                continue
            clean = attack == "none"
            row = {
                "image": numbers.astype("<u4").tobytes(),
                "correct": (numbers < correct).tobytes(),
                "prediction": numbers.astype("<u4").tobytes(),
                "counts": np.full(899, not clean).tobytes(),
                "made_at": np.full(899, 0.0 if clean else self.epsilon).tobytes(),
                **{name: np.zeros(899, "<f4").tobytes() for name in ("change", "queries", "gradients")},
                "part": None,
            }
            if attack == "autoattack":
                parts = np.array(["", "square", "fab-t", "apgd-t", "apgd", ""])
                shares = np.array([0.0, 0.04, 0.14, 0.4, 1.0]) * (counts["none"] - correct)
                places = np.searchsorted(correct + shares, numbers, side="right")
                row["part"] = "\n".join(parts[places]).encode()
            spec = AttackSpec(
                attack, 0.0 if clean else self.epsilon, *(("true", "none", None, "linf") if not clean else (None, None))
            )
            mode = {"defence": "copies", "phase": phase, "mode": "clean" if clean else "white-box"}
            self.rows.outcomes.append(where | mode | spec._asdict() | row)

    def _metric(self, where: Row, phase: str, attack: str, epsilon: float, correct: int) -> Row:
        clean = attack == "none"
        return {
            **where,
            **dict.fromkeys(SCHEMAS["metrics"].keys() - set(COMPUTED) - where.keys()),
            "defence": "copies",
            "phase": phase,
            "split": "test",
            "attack": attack,
            "norm": None if clean else "linf",
            "epsilon": epsilon,
            "label_source": None if clean else "true",
            "target": None if clean else "none",
            "mode": "clean" if clean else "white-box",
            "n": 899,
            "correct": correct,
            "protocol_hash": self.hash,
        }

    def _examples(self, where: Row) -> None:
        images = (load_digits().images[-6:, None] * (255 / 16)).astype(np.uint8)
        for phase in ("trained", "defended"):
            for index, pixels in enumerate(images):
                row = {"phase": phase, "image": index, "label": index, "clean_prediction": index}
                taken = index if phase == "defended" and index % 3 else (index + 3) % 10
                row |= {"attacked_prediction": taken, "pixels": pixels.tobytes()}
                signs = self.random.choice([-1, 1], pixels.shape)
                waves = 1 / (1 + np.abs(np.subtract.outer(np.arange(8), np.arange(8)))) ** 2 * signs
                for attack, norm, epsilon, change in (
                    ("fgsm", "linf", self.epsilon, self.epsilon * signs),
                    ("apgd(norm=l2)", "l2", 1.0, waves / np.linalg.norm(waves)),
                ):
                    made = (pixels / 255 + change).clip(0, 1) - pixels / 255
                    spec = AttackSpec(attack, epsilon, "true", "none", norm=norm)._asdict()
                    self.rows.examples.append(where | row | spec | {"change": made.astype(np.float16).tobytes()})

    def transfer(self, seeds: Sequence[int]) -> None:
        for phase, seed, source, target in itertools.product(("trained", "defended"), seeds, self.names, self.names):
            own = -4.0 if source != target else 0.0
            accuracy = self.robust(target, phase, self.epsilon, own)
            self.rows.transfer.append(
                {
                    "dataset": self.dataset,
                    "phase": phase,
                    "source_phase": phase,
                    "source_hidden_layers": source,
                    "source_seed": seed,
                    "target_hidden_layers": target,
                    "variant": "",
                    "seed": seed,
                    "attack": "fgsm",
                    "surrogate": None,
                    "norm": "linf",
                    "epsilon": self.epsilon,
                    "label_source": "true",
                    "target": "none",
                    "n": 899,
                    "correct": min(round(899 * accuracy), 899),
                    "protocol_hash": self.hash,
                }
            )
