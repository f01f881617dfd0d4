"""The section of masked gradients: what an attack by gradients leaves and a stronger one takes, by depth."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from atras.analysis import Interval, members_interval, metric_terms
from atras.registry import name_of
from atras.report.charts import Chart, Estimate, number
from atras.report.section import Section
from atras.results import Results

from .attack_rows import Ball, balls, known_attack, mean_accuracies
from .depth_charts import depth_chart, depth_label
from .population import networks_text

MASKED = 0.05
"""Accuracy that a stronger attack takes beyond one by gradients from which on a depth is said to mask its gradients: a
few points lie between good attacks anyway."""

MASKS = "gradients are masked"
ONE_STEP = "gradients are masked, or one step is too few, which --attack pgd would tell"
UNDECIDED = f"not decided, the interval reaches across {MASKED:g} or is missing"
CLEAR = "no sign of it"


MEMBER = ["hidden_layers", "seed"]


class Comparison(NamedTuple):
    """Two attacks in one ball.

    Args:
        ball: what both are bounded by.
        weak: the attack by gradients.
        strong: AutoAttack, or the worst case.
    """

    ball: Ball
    weak: str
    strong: str

    @property
    def names(self) -> tuple[str, str]:
        """Both as a reader knows them."""
        return self.weak, "the worst case" if name_of(self.strong) == "worst" else self.strong


def masking(results: Results) -> Section:
    """Accuracy of the run's last networks under PGD less that under AutoAttack, by depth.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Gradient masking by depth"
    found: dict[str, Comparison] = {}
    for every in balls(results):
        ball = every._replace(rows=every.rows.filter(phase=results.final.phase))
        compared = _compared(ball)
        if compared is not None:
            found.setdefault(ball.norm, compared)
    if not found:
        missing = (
            "Nothing to compare: run with --attack pgd --attack autoattack, both in one norm and at one epsilon, to "
            "see which architectures mask their gradients."
        )
        return Section("masking", title, (missing,))
    text = [
        f"Accuracy of {networks_text(results)} under an attack by gradients less their accuracy under a stronger "
        "one, in the same norm and at the same epsilon, averaged over the members that trained. A little lies between "
        f"any two attacks; more than {MASKED:g} says that gradients lead astray (masked gradients), and that the "
        "weaker attack's figure is none of robustness."
    ]
    charts: list[Chart] = []
    for compared in found.values():
        chart, estimates, gaps = _chart(results, compared)
        charts.append(chart)
        text.append(_conclusion(compared, estimates, gaps))
    return Section("masking", title, tuple(text), tuple(charts))


def _compared(ball: Ball) -> Comparison | None:
    """AutoAttack, or the worst case, against PGD, or else the strongest single attack by gradients, or else FGSM."""
    spellings = list(mean_accuracies(ball.rows))[::-1]  # the strongest first
    strong = [one for name in ("autoattack", "worst") for one in spellings if name_of(one) == name]
    weak = [one for one in spellings if name_of(one) == "pgd"]
    weak += [one for one in spellings if name_of(one) != "fgsm" and _follows_gradients(one)]
    weak += [one for one in spellings if name_of(one) == "fgsm"]
    return Comparison(ball, weak[0], strong[0]) if weak and strong else None


def _follows_gradients(spelling: str) -> bool:
    attack = known_attack(spelling)
    return attack is not None and attack.uses_gradients and not attack.part_names


def _chart(results: Results, compared: Comparison) -> tuple[Chart, dict[int, Estimate], pl.DataFrame]:
    """The chart, its estimates by depth, and the gap of each member."""
    ball, keys = compared.ball, ["hidden_layers", "seed", "depth", "n"]
    weak, strong = (ball.rows.filter(attack=attack) for attack in (compared.weak, compared.strong))
    gaps = weak.select(*keys, "accuracy").join(strong.select(*keys, "accuracy"), on=keys, maintain_order="left")
    gaps = gaps.with_columns(gap=pl.col("accuracy") - pl.col("accuracy_right"))
    estimates = {
        int(str(depth)): Estimate(*_gap(results, own, [one.filter(depth=depth) for one in (weak, strong)]))
        for (depth,), own in gaps.sort("depth", maintain_order=True).group_by("depth", maintain_order=True)
    }
    names = " minus ".join(compared.names)
    title = f"{names} at {ball.text}, {networks_text(results)}"
    chart = depth_chart(f"masking-{ball.norm}", title, "accuracy lost", {names: estimates})
    return chart, estimates, gaps


def _gap(results: Results, gaps: pl.DataFrame, attacked: list[pl.DataFrame]) -> Interval:
    """The mean gap of a depth's members, with what seeds and the images on which the two attacks differ leave open."""
    weak, strong = (rows.join(gaps, on=MEMBER, how="semi") for rows in attacked)
    terms = [*metric_terms(results, weak), *metric_terms(results, strong, sign=-1)]
    return members_interval(gaps, "gap", terms, int(gaps["n"][0]))


def _conclusion(compared: Comparison, estimates: dict[int, Estimate], gaps: pl.DataFrame) -> str:
    """One sentence on which depths mask their gradients, and the candidate with the widest gap."""
    masks = ONE_STEP if name_of(compared.weak) in ("fgsm", "random-fgsm") else MASKS
    found: dict[str, list[int]] = {masks: [], UNDECIDED: [], CLEAR: []}
    for depth, (_, low, high) in estimates.items():
        masked, clear = low is not None and low > MASKED, high is not None and high <= MASKED
        found[masks if masked else CLEAR if clear else UNDECIDED].append(depth)
    parts = [f"{', '.join(map(depth_label, depths))}: {verdict}" for verdict, depths in found.items() if depths]
    means = gaps.group_by("hidden_layers", maintain_order=True).agg(pl.col("gap").mean())
    name, gap = means.sort("gap", descending=True, maintain_order=True).row(0)
    widest = f"Widest gap: {name} with {number(gap)}." if gap > 0 else "No candidate has a gap."
    return f"{' against '.join(compared.names)} at {compared.ball.text}: {'; '.join(parts)}. {widest}"
