"""Ensemble adversarial training: is the standard kind weaker against transferred single steps? (Tramer et al. 2018)

    python bench/validation/ensemble.py --data mnist5k.npz --device cuda --seconds 120 --out ensemble.json
    python bench/validation/claims_tables.py ensemble.json

The same candidates are trained on FGSM copies of every batch: made on the network itself (`batch(fgsm)`, the standard
kind), and in turn on three finished networks and on itself (`ensemble(k=3, start=trained)`); both begin with the
trained weights and are trained equally long. Single-step attacks at the true label: made on the defended network
itself, and on a network that was trained without defence and has no part in any training here. One defence after the
other, each written when it is measured.

Source: Tramer, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, "Ensemble adversarial training: attacks and defenses"
(ICLR 2018), sections 3 and 4.
"""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

import torch
from torch import Tensor

from atras.engines import Engine
from atras.evaluation import Evaluator, Source, Sources
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.training import run_group
from harness import Clock, Results, Row, Setting, add_options, execution_of, figure, figures_of, main_of, numbers

STANDARD, ENSEMBLE = "batch(fgsm)", "ensemble(k=3, start=trained)"


def protocol_of(asked: argparse.Namespace, names: Sequence[str], defence: str) -> Protocol:
    """An experiment on some candidates; the label of every attack is the true one."""
    return Protocol(
        dataset=asked.data, train_size=asked.train_size, test_size=asked.test_size, stem=asked.stem,
        candidates=tuple(map(Candidate.parse, names)), seeds=tuple(range(asked.seeds)), precision=asked.precision,
        epochs=asked.epochs, adversarial_epochs=asked.adversarial_epochs, epsilon=asked.epsilon, label_source="true",
        defence=defence, attacks=("pgd(steps=20)",),
    )  # fmt: skip


def finished(asked: argparse.Namespace, setting: Setting, clock: Clock, names: Sequence[str]) -> list[Engine]:
    """Networks that are trained without a defence."""
    engines = list(setting.engines(protocol_of(asked, names, "none")))
    for engine in engines:
        run_group(
            engine, setting.data, engine.protocol.replace(attacks=("fgsm",)), evaluation_batch=asked.evaluation_batch,
            watcher=clock,
        )  # fmt: skip
    return engines


def signs_of(asked: argparse.Namespace, setting: Setting, engines: Sequence[Engine], split: str) -> dict[str, Tensor]:
    """By candidate, signs [S, N, C, H, W] of FGSM on a split, a seed after the other."""
    found: dict[str, dict[int, Tensor]] = {}
    for engine in engines:
        signs, _ = Evaluator(engine, setting.data, engine.protocol, asked.evaluation_batch).signs_of(split)
        for member, own in zip(engine.members, signs, strict=True):
            found.setdefault(member.candidate.name, {})[member.seed] = own
    return {name: torch.stack([by_seed[seed] for seed in range(asked.seeds)]) for name, by_seed in found.items()}


def transferred(
    asked: argparse.Namespace, setting: Setting, engine: Engine, outside: dict[str, Tensor], defence: str
) -> list[Row]:
    """Accuracies under the images of networks outside, those of the next seed."""
    rows = []
    for name, signs in outside.items():
        own = torch.stack([signs[(member.seed + 1) % asked.seeds] for member in engine.members])
        evaluator = Evaluator(engine, setting.data, engine.protocol, asked.evaluation_batch)
        score = evaluator.score("test", own, f"from-{name}")
        rows += [
            figure(member, "transferred", (correct, score.n), defence=defence, source=name)
            for member, correct in zip(engine.members, score.correct, strict=True)
        ]
    return rows


def work(asked: argparse.Namespace, results: Results) -> None:
    """First the networks outside and the sources, then the candidates under each defence."""
    clock = Clock(asked.seconds)
    setting = Setting(protocol_of(asked, asked.candidates, STANDARD), execution_of(asked))
    results.add([], environment=setting.environment)
    outside = signs_of(asked, setting, finished(asked, setting, clock, asked.outside), "test")
    made = signs_of(asked, setting, finished(asked, setting, clock, asked.sources), "train")
    seeds = tuple(range(asked.seeds))
    sources = Sources(tuple(Source(name, signs, seeds) for name, signs in made.items()), len(made))
    print(f"sources and the network outside: {clock.passed:.0f} s", flush=True)
    for defence, source in ((STANDARD, None), (ENSEMBLE, sources)):
        protocol = protocol_of(asked, asked.candidates, defence)
        for engine in setting.engines(protocol):
            rows = run_group(
                engine, setting.data, engine.protocol, evaluation_batch=asked.evaluation_batch, watcher=clock,
                source=source,
            )  # fmt: skip
            own = transferred(asked, setting, engine, outside, defence)
            results.add([*figures_of(rows, defence=defence, source=None), *own])
        print(f"{defence}: {len(protocol.members)} networks, {clock.passed:.0f} s in all", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--candidates", type=numbers(str), default=("24-384", "32-512"))
    parser.add_argument("--sources", type=numbers(str), default=("16-256", "40", "64"), help="three others")
    parser.add_argument("--outside", type=numbers(str), default=("48",), help="that transferred images are made on")
    parser.add_argument("--seeds", type=int, default=10, help="how many, at least 2")
    parser.add_argument("--epochs", type=int, default=10, help="of the first training")
    parser.add_argument("--adversarial-epochs", type=int, default=20)
    parser.add_argument("--epsilon", type=float, default=0.3)
    parser.add_argument("--stem", default="auto", help="auto, or none for dense layers alone")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return main_of(work, parse(argv), "ensemble")


if __name__ == "__main__":
    sys.exit(main())
