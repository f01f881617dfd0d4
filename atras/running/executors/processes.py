"""The executor whose workers are processes of this machine, one for each GPU, or for as many CPUs as a task takes."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import LifoQueue

import torch

from atras.errors import InputError
from atras.experiment import Execution
from atras.running.unit import Surroundings, Task

from .executor import slots_here
from .pool import End, Message, Pool, PoolExecutor
from .process import Process, block_signals
from .worker import Job, Result


class ProcessesExecutor(PoolExecutor):
    """Tasks in processes of this machine, the longest first."""

    name = "processes"

    def __init__(self, execution: Execution | None = None) -> None:
        super().__init__(execution)
        if (device := self.execution.device) not in ("auto", "cpu", "cuda", "cuda:all"):
            raise InputError(
                f"device (={device!r}): expected auto, cpu or cuda:all with executor processes, which has one for each "
                "GPU; or use --executor local"
            )

    def slots(self, device: torch.device) -> int:
        return slots_here(device)

    def make_pool(self, task: Task, place: Surroundings) -> Pool:  # noqa: ARG002 (others need room for data)
        return ProcessesPool(self.slots(task.device), task.device.type == "cuda", task.memory_bytes)


class ProcessesPool(Pool):
    """Processes, each with a thread here that hands it tasks and listens to it; a lost one is started anew.

    A thread takes the next task as soon as its process is free, also while files are written here.

    Args:
        count: of processes.
        gpus: whether each has a GPU of its own.
        memory_bytes: most that tasks under way may be predicted to take together.
    """

    def __init__(self, count: int, gpus: bool, memory_bytes: int) -> None:
        self._count = count
        self._processes = [Process(number if gpus else None) for number in range(count)]
        self._free: LifoQueue[Process] = LifoQueue()
        for process in reversed(self._processes):
            self._free.put(process)
        self._threads = ThreadPoolExecutor(count, "atras-process", block_signals)
        self._memory = None if gpus else _Memory(memory_bytes)
        self._tasks: set[Future[End]] = set()
        self._told: deque[Message] = deque()
        self._stopping = False
        # Before Python's own end, which would wait for processes that no signal ends.
        atexit.register(self.close)

    _job: Job

    def begin(self, job: Job) -> None:
        self._job = job

    def room(self) -> bool:
        return len(self._tasks) < 2 * self._count

    def start(self, task: Task, attempt: int) -> None:
        self._tasks.add(self._threads.submit(self._attend, self._job, task, attempt))

    def _attend(self, job: Job, task: Task, attempt: int) -> End:
        """Have a task computed, in a thread."""
        if self._memory is None:
            return self._computed(job, task, attempt)
        with self._memory.of(task.predicted_bytes):
            return self._computed(job, task, attempt)

    def _computed(self, job: Job, task: Task, attempt: int) -> End:
        process = self._free.get()
        try:
            if self._stopping:
                return End(task.index, Result("", interrupted=True))
            process.start(job, task)
            if self._stopping:  # asked before the process could hear it
                process.stop()
            for events, files in process.told():
                self._told.append(Message(task.index, attempt, events, files))
            return End(task.index, process.result, process.reason)
        finally:
            self._free.put(process)

    def wait(self, seconds: float) -> list[End]:
        done, self._tasks = wait(self._tasks, seconds, FIRST_COMPLETED)
        return [each.result() for each in done]

    def messages(self, seconds: float = 0.0) -> list[Message]:  # noqa: ARG002 (a thread hears them before the end)
        return [self._told.popleft() for _ in range(len(self._told))]

    def stop(self) -> None:
        self._stopping = True
        for process in self._processes:
            process.stop()

    def leave_out(self, result: Result) -> None:
        raise InputError(f"{result.where}: expected the instruction set of the run's own process; start it again")

    def close(self) -> None:
        atexit.unregister(self.close)
        self._stopping = True
        for process in self._processes:
            process.end()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.join()


class _Memory:
    """What tasks under way are predicted to take: one begins when there is room for it, or when it is alone.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """So many bytes, when they are free."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + amount <= self._most)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()
