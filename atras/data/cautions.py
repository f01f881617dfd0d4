"""What about a data set makes the figures on it say less than they seem to, a line each. Known before any training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from atras.rounding import decimals

FAR = 0.05
"""Total variation between class shares from which on it is told: a classifier of equal recall on both parts may be so
much more accurate on one of them. The parts of the named data sets, and their first 5,000, stay below 0.03."""

CHANCE = 1e-3
"""Probability that class shares as far apart as is told come of drawing the parts at random."""

ODDS = 3.0
"""Odds of the most frequent class against the even ones (1 to classes - 1) from which on plain accuracy misleads: a
quarter of the images for 10 classes, three quarters for 2."""

HALF = 0.5
"""Share of the range of pixels that the brightest one should reach."""

NAMED = 10
"""Most classes that one caution names."""


class Part(NamedTuple):
    """The images of a part that are taken.

    Args:
        name: `training` or `test`.
        counts: [Y], of each class.
        whole: [Y], likewise of all images that the part has.
    """

    name: str
    counts: np.ndarray
    whole: np.ndarray

    @property
    def size(self) -> int:
        """Images taken."""
        return int(self.counts.sum())


def data_cautions(
    train: Part, test: Part, brightest: Mapping[str, tuple[float, float]], names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Cautions about a data set.

    Args:
        train, test: its parts.
        brightest: for each array of images, by its name, the highest value and the value that stands for white.
        names: of the classes, in the order of the labels; empty where they have none.
    """
    return (
        *_empty(train, test, names),
        *_missing(train, test, names),
        *_missing(test, train, names),
        *_far(train, test, names),
        *_majority(test, names),
        *_dark(brightest),
    )


def _empty(train: Part, test: Part, names: Sequence[str]) -> Iterator[str]:
    """Classes that only the numbering has: labels from 1, or with gaps."""
    whole = train.whole + test.whole
    empty = np.flatnonzero(whole == 0)
    if len(empty):
        yield (
            f"data: the classes are 0 to {len(whole) - 1}, but no image is of {_classes(empty, names)}; "
            "attacks aim at classes that training images have; number the classes from 0 without gaps"
        )


def _missing(part: Part, other: Part, names: Sequence[str]) -> Iterator[str]:
    """Classes that a part lacks though the other part, or what was not taken, has them."""
    whole = part.whole + other.whole
    missing = np.flatnonzero((part.counts == 0) & (whole > 0))
    if not len(missing):
        return
    there, count = f"the {other.size} {other.name} images taken", int(other.counts[missing].sum())
    if not count:
        there, count = f"all {int(whole.sum())} images", int(whole[missing].sum())
    which = f"no {part.name} image of {part.size} is of {_classes(missing, names)}, but {count} of {there} are"
    yield f"data: {which}; {_advice(part)}"


def _far(train: Part, test: Part, names: Sequence[str]) -> Iterator[str]:
    """Class shares that are further apart than chance explains; where a part lacks classes that is said already."""
    pairs = [
        (train.name, train.counts, test.name, test.counts),
        *((part.name, part.counts, f"available {part.name}", part.whole) for part in (train, test)),
    ]
    for name, counts, other, others in pairs:
        if ((counts == 0) != (others == 0)).any():
            continue
        shares, other_shares = counts / counts.sum(), others / others.sum()
        distance = 0.5 * float(np.abs(shares - other_shares).sum())
        if distance > max(FAR, explained_by_chance(counts, others)):
            most = int(np.abs(shares - other_shares).argmax())
            part = train if name == train.name else test
            yield (
                f"data: class shares of the {name} and the {other} images are {distance:.2f} apart (total variation), "
                f"most in class {_class(most, names)}: {counts[most]} of {counts.sum()}, {others[most]} of "
                f"{others.sum()}; accuracies may differ by that alone; {_advice(part)}"
            )
            return


def explained_by_chance(counts: np.ndarray, others: np.ndarray) -> float:
    """Total variation that the class shares of two random samples of one set stay below, but for CHANCE.

    Args:
        counts, others: [Y], images of each class in either sample.

    Source: the mean is at most half the sum of the standard deviations of the differences (Jensen), and one image moves
    the distance by at most 1 / n, so that McDiarmid's inequality (1989) bounds its excess; no approximation for few
    images of a class is needed.
    """
    pooled = (counts + others) / (counts.sum() + others.sum())
    scale = 1 / counts.sum() + 1 / others.sum()
    mean = 0.5 * math.sqrt(scale) * float(np.sqrt(pooled * (1 - pooled)).sum())
    return mean + math.sqrt(0.5 * scale * math.log(1 / CHANCE))


def _majority(test: Part, names: Sequence[str]) -> Iterator[str]:
    """A class so frequent that a network that always answers it looks good."""
    classes, most = int((test.counts > 0).sum()), int(test.counts.argmax())
    count = int(test.counts[most])
    # Odds of share to rest above ODDS times 1 to classes - 1.
    if classes > 1 and count * (classes - 1) >= ODDS * (test.size - count):
        yield (
            f"data: {count} of {test.size} test images are of class {_class(most, names)}, so that always "
            f"answering it has accuracy {decimals(count / test.size, 4)}; read balanced_accuracy; a search and atras "
            "export rank by it with --rank-by balanced"
        )


def _dark(brightest: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Images that use a small part of the range in which epsilon is measured."""
    dark = {name: found for name, found in brightest.items() if found[0] < HALF * found[1]}
    # By one factor, or none: scaled apart, the parts would no longer be alike.
    highest = max(value / white for value, white in brightest.values())
    for name, (value, white) in dark.items():
        kind, how = ("uint8", "multiply by {:.6g} and round") if white > 1 else ("float", "multiply by {:.6g}")
        advice = f"; {how.format(1 / highest)}" if 0 < highest < HALF else ""
        yield (
            f"data: the brightest pixel of {name} is {value:.6g} of {white:g} ({kind}), {value / white:.3g} of the "
            f"range that epsilon is measured in{advice}"
        )


def _advice(part: Part) -> str:
    if part.size == part.whole.sum():
        return "mix the parts, and split them anew"
    size = "--train-size" if part.name == "training" else "--test-size"
    return f"add --subset stratified, or {size} all"


def _class(number: int, names: Sequence[str]) -> str:
    """Such as `3 (cat)`."""
    return f"{number} ({names[number]})" if number < len(names) else str(number)


def _classes(classes: Sequence[int] | np.ndarray, names: Sequence[str]) -> str:
    """Such as `class 5` or `classes 0 (ant), 3 (bee) and 7 (fly)`."""
    texts = [_class(int(each), names) for each in classes[:NAMED]]
    if len(classes) > NAMED:
        return f"classes {', '.join(texts)} and {len(classes) - NAMED} more"
    return f"class {texts[0]}" if len(texts) == 1 else f"classes {', '.join(texts[:-1])} and {texts[-1]}"
