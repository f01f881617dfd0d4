"""What networks lose image by image: paired tests, and agreement between networks."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
from scipy import special

from atras.checks import whole
from atras.errors import InputError
from atras.results import Results

from .meanings import other_meaning
from .statistics import holm, worst_case

MEMBER = ["hidden_layers", "seed"]


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p value that two networks lose images equally often, from those that only one of them loses.

    Args:
        only_a, only_b: images that the one loses and the other keeps, at least 0.

    Raises:
        InputError: if one is no count.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions" (1947); exact by the
    binomial distribution.
    """
    for name, value in (("only_a", only_a), ("only_b", only_b)):
        whole(name, value, 0, 2**53)
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def image_pairs(results: Results, phase: str | None = None) -> pl.DataFrame:
    """Every two candidates of a run on the same images and with the same seed, under the worst case over attacks.

    The p value takes images for independent, and the two networks as they are: it says whether *these networks* differ,
    not whether their architectures do, for which seeds have to vary.

    Args:
        results: a run with outcomes.
        phase: `trained` or `defended`; None for that of the networks that the run ends with.

    Returns:
        Columns seed, a, b (hidden layers), images, both (that both lose), only_a, only_b (that one alone loses),
        agreement (share of images that both lose or both keep), p (McNemar) and p_holm (corrected for their number).

    Raises:
        InputError: as `worst_case`.
    """
    lost = _lost(results, phase)
    pairs = [(a, b) for a, b in itertools.combinations(lost, 2) if a[1] == b[1]]
    return _tested([(a[1], a[0], b[0], *_counted(lost[a], lost[b])) for a, b in pairs], ("seed", "a", "b"))


def compare_images(a: Results, b: Results, phase: str | None = None) -> pl.DataFrame:
    """Every member that two runs on the same test images have in common, as `image_pairs`.

    Args:
        a, b: runs with outcomes.
        phase: `trained` or `defended`; None for the networks that each run ends with.

    Returns:
        Columns hidden_layers, seed, images, both, only_a, only_b, agreement, p, p_holm, as in `image_pairs`; p and
        p_holm are null where the runs' attacks differ, which then lose other images for that alone.

    Raises:
        InputError: as `worst_case`, or if the runs have different numbers of images.
    """
    left, right = _lost(a, phase), _lost(b, phase)
    frame = _tested(
        [(*key, *_counted(left[key], right[key])) for key in left if key in right], ("hidden_layers", "seed")
    )
    if not other_meaning(a, b, a.final.worst):  # which holds for both phases
        return frame
    return frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("p", "p_holm"))


def _lost(results: Results, phase: str | None) -> dict[tuple[str, int], np.ndarray]:
    """Of each member which test images it loses, in their order."""
    parts = worst_case(results, phase).group_by(MEMBER, maintain_order=True)
    return {(str(name), int(str(seed))): ~part.sort("image")["correct"].to_numpy() for (name, seed), part in parts}


def _counted(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int, int, float, float]:
    if len(a) != len(b):
        raise InputError(f"outcomes: expected the same test images, got {len(a)} and {len(b)}; name other runs")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return len(a), int((a & b).sum()), only_a, only_b, float((a == b).mean()), mcnemar(only_a, only_b)


def _tested(rows: list[tuple[object, ...]], keys: tuple[str, ...]) -> pl.DataFrame:
    types = {key: pl.Int64 if key == "seed" else pl.String for key in keys}
    counts = dict.fromkeys(("images", "both", "only_a", "only_b"), pl.Int64)
    frame = pl.DataFrame(rows, schema=types | counts | {"agreement": pl.Float64, "p": pl.Float64}, orient="row")
    return frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_list()), pl.Float64))
