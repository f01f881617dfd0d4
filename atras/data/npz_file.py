"""`.npz` files with x_train, y_train, x_test and y_test."""

from __future__ import annotations

from pathlib import Path

from atras.storage import is_file

from .file_formats import FileFormat
from .formats import read_npz
from .source_arrays import SourceArrays, array_checksums


class NpzFile(FileFormat):
    """an .npz file"""

    name = "npz"
    suffixes = (".npz",)

    def fits(self, path: Path) -> bool:
        return path.suffix == ".npz" and is_file(path)

    def read(self, path: Path) -> SourceArrays:
        arrays = read_npz(path)
        return SourceArrays(path.stem, str(path), arrays, array_checksums(arrays))
