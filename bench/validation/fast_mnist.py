"""Fast is better than free, on MNIST: its network, data and recipe.

    python bench/validation/fast_mnist.py --data mnist.npz --device cuda --evaluation-batch 2000 --out fast.json
    python bench/validation/fast_mnist.py --seeds 1 --epochs 1 --train-size 500 --test-size 100 --light --out try.json
    python bench/validation/claims_tables.py fast.json

All seeds are trained together, then attacked by one attack after the other, each written when it is measured.
`--pgd-40` trains the row of PGD with 40 steps as well. Engine fused has this network on a CPU; on a GPU, where its
convolutions of 4x4 and stride 2 are not among those of fused, the seeds are a stack.

Source: Wong, Rice, Kolter 2020, "Fast is better than free", section 5, and the code (locuslab/fast_adversarial).
"""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from atras.engines import Engine
from atras.evaluation import Evaluator
from atras.experiment import Protocol
from atras.training import run_group
from harness import Clock, Results, Setting, add_options, execution_of, figure, figures_of, main_of

EPSILON = 0.3
FAST = "fast"  # at epsilon 0.3 its step is 1.25 epsilon = 0.375, the paper's
PGD_40 = "adversarial(pgd(steps=40, step_size=0.01))"
ATTACKS = {
    "pgd-40": "pgd(steps=40, step_size=0.01)",
    "pgd-50-10": "pgd(steps=50, step_size=0.01, restarts=10)",
    "autoattack": "autoattack",
}
LIGHT = {"pgd-10": "pgd(steps=10, step_size=0.05)"}


def protocol_of(asked: argparse.Namespace, defence: str) -> Protocol:
    """The experiment: both trainings have the recipe, but the first, of networks before the defence, one epoch."""
    return Protocol(
        dataset=asked.data,
        train_size=asked.train_size,
        test_size=asked.test_size,
        candidates=("wong-mnist",),
        seeds=tuple(range(asked.seeds)),
        epochs=1,
        adversarial_epochs=asked.epochs,
        batch_size=100,
        optimizer="adam",
        learning_rate=5e-3,
        schedule="cyclic(peak=0.4, ahead=1)",
        defence=defence,
        epsilon=EPSILON,
        precision=asked.precision,
        initialisation=asked.initialisation,
    )


def attack(asked: argparse.Namespace, setting: Setting, engine: Engine, clock: Clock, results: Results) -> None:
    """Each attack on the networks as they are."""
    for name, spelled in (LIGHT if asked.light else ATTACKS).items():
        protocol = engine.protocol.replace(attacks=(spelled,))
        evaluator = Evaluator(engine, setting.data, protocol, asked.evaluation_batch)
        evaluator.pause = clock.check
        figures, _ = evaluator.attack_test()
        score = figures.attacks[protocol.stronger_attacks[0]]
        results.add(
            [
                figure(member, name, (correct, score.n), defence=str(protocol.defence))
                for member, correct in zip(engine.members, score.correct, strict=True)
            ]
        )
        print(f"{protocol.defence}, {name}: {clock.passed:.0f} s in all", flush=True)


def work(asked: argparse.Namespace, results: Results) -> None:
    """All seeds of each defence."""
    clock, setting = Clock(asked.seconds), Setting(protocol_of(asked, FAST), execution_of(asked))
    results.add([], environment=setting.environment)
    for defence in (FAST, PGD_40)[: 2 if asked.pgd_40 else 1]:
        for engine in setting.engines(protocol_of(asked, defence)):
            protocol = engine.protocol
            rows = run_group(engine, setting.data, protocol, evaluation_batch=asked.evaluation_batch, watcher=clock)
            results.add(figures_of(rows, defence=str(protocol.defence)))
            print(f"{defence}: {len(engine.members)} networks trained, {clock.passed:.0f} s in all", flush=True)
            attack(asked, setting, engine, clock, results)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(train_size=60_000, test_size=10_000)
    parser.add_argument("--epochs", type=int, default=10, help="of the defence")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--initialisation", default="pytorch", help="of weights; theirs are pytorch's")
    parser.add_argument("--light", action="store_true", help="one short attack in place of the three")
    parser.add_argument("--pgd-40", action="store_true", help="also train on PGD of 40 steps")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return main_of(work, parse(argv), "fast_mnist")


if __name__ == "__main__":
    sys.exit(main())
