"""What to run, as values: a `Protocol` decides the figures, an `Execution` where and how fast they are computed; how both are
written on the command line and in files; the engines and executors that can be named. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .choices import ENGINES, EXECUTORS
from .options import Loaded, combine, parse_epsilon, parse_whole, select_candidates
from .protocol import (
    PRESETS,
    Activation,
    Execution,
    Initialisation,
    LabelSource,
    OptimizerName,
    Precision,
    Protocol,
    Size,
)

if TYPE_CHECKING:
    from .config_file import MAX_BYTES, from_run, load_config, parse_file
else:
    __getattr__ = lazy_exports(__name__, config_file="MAX_BYTES from_run load_config parse_file")

__all__ = [
    "ENGINES",
    "EXECUTORS",
    "MAX_BYTES",
    "PRESETS",
    "Activation",
    "Execution",
    "Initialisation",
    "LabelSource",
    "Loaded",
    "OptimizerName",
    "Precision",
    "Protocol",
    "Size",
    "combine",
    "from_run",
    "load_config",
    "parse_epsilon",
    "parse_file",
    "parse_whole",
    "select_candidates",
]
