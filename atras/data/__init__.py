"""Data sets: named ones, folders of images, of Parquet and of IDX files, npz files; their download and checksums;
images as pixels in [0, 1] on a device. Knows storage, errors and keyed draws; nothing of networks or of what is done
with the images."""

from .datasets import MOST_HELD_OUT, Dataset, Split, load, pixels
from .decoding import Progress
from .download import cache_dir
from .draws import of_each_class, stratified
from .file_formats import FILE_FORMATS, FileFormat, Reading
from .named_sets import CHARACTERS, DATASETS
from .source_arrays import SourceArrays, pieces
from .stored_images import StoredImages

__all__ = [
    "CHARACTERS",
    "DATASETS",
    "FILE_FORMATS",
    "MOST_HELD_OUT",
    "Dataset",
    "FileFormat",
    "Progress",
    "Reading",
    "SourceArrays",
    "Split",
    "StoredImages",
    "cache_dir",
    "load",
    "of_each_class",
    "pieces",
    "pixels",
    "stratified",
]
