"""The section that compares the variants of a run, such as its defences, by depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import polars as pl

from atras.analysis import not_compared, ordered, unequal_training
from atras.experiment import recorded_axes
from atras.report.charts import Estimate, Table, rounded
from atras.report.section import Section
from atras.results import Results, measured_at
from atras.rounding import counted

from .depth_charts import depth_chart, depth_label, depth_means
from .population import images


def variants(run: Results, parts: Mapping[str, Results]) -> Section:
    """Robust and clean accuracy by depth, a series for each variant, and the first network of each.

    Args:
        run: with axes.
        parts: the results of each variant by its name.

    Returns:
        The section.
    """
    labels = dict(zip(parts, short_names(run), strict=True))
    text = [
        f"{counted(len(parts), 'variant')} of {' and '.join(axes(run))}: every network was trained in each, with the "
        "same first weights and the same order of images. Means are over the members that trained, with 95 % intervals "
        "of seeds and images. The report of each variant follows.",
        *filter(None, [not_compared(run), unequal_training({labels[name]: one for name, one in parts.items()})]),
    ]
    charts = []
    for key, title in (("worst", "Worst-case robust accuracy"), ("clean", "Clean accuracy")):
        estimates = {
            labels[name]: depth_means(
                one.table.filter(pl.col("status") == "trained"), _column(one, key), images(one), one
            )
            for name, one in parts.items()
        }
        estimates = {label: means for label, means in estimates.items() if means}
        if estimates:
            found = measured_at(recorded_axes(run.run["protocol"]), _column(run, key))
            at = {labels[name]: own for name, own in found.items()}
            chart = depth_chart(f"variants-{key}", f"{title} by depth and variant", title.lower(), estimates, most=1)
            charts.append(replace(chart, summary=conclusion(estimates, at)))
    return Section("comparison", "Variants compared", tuple(text), tuple(charts), (_table(parts, labels),))


def _column(one: Results, key: str) -> str:
    return one.final.worst if key == "worst" else one.final.clean


def conclusion(estimates: Mapping[str, Mapping[int, Estimate]], at: Mapping[str, str] = MappingProxyType({})) -> str:
    """Which variant is highest at each depth, and whether its interval lies above that of the next.

    Args:
        estimates: by variant and depth.
        at: by variant the strength of attack, where there are several: figures at different ones are not compared.
    """
    told = []
    for depth in sorted({depth for means in estimates.values() for depth in means}):
        known = [(each.mean, label, each) for label, means in estimates.items() if (each := means.get(depth))]
        parts: dict[str, list[tuple[float, str, Estimate]]] = {}
        for mean, label, each in known:
            if mean is not None:
                parts.setdefault(at.get(label, ""), []).append((mean, label, each))
        found = [_highest(sorted(own, reverse=True), where) for where, own in parts.items()]
        told += [f"{depth_label(depth)}: {', '.join(found)}"] if found else []
    return f"{'; '.join(told)}." if told else "No figure."


def _highest(known: list[tuple[float, str, Estimate]], at: str) -> str:
    """The first of these variants, from the highest on, and whether it is surely above the next."""
    mean, label, first = known[0]
    if len(known) == 1 and at:
        return f"{label} has {rounded(mean)}"
    sure = ""
    if len(known) > 1:
        low, high = first.low, known[1][2].high
        apart = low is not None and high is not None and low > high
        sure = ", above the next" if apart else ", its interval overlapping the next"
    return f"{f'at {at} ' if at else ''}{label} is highest, {rounded(mean)}{sure}"


def axes(run: Results) -> list[str]:
    """The settings that vary, as a reader says them."""
    return [name.replace("_", " ") for name in run.variants.columns if name != "variant"]


def short_names(run: Results) -> list[str]:
    """The variants by their values alone where one setting varies, else by their names."""
    frame = run.variants
    names = [name for name in frame.columns if name != "variant"]
    return [str(value) for value in frame[names[0] if len(names) == 1 else "variant"]]


def _table(parts: Mapping[str, Results], labels: Mapping[str, str]) -> Table:
    """A row a variant and depth, with the most robust network of both."""
    columns = ("variant", "depth", "trained", "clean", "worst case", "most robust network", "its worst case")
    rows = []
    for name, one in parts.items():
        ranked = ordered(one)
        for (depth,), members in one.table.group_by("depth", maintain_order=True):
            good = members.filter(pl.col("status") == "trained")
            cells = [
                _cell(*depth_means(good, _column(one, key), images(one), one).get(int(str(depth)), Estimate(None)))
                for key in ("clean", "worst")
            ]
            best = ranked.filter(pl.col("depth") == depth, pl.col("trained") > 0).head(1).to_dicts()
            first = [(row["hidden_layers"], _cell(row["mean"], row["low"], row["high"])) for row in best] or [
                ("-", "-")
            ]
            told = f"{len(good)} of {len(members)}"
            rows.append((labels[name], depth_label(int(str(depth))), told, *cells, *first[0]))
    return Table("Variants by depth", columns, tuple(rows), sortable=True)


def _cell(mean: float | None, low: float | None, high: float | None) -> str:
    return rounded(mean) if low is None else f"{rounded(mean)}\n{rounded(low)} to {rounded(high)}"
