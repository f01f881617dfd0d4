"""Folders of images as torchvision's `ImageFolder` has them: a folder a part, in it a folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atras.errors import InputError, printable
from atras.storage import is_folder, names_in

from .class_labels import MAX_CLASSES
from .decoded_cache import decoded_arrays
from .decoding import ImageSource, Stored
from .file_formats import FileFormat, Reading
from .idx_folder import has_idx_files
from .image_file import SUFFIXES
from .parts_of_folders import PARTS, part_of, tested_on, unused_validation
from .source_arrays import SourceArrays

LAYOUT = "train/CLASS/*.jpg (or .png, ...) and test/CLASS/ or val/CLASS/ likewise"

Identity = tuple[int, int]
"""Device and number of a folder, by which links to it are known."""


class ImageFolder(FileFormat):
    """a folder with images in train/CLASS and test/CLASS"""

    name = "images"
    decodes = True

    def fits(self, path: Path) -> bool:
        return is_folder(path) and bool(_parts(path)) and not has_idx_files(path)

    def read(self, path: Path, reading: Reading) -> SourceArrays:
        return decoded_arrays(FolderSource(path), reading.image_size, reading.progress)


class Listed(NamedTuple):
    """An image file below a part's folder.

    Args:
        path: from that folder.
        label: number of its class.
        size: bytes; -1 where a link leads nowhere.
        changed: time of its last change, nanoseconds.
    """

    path: str
    label: int
    size: int
    changed: int


class FolderSource(ImageSource):
    """The images of a folder, in the order of torchvision's `ImageFolder`.

    Args:
        path: the folder.

    Raises:
        InputError: if a part, its classes or their images are missing.
    """

    def __init__(self, path: Path) -> None:
        folders = _parts(path)
        tested = tested_on({part for part in folders if part == "train" or _classes(folders[part])})
        if "train" not in folders or tested is None:
            raise InputError(f"{path}: expected {LAYOUT}, got {_there(path)}; {_advice(folders, path)}")
        self.folders = {"train": folders["train"], "test": folders[tested]}
        names = _class_names(self.folders, path)
        self.listed = {part: _listed(folder, names, path) for part, folder in self.folders.items()}
        _check_classes(self.listed["train"], names, self.folders["train"])
        if not self.listed["test"]:
            raise InputError(f"{self.folders['test']}: expected images in its classes, found none; add some")
        super().__init__(
            name=printable(path.resolve().name),
            origin=str(path),
            class_names=tuple(printable(name) for name in names),
            counts={part: len(images) for part, images in self.listed.items()},
            fingerprint=[str(path.resolve()), *((part, *each) for part in self.listed for each in self.listed[part])],
            cautions=unused_validation(set(folders), path.name),
        )

    def images(self, part: str) -> Iterator[Stored]:
        folder = self.folders[part]
        for each in self.listed[part]:
            yield Stored(printable(f"{folder.name}/{each.path}"), each.label, folder / each.path)


def _parts(path: Path) -> dict[str, Path]:
    """The folders of the parts, by the part's name."""
    there = [name for name in names_in(path) if part_of(name) and is_folder(path / name)]
    # Of several spellings the first one that PARTS has.
    there.sort(key=lambda name: PARTS[part_of(name) or ""].index(name.lower()), reverse=True)
    return {part_of(name) or "": path / name for name in there}


def _classes(folder: Path) -> list[str]:
    """Names of the folders in a part's folder, sorted; hidden ones and what archives of macOS leave are none."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_folder(entry.path)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def _class_names(folders: dict[str, Path], path: Path) -> list[str]:
    names, tested = _classes(folders["train"]), _classes(folders["test"])
    if not names:
        raise InputError(
            f"{folders['train']}: expected a folder for each class, got {_there(folders['train'])}; give images as "
            f"{LAYOUT}"
        )
    if len(names) > MAX_CLASSES:
        raise InputError(f"{folders['train']}: expected at most {MAX_CLASSES} classes, got {len(names)}")
    if unknown := [name for name in tested if name not in set(names)]:
        raise InputError(
            f"{folders['test']}: expected classes of {folders['train'].name}, got {_few(unknown)}, which it has not; "
            f"add {'it' if len(unknown) == 1 else 'them'} there, or remove {'it' if len(unknown) == 1 else 'them'} "
            f"here ({path.name} has {len(names)} classes)"
        )
    return names


def _listed(folder: Path, names: list[str], path: Path) -> list[Listed]:
    """The images of a part: class after class, in each by their folders' and then their own names."""
    above = {_identity(place) for place in (path, folder)}
    return [each for label, name in enumerate(names) for each in _of_class(folder, name, label, above)]


def _of_class(folder: Path, name: str, label: int, above: set[Identity]) -> Iterator[Listed]:
    top = str(folder / name)
    found: dict[str, list[str]] = {}
    seen = set(above)
    for root, below, files in os.walk(top, followlinks=True, onerror=_unreadable):
        # A link may lead to a folder that was walked through already, and so round for ever.
        identity = _identity(Path(root))
        if identity in seen:
            below.clear()
            continue
        seen.add(identity)
        below.sort()
        found[root] = sorted(file for file in files if _is_image(file))
    for root in sorted(found):
        for file in found[root]:
            at = f"{root}/{file}"  # as text: there may be millions of them
            yield Listed(at[len(str(folder)) + 1 :], label, *_status(at))


def _is_image(name: str) -> bool:
    # macOS keeps what a file system has no place for beside a file, as ._name.
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("._")  # noqa: PTH122


def _unreadable(error: OSError) -> None:
    # A class that a part lacks is nothing wrong; training images of it are asked for later.
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from error


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _check_classes(listed: list[Listed], names: list[str], folder: Path) -> None:
    """Refuse classes without training images."""
    having = {each.label for each in listed}
    if empty := [name for label, name in enumerate(names) if label not in having]:
        raise InputError(
            f"{folder / empty[0]}: expected images ({', '.join(sorted(SUFFIXES)[:4])}, ...) of the class, got "
            f"{_there(folder / empty[0])}; add some, or remove the folder"
            + (f" (as of {_few(empty[1:])})" if len(empty) > 1 else "")
        )


def _there(folder: Path) -> str:
    return _few(names_in(folder)) or "nothing"


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:4])} and {len(names) - 4} more" if len(names) > 4 else ", ".join(names)


def _advice(folders: dict[str, Path], path: Path) -> str:
    if "train" not in folders:
        return f"add {path.name}/train"
    there = [folder.name for part, folder in folders.items() if part != "train"]
    return f"put the images of {there[0]} into a folder a class" if there else "split some images off into test/CLASS"
