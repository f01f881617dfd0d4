"""A process of this machine that computes tasks: this end of it, and its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atras.errors import InputError
from atras.running.signals import NAMES

if TYPE_CHECKING:
    from atras.running.unit import Task

    from .link import Event
    from .worker import Job, Result

LOST = (EOFError, OSError)
"""What a connection raises whose other end is gone."""

GPUS = "CUDA_VISIBLE_DEVICES"


class Process:
    """This end. A process is started by the first task, and stays; one that is lost is started anew by the next one.

    Args:
        gpu: its number among those that this process sees; None for none.
    """

    def __init__(self, gpu: int | None) -> None:
        self._gpu = gpu
        self._process: Any = None
        self._line: Connection | None = None
        self._job = ""
        self._sending = threading.Lock()
        self._ended = False
        self.result: Result | None = None
        self.reason = ""

    def start(self, job: Job, task: Task) -> None:
        """Have a task computed; `told` then has what becomes of it."""
        self.result, self.reason = None, ""
        with self._sending:
            if self._line is None and not self._ended:
                self._begin()
        if self._job != job.key:
            self._send("job", job)
            self._job = job.key
        self._send("task", task)

    def _begin(self) -> None:
        # Spawned: a fork would share the threads' state of torch, and has no GPU.
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self._job = ""
        self._process = context.Process(target=serve, args=(other, self._gpu), daemon=True)
        self._process.start()
        other.close()

    def _send(self, name: str, *what: Any) -> None:
        # A line that is broken tells `told` as well.
        with self._sending, suppress(*LOST):
            if self._line is None:
                return
            try:
                self._line.send((name, *what))
            except LOST:
                raise
            except Exception as error:
                text = " ".join(str(error).split())[:200]
                raise InputError(
                    f"executor processes: expected a {name} that another process can be sent, got one that cannot be "
                    f"pickled ({text}); use --executor local"
                ) from error

    def told(self) -> Iterator[tuple[Sequence[Event], dict[str, bytes]]]:
        """What the process tells of its task, until that ends: then `result` is there, or the `reason` of its loss.

        Raises:
            RuntimeError: if the task failed for a reason that nobody expects, with the words of it.
        """
        try:
            while (line := self._line) is not None:
                name, *what = line.recv()
                if name == "told":
                    yield what[0], what[1]
                elif name == "failed":
                    raise RuntimeError(what[0])
                else:
                    self.result = what[0]
                    return
        except LOST:
            self._lose()

    def _lose(self) -> None:
        self._process.join()
        code = self._process.exitcode or 0
        self.reason = f"its process ended ({_signal(-code) if code < 0 else f'status {code}'})"
        with self._sending:
            if self._line is not None:
                self._line.close()
            self._line = None

    def stop(self) -> None:
        """Ask it to stop, with a checkpoint."""
        self._send("stop")

    def end(self) -> None:
        """End it at once, for good. Its task is lost, if it has one."""
        with self._sending:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        """Wait until it is gone."""
        if self._process is not None:
            self._process.join()


def numbers() -> list[int]:
    """Signals that a terminal or a queue sends to all processes of a run: the run's own one says what is to be done."""
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def block_signals() -> None:
    """Keep them from what this thread starts, from its first moment on."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers())


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def serve(line: Connection, gpu: int | None) -> None:
    """The process's own end: compute tasks until the other one is gone.

    Args:
        line: to the run.
        gpu: of those that the run's process sees, the one to use; None for none.
    """
    for number in numbers():
        signal.signal(number, signal.SIG_IGN)
    if gpu is not None:
        seen = [each for each in os.environ.get(GPUS, "").split(",") if each]
        os.environ[GPUS] = seen[gpu] if seen else str(gpu)
    inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    stopped = threading.Event()
    threading.Thread(target=_listen, args=(line, inbox, stopped), daemon=True).start()
    job = None
    while True:
        name, what = inbox.get()
        if name == "job":
            job = what
        else:
            line.send(_end(what, job, line, stopped))


def _listen(line: Connection, inbox: queue.SimpleQueue[tuple[Any, ...]], stopped: threading.Event) -> None:
    """Take what comes; without the run there is nothing to be done, not even a checkpoint: another may have begun."""
    try:
        while True:
            name, *what = line.recv()
            if name == "stop":
                stopped.set()
            else:
                inbox.put((name, what[0]))
    except LOST:
        os._exit(1)
    except BaseException:  # what came cannot be unpickled here: the process waits for it, and so sends nothing itself
        try:
            line.send(("failed", traceback.format_exc()))
        finally:
            os._exit(1)


def _end(task: Task, job: Any, line: Connection, stopped: threading.Event) -> tuple[str, Any]:
    import torch

    from .link import Link
    from .worker import compute_elsewhere

    class OwnLink(Link):
        """The line of a process of this machine."""

        def send(self, events: list[Event], files: dict[str, bytes]) -> bool:
            if events or files:
                line.send(("told", events, files))
            return True

        def asked_to_stop(self) -> bool:
            return stopped.is_set()

        def fetch(self, path: Path) -> bytes | None:
            with suppress(OSError):
                return path.read_bytes()
            return None

    try:
        if task.device.type == "cuda":
            task = replace(task, device=torch.device("cuda", 0))  # the one that it sees
        return "result", compute_elsewhere(task, job, OwnLink())
    except Exception:  # it is raised in the run's process
        return "failed", traceback.format_exc()
