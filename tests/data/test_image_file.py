"""One image file: what its pixels are, whatever it stores them as, and why it may be broken."""

from __future__ import annotations

import builtins
import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from atras.data.image_file import MAX_PIXELS, BrokenImageError, decode
from atras.errors import InputError
from made_images import encoded, noise


def pixels(content, size=None):
    return decode(content, "x.png", size).pixels


def shown(image):
    """The pixels of an image without transparency, as [C, H, W]."""
    found = np.asarray(image)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


class TestModes:
    def test_grey_is_one_channel_and_colour_three(self):
        grey, colour = noise(5, 7), noise(5, 7, 3)
        assert np.array_equal(pixels(encoded(grey)), grey[None])
        assert np.array_equal(pixels(encoded(colour)), colour.transpose(2, 0, 1))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bits_are_scaled_and_not_clipped(self, kind):
        values = np.array([[0, 127, 128, 129, 257, 65_535], [300, 385, 386, 32_768, 65_000, 65_407]], np.uint16)
        expected = np.floor(values / 257 + 0.5).astype(np.uint8)
        assert np.array_equal(pixels(encoded(values, kind)), expected[None])

    def test_sixteen_bits_of_colour_are_scaled(self):
        values = np.array([[[0, 65_535, 0x8000], [0x1234, 0xFE00, 0x00FF]]], ">u2")
        content = colour_png(values)
        assert np.abs(pixels(content).transpose(1, 2, 0).astype(int) - values / 257).max() <= 1

    def test_truth_values_are_black_and_white(self):
        bits = noise(4, 9) > 99
        assert np.array_equal(pixels(encoded(Image.fromarray(bits))), 255 * bits[None].astype(np.uint8))

    def test_cmyk_is_red_green_and_blue(self):
        image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
        assert pixels(encoded(image, "JPEG"))[:, 8, 8] == pytest.approx([0, 255, 255], abs=6)
        assert np.array_equal(pixels(encoded(image, "TIFF"))[:, 8, 8], [0, 255, 255])

    def test_a_palette_is_its_colours(self):
        image = Image.fromarray(noise(6, 6, 3)).quantize(8)
        assert np.array_equal(pixels(encoded(image)), shown(image.convert("RGB")))

    def test_a_palette_of_greys_is_grey(self):
        image = Image.fromarray(noise(6, 6)).convert("P")
        assert image.mode == "P"
        assert np.array_equal(pixels(encoded(image)), shown(image.convert("L")))

    def test_transparent_pixels_are_laid_on_black(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 250])
        image.putdata([0, 1])
        found = decode(encoded(image, transparency=bytes([0, 255])), "x.png", None)
        assert (found.pixels[:, 0].T.tolist(), found.transparent) == ([[0, 0, 0], [0, 0, 250]], True)

    def test_half_transparent_grey_stays_grey(self):
        image = Image.fromarray(np.array([[[200, 255], [200, 51]]], np.uint8), "LA")
        found = decode(encoded(image), "x.png", None)
        assert (found.pixels.tolist(), found.transparent) == ([[[200, 40]]], True)

    def test_opaque_pixels_are_not_called_transparent(self):
        opaque = np.dstack([noise(3, 3, 3), np.full((3, 3), 255, np.uint8)])
        found = decode(encoded(opaque), "x.png", None)
        assert (np.array_equal(found.pixels, opaque[..., :3].transpose(2, 0, 1)), found.transparent) == (True, False)

    @pytest.mark.parametrize("kind", [np.float32, np.int32])
    def test_other_numbers_are_refused(self, kind):
        with pytest.raises(BrokenImageError, match=r"its pixels are (floats|32-bit integers)"):
            pixels(encoded(np.ones((3, 3), kind), "TIFF"))

    def test_the_first_frame_of_an_animation_is_taken_and_told(self):
        first, second = (Image.fromarray(noise(5, 5, seed=seed)) for seed in (0, 1))
        content = io.BytesIO()
        first.save(content, "GIF", save_all=True, append_images=[second])
        found = decode(content.getvalue(), "x.gif", None)
        assert (np.array_equal(found.pixels, shown(first)), found.animated) == (True, True)
        assert not decode(encoded(first, "GIF"), "x.gif", None).animated

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_orientation_that_a_camera_notes_is_applied(self, orientation):
        stored = noise(4, 6, 3)
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = {
            1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
            5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1), 7: np.rot90(stored, 2).swapaxes(0, 1),
            8: np.rot90(stored),
        }[orientation]  # fmt: skip
        assert np.array_equal(pixels(encoded(stored, exif=exif)), upright.transpose(2, 0, 1))

    def test_damaged_notes_of_a_camera_do_no_harm(self):
        stored = noise(4, 6, 3)
        assert np.array_equal(pixels(encoded(stored, exif=b"Exif\0\0nonsense")), stored.transpose(2, 0, 1))


class TestSize:
    @pytest.mark.parametrize("shape", [(20, 33, 3), (33, 20, 3), (7, 50), (64, 64, 3), (16, 41), (5, 5, 3)])
    def test_it_is_resized_and_cropped_as_torchvision_does(self, shape):
        stored = noise(*shape)
        expected = CenterCrop(16)(Resize(16)(Image.fromarray(stored)))
        assert np.array_equal(pixels(encoded(stored), 16), shown(expected))

    def test_an_image_of_that_size_stays_as_it_is(self):
        stored = noise(16, 16, 3)
        assert np.array_equal(pixels(encoded(stored), 16), stored.transpose(2, 0, 1))

    def test_a_line_is_no_square(self):
        with pytest.raises(BrokenImageError, match="it is 60000 x 1, too long for a square"):
            pixels(encoded(np.zeros((1, 60_000), np.uint8)), 64)


class TestDamage:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
    def test_a_file_that_is_cut_short_is_broken(self, kind):
        content = encoded(noise(40, 40, 3), kind)
        assert pixels(content).shape == (3, 40, 40)
        with pytest.raises(BrokenImageError):
            pixels(content[: len(content) // 2])

    @pytest.mark.parametrize("content", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
    def test_what_is_no_image_is_broken(self, content):
        with pytest.raises(BrokenImageError, match="it is no image"):
            pixels(content)

    @pytest.mark.filterwarnings("ignore")  # of Pillow, whose limit it is
    @pytest.mark.parametrize("side", [9_460, 13_500, 30_000])
    def test_a_decompression_bomb_is_refused_by_name(self, side):
        assert side**2 > MAX_PIXELS
        content = png_header(side, side)
        with pytest.raises(InputError, match=rf"x.png: expected an image of at most {MAX_PIXELS} pixels, got"):
            pixels(content, 8)

    def test_without_pillow_one_line_says_so(self, monkeypatch):
        real = builtins.__import__

        def without(name, *rest, **named):
            if name == "PIL":
                raise ImportError("No module named 'PIL'")
            return real(name, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(InputError, match=re.escape("install it with pip install pillow")):
            pixels(b"")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, bits, kind, rows):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_header(width, height):
    """A file of few bytes that unpacks to as many pixels as it says."""
    return png(width, height, 1, 0, b"\0" * 1000)


def colour_png(values):
    """A PNG of 16 bits a channel, which Pillow does not write."""
    height, width, _ = values.shape
    return png(width, height, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))
