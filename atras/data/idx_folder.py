"""Folders of IDX files named as MNIST's, plain or `.gz`."""

from __future__ import annotations

import re
from pathlib import Path

from atras.errors import InputError
from atras.storage import is_file, is_folder, names_in, near

from .download import OFFICIAL, recognise
from .file_formats import FileFormat, Reading
from .idx_file import IDX_FILES, read_idx
from .source_arrays import SourceArrays, checksums_of, folder_of

_NAME = re.compile(
    r"(?P<prefix>.*[^-_.])??[-_.]?(?P<part>train|t10k|test)[-_.](?P<role>images[-_.]idx3|labels[-_.]idx1)[-_.]ubyte"
    r"(?P<packed>\.gz)?",
    re.IGNORECASE,
)
"""File names such as `train-images.idx3-ubyte` and `emnist-letters-test-labels-idx1-ubyte.gz`."""

_FORM = "(plain or .gz, with a dot or a dash before idx, all with one prefix or none)"

_BELOW = ("", "raw", "gzip", *(each.folder for each in OFFICIAL.values() if each.kind == "idx"), "EMNIST/raw")
"""Where a folder may have the files: directly, or in torchvision's and EMNIST's layouts."""

Found = dict[tuple[Path, str], dict[str, Path]]
"""By folder and prefix, the path of each file by its official name."""


class IdxFolder(FileFormat):
    """a folder of IDX files"""

    name = "idx"

    def fits(self, path: Path) -> bool:
        # Of several sets in a folder, such as EMNIST's, one is named by its prefix: data/emnist-letters.
        return is_folder(path) or bool(path.name and _complete(path.parent, path.name))

    def read(self, path: Path, reading: Reading) -> SourceArrays:  # noqa: ARG002 (nothing is decoded)
        return idx_arrays(None, _idx_files(path), None)


def has_idx_files(folder: Path) -> bool:
    """Whether a folder has a whole set of IDX files."""
    return bool(_complete(folder))


def idx_arrays(name: str | None, files: dict[str, Path], classes: int | None) -> SourceArrays:
    """Read the four IDX files of a named data set, or of a folder that a user gave (name None)."""
    contents = {file: read_idx(path, 3 if "images" in file else 1) for file, path in files.items()}
    recognised = recognise(checksums_of(contents))
    source = folder_of(files)
    if name and recognised not in (None, name):
        raise InputError(f"{name}: the files in {source} are those of {recognised}; give another data_dir or data set")
    prefix = _prefix(next(iter(files.values())))
    return SourceArrays(
        name=name or recognised or prefix or Path(source).resolve().name,
        origin=source,
        arrays={array: contents[file].array for array, file in IDX_FILES.items()},
        sha256={file: content.sha256 for file, content in contents.items()},
        status="official" if recognised else "unverified",
        classes=classes,
        cautions=_cautions(prefix),
    )


def _cautions(prefix: str) -> tuple[str, ...]:
    if not prefix.lower().startswith("emnist"):
        return ()
    return (
        f"data: the images of {prefix} are taken as they are stored, which in EMNIST is with rows and columns swapped: "
        "pictures of them lie on their side",
    )


def _idx_files(path: Path) -> dict[str, Path]:
    """The IDX files of a folder, directly in it or in a usual layout below it, or of a prefix in one."""
    complete = _complete(path) if is_folder(path) else _complete(path.parent, path.name)
    if len(complete) > 1:
        choice = ", ".join(str(folder / prefix) for folder, prefix in complete)
        raise InputError(
            f"dataset (={str(path)!r}): expected one data set in this folder, got several; give one of {choice}"
        )
    if not complete:
        raise InputError(
            f"dataset (={str(path)!r}): expected a folder with {', '.join(IDX_FILES.values())} {_FORM}, not all are "
            f"there{_there(path)}, or of images in train/CLASS and test/CLASS, or with train-*.parquet and "
            "test-*.parquet; add them, or give a named data set with this folder as data_dir"
        )
    return next(iter(complete.values()))


def _complete(folder: Path, wanted: str | None = None) -> Found:
    """The sets of four files in a folder, of which one without a prefix outranks others in its folder.

    Args:
        folder: where to look, and below which.
        wanted: a prefix; None for any.
    """
    complete: Found = {}
    for place in (folder / below for below in _BELOW):
        sets: dict[str, dict[str, Path]] = {}
        # In this order the last of several spellings of one name is the official, uncompressed one.
        for name in sorted(names_in(place), key=_rank):
            match = _NAME.fullmatch(name)
            if match and is_file(place / name):
                part = "train" if match["part"].lower() == "train" else "test"
                file = IDX_FILES[f"{'x' if 'images' in match['role'].lower() else 'y'}_{part}"]
                sets.setdefault(match["prefix"] or "", {})[file] = place / name
        sets = {prefix: files for prefix, files in sets.items() if len(files) == len(IDX_FILES)}
        if wanted is not None:
            sets = {prefix: files for prefix, files in sets.items() if prefix == wanted}
        elif "" in sets:
            sets = {"": sets[""]}
        complete |= {(place, prefix): {f: files[f] for f in IDX_FILES.values()} for prefix, files in sets.items()}
    return complete


def _rank(name: str) -> tuple[bool, bool, str]:
    plain = name.removesuffix(".gz")
    return plain == name, plain in IDX_FILES.values(), name


def _prefix(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return (match["prefix"] or "") if match else ""


def _there(folder: Path) -> str:
    """The names in a folder that are nearest to those of IDX files, as part of a message."""
    names = names_in(folder)
    alike = list(dict.fromkeys(name for file in IDX_FILES.values() for name in near(file, names, 2)))
    shown = [name for name in alike if _NAME.fullmatch(name) is None] or alike or names
    return f" (there is {', '.join(shown[:6])})" if shown else ""
