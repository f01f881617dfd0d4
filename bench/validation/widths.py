"""Width and beta: do wider networks need a larger weight of TRADES' second term? (Wu et al. 2021)

    python bench/validation/widths.py --data mnist5k.npz --device cuda --seconds 120 --out widths.json
    python bench/validation/claims_tables.py widths.json

Two hidden layers, the second sixteen times as wide as the first (k-complete), every width with every seed at every
beta. Measured after training: clean accuracy, accuracy under PGD, and perturbation stability, the share of test images
whose class the attack on the divergence (`kl`) does not change, right or wrong. One beta after the other, each written
when it is measured.

Source: Wu, Chen, Cai, He, Gu, "Do wider neural networks really help adversarial robustness?" (NeurIPS 2021).
"""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from atras.attacks import KL
from atras.experiment import Protocol
from atras.networks import k_complete
from atras.training import run_group
from harness import (
    Clock,
    Results,
    Setting,
    add_options,
    execution_of,
    figure,
    figures_of,
    main_of,
    numbers,
    stay,
)


def protocol_of(asked: argparse.Namespace, beta: float) -> Protocol:
    """All widths and seeds at a beta; the first training, whose weights the defence does not take, has one epoch."""
    return Protocol(
        dataset=asked.data, train_size=asked.train_size, test_size=asked.test_size, stem=asked.stem,
        candidates=k_complete(asked.widths, (16,)), seeds=tuple(range(asked.seeds)), precision=asked.precision,
        epochs=1, adversarial_epochs=asked.epochs, epsilon=asked.epsilon,
        defence=f"trades(beta={beta:g}, attack=kl(steps={asked.steps}))", attacks=("pgd(steps=20)",),
    )  # fmt: skip


def work(asked: argparse.Namespace, results: Results) -> None:
    """A group of all widths and seeds for each beta."""
    clock, setting = Clock(asked.seconds), Setting(protocol_of(asked, 1), execution_of(asked))
    results.add([], environment=setting.environment)
    attack = KL(epsilon=asked.epsilon, steps=20)
    for beta in asked.betas:
        protocol = protocol_of(asked, beta)
        for engine in setting.engines(protocol):
            rows = run_group(
                engine, setting.data, engine.protocol, evaluation_batch=asked.evaluation_batch, watcher=clock
            )
            counts = stay(engine, setting, engine.protocol, attack, asked.evaluation_batch)
            own = [
                figure(member, "stability", count, beta=beta)
                for member, count in zip(engine.members, counts, strict=True)
            ]
            results.add([*figures_of(rows, beta=beta), *own])
        print(f"beta {beta:g}: {len(protocol.members)} networks, {clock.passed:.0f} s in all", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--widths", type=numbers(int), default=(8, 16, 32, 64), help="of the first layer")
    parser.add_argument("--betas", type=numbers(float), default=(1, 6, 12, 24))
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=10, help="of the attack of training")
    parser.add_argument("--stem", default="auto", help="auto, or none for dense layers alone")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return main_of(work, parse(argv), "widths")


if __name__ == "__main__":
    sys.exit(main())
