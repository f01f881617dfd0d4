"""What all fault tests share: the count of what was survived, shown at the end and written where one asks for it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atras.errors import InputError

COUNTS = "ATRAS_FAULT_COUNTS"
"""Environment variable that names a JSON file for the counts."""

_survived: Counter[str] = Counter()


@pytest.fixture(scope="session")
def count() -> Callable[..., None]:
    """Add to what was survived: `count("inputs fuzzed")`, `count("kills survived", 10)`."""

    def add(name: str, n: int = 1) -> None:
        _survived[name] += n

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each count."""
    if _survived:
        terminalreporter.section("faults survived")
        width = max(map(len, _survived))
        for name, n in sorted(_survived.items()):
            terminalreporter.write_line(f"{name:<{width}} {n:>9,}")


def pytest_sessionfinish() -> None:
    """The counts of the tests that ran, as JSON."""
    if path := os.environ.get(COUNTS):
        Path(path).write_text(json.dumps(dict(sorted(_survived.items())), indent=2) + "\n", encoding="utf-8")


@pytest.fixture(
    params=[
        pytest.param(False, id="short", marks=pytest.mark.faults),
        pytest.param(True, id="long", marks=pytest.mark.faults_long),
    ]
)
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long form of a test. The short one repeats itself exactly; the long one never does."""
    return bool(request.param)


@pytest.fixture
def fuzz(long: bool, count: Callable[..., None]) -> Callable[..., None]:
    """Call a check with many drawn values: `fuzz(check, strategy, examples=200)`, 50 times as many in the long form.

    It may succeed or raise InputError with one printable line; anything else is a bug and fails the test.
    """

    def run(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], examples: int = 200) -> None:
        def counted(value: Any) -> None:
            message = "accepted"
            try:
                check(value)
            except InputError as error:
                message = str(error)
            assert message
            assert message.isprintable()
            assert len(message) < 5000
            count("inputs fuzzed")

        settings(
            max_examples=examples * (50 if long else 1),
            derandomize=not long,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(strategy)(counted))()

    return run
