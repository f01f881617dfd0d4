"""What all fault tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atras.errors import InputError


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
