"""The figures of attacks that can be held against each other: at the true label, in one norm, at one epsilon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from atras.attacks import ATTACKS, Attack
from atras.errors import InputError
from atras.registry import name_of
from atras.results import Results

from .attack_names import attack_name
from .bounds import ball_text
from .population import last_test_metrics

PHASES = {"trained": "undefended", "defended": "defended"}


class Ball(NamedTuple):
    """What attacks were bounded by, and their figures.

    Args:
        norm, epsilon: of the bound.
        own: whether the epsilon is the run's.
        rows: of the frame metrics, with depth and parameters.
    """

    norm: str
    epsilon: float
    own: bool
    rows: pl.DataFrame

    @property
    def text(self) -> str:
        """Such as `L-infinity 8/255`."""
        return ball_text(self.norm, self.epsilon)


def known_attack(spelling: str) -> Attack | None:
    """The attack of a spelling.

    Args:
        spelling: as a frame has it.

    Returns:
        None where there is no such attack here, such as the worst case, or one of another package.
    """
    try:
        return ATTACKS.parse(spelling) if name_of(spelling) in ATTACKS else None
    except InputError:
        return None


def balls(results: Results) -> Iterator[Ball]:
    """The bounds of a run: of each norm the run's own epsilon, one in linf, then the others, the largest first.

    Args:
        results: the run.

    Yields:
        Each with the figures of its attacks on the members that trained, the worst case among them.
    """
    own = results.run["protocol"].get("epsilon")
    rows = last_test_metrics(results).filter(
        attack_name() != "none",
        pl.col("epsilon") > 0,
        (pl.col("mode") == "white-box") & (pl.col("label_source") == "true"),
        pl.col("target").fill_null("none") == "none",
    )
    for (norm,), found in rows.group_by("norm", maintain_order=True):
        strengths = found["epsilon"].unique().sort(descending=True).to_list()
        strengths.sort(key=lambda epsilon: norm != "linf" or epsilon != own)
        for epsilon in strengths:
            of_run = norm == "linf" and epsilon == own
            yield Ball(str(norm), epsilon, of_run, found.filter(pl.col("epsilon") == epsilon))


def mean_accuracies(rows: pl.DataFrame) -> dict[str, float]:
    """The attacks of a ball by their mean accuracy, the weakest first.

    Args:
        rows: of the ball.

    Returns:
        Accuracy by spelling.
    """
    means = rows.group_by("attack", maintain_order=True).agg(pl.col("accuracy").mean())
    return dict(means.sort("accuracy", descending=True, maintain_order=True).iter_rows())
