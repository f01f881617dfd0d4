"""Folders of IDX files named as MNIST's, plain or `.gz`."""

from __future__ import annotations

from pathlib import Path

from atras.errors import InputError
from atras.storage import is_folder

from .download import OFFICIAL, files_in, recognise
from .file_formats import FileFormat
from .formats import IDX_FILES, read_idx
from .source_arrays import SourceArrays, checksums_of, folder_of


class IdxFolder(FileFormat):
    """a folder of IDX files"""

    name = "idx"

    def fits(self, path: Path) -> bool:
        return is_folder(path)

    def read(self, path: Path) -> SourceArrays:
        return idx_arrays(None, _idx_files(path), None)


def idx_arrays(name: str | None, files: dict[str, Path], classes: int | None) -> SourceArrays:
    """Read the four IDX files of a named data set, or of a folder that a user gave (name None)."""
    contents = {file: read_idx(path, 3 if "images" in file else 1) for file, path in files.items()}
    recognised = recognise(checksums_of(contents))
    source = folder_of(files)
    if name and recognised not in (None, name):
        raise InputError(f"{name}: the files in {source} are those of {recognised}; give another data_dir or data set")
    return SourceArrays(
        name=name or recognised or Path(source).resolve().name,
        origin=source,
        arrays={array: contents[file].array for array, file in IDX_FILES.items()},
        sha256={file: content.sha256 for file, content in contents.items()},
        status="official" if recognised else "unverified",
        classes=classes,
    )


def _idx_files(folder: Path) -> dict[str, Path]:
    """The IDX files of a folder, directly in it or in torchvision's layout below it."""
    below = ("", "raw", *(official.folder for official in OFFICIAL.values() if official.kind == "idx"))
    there = {sub: files_in(folder / sub, tuple(IDX_FILES.values()), ("", ".gz")) for sub in below}
    complete = {sub: files for sub, files in there.items() if files is not None}
    if len(complete) > 1:
        choice = ", ".join(str(folder / sub) for sub in complete)
        raise InputError(
            f"dataset (={str(folder)!r}): expected one data set in this folder, got several; give one of {choice}"
        )
    if not complete:
        raise InputError(
            f"dataset (={str(folder)!r}): expected a folder with {', '.join(IDX_FILES.values())} (plain or .gz), "
            "not all are there; add them, or give a named data set with this folder as data_dir"
        )
    return next(iter(complete.values()))
