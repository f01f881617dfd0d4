"""A run: its preparation, its groups as tasks, the executors that compute them, the session that collects their rows,
how it goes on after an interruption, and what is told meanwhile. Knows planning, training and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .live_progress import choose_reporter
from .progress import Reporter
from .signals import Signals

if TYPE_CHECKING:
    from .data_place import DataPlace, RecordedData
    from .elsewhere import lines_elsewhere
    from .executors import Executor, LocalExecutor, Outcome, executor_for
    from .fresh_seeds import check_fresh, confirming
    from .given import finished_networks, shared_spec
    from .merge import merge
    from .orchestrator import resume, run
    from .prepare import load_data, make_plan, make_spec
    from .reopen import check_same, recorded
    from .said_before import plan_lines
    from .session import Stop
    from .task import GroupTask
    from .unit import Surroundings, Task
else:
    __getattr__ = lazy_exports(
        __name__,
        data_place="DataPlace RecordedData",
        elsewhere="lines_elsewhere",
        executors="Executor LocalExecutor Outcome executor_for",
        fresh_seeds="check_fresh confirming",
        given="finished_networks shared_spec",
        merge="merge",
        orchestrator="resume run",
        prepare="load_data make_plan make_spec",
        reopen="check_same recorded",
        said_before="plan_lines",
        session="Stop",
        task="GroupTask",
        unit="Surroundings Task",
    )

__all__ = [
    "DataPlace",
    "Executor",
    "GroupTask",
    "LocalExecutor",
    "Outcome",
    "RecordedData",
    "Reporter",
    "Signals",
    "Stop",
    "Surroundings",
    "Task",
    "check_fresh",
    "check_same",
    "choose_reporter",
    "confirming",
    "executor_for",
    "finished_networks",
    "lines_elsewhere",
    "load_data",
    "make_plan",
    "make_spec",
    "merge",
    "plan_lines",
    "recorded",
    "resume",
    "run",
    "shared_spec",
]
