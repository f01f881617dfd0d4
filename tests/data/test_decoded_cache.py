"""Decoded images: decoded once, mapped, the same whatever the number of threads, made anew where they are damaged."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from atras.data import decoding, load
from atras.data.decoded_cache import RECORD
from atras.errors import InputError
from atras.limits import Limit
from made_files import refused
from made_images import encoded, noise, write_folder, write_image


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "insects", train=60, test=30)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded."""
    names, real = [], decoding.decode

    def noted(content, where, size):
        names.append(where)
        return real(content, where, size)

    monkeypatch.setattr(decoding, "decode", noted)
    return names


def cached(tmp_path):
    (found,) = (tmp_path / "cache" / "atras" / "decoded").iterdir()
    return found


def left(tmp_path):
    """All files in the cache."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_images_are_decoded_once(folder, decoded):
    first = load(str(folder))
    assert len(decoded) == 180
    again = load(str(folder))
    assert len(decoded) == 180
    assert again.provenance() == first.provenance()
    assert np.array_equal(again.train.images, first.train.images)


@pytest.mark.parametrize("change", ["size", "time", "name", "class", "image size", "decoder"])
def test_whatever_decides_pixels_makes_them_anew(folder, decoded, change, monkeypatch):
    load(str(folder), image_size=8)
    image = folder / "train" / "ant" / "7.png"
    if change == "size":
        image.write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)))
    elif change == "time":
        os.utime(image, ns=(0, 1))
    elif change == "name":
        image.rename(image.with_name("77.png"))
    elif change == "class":
        (folder / "train" / "bee").rename(folder / "train" / "wasp")
        (folder / "test" / "bee").rename(folder / "test" / "wasp")
    elif change == "decoder":
        monkeypatch.setattr("atras.data.decoded_cache.DECODER", 0)
    load(str(folder), image_size=7 if change == "image size" else 8)
    assert len(decoded) == 360


@pytest.mark.parametrize("name", ["x_train", "y_test", RECORD])
@pytest.mark.parametrize("harm", ["bit", "cut", "gone"])
def test_what_is_damaged_is_made_anew(folder, decoded, name, harm, tmp_path):
    before = load(str(folder)).provenance()
    path = cached(tmp_path) / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "bit":
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    assert load(str(folder)).provenance() == before
    assert len(decoded) == 360


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_pixels_do_not_depend_on_the_number_of_threads(folder, monkeypatch, tmp_path, workers):
    before = load(str(folder)).provenance()["sha256"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(decoding, "processors", lambda: Limit(workers, "a test"))
    assert load(str(folder)).provenance()["sha256"] == before


def test_images_are_mapped_and_not_copied(folder):
    found = load(str(folder), train_size="all")
    assert is_mapped(found.train.images)
    assert is_mapped(load(str(folder), train_size=50).train.images)
    assert is_mapped(load(str(folder), train_size="all", subset="stratified").train.images)
    assert not is_mapped(load(str(folder), train_size=50, subset="stratified").train.images)


def test_streamed_images_are_those_of_the_cache(folder):
    resident, streamed = load(str(folder)), load(str(folder), room=0)
    assert streamed.streamed
    assert np.array_equal(streamed.train.images[:], resident.train.images)
    assert np.array_equal(streamed.test.images[3], resident.test.images[3])


def is_mapped(images):
    """Whether a tensor lies where the cache's file is mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith("/x_train")]
    return any(int(start, 16) <= images.data_ptr() < int(end, 16) for start, end in spans)


def test_grey_images_have_one_channel_unless_one_has_colour(tmp_path):
    folder = write_folder(tmp_path / "grey", image=(6, 6))
    grey = load(str(folder))
    assert grey.image_shape == (1, 6, 6)
    write_image(folder / "test" / "bee" / "1.png", noise(6, 6, 3))
    wide = load(str(folder))
    assert wide.image_shape == (3, 6, 6)
    assert np.array_equal(wide.train.images, grey.train.images.expand(-1, 3, -1, -1))
    assert np.array_equal(wide.test.images[3], noise(6, 6, 3).transpose(2, 0, 1))


def test_colour_in_the_midst_widens_what_came_before(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "COPIED_BYTES", 100)
    folder = write_folder(tmp_path / "grey", image=(6, 6))
    grey = load(str(folder)).train.images
    write_image(folder / "train" / "bee" / "0.png", noise(6, 6, 3))
    wide = load(str(folder)).train.images
    expected = grey.repeat(1, 3, 1, 1)
    expected[4] = wide[4]
    assert np.array_equal(wide, expected)
    assert np.array_equal(wide[4], noise(6, 6, 3).transpose(2, 0, 1))


class TestBroken:
    def test_few_are_left_out_named_and_counted(self, tmp_path):
        folder = write_folder(tmp_path / "d", train=60, test=60)
        whole = load(str(folder))
        (folder / "train" / "ant" / "3.png").write_bytes(b"text")
        found = load(str(folder))
        caution = "data: 1 of 240 images cannot be decoded and is left out: train/ant/3.png (it is no image)"
        assert found.cautions == (caution,)
        assert found.provenance()["decoding"]["broken_images"] == ["train/ant/3.png (it is no image)"]
        order = sorted(str(number) + ".png" for number in range(60))
        kept = [number for number in range(120) if number != order.index("3.png")]
        assert np.array_equal(found.train.images, whole.train.images[kept])
        assert found.train.labels.tolist() == whole.train.labels[kept].tolist()

    def test_more_than_a_share_is_refused(self, tmp_path):
        folder = write_folder(tmp_path / "d", train=60, test=60)
        (folder / "test" / "ant" / "3.png").write_bytes(b"text")
        (folder / "test" / "bee" / "4.png").unlink()
        (folder / "test" / "bee" / "4.png").symlink_to("nowhere")
        refused(
            "test/ant/3.png: expected at most 1% of 120 images to be broken, 2 or more cannot be decoded, such as "
            "test/ant/3.png (it is no image), test/bee/4.png (No such file or directory)",
            name=folder,
        )
        assert left(tmp_path) == []

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        folder = write_folder(tmp_path / "d", train=60)
        (folder / "train" / "ant" / "3.png").unlink()
        os.mkfifo(folder / "train" / "ant" / "3.png")
        assert "train/ant/3.png (it is no regular file)" in load(str(folder)).cautions[0]

    def test_animations_and_transparency_are_told(self, folder):
        transparent = np.dstack([noise(8, 8, 3), np.full((8, 8), 9, np.uint8)])
        write_image(folder / "test" / "bee" / "4.png", transparent)
        assert load(str(folder)).cautions == (
            "data: 1 of 180 images has pixels that are not opaque, which are laid on black: test/bee/4.png",
        )


def test_an_interrupted_decoding_leaves_nothing(folder, tmp_path):
    def interrupted(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(str(folder), progress=interrupted)
    assert left(tmp_path) == []
    assert len(load(str(folder)).train) == 120


def test_progress_is_told_from_none_to_all(folder):
    told = []
    load(str(folder), progress=lambda *counts: told.append(counts))
    assert (told[0], told[-1], told) == ((0, 180), (180, 180), sorted(told))
    load(str(folder), progress=lambda *counts: pytest.fail("it is decoded already"))


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/atras/decoded/.*expected to write decoded images: Not a directory"):
        load(str(folder))


def test_of_two_at_once_one_decodes_and_the_other_waits(folder, decoded):
    # The system's lock tells two openings of a file apart, be they in one process or in two.
    begun = threading.Event()

    def first():
        return load(str(folder), progress=lambda done, total: begun.set() or time.sleep(0.1))

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert begun.wait(60)
        other = pool.submit(load, str(folder))
        assert one.result().provenance() == other.result().provenance()
    assert len(decoded) == 180


def test_what_a_killed_process_left_is_cleared(folder, decoded, tmp_path):
    load(str(folder))
    (cached(tmp_path) / RECORD).unlink()
    (cached(tmp_path) / "x_train").rename(cached(tmp_path) / "x_train.partial")
    load(str(folder))
    assert len(decoded) == 360
    assert {path.name for path in left(tmp_path)} == {"x_train", "y_train", "x_test", "y_test", RECORD}
