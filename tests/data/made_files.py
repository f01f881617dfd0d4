"""Data sets made up as files, and what a refusal says; for the tests of this folder."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib

import numpy as np
import pytest

from atras.data import load
from atras.data.download import OFFICIAL
from atras.data.idx_file import IDX_FILES
from atras.errors import InputError

MIB = 2**20


def arrays(train=6, test=4, image=(5, 5), classes=3, dtype=np.uint8):
    """Images and labels by name; every class is there."""
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, *image), dtype=np.uint8)
        made[f"x_{part}"] = images if dtype == np.uint8 else (images / 255).astype(dtype)
        made[f"y_{part}"] = np.arange(count) % classes
    return made


def idx_bytes(array, kind=8):
    header = bytes((0, 0, kind, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, made, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in IDX_FILES.items():
        content = idx_bytes(made[name])
        (folder / f"{file}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def write_npz(path, **changes):
    np.savez(path, **(arrays() | changes))
    return path


def refused(*parts, name, **options):
    """The error text of a load, which must be one line and contain all parts."""
    with pytest.raises(InputError) as caught:
        load(str(name), download=False, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
    return text


def make_known(monkeypatch, name, files):
    """Make these contents the official ones."""
    known = {file: frozenset(checksums) for file, checksums in files.items()}
    monkeypatch.setitem(OFFICIAL, name, dataclasses.replace(OFFICIAL[name], files=known))


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
