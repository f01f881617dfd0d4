"""One image file, such as a JPEG or a PNG, decoded by Pillow to pixels of 8 bits."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atras.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is opened, by content: Pillow knows more, of which some run other programs."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .ppm .pgm .pbm .bmp .tif .tiff .webp .gif".split()  # noqa: SIM905 (they read better so)
)
"""Endings of image files, in lower case."""

MAX_IMAGE_BYTES = 2**28
"""Most bytes of an image file."""

MAX_PIXELS = 89_478_485
"""Most pixels of an image: the number from which on Pillow warns of a decompression bomb (256 MiB of RGB)."""

DECODER = 1
"""Raised when the same file comes to have other pixels here."""

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class BrokenImageError(Exception):
    """An image that cannot be decoded; its text is the reason."""


class Picture(NamedTuple):
    """A decoded image.

    Args:
        pixels: uint8 [C, H, W], C = 1 where it is stored as grey, else 3: red, green, blue.
        animated: whether it is the first of several frames.
        transparent: whether it has pixels that are not opaque; they are laid on black.
    """

    pixels: np.ndarray
    animated: bool
    transparent: bool


def pillow() -> Any:
    """Pillow's module `Image`, with the readers of all formats.

    Raises:
        InputError: if it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"images: expected the package Pillow, which decodes them, its import failed ({error}); install it with "
            "pip install pillow"
        ) from None
    Image.init()  # here and not by the first of several threads
    return Image


def decode(content: bytes, where: str, size: int | None) -> Picture:
    """Decode an image as its viewer shows it: EXIF's orientation is applied, 16 bits are scaled to 8.

    Args:
        content: of the file.
        where: its name, for messages.
        size: side of the square that it is brought to: resized by its shorter side (bilinear, antialiased), then
            cropped at the centre, as torchvision's `Resize` and `CenterCrop` do; None to leave it.

    Raises:
        BrokenImageError: if it cannot be decoded.
        InputError: if it has more pixels than are decoded.
    """
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image.size, where)
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise BrokenImageError(f"its pixels are {'floats' if image.mode == 'F' else '32-bit integers'}")
            plain, transparent = _eight_bits(_upright(image))
            if size is not None:
                plain = _cropped(plain, size)
            return Picture(_planes(plain), _animated(image), transparent)
    except (InputError, BrokenImageError, MemoryError):
        raise
    except image_module.DecompressionBombError:
        raise InputError(_bomb(where, "more")) from None
    except Exception as error:
        raise BrokenImageError(_reason(error)) from error


def _check_pixels(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(_bomb(where, f"{size[0]} x {size[1]}"))


def _bomb(where: str, got: str) -> str:
    return (
        f"{where}: expected an image of at most {MAX_PIXELS} pixels, got {got} (a decompression bomb is like that); "
        "make it smaller, or remove it"
    )


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    # What cannot be read of its EXIF data leaves an image as it is stored.
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image) or image
    return image


def _eight_bits(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image of mode L or RGB, and whether it has pixels that are not opaque."""
    kind = "L" if image.mode in _GREY or _has_grey_palette(image) else "RGB"
    if image.mode.startswith("I"):
        return _scaled(image), False
    if image.mode not in _ALPHA and "transparency" not in image.info:
        return image.convert(kind), False
    with_alpha = np.asarray(image.convert("LA" if kind == "L" else "RGBA")).astype(np.uint32)
    colours, alpha = with_alpha[..., :-1], with_alpha[..., -1:]
    on_black = ((colours * alpha + 127) // 255).astype(np.uint8)
    return _image_of(on_black[..., 0] if kind == "L" else on_black), bool((alpha < 255).any())


def _has_grey_palette(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    colours = np.array(image.getpalette("RGB") or [0, 0, 1], np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit grey, rounded to 8 bits."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise BrokenImageError("its pixels are 32-bit integers")
    return _image_of(((values + 128) // 257).astype(np.uint8))


def _image_of(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _cropped(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    width, height = image.size
    if min(width, height) != size:
        longer = int(size * max(width, height) / min(width, height))
        if longer * size > MAX_PIXELS:
            raise BrokenImageError(f"it is {width} x {height}, too long for a square")
        width, height = (size, longer) if width <= height else (longer, size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image if width == height else image.crop((left, top, left + size, top + size))


def _planes(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _animated(image: Image.Image) -> bool:
    # Cameras store previews behind a photograph (MPO): no frames.
    if image.format == "MPO":
        return False
    with contextlib.suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Pillow names the object that it read from, which says nothing.
    return "it is no image" if "cannot identify" in text else (text or type(error).__name__)[:120]
