"""The formats of data sets that a user brings, by name. A new one is a file and a line here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from atras.registry import Registry

from .source_arrays import SourceArrays


class FileFormat(ABC):
    """A file or folder that holds a whole data set; the first line of its docstring completes "expected ..."."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of its files, by which a name that is no file is told from a misspelt one."""

    @abstractmethod
    def fits(self, path: Path) -> bool:
        """Whether a path is of this format, by its name and kind; nothing is read."""

    @abstractmethod
    def read(self, path: Path) -> SourceArrays:
        """The data set.

        Raises:
            InputError: if it cannot be read, or is malformed.
        """


FILE_FORMATS: Registry[FileFormat] = Registry(
    "file format",
    {
        "idx": ("atras.data.idx_folder:IdxFolder", "a folder of IDX files"),
        "npz": ("atras.data.npz_file:NpzFile", "an .npz file"),
    },
    group="atras.data_formats",
)
