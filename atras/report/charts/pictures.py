"""Images, what an attack changes in them, and what the networks take them for."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atras.results.results import Results

MOST_CANDIDATES = 3
MOST_IMAGES = 5


@dataclass(frozen=True)
class Picture:
    """One test image before and under attack, as data URIs, and the classes it is taken for."""

    image: int
    label: int
    clean_prediction: int
    attacked_prediction: int
    clean: str
    change: str
    attacked: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of one network."""

    title: str
    pictures: tuple[Picture, ...]


def galleries(results: Results) -> tuple[Gallery, ...]:
    """The first images of the smallest, the middle and the largest candidate, before and after the defence."""
    examples, shape = results.examples, _shape(results)
    sizes = dict(results.table.select("hidden_layers", "parameters").iter_rows())
    names = sorted(examples["hidden_layers"].unique(maintain_order=True), key=lambda name: sizes.get(name, 0))
    found = []
    for name in _spread(names):
        for phase, text in (("trained", "before the defence"), ("defended", "after the defence")):
            chosen = pl.col("hidden_layers").eq(name) & pl.col("phase").eq(phase)
            rows = examples.filter(chosen).sort("image").head(MOST_IMAGES).iter_rows(named=True)
            pictures = tuple(_picture(row, shape) for row in rows if len(row["pixels"]) == np.prod(shape))
            if pictures:
                found.append(Gallery(f"{name}, {text}", pictures))
    return tuple(found)


def _shape(results: Results) -> tuple[int, ...]:
    shape = results.run.get("data", {}).get("image_shape") or results.run.get("model", {}).get("image_shape")
    return tuple(shape) if shape else (1, 0, 0)


def _spread(names: list[str]) -> list[str]:
    if len(names) <= MOST_CANDIDATES:
        return names
    return [names[index * (len(names) - 1) // (MOST_CANDIDATES - 1)] for index in range(MOST_CANDIDATES)]


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


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image [C, H, W] as the address of a PNG; grey where C is not 3."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: NDArray[np.uint8]) -> bytes:
    """An image [C, H, W] as a PNG file; its first channel alone where C is not 3.

    Source: W3C, "Portable Network Graphics (PNG) Specification", third edition.
    """
    colour = image.shape[0] == 3
    pixels = np.moveaxis(image if colour else image[:1], 0, -1)
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
    header = struct.pack(">2I5B", width, height, 8, 2 if colour else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
