"""Data sets: named ones, IDX folders and npz files, their download and checksums, and images as pixels in [0, 1] on a
device. Knows storage, errors and keyed draws; nothing of networks or of what is done with the images."""

from .datasets import DATASETS, Dataset, Split, load, pixels
from .download import cache_dir
from .draws import of_each_class, stratified
from .file_formats import FILE_FORMATS, FileFormat
from .source_arrays import SourceArrays, pieces
from .stored_images import StoredImages

__all__ = [
    "DATASETS",
    "FILE_FORMATS",
    "Dataset",
    "FileFormat",
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
