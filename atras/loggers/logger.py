"""The base class of loggers: where a run's rows go, as options that can be spelled."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from atras.errors import InputError
from atras.registry import Spelled, accept_forms

from .callback import Callback, EpochRow


class Logger(Spelled, ABC):
    """A place that a run's rows are written to: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    package: ClassVar[str]
    """That it needs; an extra of atras has its logger's name."""

    def __post_init__(self) -> None:
        accept_forms(self)

    @property
    def in_run_folder(self) -> bool:
        """Whether what it writes lies in the run's folder, and is gone with that."""
        return False

    @abstractmethod
    def callback(self, folder: Path | None) -> Callback:
        """What a run tells, so that it is written.

        Args:
            folder: of the run; None for one in memory.

        Raises:
            InputError: if the package is not installed, or a folder is needed.
        """

    def imported(self, module: str) -> Any:
        """A module of the package.

        Raises:
            InputError: if it is not installed.
        """
        try:
            return importlib.import_module(module)
        except ImportError as error:
            missing = (error.name or self.package).partition(".")[0]
            raise InputError(
                f"log (={self.name}): expected the package {missing}; run pip install 'atras[{self.name}]'"
            ) from None


def epoch_figures(row: EpochRow) -> dict[str, float]:
    """The figures of an epoch under the names that all loggers have: `train/mean_loss`."""
    return {f"{row.phase}/{name}": value for name, value in row.figures.items()}


def final_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of a finished member, by the table's columns: `final/test_accuracy`."""
    accuracies = {name: value for name, value in row.items() if "accuracy" in name and isinstance(value, float)}
    return {f"final/{name}": value for name, value in accuracies.items() if math.isfinite(value)}
