"""Images as PNG."""

from __future__ import annotations

import io

import numpy as np
import pytest

from atras.report.charts import pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(pictures.png(image))))
    assert np.array_equal(read, image[0] if channels == 1 else np.moveaxis(image, 0, -1))
