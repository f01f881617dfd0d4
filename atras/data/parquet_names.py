"""Where the Parquet files of a folder are, and which part of the data each of them is."""

from __future__ import annotations

import re
from pathlib import Path

from atras.storage import is_file, is_folder, names_in

from .parts_of_folders import part_of

LAYOUT = "train-*.parquet and test-*.parquet or validation-*.parquet, in the folder or in data/"


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" and is_file(path)


def files_of(path: Path) -> dict[str, list[Path]]:
    """The files of each part: `train-00000-of-00002.parquet`, `data/train-...`, or `train/0000.parquet`."""
    found: dict[str, list[Path]] = {}
    for place in (path, path / "data"):
        for name in names_in(place):
            match = re.fullmatch(r"([a-z]+)([-_.].*)?", name.removesuffix(".parquet"), re.IGNORECASE)
            part = part_of(match[1]) if match else None
            if part is None:
                continue
            if is_parquet(place / name):
                found.setdefault(part, []).append(place / name)
            elif part_of(name) and is_folder(place / name):
                below = [place / name / file for file in names_in(place / name)]
                files = [file for file in below if is_parquet(file)]
                if files:
                    found.setdefault(part, []).extend(files)
        if found:
            break
    return found
