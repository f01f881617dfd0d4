"""Image files of a data set, decoded by several threads into one file of pixels for each part."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from atras.errors import InputError
from atras.limits import processors
from atras.rounding import counted
from atras.storage import read_regular

from .image_file import MAX_IMAGE_BYTES, BrokenImageError, Picture, decode

Progress = Callable[[int, int], None]
"""Told how many images of how many are decoded."""

MOST_BROKEN = 0.01
"""Largest share of images of a part that may be broken: ImageNet and scraped sets have a few in 10,000; where there are
more, the copy is damaged, and what is left may be another set."""

NAMED = 3
"""Most images that a message names."""

BATCH = 32
"""Images that a thread decodes at a time."""

COPIED_BYTES = 2**24
"""Bytes that are copied at a time."""


class Stored(NamedTuple):
    """An image as it is stored.

    Args:
        name: for people.
        label: its class.
        content: of its file, the file, or None where there is nothing.
    """

    name: str
    label: int
    content: bytes | Path | None


class ImageSource(ABC):
    """The stored images of a data set.

    Args:
        name: for the result.
        origin: the path that was read.
        class_names: in the order of the labels; empty where they have none.
        counts: images of part `train` and of part `test`.
        fingerprint: JSON values that are others whenever an image is.
        cautions: what its user should know of how it was read, a line each.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        class_names: tuple[str, ...],
        counts: dict[str, int],
        fingerprint: Any,
        cautions: tuple[str, ...] = (),
    ) -> None:
        self.name, self.origin, self.class_names = name, origin, class_names
        self.counts, self.fingerprint, self.cautions = counts, fingerprint, cautions

    @abstractmethod
    def images(self, part: str) -> Iterator[Stored]:
        """The images of a part, in their order."""


@dataclass
class Noted:
    """Images of which something is told: how many, and the first ones."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= NAMED:
            self.names.append(name)


@dataclass
class DecodedPart:
    """A part that was decoded into a file.

    Args:
        path: the file: uint8 [N, C, H, W], in that order.
        shape: (C, H, W); None before the first image.
        labels: of the images in the file.
        broken: images that were left out, as `name (reason)`.
        animated, transparent: images that are so.
    """

    path: Path
    shape: tuple[int, int, int] | None = None
    labels: list[int] = field(default_factory=list)
    broken: Noted = field(default_factory=Noted)
    animated: Noted = field(default_factory=Noted)
    transparent: Noted = field(default_factory=Noted)

    def widen(self) -> None:
        """Make the grey images of the file red, green and blue."""
        assert self.shape is not None  # noqa: S101 (there is an image, or nothing to widen)
        _, height, width = self.shape
        grey = self.path.with_suffix(".grey")
        self.path.rename(grey)
        with grey.open("rb") as source, self.path.open("wb") as target:
            plane = height * width
            while block := source.read(max(1, COPIED_BYTES // plane) * plane):
                planes = np.frombuffer(block, np.uint8).reshape(-1, 1, plane)
                target.write(np.ascontiguousarray(np.broadcast_to(planes, (len(planes), 3, plane))).data)
        grey.unlink()
        self.shape = (3, height, width)


def decode_parts(source: ImageSource, folder: Path, size: int | None, progress: Progress) -> dict[str, DecodedPart]:
    """Decode all images of a source; both parts are grey if all images are, else both are red, green and blue.

    The bytes depend on the images alone, not on the number of threads.

    Args:
        source: of the images.
        folder: where files `x_train.partial` and `x_test.partial` are made.
        size: as `image_file.decode`; None if all have one size.
        progress: told of it.

    Raises:
        InputError: if too many are broken, their sizes differ, or one has too many pixels.
        OSError: if a file cannot be written.
    """
    parts: dict[str, DecodedPart] = {}
    total, done = sum(source.counts.values()), 0
    progress(0, total)
    for part, count in source.counts.items():
        first = next(iter(parts.values()), None)
        parts[part] = found = DecodedPart(folder / f"x_{part}.partial")
        with _Writer(found, first, count) as writer, closing(_decoded(source.images(part), size)) as decoded:
            for batch, pictures in decoded:
                for stored, picture in zip(batch, pictures, strict=True):
                    writer.take(stored, picture)
                done += len(batch)
                progress(done, total)
    channels = max(found.shape[0] for found in parts.values() if found.shape)
    for found in parts.values():
        if found.shape and found.shape[0] < channels:
            found.widen()
    return parts


def _too_many_broken(found: DecodedPart, count: int) -> InputError:
    first = found.broken.names[0].partition(" (")[0]
    return InputError(
        f"{first}: expected at most {MOST_BROKEN:.0%} of {counted(count, 'image')} to be broken, "
        f"{found.broken.count} or more cannot be decoded, such as {', '.join(found.broken.names)}; fetch them again, "
        "or remove them"
    )


class _Writer:
    """Appends images to the file of a part."""

    def __init__(self, found: DecodedPart, other: DecodedPart | None, count: int) -> None:
        self.found, self.count = found, count
        self.size: tuple[int, int] | None = other.shape[1:] if other and other.shape else None
        self.first = "the training part"

    def __enter__(self) -> _Writer:
        self.file: BinaryIO = self.found.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def take(self, stored: Stored, picture: Picture | BrokenImageError) -> None:
        """Append an image, or note that it is broken."""
        found = self.found
        if isinstance(picture, BrokenImageError):
            found.broken.add(f"{stored.name} ({picture})")
            if found.broken.count > MOST_BROKEN * self.count:
                raise _too_many_broken(found, self.count)
            return
        pixels = picture.pixels
        channels, height, width = pixels.shape
        self._check_size(stored, (height, width))
        if found.shape is None:
            found.shape = (channels, height, width)
        if channels > found.shape[0]:
            self.file.close()
            found.widen()
            self.file = found.path.open("ab")
        self.file.write(np.ascontiguousarray(np.broadcast_to(pixels, found.shape)).data)
        found.labels.append(stored.label)
        for noted, applies in ((found.animated, picture.animated), (found.transparent, picture.transparent)):
            if applies:
                noted.add(stored.name)

    def _check_size(self, stored: Stored, size: tuple[int, int]) -> None:
        if self.size is None:
            self.size, self.first = size, stored.name
        if size != self.size:
            side = min(size[0], size[1], *self.size)
            raise InputError(
                f"{stored.name}: expected images of one size without --image-size, got {size[1]} x {size[0]}, where "
                f"{self.first} has {self.size[1]} x {self.size[0]}; add --image-size, such as --image-size {side}"
            )


def _decoded(
    images: Iterable[Stored], size: int | None
) -> Generator[tuple[list[Stored], list[Picture | BrokenImageError]]]:
    """Images in their order, some at a time; decoded by a thread a processor, as Pillow releases Python's lock."""
    workers = processors().amount
    images = iter(images)
    waiting: deque[tuple[list[Stored], Future[list[Picture | BrokenImageError]]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            while batch := list(itertools.islice(images, BATCH)):
                waiting.append((batch, pool.submit(_batch, batch, size)))
                if len(waiting) > 2 * workers:
                    batch, future = waiting.popleft()
                    yield batch, future.result()
            while waiting:
                batch, future = waiting.popleft()
                yield batch, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(batch: list[Stored], size: int | None) -> list[Picture | BrokenImageError]:
    return [_one(stored, size) for stored in batch]


def _one(stored: Stored, size: int | None) -> Picture | BrokenImageError:
    try:
        if stored.content is None:
            return BrokenImageError("it has no bytes")
        content = stored.content
        if isinstance(content, Path):
            content = read_regular(content, MAX_IMAGE_BYTES)
        return decode(content, stored.name, size)
    except BrokenImageError as error:
        return error
    except OSError as error:
        return BrokenImageError(error.strerror or str(error))
