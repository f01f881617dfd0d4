"""Image files and folders of them made up; for the tests of this folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    """The bytes of an image file, of pixels or of an image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def write_image(path: Path, pixels, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
    path.write_bytes(encoded(pixels, kind, **options))
    return path


def write_folder(path: Path, train=4, test=2, classes=("ant", "bee"), image=(8, 8, 3), parts=("train", "test")) -> Path:
    """PNG files of noise in train/CLASS and test/CLASS."""
    for part, count in zip(parts, (train, test), strict=True):
        for number, name in enumerate(classes):
            for each in range(count):
                pixels = noise(*image, seed=[part != parts[0], number, each])
                write_image(path / part / name / f"{each}.png", pixels)
    return path
