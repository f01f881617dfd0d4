"""The bench of what a group costs besides: every executor in turn, with the same groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import executors


def test_each_executor_has_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "found.json"
    options = ["--executors", "local", "--groups", "4", "--rounds", "2", "--epochs", "1", "--json", str(file)]
    assert executors.main(options) == 0
    found = json.loads(file.read_text())
    assert found["groups"] >= 4
    assert [taken["executor"] for taken in found["taken"]] == ["local", "local"]
    assert all(taken["computing"] > 0 and taken["beside"] > 0 and taken["started"] == 0 for taken in found["taken"])
    assert "milliseconds a group, median of 2 turns" in capsys.readouterr().out
