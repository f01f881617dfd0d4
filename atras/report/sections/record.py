"""The record of a run: what was run, pictures, training, the paper's claims, provenance."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from atras.analysis.claims import Claim
from atras.analysis.claims import claims as check_claims
from atras.report.charts.pictures import galleries
from atras.report.charts.plots import Chart, Table
from atras.report.charts.scales import Axis, interval, linear, number
from atras.results.results import Results

from . import population as pop
from .population import Entry
from .section import Section, lines


def pictures(results: Results) -> Section:
    found = galleries(results)
    if not found:
        return Section("pictures", "Pictures", ("No pictures: no network of the first seed trained.",))
    text = (
        "The first test images of the smallest, the middle and the largest network: the image, the direction in which "
        "FGSM moves each pixel (black down, white up), and the sum of both at the run's epsilon."
    )
    return Section("pictures", "Pictures", (text,), galleries=found)


def training(results: Results) -> Section:
    history = results.history.join(pop.trained_members(results), on=["hidden_layers", "seed"], maintain_order="left")
    if history.is_empty():
        return Section("training", "Training", ("No epoch was recorded: no member trained.",))
    first = int(str(history.filter(pl.col("phase") == "train")["epoch"].max() or 0))
    later = pl.when(pl.col("phase") == "adversarial").then(first).otherwise(0)
    history = history.with_columns(at=pl.col("epoch") + later)
    figures = []
    for column, label in (("mean_loss", "training loss"), ("running_accuracy", "training accuracy")):
        means = history.filter(pl.col(column).is_finite()).group_by("depth", "at").agg(pl.col(column).mean())
        series = lines(means.sort("depth", "at"), "at", column)
        values = means[column].to_list()
        y = linear(label, [0.0, *values], 0) if column == "mean_loss" else linear(label, [0.0, 1.0], 0, 1)
        ends = ", ".join(f"{entry.label} {number(entry.points[-1].y)}" for entry in series)
        chart = Chart(
            column.replace("_", "-"), label.capitalize(), f"After the last epoch: {ends}.", _epochs(history), y, series
        )
        figures.append(chart)
    text = (
        "While training, averaged over the members that trained, by depth. "
        f"Adversarial training begins after epoch {first}."
    )
    return Section("training", "Training", (text,), tuple(figures))


def _epochs(history: pl.DataFrame) -> Axis:
    last = int(str(history["at"].max()))
    axis = linear("epoch", [0, last], 0)
    return Axis(axis.label, 0, max(axis.high, 1), tuple(tick for tick in axis.ticks if tick[0] == int(tick[0])))


def claims(results: Results) -> Section:
    return claim_section(check_claims(results))


def claim_section(claims: list[Claim]) -> Section:
    """The paper's claims with their verdicts."""
    columns = ("claim", "verdict", "stated", "paper's table", "this run", "95 % interval", "meaning")
    rows = tuple(
        (c.name, c.verdict, _cell(c.stated), _cell(c.paper_figure), _cell(c.ours), interval(c.low, c.high), c.text)
        for c in claims
    )
    return Section("claims", "The paper's claims", tables=(Table("Claims", columns, rows),))


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) or value is None else str(value)


def experiment(results: Results, rows: list[Entry]) -> Section:
    """What was run, in words."""
    protocol = results.run["protocol"]
    data, model = results.run.get("data", {}), results.run.get("model", {})
    seeds = protocol["seeds"]
    depths = sorted({row.depth for row in rows})
    members = f"{len(protocol['candidates'])} candidate networks"
    span = f" of {depths[0]} to {depths[-1]} hidden layers" if depths else ""
    with_seeds = f"each with {len(seeds)} seeds" if len(seeds) > 1 else f"with seed {seeds[0]}" if seeds else "no seed"
    sizes = f", {data['train_size']} training and {data['test_size']} test images" if "train_size" in data else ""
    text = [f"{members}{span}, {with_seeds}, on {results.dataset}{sizes}."]
    if "epochs" in protocol:
        text.append(_procedure(protocol, model))
    if results.run.get("status") != "finished":
        text.append("This run has not finished: what follows is what it had written so far.")
    return Section("experiment", "What was run", tuple(text))


def _procedure(protocol: dict[str, Any], model: dict[str, Any]) -> str:
    target, source = protocol.get("target"), protocol.get("label_source")
    towards = f"towards {target}" if target not in (None, "none") else f"away from the {source} label"
    stem = model.get("stem", protocol.get("stem"))
    return (
        f"Each was trained for {protocol['epochs']} epochs ({protocol.get('optimizer')}, learning rate "
        f"{protocol.get('learning_rate')}, batches of {protocol.get('batch_size')}, stem {stem}, "
        f"{protocol.get('activation')}), attacked {towards} with FGSM at epsilon {protocol.get('epsilon')}, "
        f"trained for {protocol.get('adversarial_epochs')} more on clean and adversarial images, and attacked again."
    )


def provenance(results: Results) -> Section:
    """Everything the figures depend on, in full."""
    run = results.run
    environment, data = run.get("environment", {}), run.get("data", {})
    versions = environment.get("versions", {})
    facts = {
        "folder": results.directory,
        "status": run.get("status"),
        "protocol hash": run.get("protocol_hash"),
        "atras": run.get("version"),
        "commit": environment.get("commit"),
        "device": environment.get("gpu") or environment.get("device"),
        "processor": environment.get("cpu", {}).get("model"),
        "platform": environment.get("platform"),
        **{name: version for name, version in versions.items() if name != "atras"},
        "engine": run.get("plan", {}).get("engine"),
        "precision": run.get("plan", {}).get("precision"),
        "data set": data.get("source"),
        "data status": data.get("status"),
        **{f"SHA-256 {name}": digest for name, digest in data.get("sha256", {}).items()},
    }
    table = Table(
        "Origin", ("what", "value"), tuple((name, str(fact)) for name, fact in facts.items() if fact is not None)
    )
    again = "With its folder at hand, python -m atras.batched --config FOLDER/run.json repeats the run."
    timings = tuple(
        (str(row["phase"]), number(row["seconds"]))
        for row in results.timings.group_by("phase", maintain_order=True)
        .agg(pl.col("seconds").sum())
        .iter_rows(named=True)
    )
    tables = (table, Table("Seconds by phase, over all groups", ("phase", "seconds"), timings)) if timings else (table,)
    return Section("provenance", "Provenance", (again,), tables=tables, code=(("run.json", json.dumps(run, indent=1)),))
