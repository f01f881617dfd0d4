"""Experiments as values: a `Protocol` decides the figures, an `Execution` where and how fast they are computed. The
table of their options, how these are written on the command line and in files, the names of engines and executors. It
needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .axes import trained_as
from .choices import ENGINES, EXECUTORS
from .option import Option, Options, Setting, settings_of
from .options import REMOVED, SETTINGS, Loaded, combine
from .own_networks import OwnNetworks, recall_networks, with_networks
from .protocol import (
    PRESETS,
    Execution,
    Protocol,
    recorded_axes,
    recorded_pairs,
    spelled_setting,
    told_pair,
    varied_settings,
)
from .readers import (
    Channels,
    HeldOut,
    Size,
    Subset,
    parse_epsilon,
    parse_seeds,
    parse_shard,
    parse_whole,
    parse_whole_numbers,
)
from .selection import select_candidates

if TYPE_CHECKING:
    from .config_file import MAX_BYTES, config_lines, from_run, load_config, parse_file
else:
    __getattr__ = lazy_exports(__name__, config_file="MAX_BYTES config_lines from_run load_config parse_file")

__all__ = [
    "ENGINES",
    "EXECUTORS",
    "MAX_BYTES",
    "PRESETS",
    "REMOVED",
    "SETTINGS",
    "Channels",
    "Execution",
    "HeldOut",
    "Loaded",
    "Option",
    "Options",
    "OwnNetworks",
    "Protocol",
    "Setting",
    "Size",
    "Subset",
    "combine",
    "config_lines",
    "from_run",
    "load_config",
    "parse_epsilon",
    "parse_file",
    "parse_seeds",
    "parse_shard",
    "parse_whole",
    "parse_whole_numbers",
    "recall_networks",
    "recorded_axes",
    "recorded_pairs",
    "select_candidates",
    "settings_of",
    "spelled_setting",
    "told_pair",
    "trained_as",
    "varied_settings",
    "with_networks",
]
