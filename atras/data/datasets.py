"""Data sets as tensors resident on the device: named ones, folders of IDX files and `.npz` files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atras.checks import whole
from atras.errors import InputError
from atras.experiment import Size, Subset
from atras.storage import is_file

from .cautions import Part, data_cautions
from .download import OFFICIAL, locate, recognise
from .draws import stratified
from .file_formats import FILE_FORMATS
from .formats import ARRAYS, Contents, read_cifar, read_svhn
from .idx_folder import idx_arrays
from .source_arrays import SourceArrays, Status, array_checksums, checksums_of, folder_of

DATASETS: tuple[str, ...] = ("digits", *OFFICIAL)
"""The names that `load` knows; it also takes a folder of IDX files and an `.npz` file."""

DEFAULT_SIZE = 5000
"""Images taken from the start of each part unless told otherwise, as in the paper."""

PART_NAMES = {"train": "training", "test": "test"}
"""The parts of a data set, in words."""

MAX_CLASSES = 65_536
"""Most classes accepted: past it a label is likelier an error than a class."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        images: [N, C, H, W], uint8 or float32 in [0, 1], contiguous.
        labels: [N], int64 in [0, classes).
    """

    images: torch.Tensor
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
        cautions: what makes figures on these images say less than they seem to, a line each.
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
    data_dir: str | Path | None = None,
    download: bool = True,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Load a data set onto a device.

    Args:
        name: one of `DATASETS`, or what a format of `FILE_FORMATS` reads: a folder of IDX files, an `.npz` file with
            x_train, y_train, x_test, y_test (images N H W or N H W C, uint8 or float in [0, 1]; labels whole numbers
            from 0).
        train_size, test_size: images of each part: `default` for 5,000 or all where there are fewer, a number for
            exactly that many, `all`.
        subset: `first` for those at the start of the part, `stratified` for a draw in which every class has its share;
            see `draws.stratified`.
        data_dir: folder to look in for a named data set before the user's cache.
        download: whether a named data set that is nowhere may be downloaded into the cache.
        device: where the tensors will be.

    Returns:
        The data set; images are uint8 where the source is, otherwise float32.

    Raises:
        InputError: if there is no such data set, its files are malformed or their contents out of range, or it has
            fewer images than asked for.
    """
    name = os.fspath(name)
    if name == "digits":
        source = _digits()
    elif name in OFFICIAL:
        source = _official(name, data_dir, download)
    else:
        source = _from_path(name)
    classes = _check(source)
    splits, parts = {}, {}
    for part, size in (("train", train_size), ("test", test_size)):
        images, labels = source.arrays[f"x_{part}"], _label_tensor(source.arrays[f"y_{part}"])
        taken = _chosen(part, labels, _taken(part, size, len(labels), source.name), subset)
        chosen = labels[taken]
        splits[part] = Split(_image_tensor(images[taken]).to(device), chosen.to(device))
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
        cautions=data_cautions(**parts, brightest=brightest),
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
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (the method raises at an unknown user)
    formats = {each: FILE_FORMATS.get(each)() for each in FILE_FORMATS}
    for file_format in formats.values():
        if name and file_format.fits(path):
            return file_format.read(path)
    like_a_path = path.suffix in {suffix for each in formats.values() for suffix in each.suffixes} or "/" in name
    advice = "there is none of that name" if like_a_path else "check the spelling"
    if is_file(path):
        advice = "this is another file"
    kinds = " or ".join(FILE_FORMATS.texts().values())
    raise InputError(f"dataset (={name!r}): expected one of {', '.join(DATASETS)}, {kinds}; {advice}")


def _check(source: SourceArrays) -> int:
    """Refuse arrays that are not images and labels; returns the number of classes."""
    where = {name: f"{name} of {source.origin}" for name in ARRAYS}
    for part in ("train", "test"):
        images, labels = source.arrays[f"x_{part}"], source.arrays[f"y_{part}"]
        _check_images(where[f"x_{part}"], images)
        _check_labels(where[f"y_{part}"], labels, len(images), source.classes or MAX_CLASSES)
    train_shape, test_shape = source.arrays["x_train"].shape[1:], source.arrays["x_test"].shape[1:]
    if train_shape != test_shape:
        raise InputError(
            f"x_test of {source.origin}: expected images of the training shape {train_shape}, got {test_shape}; "
            "make both the same"
        )
    highest = max(int(source.arrays[name].max()) for name in ("y_train", "y_test"))
    lowest = min(int(source.arrays[name].min()) for name in ("y_train", "y_test"))
    if highest == lowest:
        raise InputError(
            f"labels of {source.origin}: expected at least 2 classes, got only label {highest}; add another class"
        )
    return source.classes or highest + 1


def _check_images(where: str, images: np.ndarray) -> None:
    shape = images.shape
    if images.ndim not in (3, 4) or images.size == 0:
        raise InputError(f"{where}: expected at least one image, [N, H, W] or [N, H, W, C], got {shape}; reshape it")
    if images.ndim == 4 and shape[1] <= 4 < shape[3]:
        raise InputError(
            f"{where}: expected [N, H, W, C], got {shape}, which is [N, C, H, W]; transpose(0, 2, 3, 1) it"
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"{where}: expected uint8, or floats in [0, 1], got {images.dtype.name}; convert it")
    if images.dtype.kind == "f":
        low, high = float(images.min()), float(images.max())
        if np.isnan(low):
            count = int(np.isnan(images).sum())
            raise InputError(f"{where}: expected pixels in [0, 1], got {count} that are NaN; replace them")
        if low < 0 or high > 1:
            raise InputError(
                f"{where}: expected pixels in [0, 1], got {low:.9g} to {high:.9g}; scale them, or store uint8"
            )


def _check_labels(where: str, labels: np.ndarray, images: int, classes: int) -> None:
    if labels.shape not in ((images,), (images, 1)):
        raise InputError(
            f"{where}: expected one label for each of {images} images, got {labels.shape}; make them agree"
        )
    if labels.dtype.kind not in "ui":
        raise InputError(f"{where}: expected whole numbers from 0, got {labels.dtype.name}; convert it to int64")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{where}: expected labels from 0 to {classes - 1}, got {wrong}; number the classes from 0")


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


def _image_tensor(images: np.ndarray) -> torch.Tensor:
    """[N, H, W] or [N, H, W, C] to [N, C, H, W], uint8 or float32, in memory of its own."""
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.array(images, dtype, order="C"))


def _label_tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(labels.reshape(-1), np.int64))
