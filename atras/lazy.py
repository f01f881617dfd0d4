"""Names of a package that are imported when they are first asked for, so that `--help` waits for no library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_exports(package: str, **files: str) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        files: for each of its files, the names that others import from the package, with blanks between them.
    """
    where = {name: file for file, names in files.items() for name in names.split()}

    def import_name(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{where[name]}")
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name
