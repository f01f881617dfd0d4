"""A finished search and one that was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import atras
from atras.running import orchestrator
from atras.search import search
from searches import CPU, PROTOCOL, Killed


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[atras.Results, Path]:
    folder = tmp_path_factory.mktemp("search") / "out"
    return search(PROTOCOL, CPU, 80, folder), folder


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ended before its second round, of four."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    prepare, calls = orchestrator.prepare, iter(range(10))

    def dying(*args: Any) -> Any:
        if next(calls) == 1:
            raise Killed
        return prepare(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orchestrator, "prepare", dying)
        with pytest.raises(Killed):
            search(PROTOCOL, CPU, 80, folder)
    return folder


@pytest.fixture
def stopped(once_stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, which no round has begun to name by its path."""
    return Path(shutil.copytree(once_stopped, tmp_path / "stopped"))
