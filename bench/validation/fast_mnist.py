"""Fast is better than free, on MNIST: its network, data and recipe, with intervals over seeds beside its figures.

Source: Wong, Rice, Kolter 2020, "Fast is better than free", section 5, and the code (locuslab/fast_adversarial).
All seeds are one run of atras. `--pgd-40` trains the row of PGD with 40 steps beside it, as an axis of defences.

    python bench/validation/fast_mnist.py --out runs/fast-mnist
    python bench/validation/fast_mnist.py --train-size 500 --test-size 100 --epochs 1 --seeds 1 --light --out runs/try
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from atras import Execution, Protocol, run
from atras.analysis import accuracy_interval

EPSILON = 0.3
FAST = "fast"  # at epsilon 0.3 its step is 1.25 epsilon = 0.375, the paper's
PGD_40 = "adversarial(pgd(steps=40, step_size=0.01))"
ATTACKS = {
    "pgd-50-10": "pgd(steps=50, step_size=0.01, restarts=10)",
    "pgd-40": "pgd(steps=40, step_size=0.01)",
    "autoattack": "autoattack",
}
PUBLISHED = {FAST: {"clean": 0.9850, "pgd-50-10": 0.8877, "autoattack": 0.8293}}
"""The paper's figures; that under AutoAttack is of its network in Croce and Hein 2020."""


def protocol_of(asked: argparse.Namespace) -> Protocol:
    """The experiment: both trainings have the recipe, but the first, of networks before the defence, one epoch."""
    attacks = {"pgd": "pgd(steps=10, step_size=0.05)"} if asked.light else ATTACKS
    return Protocol(
        dataset="mnist",
        train_size=asked.train_size or "all",
        test_size=asked.test_size or "all",
        candidates=("wong-mnist",),
        seeds=tuple(range(asked.seeds)),
        epochs=1,
        adversarial_epochs=asked.epochs,
        batch_size=100,
        optimizer="adam",
        learning_rate=5e-3,
        schedule="cyclic(peak=0.4, ahead=1)",
        defence=FAST,
        epsilon=EPSILON,
        attacks=tuple(attacks.values()),
        **({"axes": (f"defence={FAST},{PGD_40}",)} if asked.pgd_40 else {}),
    )


def rows_of(metrics: pl.DataFrame, images: int) -> list[dict[str, Any]]:
    """Of each defence and figure the accuracies of all seeds, their mean and its 95 % interval."""
    kept = metrics.filter(
        (pl.col("phase") == "defended") & (pl.col("split") == "test") & pl.col("epoch").is_null()
        & pl.col("mode").is_in(["clean", "white-box"])
    )  # fmt: skip
    names = {spelled: name for name, spelled in ATTACKS.items()} | {"none": "clean"}
    found = []
    for (defence, attack), part in kept.group_by("defence", "attack", maintain_order=True):
        accuracies = (part.sort("seed")["correct"] / part.sort("seed")["n"]).to_list()
        name = names.get(str(attack), str(attack))
        interval = accuracy_interval(accuracies, images)
        found.append(
            {
                "defence": defence,
                "figure": name,
                "accuracies": accuracies,
                "mean": sum(accuracies) / len(accuracies),
                "low": interval.low,
                "high": interval.high,
                "published": PUBLISHED.get(str(defence), {}).get(name),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; figures.json is written into it")
    parser.add_argument("--train-size", type=int, help="training images; all 60,000 by default")
    parser.add_argument("--test-size", type=int, help="test images; all 10,000 by default")
    parser.add_argument("--epochs", type=int, default=10, help="of the defence")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--light", action="store_true", help="one short attack in place of the three")
    parser.add_argument("--pgd-40", action="store_true", help="also train on PGD of 40 steps")
    parser.add_argument("--data-dir", help="where MNIST lies")
    parser.add_argument("--engine", default="auto")
    asked = parser.parse_args()
    execution = Execution(engine=asked.engine, **({"data_dir": asked.data_dir} if asked.data_dir else {}))
    results = run(protocol_of(asked), execution, out=asked.out)
    images = int(results.metrics.filter(pl.col("split") == "test")["n"].max())
    rows = rows_of(results.metrics, images)
    (asked.out / "figures.json").write_text(json.dumps({"images": images, "rows": rows}, indent=2) + "\n")
    for row in rows:
        beside = "" if row["published"] is None else f"  published {row['published']:.4f}"
        low, high = (f"{row[end]:.4f}" if row[end] is not None else "-" for end in ("low", "high"))
        print(f"{row['defence']:45} {row['figure']:30} {row['mean']:.4f}  [{low}, {high}]{beside}")


if __name__ == "__main__":
    main()
