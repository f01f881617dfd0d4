"""Frame `outcomes` as arrays: what each network keeps, image by image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from atras.checks import one_of
from atras.errors import InputError
from atras.evaluation import PHASES
from atras.registry import name_of
from atras.results import Results

MEMBER = ("hidden_layers", "seed")

Member = tuple[str, int]
"""Candidate and seed."""


class Kept(NamedTuple):
    """What a member keeps, image by image.

    Args:
        images: unsigned [N], ascending.
        correct: bool [N].
    """

    images: np.ndarray
    correct: np.ndarray


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
        phase: `trained` or `defended`, of which networks without a defence are part as they were trained; None for that
            of the networks that the run ends with.

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
    own = results.outcomes.filter(_of_phase(phase))
    return own.group_by("hidden_layers", "seed", "image", maintain_order=True).agg(kept.alias("correct"))


def _of_phase(phase: str) -> pl.Expr:
    """Whether a row is of a phase; beside defended networks those without a defence stand as their training ends."""
    ends = (pl.col("defence") == "none") & (pl.col("phase") == "trained")
    return (pl.col("phase") == phase) | (ends & (phase == "defended"))


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
    kept = kept_of_column(results, column)
    members = [(name, seed) for name in names for seed in seeds]
    if not members or kept is None or not all(member in kept for member in members):
        return None
    images = common_images([kept[member] for member in members])
    if images is None:
        return None
    right = np.stack([kept[member].correct for member in members]).reshape(len(names), len(seeds), len(images))
    told = {(name, seed): value for name, seed, value in results.table.select("hidden_layers", "seed", column).rows()}
    figures = [[told.get((name, seed)) for seed in seeds] for name in names]
    same = all(f is not None and abs(f - m) < 1e-9 for fs, ms in zip(figures, right.mean(2), strict=True)
               for f, m in zip(fs, ms, strict=True))  # fmt: skip
    return right if same else None


def common_images(kept: Sequence[Kept]) -> np.ndarray | None:
    """The images that members have in common; None where they have others, or one of them twice."""
    images = kept[0].images
    once = bool((images[1:] > images[:-1]).all())
    return images if once and all(np.array_equal(one.images, images) for one in kept) else None


def kept_of_column(results: Results, column: str) -> Mapping[Member, Kept] | None:
    """What each member keeps, image by image, behind a column of the table; None where the run does not tell."""
    if results.outcomes.is_empty() or column not in {**_KINDS, **_WORST}:
        return None
    if column in _WORST:
        return _worst_of_run(results, _WORST[column])
    phase, mode, label = _KINDS[column]

    def rows() -> pl.DataFrame:
        of_label = {"label_source": label} if label else {}
        found = results.outcomes.filter(_of_phase(phase), mode=mode, **of_label)
        return found if mode == "clean" else found.filter(_at_own_epsilon(results), attack="fgsm")

    return _once(results, column, rows)


def _at_own_epsilon(results: Results) -> pl.Expr:
    """Whether a row is at the epsilon of its candidate, which in a flattened run each has."""
    own = {name: values["epsilon"] for name, values in results.settings.items() if "epsilon" in values}
    common = pl.lit(results.run["protocol"].get("epsilon"), pl.Float64)
    each = pl.col("hidden_layers").replace_strict(own, default=None, return_dtype=pl.Float64) if own else common
    return pl.col("epsilon") == each


def kept_of_metrics(results: Results, row: Mapping[str, Any]) -> Mapping[Member, Kept] | None:
    """What each member keeps, image by image, under what a row of `metrics` is about.

    Args:
        results: a run.
        row: of a final figure on test images.

    Returns:
        By member; None where the run does not tell.
    """
    if results.outcomes.is_empty():
        return None
    if name_of(str(row["attack"])) == "worst":
        own = row["norm"] == "linf" and row["epsilon"] == results.run["protocol"].get("epsilon")
        return _worst_of_run(results, str(row["phase"])) if own else None
    values = {key: row[key] for key in _KEYS if key in row}
    same = [pl.col(key).eq_missing(pl.lit(value)) for key, value in values.items()]
    return _once(results, tuple(values.items()), lambda: results.outcomes.filter(same))


_KEYS = ("phase", "mode", "attack", "norm", "epsilon", "label_source", "target")
"""What tells the figures of a member apart, in frames `metrics` and `outcomes`."""


def _worst_of_run(results: Results, phase: str) -> Mapping[Member, Kept]:
    return _once(results, ("worst", phase), lambda: worst_case(results, phase))


_OF_RUNS: WeakKeyDictionary[Results, dict[Hashable, Mapping[Member, Kept]]] = WeakKeyDictionary()
"""What members keep, by what is asked for, as long as somebody keeps the run: figures of every candidate ask for it,
and each would go through all rows of the run again."""


def _once(results: Results, key: Hashable, rows: Callable[[], pl.DataFrame]) -> Mapping[Member, Kept]:
    """Rows of `outcomes` by member, each with its images in order; computed once for a run and key."""
    known = _OF_RUNS.setdefault(results, {})
    if key not in known:
        parts = rows().select(*MEMBER, "image", "correct").sort("image").partition_by(MEMBER, as_dict=True)
        kept: dict[Member, Kept] = {}
        images = np.empty(0, dtype=np.uint32)
        for (name, seed), part in parts.items():
            own = part["image"].to_numpy()
            images = images if np.array_equal(images, own) else own  # all members have the same: one copy
            kept[str(name), int(str(seed))] = Kept(images, part["correct"].to_numpy())
        known[key] = kept
    return known[key]
