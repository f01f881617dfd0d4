"""Signals that ask a process to stop, sent by a terminal, a script or a queue."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

WARNINGS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")
"""What queues send some time before they end a process; the system itself sends SIGXCPU again every second."""

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", *WARNINGS)


class Signals:
    """A context in which the first signal asks a run to stop and the second one ends the process at once.

    A warning may come several times and before another signal, while the checkpoint is being written: it is never a
    second one, nor is the first other signal behind it.

    Until the run has asked `stop` for the first time there is nothing to be kept, so that a signal stops it directly,
    by a KeyboardInterrupt. What a parent process ignores (as `nohup` does SIGHUP) stays ignored.
    """

    def __init__(self) -> None:
        self._received = 0
        self._urgent = False
        self._listening = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                former = signal.getsignal(number)
                if former is not signal.SIG_IGN:
                    self._former[number] = former
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def stop(self) -> bool:
        """Whether a signal came."""
        self._listening = True
        return self._received != 0

    @property
    def status(self) -> int:
        """The exit status of the process after a signal: 128 and the number of the first; 130 without one."""
        return 128 + (self._received or signal.SIGINT)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the system's signature)
        first = not self._received
        if signal.Signals(number).name not in WARNINGS:
            if self._urgent:
                os._exit(128 + number)
            self._urgent = True
        self._received = self._received or number
        if first and not self._listening:
            raise KeyboardInterrupt
