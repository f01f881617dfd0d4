"""The base class of executors: an executor maps tasks to their rows, in an order of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch

from atras.evaluation import Rows
from atras.experiment import EXECUTORS, Execution
from atras.limits import processors
from atras.running.unit import Surroundings, Task
from atras.torch_state import threads

AnyTask = TypeVar("AnyTask", bound=Task)


class Outcome(NamedTuple, Generic[AnyTask]):
    """The end of a task.

    Args:
        task: which.
        rows: complete; None where memory did not suffice for it.
        reason: the words of that shortage.
    """

    task: AnyTask
    rows: Rows | None
    reason: str = ""


class Executor(ABC):
    """Computes tasks. A task's rows depend on nothing but the task, so executors differ in where and when alone.

    Args:
        execution: of the run, or None for one as by default.
    """

    name: ClassVar[str]

    def __init__(self, execution: Execution | None = None) -> None:
        self.execution = execution or Execution()

    def slots(self, device: torch.device) -> int:  # noqa: ARG002 (others count devices)
        """How many tasks are computed at once, where a task takes all threads of this process, or one device.

        Raises:
            InputError: if what computes them cannot be had.
        """
        return 1

    @abstractmethod
    def map(self, tasks: Sequence[AnyTask], place: Surroundings) -> Iterator[Outcome[AnyTask]]:
        """The outcome of every task, in the order in which they come.

        Args:
            tasks: of one run, none of which waits for another.
            place: this process.

        Raises:
            Interrupted: if the run was asked to stop.
            InputError: if a task cannot be computed for another reason than memory.
        """

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of what computes: no task is asked for for now. May be called twice."""


def slots_here(device: torch.device) -> int:
    """How many tasks this machine has room for at once: a GPU each, or as many CPUs as this process has threads."""
    return torch.cuda.device_count() if device.type == "cuda" else max(1, processors().amount // threads().amount)


def sharing_memory(executor: Executor, device: torch.device) -> int:
    """How many tasks of an executor share the memory of a machine, or of a GPU."""
    return 1 if device.type == "cuda" else min(executor.slots(device), slots_here(device))


def executor_for(execution: Execution) -> Executor:
    """The executor of a run: all GPUs at once take a process each, which executor local has not.

    Raises:
        InputError: if it cannot be had.
    """
    all_gpus = execution.device == "cuda:all" and execution.executor == "local"
    return EXECUTORS.get("processes" if all_gpus else execution.executor)(execution)


@contextmanager
def executor_of(execution: Execution, kept: Executor | None) -> Iterator[Executor]:
    """The executor of a run, closed behind it.

    Args:
        execution: of the run.
        kept: one that further runs are computed with: it is closed only where this one fails, so that no worker is
            left at work.
    """
    executor = kept or executor_for(execution)
    try:
        yield executor
    except BaseException:
        executor.close()
        raise
    if kept is None:
        executor.close()
