"""Data sets as tensors on the device, or in their files where that has no room for them: named ones, and what the
formats of `FILE_FORMATS` read."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from atras.checks import one_of, plain, whole
from atras.errors import InputError
from atras.experiment import Channels, HeldOut, Size, Subset
from atras.rounding import counted
from atras.storage import expanded, is_file, near_misses

from .cautions import Part, data_cautions
from .checked_arrays import checked
from .class_names import CLASS_NAMES
from .decoding import Progress
from .draws import stratified
from .file_formats import FILE_FORMATS, Reading
from .named_sets import DATASETS, is_named, read_named
from .source_arrays import SourceArrays, Status
from .stored_images import StoredImages, stored

DEFAULT_SIZE = 5000
"""Images taken from the start of each part unless told otherwise, as in the paper."""

MOST_HELD_OUT = 1000
"""Most training images that are held out unless told otherwise."""

PART_NAMES = {"train": "training", "test": "test"}
"""The parts of a data set, in words."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        images: [N, C, H, W], uint8 or float32 in [0, 1], contiguous; those of image files are mapped from the cache
            where the device is a CPU and they are taken from the start: not resident, and not to be written to. Sets
            that the device has no room for are `StoredImages`.
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
        class_names: in the order of the labels; empty where the data have none.
        decoding: how image files were decoded, as JSON values; None where there were none.
        validation: training images that were held out, and are not in `train`; None where none were.
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
    class_names: tuple[str, ...] = ()
    decoding: Mapping[str, Any] | None = None
    validation: Split | None = None

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
        """Bytes that the images of all parts take on a device, if they are all there."""
        parts = [self.train, self.test, *([] if self.validation is None else [self.validation])]
        return sum(part.images.shape.numel() * part.images.dtype.itemsize for part in parts)

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
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "train_size": len(self.train),
            "train_available": train_available,
            "train_class_counts": _counts(self.train.labels, self.classes),
            "test_size": len(self.test),
            "test_available": test_available,
            "test_class_counts": _counts(self.test.labels, self.classes),
            **({} if self.validation is None else {"validation_size": len(self.validation)}),
            "subset": self.subset,
            "sha256": dict(self.sha256),
            **({} if self.decoding is None else {"decoding": dict(self.decoding)}),
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
    image_size: int | None = None,
    device: str | torch.device = "cpu",
    room: float = math.inf,
    progress: Progress | None = None,
    held_out: HeldOut = "none",
) -> Dataset:
    """Load a data set onto a device.

    Args:
        name: one of `DATASETS`, or what a format of `FILE_FORMATS` reads: a folder with images in train/CLASS and
            test/CLASS, a folder of Parquet files with encoded images, a folder of IDX files, an `.npz` file with
            x_train, y_train, x_test, y_test (images N H W, N H W C or N C H W, uint8 or float in [0, 1]; labels whole
            numbers from 0, or one-hot).
        train_size, test_size: images of each part: `default` for 5,000 or all where there are fewer, a number for
            exactly that many, `all`.
        subset: `first` for those at the start of the part, `stratified` for a draw in which every class has its share;
            see `draws.stratified`.
        channels: the axis of an `.npz` file's images that has the channels: `first`, `last`, or `auto` for the one of
            both that has at most 4.
        data_dir: folder to look in for a named data set before the user's cache; None for the one that the environment
            variable ATRAS_DATA names, if it does, as on the command line.
        download: whether a named data set that is nowhere may be downloaded into the cache.
        image_size: side of the squares that image files are brought to, as `image_file.decode`; None if all have one
            size.
        device: where the tensors will be.
        room: most bytes of images on the device: where they are more, both parts stay in their file.
        progress: told how many image files of how many are decoded.
        held_out: of the training images taken, how many are held out, every class its share: `default` for a tenth, at
            most 1,000.

    Returns:
        The data set; images are uint8 where the source is, otherwise float32.

    Raises:
        InputError: if there is no such data set, its files are malformed or their contents out of range, or it has
            fewer images than asked for.
    """
    one_of("channels", channels, get_args(Channels))
    name, train_size, test_size = os.fspath(name), plain(train_size), plain(test_size)
    if is_named(name):
        source = read_named(name, data_dir or os.environ.get("ATRAS_DATA") or None, download, image_size)
    else:
        source = _from_path(name, Reading(image_size) if progress is None else Reading(image_size, progress))
    source, classes = checked(source, channels)
    names = source.class_names or CLASS_NAMES.get(source.name, ())
    every = {part: _label_tensor(source.arrays[f"y_{part}"]) for part in PART_NAMES}
    sizes = {"train": train_size, "test": test_size}
    counts = {part: _taken(part, sizes[part], len(labels), source.name) for part, labels in every.items()}
    place = stored if sum(_bytes(source.arrays[f"x_{part}"], n) for part, n in counts.items()) > room else _resident
    splits, parts = {}, {}
    for part, labels in every.items():
        taken = _chosen(part, labels, counts[part], subset)
        if part == "train" and held_out != "none":
            taken, apart = _held_out(labels, taken, held_out)
            splits["validation"] = Split(place(source.arrays["x_train"], apart, device), labels[apart].to(device))
        chosen = labels[taken]
        splits[part] = Split(place(source.arrays[f"x_{part}"], taken, device), chosen.to(device))
        parts[part] = Part(PART_NAMES[part], *(np.array(_counts(each, classes)) for each in (chosen, labels)))
    brightest = {f"x_{part}": _brightest(source.arrays[f"x_{part}"]) for part in parts}
    return Dataset(
        name=source.name,
        **splits,
        classes=classes,
        source=source.origin,
        status=source.status,
        available=(len(source.arrays["y_train"]), len(source.arrays["y_test"])),
        sha256=source.sha256,
        subset=subset,
        cautions=(*source.cautions, *data_cautions(**parts, brightest=brightest, names=names)),
        class_names=names,
        decoding=source.decoding,
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


def _from_path(name: str, reading: Reading) -> SourceArrays:
    path = expanded(name)
    formats = {each: FILE_FORMATS.get(each)() for each in FILE_FORMATS}
    for file_format in formats.values():
        if name and file_format.fits(path):
            if reading.image_size is not None and not file_format.decodes:
                raise InputError(
                    f"image_size (={reading.image_size}): expected with a folder of images or of Parquet files; the "
                    f"images of {name} stay as they are, so leave it out"
                )
            return file_format.read(path, reading)
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
            f"{part}_size (={size}): {dataset} has {counted(available, f'{part} image')}; ask for at most "
            f"{available}, or for all"
        )
    return size


def _chosen(part: str, labels: torch.Tensor, count: int, subset: Subset) -> slice | np.ndarray:
    """Numbers of the images taken, ascending; a slice where they need not be gathered."""
    return slice(count) if subset == "first" or count == len(labels) else stratified(labels, count, part).numpy()


def _held_out(
    labels: torch.Tensor, taken: slice | np.ndarray, count: int | Literal["default"]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training images left and of those held out, ascending.

    Raises:
        InputError: if none would be left, or none be held out.
    """
    numbers = np.arange(len(labels))[taken]
    wanted = min(MOST_HELD_OUT, len(numbers) // 10) if count == "default" else count
    if not 1 <= wanted < len(numbers):
        raise InputError(
            f"validation_size (={wanted}): expected a number from 1 to {len(numbers) - 1}, as {len(numbers)} training "
            "images are taken; give another, or a larger --train-size"
        )
    apart = np.zeros(len(numbers), dtype=bool)
    apart[stratified(labels[taken], wanted, "validation").numpy()] = True
    return numbers[~apart], numbers[apart]


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
    """Some images as [N, C, H, W], uint8 or float32, on a device."""
    return _image_tensor(images[numbers]).to(device)


def _image_tensor(images: np.ndarray) -> torch.Tensor:
    """[N, H, W] or [N, H, W, C] to [N, C, H, W], uint8 or float32, in memory of its own or mapped from a file."""
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    if isinstance(images, np.memmap) and images.dtype == np.uint8 and images.flags.c_contiguous:
        with warnings.catch_warnings():
            # torch has no tensors that cannot be written to, and warns; nobody writes to images.
            warnings.simplefilter("ignore")
            return torch.from_numpy(images)
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.array(images, dtype, order="C"))


def _label_tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(labels.reshape(-1), np.int64))
