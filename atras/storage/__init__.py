"""Files that can be trusted: reads that are bounded, writes that are whole at every moment, a folder's lock,
checksums inside files, tensors as safetensors, paths as people write them, scratch files. Knows nothing of what the
files mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .atomic_write import (
    LOCK,
    SEARCH,
    FolderBusyError,
    Lock,
    new_folder,
    refuse_special,
    remove_file,
    remove_partials,
    take_folder,
    unwritable,
    write_file,
)
from .bounded_read import is_file, is_folder, memory_limit, open_regular, read_regular
from .checksum import BLANK, JSON_MARK, check_checksum, json_with_checksum, with_checksum
from .paths import expanded, names_in, near, near_misses

if TYPE_CHECKING:
    from .safetensors_file import (
        DTYPES,
        TENSOR_ERRORS,
        Content,
        pack_tensors,
        read_some_tensors,
        read_tensors,
        reason_of,
        tensor_names,
    )
    from .scratch import in_file, scratch_array, scratch_folder
else:
    __getattr__ = lazy_exports(
        __name__,
        safetensors_file=(
            "DTYPES TENSOR_ERRORS Content pack_tensors read_some_tensors read_tensors reason_of tensor_names"
        ),
        scratch="in_file scratch_array scratch_folder",
    )

__all__ = [
    "BLANK",
    "DTYPES",
    "JSON_MARK",
    "LOCK",
    "SEARCH",
    "TENSOR_ERRORS",
    "Content",
    "FolderBusyError",
    "Lock",
    "check_checksum",
    "expanded",
    "in_file",
    "is_file",
    "is_folder",
    "json_with_checksum",
    "memory_limit",
    "names_in",
    "near",
    "near_misses",
    "new_folder",
    "open_regular",
    "pack_tensors",
    "read_regular",
    "read_some_tensors",
    "read_tensors",
    "reason_of",
    "refuse_special",
    "remove_file",
    "remove_partials",
    "scratch_array",
    "scratch_folder",
    "take_folder",
    "tensor_names",
    "unwritable",
    "with_checksum",
    "write_file",
]
