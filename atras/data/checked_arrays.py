"""Arrays of a data set as images and labels, whatever usual form the file has them in, or a refusal in one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from atras.errors import InputError
from atras.experiment import Channels

from .class_labels import MAX_CLASSES, check_range, class_labels
from .file_contents import ARRAYS
from .image_axes import channels_last
from .source_arrays import SourceArrays


def checked(source: SourceArrays, channels: Channels) -> tuple[SourceArrays, int]:
    """Refuse arrays that are not images and labels.

    Returns:
        The source with channels last and a whole number as each label, and the number of classes.

    Raises:
        InputError: if they are not.
    """
    where = {name: f"{name} of {source.origin}" for name in ARRAYS}
    arrays, lengths = dict(source.arrays), set()
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        arrays[images] = channels_last(where[images], arrays[images], _channels(source, channels))
        _check_images(where[images], arrays[images])
        arrays[labels], length = class_labels(where[labels], arrays[labels], len(arrays[images]))
        lengths |= set() if length is None else {length}
        check_range(where[labels], arrays[labels], source.classes or MAX_CLASSES)
    train_shape, test_shape = arrays["x_train"].shape[1:], arrays["x_test"].shape[1:]
    if train_shape != test_shape:
        raise InputError(
            f"x_test of {source.origin}: expected images of the training shape {train_shape}, got {test_shape}; "
            "make both the same"
        )
    if len(lengths) > 1:
        raise InputError(
            f"labels of {source.origin}: expected one-hot rows of one length, got {' and '.join(map(str, lengths))}; "
            "make both the same"
        )
    highest = max(int(arrays[name].max()) for name in ("y_train", "y_test"))
    if highest == min(int(arrays[name].min()) for name in ("y_train", "y_test")):
        raise InputError(
            f"labels of {source.origin}: expected at least 2 classes, got only label {highest}; add another class"
        )
    return replace(source, arrays=arrays), source.classes or next(iter(lengths), highest + 1)


def _channels(source: SourceArrays, asked: Channels) -> Channels:
    """The axis of a source's channels, of which its user may know more than the file says."""
    if source.channels == "auto":
        return asked
    if asked not in ("auto", source.channels):
        raise InputError(
            f"channels (={asked!r}): the images of {source.name} have theirs {source.channels}; leave it out"
        )
    return source.channels


def _check_images(where: str, images: np.ndarray) -> None:
    shape = images.shape
    if images.ndim not in (3, 4) or images.size == 0:
        raise InputError(f"{where}: expected at least one image, [N, H, W] or [N, H, W, C], got {shape}; reshape it")
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
