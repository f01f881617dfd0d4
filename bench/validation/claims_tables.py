"""Tables, in Markdown, of fast_mnist.py, widths.py, depths.py and ensemble.py, and the published claims as sign tests.

    python bench/validation/claims_tables.py widths.json ensemble.json > claims.md

A figure is a mean over seeds with its 95 % interval. A claim is tested seed by seed, each seed one draw: in how many it
holds, and the one-sided p of so many or more if it held in half of them (the sign test).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import binomtest

from atras.analysis.statistics import Term, members_interval
from harness import Row
from readings_tables import mean_text, table

PUBLISHED = {
    ("fast", "clean"): 0.9850,
    ("fast", "pgd-50-10"): 0.8877,
    ("fast", "autoattack"): 0.8293,
}
"""Wong, Rice, Kolter 2020; under AutoAttack their network in Croce and Hein 2020."""

Key = tuple[str, int]


class Claim(NamedTuple):
    """A published claim: a difference of each seed that is above 0 where it holds."""

    text: str
    differences: Sequence[float]

    @property
    def cells(self) -> list[str]:
        positive, negative = (sum(sign * each > 0 for each in self.differences) for sign in (1, -1))
        p = binomtest(positive, positive + negative, alternative="greater").pvalue if positive + negative else 1.0
        share = f"{positive} of {len(self.differences)}"
        return [self.text, mean_text(self.differences, 4), share, f"{p:.2g}"]


def claims_table(claims: Iterable[Claim]) -> str:
    return table(["claim", "mean, above 0 where it holds", "seeds", "p"], [claim.cells for claim in claims])


def figures(rows: Iterable[Row], attack: str, **where: object) -> dict[Key, float]:
    """By candidate and seed, the share of images or the mean: of the networks after their last training.

    Where images are made on several networks outside, the mean over these.
    """
    found: dict[Key, list[float]] = {}
    for row in rows:
        wanted = row["attack"] == attack and row["mode"] != "static" and row.get("label_source") in (None, "true")
        if wanted and all(row.get(name) == value for name, value in where.items()):
            found.setdefault((row["hidden_layers"], row["seed"]), []).append(row["correct"] / row["n"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def by_candidate(found: dict[Key, float]) -> dict[str, list[float]]:
    """Values of all seeds."""
    own: dict[str, list[float]] = {}
    for (name, _), value in sorted(found.items(), key=lambda item: item[0][1]):
        own.setdefault(name, []).append(value)
    return own


def slopes(found: dict[Key, float], place: Callable[[str], float]) -> list[float]:
    """Of each seed, the slope of a figure over what a candidate has a place by."""
    seeds = sorted({seed for _, seed in found})
    pairs = [[(place(name), value) for (name, own), value in found.items() if own == seed] for seed in seeds]
    return [float(np.polyfit(*zip(*each, strict=True), 1)[0]) for each in pairs]


def means(found: dict[Key, float]) -> list[float]:
    """Of each seed, the mean over candidates."""
    seeds = sorted({seed for _, seed in found})
    return [float(np.mean([value for (_, own), value in found.items() if own == seed])) for seed in seeds]


def minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(left, right, strict=True)]


def fast_mnist(rows: Sequence[Row]) -> str:
    """Beside the published figures."""
    lines = []
    for defence in dict.fromkeys(row["defence"] for row in rows):
        for attack in dict.fromkeys(row["attack"] for row in rows):
            found = figures(rows, attack, phase="defended", defence=defence)
            if found:
                n = next(row["n"] for row in rows)
                members = [(*key, value) for key, value in found.items()]
                frame = pl.DataFrame(members, schema=["hidden_layers", "seed", "accuracy"], orient="row")
                share = sum(found.values()) / len(found)
                interval = members_interval(frame, "accuracy", [Term(1, share, None)], n)
                name = "clean" if attack == "none" else attack
                published = PUBLISHED.get((defence, name))
                ends = f"[{interval.low:.4f}, {interval.high:.4f}]"
                shown = "" if published is None else f"{published:.4f}"
                lines.append([f"`{defence}`", name, f"{interval.mean:.4f}", ends, str(len(found)), shown])
    return table(["defence", "attack", "accuracy", "95 % interval", "seeds", "published"], lines)


def first_width(name: str) -> float:
    return math.log2(int(name.split("-")[0]))


def depth(name: str) -> float:
    return name.count("-") + 1


def widths(rows: Sequence[Row]) -> str:
    """Wu et al. 2021."""
    betas = list(dict.fromkeys(row["beta"] for row in rows))
    found = {
        (beta, name): figures(rows, name, beta=beta, phase="defended")
        for beta in betas
        for name in ("none", "pgd", "stability")
    }
    columns = {key: by_candidate(own) for key, own in found.items()}
    lines = [
        [f"{beta:g}", f"`{name}`", *(mean_text(columns[beta, figure][name]) for figure in ("none", "pgd", "stability"))]
        for beta in betas
        for name in columns[beta, "none"]
    ]
    claims = []
    for beta in betas:
        claims.append(
            Claim(f"beta {beta:g}: clean accuracy rises with width", slopes(found[beta, "none"], first_width))
        )
        falling = [-slope for slope in slopes(found[beta, "stability"], first_width)]
        claims.append(Claim(f"beta {beta:g}: stability falls with width", falling))
    pairs = dict.fromkeys([*pairwise(betas), *([(betas[0], betas[-1])] if len(betas) > 1 else [])])
    for low, high in pairs:
        before, after = found[low, "pgd"], found[high, "pgd"]
        gained = {key: after[key] - before[key] for key in before}
        text = f"from beta {low:g} to {high:g} wider networks gain more, or lose less, under PGD"
        claims.append(Claim(text, slopes(gained, first_width)))
    head = ["beta", "hidden layers", "clean", "PGD-20", "stability"]
    return f"{table(head, lines)}\n\nSlopes are for a doubling of the widths.\n\n{claims_table(claims)}"


def depths(rows: Sequence[Row]) -> str:
    """Zhu et al. 2022."""
    kinds = list(dict.fromkeys(row["initialisation"] for row in rows))
    names = ("none", "fgsm", "sensitivity")
    found = {(kind, name): figures(rows, name, initialisation=kind) for kind in kinds for name in names}
    lines = [
        [kind, f"`{candidate}`", *(mean_text(by_candidate(found[kind, name])[candidate]) for name in names)]
        for kind in kinds
        for candidate in by_candidate(found[kind, "none"])
    ]
    claims = []
    for kind in kinds:
        helps = kind == "lecun"
        signs = [(-1 if helps else 1) * slope for slope in slopes(found[kind, "sensitivity"], depth)]
        claims.append(Claim(f"{kind}: sensitivity {'falls' if helps else 'rises'} with depth", signs))
        lost = {key: found[kind, "none"][key] - value for key, value in found[kind, "fgsm"].items()}
        signs = [(-1 if helps else 1) * slope for slope in slopes(lost, depth)]
        claims.append(Claim(f"{kind}: what FGSM takes {'falls' if helps else 'rises'} with depth", signs))
    head = ["initial weights", "hidden layers", "clean", "FGSM", "sensitivity"]
    return f"{table(head, lines)}\n\nSlopes are for a layer more.\n\n{claims_table(claims)}"


def ensemble(rows: Sequence[Row]) -> str:
    """Tramer et al. 2018."""
    names, lines, found = ("none", "fgsm", "transferred", "pgd"), [], {}
    for defence in dict.fromkeys(row["defence"] for row in rows):
        own = {name: figures(rows, name, defence=defence, phase="defended") for name in names}
        found["ensemble" if "ensemble" in defence else "standard"] = own
        columns = {name: by_candidate(values) for name, values in own.items()}
        lines += [
            [f"`{defence}`", f"`{candidate}`", *(mean_text(columns[name][candidate]) for name in names)]
            for candidate in columns["none"]
        ]
    standard, both = found["standard"], found.get("ensemble")
    claims = [Claim("standard: the transferred step leaves less than the direct one",
                    minus(means(standard["fgsm"]), means(standard["transferred"])))]  # fmt: skip
    if both:
        own = minus(means(both["transferred"]), means(both["fgsm"]))
        claims.append(Claim("ensemble: the transferred step leaves more than the direct one", own))
        own = minus(means(both["transferred"]), means(standard["transferred"]))
        claims.append(Claim("the transferred step leaves more of ensemble than of standard", own))
    head = ["defence", "hidden layers", "clean", "FGSM, direct", "FGSM, transferred", "PGD-20, direct"]
    return f"{table(head, lines)}\n\n{claims_table(claims)}"


KINDS: dict[str, Callable[[Sequence[Row]], str]] = {
    "fast_mnist": fast_mnist, "widths": widths, "depths": depths, "ensemble": ensemble,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="of these scripts")
    asked = parser.parse_args(argv)
    for path in asked.files:
        document = json.loads(path.read_text())
        kept = ("hidden_layers", "seed", "beta", "initialisation", "defence")
        untrained = [row for row in document["rows"] if row.get("status", "trained") != "trained"]
        dead = len({tuple(row.get(name) for name in kept) for row in untrained})
        whole = "" if document["complete"] else " (not all of it: the budget ended it)"
        print(f"## {document['script']}{whole}\n\n{KINDS[document['script']](document['rows'])}\n")
        if dead:
            print(f"Networks that died or diverged, counted as they are: {dead}.\n")
    return 0


if __name__ == "__main__":
    main()
