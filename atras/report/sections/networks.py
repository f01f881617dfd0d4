"""The section of networks without a defence: each with its clean accuracy, and what every attack left of it."""

from __future__ import annotations

import polars as pl

from atras.analysis import network_table
from atras.report.charts import Table, interval, number
from atras.report.section import Section
from atras.results import Results


def networks(results: Results) -> Section:
    """A table of accuracies with intervals, network by network, and one of what the parts of attacks left.

    Args:
        results: the run.

    Returns:
        The section.
    """
    frame = network_table(results)
    title = "Finished networks" if not results.trains else "Networks"
    known = frame.filter(frame["accuracy"].is_not_null())
    if known.is_empty():
        return Section("networks", title, ("No network has figures: all diverged, or none is done.",))
    text = [
        _headline(known),
        "Accuracy is the share of test images that are classified correctly: clean ones, then under each attack, made "
        "on the network itself. Worst case: an image counts only where no attack turns it with a change of at most "
        "the run's epsilon.",
        *_baseline(results),
    ]
    rows = tuple(
        (
            row["hidden_layers"],
            row["label"],
            number(row["accuracy"]),
            interval(row["low"], row["high"]),
            str(row["n"]),
            row["status"],
        )
        for row in frame.iter_rows(named=True)
    )
    columns = ("network", "images", "accuracy", "95 % interval", "of images", "status")
    tables = [Table("Accuracy of every network", columns, rows, sortable=True)]
    parts = tuple((row["hidden_layers"], row["label"], row["parts"]) for row in frame.to_dicts() if row["parts"])
    if parts:
        heads = ("network", "attack", "accuracy left after each of its parts")
        tables.append(Table("Attacks in several parts, one after the other", heads, parts))
    if given := results.run.get("weights"):
        tables.append(_weights(given))
    return Section("networks", title, tuple(text), tables=tuple(tables))


def _baseline(results: Results) -> list[str]:
    share = results.majority_share
    return [] if share is None else [f"Always answering the most frequent class has accuracy {number(share)}."]


def _headline(known: pl.DataFrame) -> str:
    """The most and the least that is left of a network under all attacks."""
    attacked = known.filter(pl.col("attack") != "none")
    least = attacked.sort("accuracy", maintain_order=True).group_by("hidden_layers", maintain_order=True).first()
    best = least.sort("accuracy", descending=True, maintain_order=True)
    name, accuracy, low = best.select("hidden_layers", "accuracy", "low").row(0)
    near = best[1:].filter(pl.col("high") >= low)["hidden_layers"].to_list()
    tied = f" Not told apart from it by these images: {', '.join(near)}." if near else ""
    return f"Most is left of {name}: {number(accuracy)} of the test images under the strongest attack.{tied}"


def _weights(given: list[dict[str, object]]) -> Table:
    """Where the networks came from."""
    rows = tuple(
        (str(each["network"]), str(each["file"] or "-"), str(each["format"]), str(each["sha256"])[:16],
         "; ".join(map(str, each["notes"])) or "-")  # type: ignore[call-overload]
        for each in given
    )  # fmt: skip
    return Table("Where the weights came from", ("network", "file", "format", "SHA-256", "what was done"), rows)
