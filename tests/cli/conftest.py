"""A stand-in for what the command line calls."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import atras.analysis
import atras.running
from atras.experiment import Execution, Protocol


class Schedule:
    """Stands in for the functions of `atras.running` and remembers what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.planned: list[tuple[Protocol, Execution]] = []
        self.error: BaseException | None = None

    def run(self, protocol: Protocol, execution: Execution, **rest: Any) -> str:
        self.calls.append(SimpleNamespace(protocol=protocol, execution=execution, **rest))
        if self.error is not None:
            raise self.error
        rest["reporter"].note("a note")
        return "the results"

    def plan_lines(
        self, protocol: Protocol, execution: Execution, plan: dict[str, Any] | None, reporter: object, width: int
    ) -> list[str]:
        self.planned.append((protocol, execution))
        return ["group 1", f"group 2, {width} wide"]


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Schedule:
    stub = Schedule()
    monkeypatch.setattr(atras.running, "run", stub.run)
    monkeypatch.setattr(atras.running, "plan_lines", stub.plan_lines)
    monkeypatch.setattr(atras.analysis, "summary_lines", lambda results, width: [f"table of {results}, {width} wide"])
    monkeypatch.setattr(
        atras.analysis, "caution_lines", lambda results, width: [f"cautions of {results}, {width} wide"]
    )
    monkeypatch.delenv("ATRAS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "91")
    monkeypatch.chdir(tmp_path)
    return stub
