"""Frame `outcomes` as arrays: what each network keeps, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from atras.checks import one_of
from atras.errors import InputError
from atras.evaluation import PHASES
from atras.registry import name_of
from atras.results import Results

_KINDS = {
    "test_accuracy": ("trained", "clean", None),
    "adversarial_test_accuracy": ("defended", "clean", None),
    "attacked_accuracy_before": ("trained", "white-box", "predicted"),
    "attacked_accuracy_before_true": ("trained", "white-box", "true"),
    "attacked_accuracy_after_white_box": ("defended", "white-box", "true"),
    "attacked_accuracy_after_static": ("defended", "static", None),
}
"""Phase, mode and label source of the rows behind a column of the table, under the paper's own attack."""

_WORST = {"worst_case_accuracy_before": "trained", "worst_case_accuracy_after": "defended"}


def worst_case(results: Results, phase: str | None = None) -> pl.DataFrame:
    """Whether a network keeps each test image under all attacks together, as `worst` in `metrics` counts it.

    Args:
        results: a run with outcomes.
        phase: `trained` or `defended`; None for that of the networks that the run ends with.

    Returns:
        Columns hidden_layers, seed, image, correct: whether no attack turns the image with a change of at most the
        run's epsilon.

    Raises:
        InputError: if the run has no outcomes image by image.
    """
    phase = results.final.phase if phase is None else phase
    one_of("phase", phase, PHASES)
    if results.outcomes.is_empty():
        raise InputError("results: expected outcomes image by image, found none; run with --outcomes all")
    kept = (pl.col("correct") | ~pl.col("counts")).all()
    own = results.outcomes.filter(phase=phase)
    return own.group_by("hidden_layers", "seed", "image", maintain_order=True).agg(kept.alias("correct"))


def kept_images(results: Results, column: str, names: Sequence[str], seeds: Sequence[int]) -> np.ndarray | None:
    """What each network keeps, image by image, where the run knows it of all of them.

    Args:
        results: a run.
        column: an accuracy of the table.
        names, seeds: candidates and seeds.

    Returns:
        bool [K, S, N], in the order of names and seeds, whose means are the table's figures; None where a member or an
        image is missing, or outcomes are not those of the column.
    """
    rows = kept_rows(results, column)
    if rows is None:
        return None
    rows = rows.filter(pl.col("hidden_layers").is_in(list(names)), pl.col("seed").is_in(list(seeds)))
    images = rows["image"].n_unique()
    if not images or len(rows) != len(names) * len(seeds) * images:
        return None
    keys = [dict(zip(values, range(len(values)), strict=True)) for values in (names, seeds)]
    places = [
        rows[key].replace_strict(place, return_dtype=pl.Int64)
        for key, place in zip(("hidden_layers", "seed"), keys, strict=True)
    ]
    order = np.lexsort((rows["image"].to_numpy(), places[1].to_numpy(), places[0].to_numpy()))
    right = rows["correct"].to_numpy()[order].reshape(len(names), len(seeds), images)
    told = {(name, seed): value for name, seed, value in results.table.select("hidden_layers", "seed", column).rows()}
    figures = [[told.get((name, seed)) for seed in seeds] for name in names]
    same = all(f is not None and abs(f - m) < 1e-9 for fs, ms in zip(figures, right.mean(2), strict=True)
               for f, m in zip(fs, ms, strict=True))  # fmt: skip
    return right if same else None


def kept_rows(results: Results, column: str) -> pl.DataFrame | None:
    """What members keep, image by image, behind a column of the table.

    Returns:
        Columns hidden_layers, seed, image, correct; None where the run does not tell.
    """
    if results.outcomes.is_empty() or column not in {**_KINDS, **_WORST}:
        return None
    if column in _WORST:
        return _worst_of_run(results, _WORST[column])
    phase, mode, label = _KINDS[column]
    rows = results.outcomes.filter(phase=phase, mode=mode)
    attacked = mode != "clean"
    if attacked:
        own = results.run["protocol"].get("epsilon")
        rows = rows.filter(pl.col("attack") == "fgsm", pl.col("epsilon") == own)
    return rows.filter(label_source=label) if label else rows


_WORST_OF_RUNS: WeakKeyDictionary[Results, dict[str, pl.DataFrame]] = WeakKeyDictionary()
"""Worst cases by phase, for as long as somebody keeps the run: every figure by depth and network asks for them."""


def _worst_of_run(results: Results, phase: str) -> pl.DataFrame:
    known = _WORST_OF_RUNS.setdefault(results, {})
    if phase not in known:
        known[phase] = worst_case(results, phase)
    return known[phase]


_KEYS = ("phase", "mode", "attack", "norm", "epsilon", "label_source", "target")
"""What tells the figures of a member apart, in frames `metrics` and `outcomes`."""


def rows_of_metrics(results: Results, row: Mapping[str, Any]) -> pl.DataFrame | None:
    """What all members keep, image by image, under what a row of `metrics` is about.

    Args:
        results: a run.
        row: of a final figure on test images.

    Returns:
        Columns hidden_layers, seed, image, correct; None where the run does not tell.
    """
    if results.outcomes.is_empty():
        return None
    if name_of(str(row["attack"])) == "worst":
        own = row["norm"] == "linf" and row["epsilon"] == results.run["protocol"].get("epsilon")
        return _worst_of_run(results, str(row["phase"])) if own else None
    return results.outcomes.filter(pl.col(key).eq_missing(pl.lit(row[key])) for key in _KEYS if key in row)
