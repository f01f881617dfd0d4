"""Folders of Parquet files with encoded images and labels, as Hugging Face's data sets have them."""

from __future__ import annotations

from pathlib import Path

from atras.errors import InputError
from atras.storage import is_folder

from .decoded_cache import decoded_arrays
from .file_formats import FileFormat, Reading
from .parquet_names import LAYOUT, files_of, is_parquet
from .source_arrays import SourceArrays


class ParquetFolder(FileFormat):
    """a folder of Parquet files"""

    name = "parquet"
    suffixes = (".parquet",)
    decodes = True

    def fits(self, path: Path) -> bool:
        return is_parquet(path) or (is_folder(path) and bool(files_of(path)))

    def read(self, path: Path, reading: Reading) -> SourceArrays:
        if is_parquet(path):
            raise InputError(f"{path}: expected a training and a test part, got one file; give a folder with {LAYOUT}")
        from .parquet_source import ParquetSource  # polars, which other formats need not have

        return decoded_arrays(ParquetSource(path), reading.image_size, reading.progress)
