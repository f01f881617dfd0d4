"""Whether attacks made on small networks carry over to larger ones: judged against what is possible, and by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl

from atras.results import Results
from atras.rounding import counted, decimals

from .statistics import Interval, Mean, Part, Verdict, beyond, binomial_part

CERTAIN = 3
"""Standard errors of the test images that a network's own loss has to be above 0 to be divided by: what is hardly told
from nothing makes a ratio that can be anything (Fieller 1954, "Some problems in interval estimation")."""

CONTROL = "random-signs"
"""The attack without aim: each pixel by epsilon up or down, as chance has it."""


class TransferClaim(NamedTuple):
    """What became of the claim.

    Args:
        share: of a larger network's own white-box loss, what attacks from smaller ones cause, with its interval, from
            0 to 1; None where the own loss is too small to be divided by.
        verdict: whether it lies above the middle between the controls.
        text: the figures in words, or what is missing.
    """

    share: Interval | None
    verdict: Verdict
    text: str


def transfer_claim(results: Results) -> TransferClaim:
    """Judge small-to-large transfer by what the same attacks do on copies, and what random signs do.

    What can be expected of another network is at most what an attack on a copy achieves, the same architecture with
    another seed, and at least what random signs of the same size do. The claim holds where small-to-large lies above
    the middle of the two. Sources share targets, and all pairs of a seed its networks, so that whole seeds are left out
    one by one (jackknife); test images add what they add to a share of so many.

    A share below 0 (accuracy rises under the attack) counts as 0, one above 1 (the network's own attack is weaker than
    one from elsewhere, and so no measure) as 1, and the text says so.

    Args:
        results: a run.
    """
    pairs = transfer_effects(results)
    if not len(pairs):
        asked = "the run has no transfer between networks of a seed; a run with --transfer records it"
        return TransferClaim(None, "unresolved", asked)
    shares = _shares(pairs)
    up, down, copies = (shares[name] for name in ("up", "down", "copy"))
    if up is None:
        return TransferClaim(None, "unresolved", _why_no_share(pairs))
    told = f"from larger to smaller {_number(down)}; same architecture, other seed {_number(copies)}"
    noise = "not recorded, counted as 0" if shares["noise"] is None else _number(shares["noise"])
    what = "share of a larger network's own white-box loss that attacks from smaller ones cause"
    text = f"{what}{_outside(up)}; {told}; random signs {noise}"
    if copies is None:
        more = "to judge it, run with --transfer-seeds all and three seeds or more"
        return TransferClaim(_within(Interval(up, None, None)), "unresolved", f"{text}; {more}")
    share, above = (_jackknife(pairs, figure) for figure in (_up, _above_middle))
    if share.low is None:
        return TransferClaim(_within(share), "unresolved", f"{text}; for an interval, run with three seeds or more")
    return TransferClaim(
        _within(share), beyond(above, 1), f"{text}; holds above their middle, {decimals(_middle(shares) or 0.0, 3)}"
    )


def _number(share: float | None) -> str:
    return "-" if share is None else decimals(_bounded(share), 3)


def _bounded(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _within(share: Interval) -> Interval:
    """A share and its ends from 0 to 1."""
    return Interval(*(None if end is None else _bounded(end) for end in share))  # type: ignore[arg-type]


def _outside(share: float) -> str:
    """What a share that is none means; empty of others."""
    if share > 1:
        return (
            f" (they cause {decimals(share, 3)} times as much, which counts as 1: its own attacks are too weak to "
            "judge by, as where gradients are masked)"
        )
    return " (accuracy rises under them, which counts as 0)" if share < 0 else ""


def _why_no_share(pairs: pl.DataFrame) -> str:
    """Why nothing can be said of attacks from smaller networks on larger ones."""
    own, images = _own_loss(pairs.filter(_UP))
    if own is None:
        return "needs candidates of several sizes that trained"
    return (
        f"their own attacks cost the larger networks {decimals(own, 4)} of accuracy, which "
        f"{counted(images, 'test image')} hardly tell from nothing, and of which no share can be taken: take a larger "
        "epsilon, or more test images"
    )


_UP = pl.col("larger") & pl.col("same_seed") & ~pl.col("control")


def _own_loss(pairs: pl.DataFrame) -> tuple[float | None, int]:
    """The mean loss of the targets under their own attacks, and the images behind it; None of no pairs."""
    if pairs.is_empty():
        return None, 0
    return float(pairs["own_loss"].to_numpy().mean()), int(pairs["n"].to_numpy().min())


def _is_certain(own: float | None, images: int) -> bool:
    """Whether an own loss is clearly above nothing."""
    return own is not None and own > CERTAIN * math.sqrt(binomial_part(max(own, 0.0), images).variance)


def _shares(pairs: pl.DataFrame) -> dict[str, float | None]:
    """By kind the loss that attacks cause as a share of the targets' own; None where that is hardly more than nothing.

    As they are: also below 0 or above 1.
    """
    kinds = {
        "up": _UP,
        "down": (pl.col("larger") == False) & pl.col("same_seed") & ~pl.col("control"),  # noqa: E712 (null is neither)
        "copy": pl.col("larger").is_null() & ~pl.col("same_seed") & ~pl.col("control"),
        "noise": pl.col("control"),
    }
    found: dict[str, float | None] = {}
    for name, kind in kinds.items():
        own = pairs.filter(kind)
        mean, images = _own_loss(own)
        found[name] = float(own["loss"].to_numpy().mean()) / mean if mean and _is_certain(mean, images) else None
    return found


def _middle(shares: dict[str, float | None]) -> float | None:
    """Between the controls: what copies are turned by, and random signs."""
    copies = shares["copy"]
    return None if copies is None else (_bounded(copies) + _bounded(shares["noise"] or 0.0)) / 2


def _up(shares: dict[str, float | None]) -> float | None:
    return shares["up"]


def _above_middle(shares: dict[str, float | None]) -> float | None:
    up, middle = shares["up"], _middle(shares)
    return None if up is None or middle is None else up - middle


def _jackknife(pairs: pl.DataFrame, figure: Callable[[dict[str, float | None]], float | None]) -> Interval:
    """A figure with its interval over seeds and images; without ends below three seeds.

    Source: Efron and Stein, "The jackknife estimate of variance" (1981).
    """
    value = figure(_shares(pairs)) or 0.0
    seeds = pairs["seed"].unique().to_list()
    left_out = [figure(_shares(pairs.filter(pl.col("seed") != s, pl.col("source_seed") != s))) for s in seeds]
    known = [part for part in left_out if part is not None]
    if len(known) < max(len(seeds), 3):
        return Interval(value, None, None)
    spread = float(np.var(known)) * (len(seeds) - 1)
    parts = [Part(spread, len(seeds) - 1)]
    own, images = float(pairs["own_loss"].to_numpy().mean()), int(pairs["n"].to_numpy().min())
    if own > 0:
        of_images = binomial_part(min(abs(value) * own, 1.0), images)
        parts.append(Part(of_images.variance / own**2, of_images.freedom))
    return Mean(value, tuple(parts)).interval()


def transfer_effects(results: Results) -> pl.DataFrame:
    """The accuracy that each attack of `--transfer` costs its target, beside the cost of the target's own attacks, on
    trained models at the run's epsilon, over members that trained.

    Returns:
        Columns source, source_seed, target, seed, larger (whether the target has more parameters; null for a copy of
        the source; pairs of equal size are left out), same_seed, control (whether the attack is random signs), n (test
        images), loss (clean accuracy less accuracy under the source's attack) and own_loss.
    """
    clean = results.table.filter(pl.col("status") == "trained").select(
        "hidden_layers", "seed", "parameters", clean="test_accuracy"
    )
    rows = _recorded(results)
    target, source = ["target_hidden_layers", "seed"], ["source_hidden_layers", "source_seed"]
    # A dead network's own attack turns nothing, and its images are no attack on others.
    rows = rows.join(clean, left_on=target, right_on=["hidden_layers", "seed"])
    sizes = clean.select("hidden_layers", "seed", source_parameters="parameters")
    rows = rows.join(sizes, left_on=source, right_on=["hidden_layers", "seed"])
    rows = rows.with_columns(
        loss=pl.col("clean") - pl.col("accuracy"),
        copy=pl.col("source_hidden_layers") == pl.col("target_hidden_layers"),
        same_seed=pl.col("source_seed") == pl.col("seed"),
        control=pl.col("attack").str.split("(").list.first() == CONTROL,
    )
    own = rows.filter(pl.col("copy"), pl.col("same_seed"), ~pl.col("control"))
    of_attack = own.select(*target, "attack", "label_source", own_loss="loss")
    of_all = own.group_by(target).agg(pl.col("loss").mean().alias("mean_loss"))
    rows = rows.join(of_attack, on=[*target, "attack", "label_source"], how="left", nulls_equal=True)
    rows = rows.join(of_all, on=target).with_columns(
        own_loss=pl.when(pl.col("control")).then(pl.col("mean_loss")).otherwise(pl.col("own_loss"))
    )
    difference = pl.col("parameters") - pl.col("source_parameters")
    other_copy = pl.col("copy") & ~pl.col("same_seed")
    return rows.filter(other_copy | (~pl.col("copy") & (difference != 0)), pl.col("own_loss").is_not_null()).select(
        pl.col("source_hidden_layers").alias("source"),
        "source_seed",
        pl.col("target_hidden_layers").alias("target"),
        "seed",
        pl.when(~pl.col("copy")).then(difference > 0).alias("larger"),
        "same_seed",
        "control",
        "n",
        "loss",
        "own_loss",
    )


def _recorded(results: Results) -> pl.DataFrame:
    """Rows of frame `transfer` that `--transfer` alone records, of trained models at the run's epsilon."""
    plain = pl.col("surrogate").is_null() & (pl.col("target") == "none") & (pl.col("source_phase") == pl.col("phase"))
    rows = results.transfer.filter(plain, phase="trained")
    epsilon = results.run["protocol"].get("epsilon")
    own = rows.filter(pl.col("epsilon") == epsilon) if epsilon is not None else rows
    return own if len(own) else rows
