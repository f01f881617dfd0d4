"""The named data sets: scikit-learn's digits, official ones that are downloaded, and MedMNIST's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atras.errors import InputError

from .cifar_file import read_cifar
from .download import OFFICIAL, locate, recognise
from .file_contents import Contents
from .idx_folder import idx_arrays
from .medmnist import MEDMNIST, REFUSED, read_medmnist
from .source_arrays import SourceArrays, array_checksums, checksums_of, folder_of
from .svhn_file import read_svhn

DATASETS: tuple[str, ...] = ("digits", *OFFICIAL, *MEDMNIST)
"""The names that `load` knows; it also takes what a format of `FILE_FORMATS` reads."""

CHARACTERS = ("digits", "mnist", "kmnist", "svhn")
"""Those of characters, which change their meaning or are none in a mirror."""


def is_named(name: str) -> bool:
    """Whether a name is that of a data set, of which some are known and refused."""
    return name in DATASETS or name in REFUSED


def read_named(name: str, data_dir: str | Path | None, download: bool, image_size: int | None) -> SourceArrays:
    """Read a data set by its name.

    Args:
        name: one that `is_named`.
        data_dir, download, image_size: as `load`.

    Raises:
        InputError: if its files are nowhere or malformed, or its images have another size.
    """
    if name in MEDMNIST or name in REFUSED:
        return read_medmnist(name, data_dir, image_size)
    if image_size is not None:
        raise InputError(
            f"image_size (={image_size}): expected with a folder of images or of Parquet files, or with MedMNIST; the "
            f"images of {name} stay as they are, so leave it out"
        )
    return _digits() if name == "digits" else _official(name, data_dir, download)


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
