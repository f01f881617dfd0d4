"""What every test shares."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atras.testing.inputs import CUBLAS, REPEATABLE

os.environ.setdefault(CUBLAS, REPEATABLE[0])  # for tests in poisoned memory, before cuBLAS' first product


FAULT_COUNTS = "ATRAS_FAULT_COUNTS"
"""Environment variable that names a JSON file for the counts of what was survived."""

SURVIVED = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Nothing was survived yet."""
    config.stash[SURVIVED] = Counter()


@pytest.fixture(scope="session")
def count(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add to what was survived: `count("inputs fuzzed")`, `count("kills survived", 10)`."""

    def add(name: str, n: int = 1) -> None:
        request.config.stash[SURVIVED][name] += n

    return add


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist ended: its counts are added up here."""
    node.config.stash[SURVIVED].update(getattr(node, "workeroutput", {}).get("survived", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The counts of the tests that ran, to the process that asked for them, or as JSON."""
    counts = dict(sorted(session.config.stash[SURVIVED].items()))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["survived"] = counts
    elif path := os.environ.get(FAULT_COUNTS):
        Path(path).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each count."""
    if survived := terminalreporter.config.stash[SURVIVED]:
        terminalreporter.section("faults survived")
        width = max(map(len, survived))
        for name, n in sorted(survived.items()):
            terminalreporter.write_line(f"{name:<{width}} {n:>9,}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that needs a CUDA device is skipped where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def cache_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests of a module, so that the machine's speed is measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
