"""The section of pictures: test images, what the attack changes in them, and what the networks take them for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atras.analysis import attack_aim
from atras.report.charts import Gallery, Picture, data_uri
from atras.report.section import Section
from atras.results import Results

from .population import evenly_chosen, phase_texts

MOST_CANDIDATES = 3
MOST_IMAGES = 5
MOST_GALLERIES = 18
"""Most galleries: with several attacks they are of fewer candidates."""


def pictures(results: Results) -> Section:
    """Images before and under each attack for a few candidates.

    Args:
        results: the run.

    Returns:
        The section.
    """
    shown = galleries(results)
    if not shown:
        return Section(
            "pictures",
            "Pictures",
            ("No pictures: no network of the first seed trained, or the images are too large for so many candidates.",),
        )
    text = (
        "Test images, the first ones of every class in turn, attacked on few networks, the largest among them; those "
        "that the network takes for the right class come first. The image, what the attack changes (grey: nothing, "
        "black: darker, white: brighter; magnified as written below, beside the size of the change), and their sum."
    )
    return Section("pictures", "Pictures", (text,), galleries=shown, detail=True)


def galleries(results: Results) -> tuple[Gallery, ...]:
    """The first images of few candidates, the largest among them, before and after the defence, under each attack.

    Args:
        results: the run.

    Returns:
        A gallery for each candidate, phase and attack that has examples.
    """
    shape, classes = _shape(results), results.run.get("data", {}).get("class_names") or ()
    examples = results.examples.filter(pl.col("pixels").bin.size() == math.prod(shape))
    attacks = examples.select(_label().unique(maintain_order=True)).to_series().to_list()
    attacks = evenly_chosen(attacks, MOST_GALLERIES // 2)
    sizes = dict(results.table.select("hidden_layers", "parameters").iter_rows())
    names = sorted(examples["hidden_layers"].unique(maintain_order=True), key=lambda name: sizes.get(name, 0))
    most = max(1, min(MOST_CANDIDATES, MOST_GALLERIES // max(1, 2 * len(attacks))))
    shown = []
    for name in evenly_chosen(names, most) if most > 1 else names[-1:]:
        for (phase, text), attack in itertools.product(phase_texts(results).items(), attacks):
            own = examples.filter(_label() == attack, hidden_layers=name, phase=phase)
            rows = own.sort(pl.col("clean_prediction") != pl.col("label"), "image").head(MOST_IMAGES)
            if len(rows):
                of_rows = tuple(_picture(row, shape, classes) for row in rows.to_dicts())
                shown.append(Gallery(f"{name}, {text}, {attack}", of_rows))
    return tuple(shown)


def _label() -> pl.Expr:
    """The attack, what it is bounded by and what it aims at, such as `pgd at linf 0.05, towards random`."""
    epsilon = pl.col("epsilon").map_elements("{:g}".format, return_dtype=pl.String)
    bound = pl.when(pl.col("epsilon").is_null()).then(pl.lit("")).otherwise(pl.format(" at {} {}", "norm", epsilon))
    return pl.concat_str("attack", bound, attack_aim())


def _shape(results: Results) -> tuple[int, ...]:
    shape = results.run.get("data", {}).get("image_shape") or results.run.get("model", {}).get("image_shape")
    return tuple(shape) if shape else (1, 0, 0)


def _picture(row: dict[str, Any], shape: tuple[int, ...], classes: Sequence[str]) -> Picture:
    clean = np.frombuffer(row["pixels"], np.uint8).reshape(shape)
    change = np.frombuffer(row["change"], np.float16).astype(np.float64).reshape(shape)
    most = float(np.abs(change).max())
    size = f"{row['norm']} {_norm(change, row['norm']):.3g}, shown {0.5 / most:.3g} times" if most else "not moved"
    return Picture(
        row["image"],
        _class(row["label"], classes),
        _class(row["clean_prediction"], classes),
        _class(row["attacked_prediction"], classes),
        _uri(clean),
        _uri(127.5 * (1 + change / (most or 1.0))),
        _uri(255 * np.clip(clean / 255 + change, 0, 1)),
        size,
    )


def _norm(change: NDArray[np.float64], norm: str) -> float:
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return float(np.linalg.norm(change.ravel(), order))


def _class(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def _uri(image: NDArray[Any]) -> str:
    return data_uri(np.rint(image).astype(np.uint8))
