"""atras: train, attack, defend and re-attack a whole population of networks as one program."""

from __future__ import annotations

import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

# A wheel run from a source tree finds ./atras before the installed package, whose kernels would then be out of reach.
# A folder of this name that is no package, such as a clone beside this one, has kernels as well, which are not built.
__path__ = [
    folder
    for folder in pkgutil.extend_path(__path__, __name__)
    if folder in __path__ or os.path.isfile(os.path.join(folder, "__init__.py"))  # noqa: PTH113, PTH118 (quick to import)
]

from atras.experiment import Execution, Protocol
from atras.loggers import Callback
from atras.networks import Candidate, grid, k_complete

from .errors import InputError, Interrupted
from .version import __version__

if TYPE_CHECKING:
    from atras.analysis import Robustness, attack, evaluate, load
    from atras.results import Results, read
    from atras.running import merge, resume, run
    from atras.search import confirm

__all__ = [
    "Callback",
    "Candidate",
    "Execution",
    "InputError",
    "Interrupted",
    "Protocol",
    "Results",
    "Robustness",
    "__version__",
    "attack",
    "confirm",
    "evaluate",
    "grid",
    "k_complete",
    "load",
    "merge",
    "read",
    "resume",
    "run",
]


def __dir__() -> list[str]:
    """The public names, those that are imported late included."""
    return __all__


class _MissingKernels:
    """Asked last, when nothing else finds a module: says what to do about kernels that are not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name == "atras.kernels":
            raise ModuleNotFoundError("atras.kernels is not installed; run pip install . in the source tree", name=name)


sys.meta_path.append(_MissingKernels)

_LAZY = {
    "run": "running",
    "resume": "running",
    "merge": "running",
    "confirm": "search",
    "read": "results",
    "Results": "results",
    "Robustness": "analysis",
    "attack": "analysis",
    "evaluate": "analysis",
    "load": "analysis",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch or polars only when it is asked for: `--help` must answer at once."""
    if name not in _LAZY:
        raise AttributeError(f"module 'atras' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
