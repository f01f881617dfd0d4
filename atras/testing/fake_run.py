"""A fake run, for tests of the commands and pages that read finished runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from atras.evaluation import Row, Rows
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.results import ACCURACIES, COMPUTED, SCHEMAS, Results, Writer


def make_run(
    directory: str | Path | None = None,
    *,
    names: Sequence[str] = ("8-16-32", "24-192", "64-512", "40", "64"),
    seeds: Sequence[int] = (0, 1),
    dataset: str = "digits",
    complete: bool = True,
) -> Results:
    """A fake run: invented figures, written the way a run writes its own.

    Args:
        directory: where; None to keep it in memory.
        names: candidates. The first never trains where there are more than two.
        seeds: of each.
        dataset: its name.
        complete: with what a run records only when asked: several attacks and epsilons, transfer, examples.
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
            made.member(name, seed, complete)
    if complete:
        made.transfer(seeds)
    writer.append(made.rows)
    return writer.finish({})


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

    def member(self, name: str, seed: int, complete: bool) -> None:
        dead = name == self.names[0] and len(self.names) > 2
        where = {"dataset": self.dataset, "hidden_layers": name, "seed": seed}
        accuracies = {} if dead else self._metrics(where, name, complete)
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
                self.rows.history.append(where | row | {"running_accuracy": 1 - 0.4 / epoch})
        if complete and seed == 0:
            self._examples(where)

    def _metrics(self, where: Row, name: str, complete: bool) -> dict[tuple[str, str], float]:
        attacks = {"fgsm": 0.0, "pgd": 2.5, "worst": 3.0} if complete else {"fgsm": 0.0}
        strengths = (0.01, 0.02, self.epsilon, 0.1, 0.2) if complete else (self.epsilon,)
        accuracies = {}
        for phase in ("trained", "defended"):
            cases = [("none", 0.0, 0.0)] + [
                (attack, epsilon, weakening)
                for attack, weakening in attacks.items()
                for epsilon in (strengths if attack != "worst" else (self.epsilon,))
            ]
            for attack, epsilon, weakening in cases:
                accuracy = self.robust(name, phase, epsilon, weakening)
                correct = min(round(899 * accuracy), 899)
                if attack == "none" or epsilon == self.epsilon:
                    accuracies[attack, phase] = correct / 899
                self.rows.metrics.append(self._metric(where, phase, attack, epsilon, correct))
        return accuracies

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
                signs = self.random.choice([-1, 1], pixels.shape).astype(np.int8)
                picture = {"epsilon": self.epsilon, "pixels": pixels.tobytes(), "signs": signs.tobytes()}
                self.rows.examples.append(where | row | {"attacked_prediction": taken} | picture)

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
