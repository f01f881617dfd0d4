"""Figures over members on the same test images, and differences of such: how certain seeds and images leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from atras.results import Results, wilson

from .means import Interval, Mean, Part, binomial_part, group_mean, outcomes_part
from .outcomes import MEMBER, Kept, Member, common_images, kept_of_column, kept_of_metrics

_ACCURACIES_OF = {
    "recovery_static": (("attacked_accuracy_after_static", 1), ("attacked_accuracy_before", -1)),
    "recovery_white_box": (("attacked_accuracy_after_white_box", 1), ("attacked_accuracy_before_true", -1)),
}
"""The accuracies that a recovery is a difference of, with their signs."""


class Term(NamedTuple):
    """A mean accuracy that is added to a figure, or taken from it.

    Args:
        sign: 1 or -1.
        share: the mean accuracy, of all its members.
        kept: what each of its members keeps; None where nothing tells image by image.
        sampled: whether its images stand for others, as test images do; training images are all there are.
    """

    sign: int
    share: float
    kept: Mapping[Member, Kept] | None
    sampled: bool = True


def column_terms(results: Results, column: str, members: pl.DataFrame, sign: int = 1) -> list[Term]:
    """The accuracies behind a mean of a column of the table.

    Args:
        results: a run, of one variant or flattened.
        column: an accuracy or recovery.
        members: columns hidden_layers and seed.
        sign: of the column in the figure.
    """
    rows = results.table.join(members, on=MEMBER, how="semi")
    return [
        Term(
            sign * own,
            float(str(rows[name].mean())),
            _of_members(kept_of_column(results, name), members),
            sampled="train_accuracy" not in name,
        )
        for name, own in _ACCURACIES_OF.get(column, ((column, 1),))
        if rows[name].count()
    ]


def metric_terms(results: Results, rows: pl.DataFrame, sign: int = 1) -> list[Term]:
    """The accuracy behind a mean over rows of the frame metrics that differ in their members alone, as a list of one.

    Args:
        results: a run, of one variant or flattened.
        rows: of final figures on test images, under one attack.
        sign: of the accuracy in the figure.
    """
    kept = _of_members(kept_of_metrics(results, rows.row(0, named=True)), rows)
    return [Term(sign, float(str(rows["accuracy"].mean())), kept)]


def negative(terms: Sequence[Term]) -> list[Term]:
    """The same accuracies, taken from a figure instead of added."""
    return [term._replace(sign=-term.sign) for term in terms]


def _of_members(kept: Mapping[Member, Kept] | None, members: pl.DataFrame) -> dict[Member, Kept] | None:
    if kept is None:
        return None
    return {member: kept[member] for member in members.select(MEMBER).iter_rows() if member in kept}


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
    terms = [term for term in terms if term.sampled]
    changed = _changed(terms)
    if changed is not None:
        return outcomes_part(changed)
    if not images or not terms:
        return None
    parts = [binomial_part(min(max(term.share, 0.0), 1.0), images) for term in terms]
    return Part(sum(part.variance for part in parts), parts[0].freedom)


def _changed(terms: Sequence[Term]) -> np.ndarray | None:
    """The figure of each seed and image, float64 [S, N], means over members; None where a term does not tell."""
    total: np.ndarray | None = None
    every: list[int] = []
    images: np.ndarray | None = None
    for term in terms:
        if not term.kept:
            return None
        own_images = common_images(list(term.kept.values()))
        if own_images is None or (images is not None and not np.array_equal(own_images, images)):
            return None
        images = own_images
        rights = [one.correct for one in term.kept.values()]
        if abs(sum(int(right.sum()) for right in rights) / (len(rights) * len(own_images)) - term.share) > 1e-9:
            return None
        seeds = sorted({seed for _, seed in term.kept})
        own = [[one.correct for (_, of), one in term.kept.items() if of == seed] for seed in seeds]
        values = term.sign * np.array([np.sum(each, 0, dtype=np.int64) / len(each) for each in own])
        if total is not None and every != seeds:
            return None
        total, every = values if total is None else total + values, seeds
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
    """A mean with the part of the test images, where that is known, beside those it has, and within what is possible.

    The one place that knows the bounds: a sum of accuracies, each from 0 to 1, lies between the number of those that
    are taken from it and of those that are added. So an accuracy is in [0, 1] and a difference of two in [-1, 1].
    """
    part = images_part(terms, images)
    parts = mean.parts if part is None else (*mean.parts, part)
    if not terms:
        return mean._replace(parts=parts)
    added = sum(term.sign > 0 for term in terms)
    return Mean(mean.value, parts, low=float(added - len(terms)), high=float(added))


def members_interval(rows: pl.DataFrame, value: str, terms: Sequence[Term], images: int | None) -> Interval:
    """`members_mean` with its 95 % interval: of the accuracy of a single member on test images Wilson's.

    Every accuracy and difference of the terminal and the report has this one, so that one figure has one interval.
    """
    if len(rows) == 1 and images and len(terms) == 1 and terms[0].sampled:
        share = float(rows[value][0])
        return Interval(share, *wilson(round(share * images), images))
    return members_mean(rows, value, terms, images).interval()
