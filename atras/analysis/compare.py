"""Two runs side by side: what the same members, paired, gained or lost from one to the other."""

from __future__ import annotations

import polars as pl

from atras.errors import InputError
from atras.results import ACCURACIES, Results

from .meanings import other_meaning
from .provenance import data_differences, other_test_images, require_whole
from .statistics import Mean, column_terms, holm, independent_images, members_mean

COLUMNS = (*ACCURACIES, "recovery_static", "recovery_white_box")

KEYS = ["hidden_layers", "seed"]


def compare(a: Results, b: Results, *, partial: bool = False) -> pl.DataFrame:
    """Paired differences of every accuracy and recovery, over the candidates and seeds that both runs have.

    A pair is a member of both runs with a figure in both; all statuses count. Pairs are no independent draws: those of
    a seed share its batch order and all share the test images. So what varies are seeds (`group_mean`) and images:
    paired where both runs kept outcomes, otherwise bounded by counts (`images_part`). One seed tells nothing of seeds,
    however many candidates: by their spread, seeds of one protocol differ in a quarter of all comparisons.

    Where one run alone defends its networks, those of the other stand beside the defended ones as their training ends.

    Args:
        a, b: two runs on the same test images.
        partial: also of runs that are not finished, by what is there.

    Returns:
        Columns column, members, mean_a, mean_b, difference (b - a), low, high (95 %), p, note and p_holm (corrected for
        the number of columns). Where the runs mean different things by a column, its figures are null and the note
        says why; one seed has no p. Columns without a pair are left out.

    Raises:
        InputError: if the runs have other test images or no member in common, or groups are missing and `partial` is
            not set.
    """
    for run in (a, b):
        require_whole(run, partial)
    a, b = side_by_side(a, b)
    if other_test_images(a, b):
        told = "; ".join(data_differences(a, b)[:1])
        raise InputError(
            f"compare: expected runs on the same test images, got others ({told}): a difference would be that of the "
            "images too; `atras report A B` shows both side by side"
        )
    pairs = a.table.join(b.table, on=KEYS, suffix="_b", maintain_order="left")
    if not len(pairs):
        raise InputError("compare: expected runs with a candidate and seed in common, found none; name other runs")
    rows: list[tuple[object, ...]] = []
    for column in COLUMNS:
        both = pairs.select(*KEYS, a=column, b=f"{column}_b").drop_nulls()
        if not len(both):
            continue
        reason = other_meaning(a, b, column)
        if reason:
            rows.append((column, len(both), *[None] * 6, f"not compared: {reason}"))
            continue
        difference = _difference(a, b, column, both)
        p_value = difference.p() if both["seed"].n_unique() > 1 else None
        means = (float(both["a"].to_numpy().mean()), float(both["b"].to_numpy().mean()))
        rows.append((column, len(both), *means, *difference.interval(), p_value, ""))
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    known = frame["p"].is_not_null()
    corrected = iter(holm(frame["p"].drop_nulls().to_list()))
    values = [next(corrected) if is_known else None for is_known in known]
    return frame.with_columns(pl.Series("p_holm", values, pl.Float64)).select(*_SCHEMA, "p_holm")


def side_by_side(a: Results, b: Results) -> tuple[Results, Results]:
    """Two flattened runs with the networks that they end with in the same columns."""
    a, b = a.flattened, b.flattened
    return (a, b) if a.defends == b.defends else (a.beside_defended, b.beside_defended)


_SCHEMA = {
    "column": pl.String,
    "members": pl.Int64,
    "mean_a": pl.Float64,
    "mean_b": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "note": pl.String,
}


def _difference(a: Results, b: Results, column: str, both: pl.DataFrame) -> Mean:
    """Mean difference of the pairs, over seeds and test images."""
    rows = both.with_columns(difference=pl.col("b") - pl.col("a"))
    terms = [*column_terms(b, column, both), *column_terms(a, column, both, sign=-1)]
    return members_mean(rows, "difference", terms, independent_images(a, column))


def protocol_differences(a: Results, b: Results) -> dict[str, tuple[object, object]]:
    """Fields of the protocols that differ, with both values; empty for equal protocols."""
    left, right = a.run["protocol"], b.run["protocol"]
    names = [*left, *(name for name in right if name not in left)]
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}
