"""Loggers: what a `Callback` is told of a run, and adapters that hand it to TensorBoard, MLflow and Weights & Biases, a
file each, with a register that knows them by name. They know rows and names, and import a library when a run begins."""

from __future__ import annotations

from .callback import Callback, EpochRow, RunInfo
from .logger import Logger
from .registry import LOGGERS, loggers_of

__all__ = ["LOGGERS", "Callback", "EpochRow", "Logger", "RunInfo", "loggers_of"]
