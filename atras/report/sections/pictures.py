"""The section of pictures: test images, what the attack changes in them, and what the networks take them for."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from atras.report.charts import Gallery, Picture, data_uri
from atras.report.section import Section
from atras.results import Results

from .population import evenly_chosen

MOST_CANDIDATES = 3
MOST_IMAGES = 5


def pictures(results: Results) -> Section:
    """Images before and under attack for a few candidates.

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
        "Test images, the first ones of every class in turn, attacked on the smallest, the middle and the largest "
        "network: the image, the direction in which FGSM moves each pixel (black down, white up), and the sum of both "
        "at the run's epsilon."
    )
    return Section("pictures", "Pictures", (text,), galleries=shown)


def galleries(results: Results) -> tuple[Gallery, ...]:
    """The first images of the smallest, the middle and the largest candidate, before and after the defence.

    Args:
        results: the run.

    Returns:
        A gallery for each candidate and phase that has examples.
    """
    examples, shape = results.examples, _shape(results)
    sizes = dict(results.table.select("hidden_layers", "parameters").iter_rows())
    names = sorted(examples["hidden_layers"].unique(maintain_order=True), key=lambda name: sizes.get(name, 0))
    shown = []
    for name in evenly_chosen(names, MOST_CANDIDATES):
        for phase, text in (("trained", "before the defence"), ("defended", "after the defence")):
            chosen = pl.col("hidden_layers").eq(name) & pl.col("phase").eq(phase)
            rows = examples.filter(chosen).sort("image").head(MOST_IMAGES).iter_rows(named=True)
            of_phase = tuple(_picture(row, shape) for row in rows if len(row["pixels"]) == np.prod(shape))
            if of_phase:
                shown.append(Gallery(f"{name}, {text}", of_phase))
    return tuple(shown)


def _shape(results: Results) -> tuple[int, ...]:
    shape = results.run.get("data", {}).get("image_shape") or results.run.get("model", {}).get("image_shape")
    return tuple(shape) if shape else (1, 0, 0)


def _picture(row: dict[str, Any], shape: tuple[int, ...]) -> Picture:
    clean = np.frombuffer(row["pixels"], np.uint8).reshape(shape)
    signs = np.frombuffer(row["signs"], np.int8).reshape(shape)
    attacked = np.clip(clean / 255 + row["epsilon"] * signs, 0, 1) * 255
    change = 127.5 * (signs.astype(np.float64) + 1)
    return Picture(
        row["image"],
        row["label"],
        row["clean_prediction"],
        row["attacked_prediction"],
        *(data_uri(np.rint(image).astype(np.uint8)) for image in (clean, change, attacked)),
    )
