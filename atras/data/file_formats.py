"""The formats of data sets that a user brings, by name. A new one is a file and a line here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from atras.registry import Registry

from .decoding import Progress
from .source_arrays import SourceArrays


def _untold(done: int, total: int) -> None:
    """Progress that nobody asked for."""


@dataclass(frozen=True)
class Reading:
    """How a data set is to be read.

    Args:
        image_size: side of the squares that image files are brought to; None to leave them as they are.
        progress: told how many image files of how many are decoded.
    """

    image_size: int | None = None
    progress: Progress = _untold


class FileFormat(ABC):
    """A file or folder that holds a whole data set; the first line of its docstring completes "expected ..."."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of its files, by which a name that is no file is told from a misspelt one."""
    decodes: ClassVar[bool] = False
    """Whether it has image files, which an image size is for."""

    @abstractmethod
    def fits(self, path: Path) -> bool:
        """Whether a path is of this format, by its name and kind; nothing is read."""

    @abstractmethod
    def read(self, path: Path, reading: Reading) -> SourceArrays:
        """The data set.

        Args:
            path: that `fits`.
            reading: what is wished; a format that decodes no images is never given an image size.

        Raises:
            InputError: if it cannot be read, or is malformed.
        """


FILE_FORMATS: Registry[FileFormat] = Registry(
    "file format",
    {
        "parquet": ("atras.data.parquet_folder:ParquetFolder", "a folder of Parquet files"),
        "images": ("atras.data.image_folder:ImageFolder", "a folder with images in train/CLASS and test/CLASS"),
        "idx": ("atras.data.idx_folder:IdxFolder", "a folder of IDX files"),
        "npz": ("atras.data.npz_file:NpzFile", "an .npz file"),
    },
    group="atras.data_formats",
)
