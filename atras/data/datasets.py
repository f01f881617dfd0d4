"""Data sets as tensors on the device, or in their files where that has no room for them: named ones, folders of IDX
files and `.npz` files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from atras.checks import one_of, plain, whole
from atras.errors import InputError
from atras.experiment import Channels, Size, Subset
from atras.storage import expanded, is_file, near_misses

from .cautions import Part, data_cautions
from .checked_arrays import checked
from .cifar_file import read_cifar
from .class_names import CLASS_NAMES
from .download import OFFICIAL, locate, recognise
from .draws import stratified
from .file_contents import Contents
from .file_formats import FILE_FORMATS
from .idx_folder import idx_arrays
from .source_arrays import SourceArrays, Status, array_checksums, checksums_of, folder_of
from .stored_images import StoredImages, stored
from .svhn_file import read_svhn

DATASETS: tuple[str, ...] = ("digits", *OFFICIAL)
"""The names that `load` knows; it also takes a folder of IDX files and an `.npz` file."""

DEFAULT_SIZE = 5000
"""Images taken from the start of each part unless told otherwise, as in the paper."""

PART_NAMES = {"train": "training", "test": "test"}
"""The parts of a data set, in words."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        images: [N, C, H, W], uint8 or float32 in [0, 1]; contiguous, or in a file.
        labels: [N], int64 in [0, classes).
    """

    images: torch.Tensor | StoredImages
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training and a test part, with where they came from.

    Args:
        name: for the result; a named data set's name also where the files were given by path but are the official ones.
        train, test: the images and labels taken.
        classes: number of classes.
        source: the path or package that was read.
        status: `official` if every file has the official checksum, `bundled` if it came with a package.
        available: images that train and test have in all.
        sha256: of each whole file, uncompressed, or of each whole array's bytes.
        subset: how the images were chosen where not all were taken.
        cautions: what its user should know of it, and what makes figures on it say less than they seem to, a line each.
    """

    name: str
    train: Split
    test: Split
    classes: int
    source: str = "memory"
    status: Status = "unverified"
    available: tuple[int, int] | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    subset: Subset = "first"
    cautions: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def streamed(self) -> bool:
        """Whether the images stay in a file, of which some at a time are on the device."""
        return isinstance(self.train.images, StoredImages)

    @property
    def image_bytes(self) -> int:
        """Bytes that the images of both parts take on a device, if they are all there."""
        return sum(part.images.shape.numel() * part.images.dtype.itemsize for part in (self.train, self.test))

    @property
    def occurring(self) -> torch.Tensor:
        """int64 [K], the classes that training images have, ascending: those that attacks aim at."""
        return torch.bincount(self.train.labels).nonzero()[:, 0]

    def provenance(self) -> dict[str, Any]:
        """A description of the loaded data, as JSON values."""
        train_available, test_available = self.available or (len(self.train), len(self.test))
        return {
            "name": self.name,
            "source": self.source,
            "status": self.status,
            "classes": self.classes,
            "class_names": list(CLASS_NAMES.get(self.name, ())),
            "image_shape": list(self.image_shape),
            "train_size": len(self.train),
            "train_available": train_available,
            "train_class_counts": _counts(self.train.labels, self.classes),
            "test_size": len(self.test),
            "test_available": test_available,
            "test_class_counts": _counts(self.test.labels, self.classes),
            "subset": self.subset,
            "sha256": dict(self.sha256),
        }


def load(
    name: str,
    *,
    train_size: Size = "default",
    test_size: Size = "default",
    subset: Subset = "first",
    channels: Channels = "auto",
    data_dir: str | Path | None = None,
    download: bool = True,
    device: str | torch.device = "cpu",
    room: float = math.inf,
) -> Dataset:
    """Load a data set onto a device.

    Args:
        name: one of `DATASETS`, or what a format of `FILE_FORMATS` reads: a folder of IDX files, an `.npz` file with
            x_train, y_train, x_test, y_test (images N H W, N H W C or N C H W, uint8 or float in [0, 1]; labels whole
            numbers from 0, or one-hot).
        train_size, test_size: images of each part: `default` for 5,000 or all where there are fewer, a number for
            exactly that many, `all`.
        subset: `first` for those at the start of the part, `stratified` for a draw in which every class has its share;
            see `draws.stratified`.
        channels: the axis of an `.npz` file's images that has the channels: `first`, `last`, or `auto` for the one of
            both that has at most 4.
        data_dir: folder to look in for a named data set before the user's cache.
        download: whether a named data set that is nowhere may be downloaded into the cache.
        device: where the tensors will be.
        room: most bytes of images on the device: where they are more, both parts stay in their file.

    Returns:
        The data set; images are uint8 where the source is, otherwise float32.

    Raises:
        InputError: if there is no such data set, its files are malformed or their contents out of range, or it has
            fewer images than asked for.
    """
    one_of("channels", channels, get_args(Channels))
    name, train_size, test_size = os.fspath(name), plain(train_size), plain(test_size)
    if name == "digits":
        source = _digits()
    elif name in OFFICIAL:
        source = _official(name, data_dir, download)
    else:
        source = _from_path(name)
    source, classes = checked(source, channels)
    every = {part: _label_tensor(source.arrays[f"y_{part}"]) for part in PART_NAMES}
    sizes = {"train": train_size, "test": test_size}
    counts = {part: _taken(part, sizes[part], len(labels), source.name) for part, labels in every.items()}
    place = stored if sum(_bytes(source.arrays[f"x_{part}"], n) for part, n in counts.items()) > room else _resident
    splits, parts = {}, {}
    for part, labels in every.items():
        taken = _chosen(part, labels, counts[part], subset)
        chosen = labels[taken]
        splits[part] = Split(place(source.arrays[f"x_{part}"], taken, device), chosen.to(device))
        parts[part] = Part(PART_NAMES[part], *(np.array(_counts(each, classes)) for each in (chosen, labels)))
    brightest = {f"x_{part}": _brightest(source.arrays[f"x_{part}"]) for part in splits}
    return Dataset(
        name=source.name,
        **splits,
        classes=classes,
        source=source.origin,
        status=source.status,
        available=(len(source.arrays["y_train"]), len(source.arrays["y_test"])),
        sha256=source.sha256,
        subset=subset,
        cautions=(*source.cautions, *data_cautions(**parts, brightest=brightest)),
    )


def pixels(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images as numbers in [0, 1].

    Args:
        images: of any shape; uint8 from 0 to 255, or floats in [0, 1].
        dtype: floating-point type of the result.

    Returns:
        uint8 divided by 255 and correctly rounded; floats as they are, converted to `dtype`.
    """
    if images.dtype != torch.uint8:
        return images.to(dtype)
    # On a GPU, torch divides by a Python number through its reciprocal, which rounds twice; by a tensor it divides.
    return images.to(dtype) / torch.full((), 255.0, dtype=dtype, device=images.device)


def _digits() -> SourceArrays:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images, labels = (bundle.images / 16).astype(np.float32), bundle.target
    half = len(labels) // 2
    arrays = {"x_train": images[:half], "y_train": labels[:half], "x_test": images[half:], "y_test": labels[half:]}
    return SourceArrays("digits", "scikit-learn load_digits", arrays, array_checksums(arrays), "bundled", 10)


def _official(name: str, data_dir: str | Path | None, download: bool) -> SourceArrays:
    official = OFFICIAL[name]
    files = locate(name, data_dir, download)
    if official.kind == "idx":
        return idx_arrays(name, files, official.classes)
    if official.kind == "cifar":
        contents, arrays = _cifar(name, files)
    else:
        contents, arrays = _svhn(files)
    return SourceArrays(
        name=name,
        origin=folder_of(files),
        arrays=arrays,
        sha256={file: content.sha256 for file, content in contents.items()},
        status="official" if recognise(checksums_of(contents)) == name else "unverified",
        classes=official.classes,
    )


def _cifar(name: str, files: dict[str, Path]) -> tuple[dict[str, Contents], dict[str, np.ndarray]]:
    label_key = "fine_labels" if name == "cifar100" else "labels"
    batches = {file: read_cifar(path, OFFICIAL[name].files[file], label_key) for file, path in files.items()}
    *train, (test_contents, test_labels) = batches.values()
    arrays = {
        "x_train": np.concatenate([contents.array for contents, _ in train]),
        "y_train": np.concatenate([labels for _, labels in train]),
        "x_test": test_contents.array,
        "y_test": test_labels,
    }
    return {file: contents for file, (contents, _) in batches.items()}, arrays


def _svhn(files: dict[str, Path]) -> tuple[dict[str, Contents], dict[str, np.ndarray]]:
    (train, y_train), (test, y_test) = (read_svhn(path) for path in files.values())
    arrays = {"x_train": train.array, "y_train": y_train, "x_test": test.array, "y_test": y_test}
    return dict(zip(files, (train, test), strict=True)), arrays


def _from_path(name: str) -> SourceArrays:
    path = expanded(name)
    formats = {each: FILE_FORMATS.get(each)() for each in FILE_FORMATS}
    for file_format in formats.values():
        if name and file_format.fits(path):
            return file_format.read(path)
    like_a_path = path.suffix in {suffix for each in formats.values() for suffix in each.suffixes} or "/" in name
    advice = "there is none of that name" if like_a_path else "check the spelling"
    if is_file(path):
        advice = "this is another file"
    elif name:
        advice += near_misses(path, () if like_a_path else DATASETS)
    kinds = " or ".join(FILE_FORMATS.texts().values())
    raise InputError(f"dataset (={name!r}): expected one of {', '.join(DATASETS)}, {kinds}; {advice}")


def _taken(part: str, size: Size, available: int, dataset: str) -> int:
    """The number of images of a part that a size stands for."""
    if size == "all":
        return available
    if size == "default":
        return min(DEFAULT_SIZE, available)
    whole(f"{part}_size", size, 1, 10**9)
    if size > available:
        raise InputError(
            f"{part}_size (={size}): {dataset} has {available} {part} images; ask for at most {available}, or for all"
        )
    return size


def _chosen(part: str, labels: torch.Tensor, count: int, subset: Subset) -> slice | np.ndarray:
    """Numbers of the images taken, ascending."""
    return slice(count) if subset == "first" else stratified(labels, count, part).numpy()


def _counts(labels: torch.Tensor, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts


def _brightest(images: np.ndarray) -> tuple[float, float]:
    """The highest value of images, and the value that stands for white."""
    return float(images.max()), 255.0 if images.dtype == np.uint8 else 1.0


def _bytes(images: np.ndarray, count: int) -> int:
    """Bytes of so many of these images on a device."""
    return count * math.prod(images.shape[1:]) * (1 if images.dtype == np.uint8 else 4)


def _resident(images: np.ndarray, numbers: slice | np.ndarray, device: str | torch.device) -> torch.Tensor:
    """Some images as [N, C, H, W], uint8 or float32, on a device, in memory of their own."""
    return torch.from_numpy(StoredImages(images).on_host(numbers)).to(device)


def _label_tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(labels.reshape(-1), np.int64))
