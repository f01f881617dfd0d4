"""Executors: who computes the tasks of a run. Each is one file, and one register (`experiment.EXECUTORS`) knows them
by name. An executor knows tasks and their surroundings; nothing of the run's folder or its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

if TYPE_CHECKING:
    from .executor import Executor, Outcome, executor_for, executor_of, sharing_memory
    from .local import LocalExecutor
else:
    __getattr__ = lazy_exports(
        __name__, executor="Executor Outcome executor_for executor_of sharing_memory", local="LocalExecutor"
    )

__all__ = ["Executor", "LocalExecutor", "Outcome", "executor_for", "executor_of", "sharing_memory"]
