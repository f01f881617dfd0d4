"""Executors: who computes the tasks of a run. Each is one file, and one register (`experiment.EXECUTORS`) knows them
by name. An executor knows tasks and their surroundings; nothing of the run's folder or its frames."""

from atras.experiment import EXECUTORS

from .executor import Executor, Outcome
from .local import LocalExecutor

__all__ = ["EXECUTORS", "Executor", "LocalExecutor", "Outcome"]
