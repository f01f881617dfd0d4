"""Labels in the forms that files have them in, as one whole number an image."""

from __future__ import annotations

import numpy as np

from atras.errors import InputError

MAX_CLASSES = 65_536
"""Most classes accepted: past it a label is likelier an error than a class."""

_EXACT = 2.0**53
"""Whole floats are exact below it."""


def class_labels(where: str, labels: np.ndarray, images: int) -> tuple[np.ndarray, int | None]:
    """One whole number an image out of labels in any usual form.

    Args:
        where: the array, for messages.
        labels: [N] or [N, 1], whole numbers of any dtype, floats among them, or truth values; or one-hot [N, Y], each
            row 1 at its class and 0 elsewhere.
        images: N.

    Returns:
        [N], whole numbers of any integer dtype and range, and Y if the labels are one-hot.

    Raises:
        InputError: if they have another shape, or are no whole numbers.
    """
    if labels.dtype.kind not in "uifb":
        raise InputError(f"{where}: expected whole numbers from 0, got {labels.dtype.name}; convert it to int64")
    if labels.shape in ((images,), (images, 1)):
        return _whole(where, labels.reshape(-1)), None
    if labels.ndim == 2 and labels.shape[0] == images and labels.shape[1] > 1:
        return _of_one_hot(where, labels), labels.shape[1]
    raise InputError(
        f"{where}: expected one label for each image ({images}), got {labels.shape}; make them agree, or give "
        "one-hot rows"
    )


def check_range(where: str, labels: np.ndarray, classes: int) -> None:
    """Refuse labels outside 0 to classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{where}: expected labels from 0 to {classes - 1}, got {wrong}; number the classes from 0")


def _whole(where: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind != "f":
        return labels
    with np.errstate(invalid="ignore"):  # NaN and infinity are no whole numbers
        wrong = ~((np.floor(labels) == labels) & (np.abs(labels.astype(np.float64)) < _EXACT))
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"{where}: expected whole numbers from 0, got {float(labels[at]):.9g} as label {at} (counted from 0); "
            "number the classes"
        )
    return labels.astype(np.int64)


def _of_one_hot(where: str, labels: np.ndarray) -> np.ndarray:
    if labels.shape[1] > MAX_CLASSES:
        raise InputError(f"{where}: expected at most {MAX_CLASSES} classes, got one-hot rows of {labels.shape[1]}")
    ones = labels == 1
    wrong = (ones.sum(axis=1) != 1) | ((labels != 0) & ~ones).any(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        row = ", ".join([*(f"{float(value):.6g}" for value in labels[at, :8]), *["..."][: labels.shape[1] > 8]])
        raise InputError(
            f"{where}: expected one label for each image, or one-hot rows with a single 1, got {labels.shape}, in "
            f"which row {at} (counted from 0) is [{row}]; give each image one class"
        )
    return ones.argmax(axis=1)
