"""Figures over members on the same test images, and differences of such: how certain seeds and images leave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from atras.results import Results, wilson

from .means import Interval, Mean, Part, binomial_part, group_mean, image_covariance
from .outcomes import kept_rows, rows_of_metrics

MEMBER = ("hidden_layers", "seed")

_ACCURACIES_OF = {
    "recovery_static": (("attacked_accuracy_after_static", 1), ("attacked_accuracy_before", -1)),
    "recovery_white_box": (("attacked_accuracy_after_white_box", 1), ("attacked_accuracy_before_true", -1)),
}
"""The accuracies that a recovery is a difference of, with their signs."""


class Term(NamedTuple):
    """A mean accuracy on test images that is added to a figure, or taken from it.

    Args:
        sign: 1 or -1.
        share: the mean accuracy, of all its members.
        kept: columns seed, image and correct, of all its members; None where nothing tells image by image.
    """

    sign: int
    share: float
    kept: pl.DataFrame | None


def column_terms(results: Results, column: str, members: pl.DataFrame, sign: int = 1) -> list[Term]:
    """The accuracies behind a mean of a column of the table; none of a training accuracy, whose images are all there
    are.

    Args:
        results: a run, of one variant or flattened.
        column: an accuracy or recovery.
        members: columns hidden_layers and seed.
        sign: of the column in the figure.
    """
    rows = results.table.join(members, on=MEMBER, how="semi")
    return [
        Term(sign * own, float(str(rows[name].mean())), _of_members(kept_rows(results, name), members))
        for name, own in _ACCURACIES_OF.get(column, ((column, 1),))
        if "train_accuracy" not in name and rows[name].count()
    ]


def metric_terms(results: Results, rows: pl.DataFrame, sign: int = 1) -> list[Term]:
    """The accuracy behind a mean over rows of the frame metrics that differ in their members alone, as a list of one.

    Args:
        results: a run, of one variant or flattened.
        rows: of final figures on test images, under one attack.
        sign: of the accuracy in the figure.
    """
    kept = _of_members(rows_of_metrics(results, rows.row(0, named=True)), rows)
    return [Term(sign, float(str(rows["accuracy"].mean())), kept)]


def negative(terms: Sequence[Term]) -> list[Term]:
    """The same accuracies, taken from a figure instead of added."""
    return [term._replace(sign=-term.sign) for term in terms]


def _of_members(kept: pl.DataFrame | None, members: pl.DataFrame) -> pl.DataFrame | None:
    return None if kept is None else kept.join(members, on=MEMBER, how="semi")


def images_part(terms: Sequence[Term], images: int | None) -> Part | None:
    """What the test images add to the variance of a sum of mean accuracies, all on the same images.

    Where outcomes are known of all terms they are paired: an image on which two of them agree adds nothing to their
    difference. Otherwise the binomial variances are summed, as if each term had images of its own: a bound, as
    networks and attacks lose much the same images.

    Args:
        terms: those of the sum.
        images: test images behind each; None or 0 where that is not known.

    Returns:
        The part; None where nothing tells.
    """
    changed = _changed(terms)
    if changed is not None:
        return Part(float(image_covariance(changed[None])[0, 0]), max(changed.shape[-1] - 1, 1))
    if not images or not terms:
        return None
    parts = [binomial_part(min(max(term.share, 0.0), 1.0), images) for term in terms]
    return Part(sum(part.variance for part in parts), parts[0].freedom)


def _changed(terms: Sequence[Term]) -> np.ndarray | None:
    """The figure of each seed and image, float64 [S, N], means over members; None where a term does not tell."""
    total: np.ndarray | None = None
    seeds: list[int] = []
    for term in terms:
        if (
            term.kept is None
            or term.kept.is_empty()
            or abs(float(str(term.kept["correct"].mean())) - term.share) > 1e-9
        ):
            return None
        means = term.kept.group_by("seed", "image").agg(pl.col("correct").mean()).sort("seed", "image")
        own = means["seed"].unique().sort().to_list()
        if len(means) != len(own) * means["image"].n_unique() or (total is not None and own != seeds):
            return None
        values = term.sign * means["correct"].to_numpy().reshape(len(own), -1)
        if total is not None and total.shape != values.shape:
            return None
        total, seeds = values if total is None else total + values, own
    return total


def members_mean(rows: pl.DataFrame, value: str, terms: Sequence[Term], images: int | None) -> Mean:
    """A mean over members, or of their differences: variance of seeds (`group_mean`) and that of the test images.

    Args:
        rows: columns hidden_layers, seed and `value`, without nulls in it, at least one.
        value: name of the column.
        terms: the mean accuracies that the figure is a sum of; none for what is no share of images.
        images: test images behind each.
    """
    mean = group_mean(rows[value].to_list(), rows["hidden_layers"].to_list(), rows["seed"].to_list())
    return with_images(mean, terms, images)


def with_images(mean: Mean, terms: Sequence[Term], images: int | None) -> Mean:
    """A mean with the part of the test images, where that is known, beside those it has."""
    part = images_part(terms, images)
    return mean if part is None else Mean(mean.value, (*mean.parts, part))


def members_interval(rows: pl.DataFrame, value: str, terms: Sequence[Term], images: int | None) -> Interval:
    """`members_mean` with its 95 % interval: of the accuracy of a single member Wilson's.

    Every accuracy and difference of the terminal and the report has this one, so that one figure has one interval.
    """
    if len(rows) == 1 and images and len(terms) == 1:
        share = float(rows[value][0])
        return Interval(share, *wilson(round(share * images), images))
    mean = members_mean(rows, value, terms, images)
    return mean.interval(low=0.0, high=1.0) if len(terms) == 1 else mean.interval(low=-1.0 if terms else -np.inf)
