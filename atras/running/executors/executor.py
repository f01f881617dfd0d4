"""The base class of executors: an executor maps tasks to their rows, in an order of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from atras.evaluation import Rows
from atras.running.task import GroupTask, Surroundings


class Outcome(NamedTuple):
    """The end of a task.

    Args:
        task: which.
        rows: complete; None where memory did not suffice for it.
        reason: the words of that shortage.
    """

    task: GroupTask
    rows: Rows | None
    reason: str = ""


class Executor(ABC):
    """Computes tasks. A task's rows depend on nothing but the task, so executors differ in where and when alone."""

    name: ClassVar[str]

    @abstractmethod
    def map(self, tasks: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
        """The outcome of every task, in the order in which they come.

        Args:
            tasks: of one run, none of which waits for another.
            place: this process.

        Raises:
            Interrupted: if the run was asked to stop.
            InputError: if a task cannot be computed for another reason than memory.
        """
