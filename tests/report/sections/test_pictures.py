"""The section of pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import polars as pl

from atras.report.sections.pictures import galleries
from atras.results.results import Results


def test_pictures_show_image_direction_and_sum(full: Results) -> None:
    from PIL import Image

    gallery = galleries(full)[0]
    name = gallery.title.split(",")[0]
    row = full.examples.filter(pl.col("hidden_layers") == name).row(0, named=True)
    content = base64.b64decode(gallery.pictures[0].attacked.partition(",")[2])
    clean = np.frombuffer(row["pixels"], np.uint8).reshape(8, 8)
    signs = np.frombuffer(row["signs"], np.int8).reshape(8, 8)
    expected = np.rint(np.clip(clean / 255 + 0.05 * signs, 0, 1) * 255)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)
