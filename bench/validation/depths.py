"""Depth and initialisation: does depth help robustness from LeCun's weights, and hurt from He's? (Zhu et al. 2022)

    python bench/validation/depths.py --data mnist5k.npz --device cuda --seconds 60 --out depths.json
    python bench/validation/claims_tables.py depths.json

Dense networks without a stem whose layers double (k-complete, factor 2, from one width), one to `--depths` of them,
from each kind of initial weights; no defence. Measured: clean accuracy, accuracy under FGSM at the true label, and the
authors' perturbation stability: the mean length of the change of the logits for a change drawn from the ball of radius
epsilon in L2, over epsilon. It is a sensitivity: less is more robust.

Source: Zhu, Liu, Chrysos, Cevher, "Robustness in deep learning: the good (width), the bad (depth), and the ugly
(initialization)" (NeurIPS 2022), definition 1.
"""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

import torch

from atras.engines import Engine
from atras.evaluation import Evaluator
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.training import run_group
from harness import Clock, Results, Setting, add_options, execution_of, figure, figures_of, main_of, numbers


def protocol_of(asked: argparse.Namespace, initialisation: str) -> Protocol:
    """All depths and seeds from one kind of initial weights."""
    widths = [asked.width * 2**layer for layer in range(asked.depths)]
    return Protocol(
        dataset=asked.data, train_size=asked.train_size, test_size=asked.test_size, stem="none", defence="none",
        candidates=tuple(Candidate(widths[: depth + 1]) for depth in range(asked.depths)), precision=asked.precision,
        seeds=tuple(range(asked.seeds)), epochs=asked.epochs, epsilon=asked.epsilon, initialisation=initialisation,
        learning_rate=asked.learning_rate, optimizer=asked.optimizer,
    )  # fmt: skip


def sensitivity(engine: Engine, setting: Setting, protocol: Protocol, radius: float, batch: int) -> list[float]:
    """Of each member, the sum over test images of the logits' change over the radius, at a point of each ball."""
    draws = torch.Generator().manual_seed(0)
    total = torch.zeros(len(engine.members), dtype=torch.float64)
    for _, images, _ in Evaluator(engine, setting.data, protocol, batch).chunks("test"):
        change = torch.randn(images.shape, generator=draws)
        lengths = torch.rand(len(images), generator=draws) ** (1 / change[0].numel()) * radius
        change *= (lengths / change.flatten(1).norm(dim=1))[:, None, None, None]
        moved = engine.logits(images + change.to(images)) - engine.logits(images)
        total += moved.norm(dim=-1).sum(1).double().cpu() / radius
    return total.tolist()


def work(asked: argparse.Namespace, results: Results) -> None:
    """A group of all depths and seeds for each kind of initial weights."""
    clock = Clock(asked.seconds)
    setting = Setting(protocol_of(asked, asked.initialisations[0]), execution_of(asked))
    results.add([], environment=setting.environment)
    for initialisation in asked.initialisations:
        protocol = protocol_of(asked, initialisation)
        for engine in setting.engines(protocol):
            rows = run_group(
                engine, setting.data, engine.protocol, evaluation_batch=asked.evaluation_batch, watcher=clock
            )
            sums = sensitivity(engine, setting, engine.protocol, asked.radius, asked.evaluation_batch)
            n = len(setting.data.test)
            own = [
                figure(member, "sensitivity", (value, n), initialisation=initialisation)
                for member, value in zip(engine.members, sums, strict=True)
            ]
            results.add([*figures_of(rows, initialisation=initialisation), *own])
        print(f"{initialisation}: {len(protocol.members)} networks, {clock.passed:.0f} s in all", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--width", type=int, default=32, help="of the first layer")
    parser.add_argument("--depths", type=int, default=5, help="most hidden layers")
    parser.add_argument("--initialisations", type=numbers(str), default=("lecun", "he", "ntk"))
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epsilon", type=float, default=0.05, help="of FGSM")
    parser.add_argument("--radius", type=float, default=0.1, help="of the ball in L2")
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return main_of(work, parse(argv), "depths")


if __name__ == "__main__":
    sys.exit(main())
