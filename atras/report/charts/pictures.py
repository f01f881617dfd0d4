"""Galleries of small images, and images as PNG in the address of the page itself."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """One test image before and under attack, and the classes it is taken for.

    Args:
        image: its index.
        label: its class, by number or name.
        clean_prediction, attacked_prediction: the classes it is taken for, before and under attack.
        clean, change, attacked: data URIs of the image, of what the attack changes, and of the attacked image.
        size: of the change, and how many times larger it is shown.
    """

    image: int
    label: str
    clean_prediction: str
    attacked_prediction: str
    clean: str
    change: str
    attacked: str
    size: str = ""


@dataclass(frozen=True)
class Gallery:
    """The pictures of one network under one attack.

    Args:
        title: names the network and the attack.
        pictures: in order.
    """

    title: str
    pictures: tuple[Picture, ...]


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image as the address of a PNG file that holds it.

    Args:
        image: pixels [C, H, W]; grey where C is not 3.

    Returns:
        A data URI.
    """
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file.

    Args:
        image: pixels [C, H, W]; only its first channel where C is not 3.

    Returns:
        The content of the file.

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
