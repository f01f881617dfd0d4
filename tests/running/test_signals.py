"""Stopping a run from outside: what it says, what it exits with, and that nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atras.cli import program
from atras.engines import FusedEngine
from atras.running import data_place, signals
from atras.testing import tables_of
from atras.training import epochs

ROOT = Path(program.__file__).parents[2]
OPTIONS = ["--hidden", "8", "--hidden", "6,8", "--train-size", "60", "--test-size", "30", "--epochs", "2"]
OPTIONS += ["--batch-size", "16", "--engine", "fused", "--device", "cpu", "--quiet"]
STATUSES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129} | {
    name: 128 + getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU")
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)


def at_call(monkeypatch: pytest.MonkeyPatch, call: int, action: Callable[[], None]) -> None:
    """Do something in the midst of a training step."""
    epoch, calls = FusedEngine.epoch, iter(range(10_000))

    def acting(self: FusedEngine, work: Any) -> Any:
        if next(calls) == call:
            action()
        return epoch(self, work)

    monkeypatch.setattr(FusedEngine, "epoch", acting)


@pytest.mark.parametrize("name", STATUSES)
def test_a_signal_ends_a_run_that_can_be_gone_on_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert program.execute(program.app, ["run", *OPTIONS, "--out", str(whole)], "atras") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        at_call(patch, 5, lambda: os.kill(os.getpid(), getattr(signal, name)))
        assert program.execute(program.app, ["run", *OPTIONS, "--out", str(folder)], "atras") == STATUSES[name]
    assert capsys.readouterr() == ("", f"atras: interrupted; go on with --resume {folder}\n")
    assert len(list((folder / "checkpoint").iterdir())) == 1
    assert program.execute(program.app, ["run", "--resume", str(folder), "--quiet"], "atras") == 0
    assert tables_of(folder) == tables_of(whole)


def test_a_signal_before_there_is_anything_to_keep_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(data_place, "load", load)
    assert program.execute(program.app, ["run", *OPTIONS, "--out", str(tmp_path / "run")], "atras") == 143
    assert capsys.readouterr() == ("", "atras: interrupted\n")


def test_a_second_signal_ends_the_process_there_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    with signals.Signals() as found:
        assert not found.stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert found.stop()
        assert (ended, found.status) == ([], 130)
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [143]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_queues_warnings_are_never_the_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    with signals.Signals() as found:
        assert not found.stop()
        # The system sends SIGXCPU every second, and a queue SIGTERM after its warning.
        for name in ("SIGXCPU", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGXCPU"):
            os.kill(os.getpid(), getattr(signal, name))
        assert (found.stop(), ended, found.status) == (True, [], 128 + signal.SIGXCPU)
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [143]


def test_what_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.Signals() as found:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not found.stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_goes_away_comes_to_its_end(tmp_path: Path) -> None:
    options = [option for option in OPTIONS if option != "--quiet"]
    command = [sys.executable, "-m", "atras", "run", *options, "--out", str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as child:
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()
        assert child.wait(timeout=120) == 0
    assert '"status": "finished"' in (tmp_path / "run" / "run.json").read_text()


def test_other_options_beside_resume_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    at_call(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert program.execute(program.app, ["run", *OPTIONS, "--out", folder], "atras") == 130
    capsys.readouterr()
    for more, message in (
        (["--out", "there"], "resume and --out exclude each other"),
        (["--dry-run"], "resume and --dry-run exclude each other"),
        (["--config", "run.toml"], "resume and --config exclude each other"),
        (["--epsilon", "0.5"], r"another epsilon \(=0.5, recorded 0.05\); leave that out"),
    ):
        assert program.execute(program.app, ["run", "--resume", folder, *more], "atras") == 2
        assert re.match(f"atras: .*{message}", capsys.readouterr().err)
    assert program.execute(program.app, ["run", "--resume", str(tmp_path)], "atras") == 2
    assert "found no run.json in it" in capsys.readouterr().err


def test_a_diverged_member_fails_a_run_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = FusedEngine._build

    def wild(self: FusedEngine) -> None:
        build(self)
        self.learning_rates = (1e38, *self.learning_rates[1:])

    monkeypatch.setattr(FusedEngine, "_build", wild)
    assert program.execute(program.app, ["run", *OPTIONS, "--out", str(tmp_path / "a")], "atras") == 0
    assert (
        program.execute(program.app, ["run", *OPTIONS, "--fail-on-diverged", "--out", str(tmp_path / "b")], "atras")
        == 3
    )
    assert capsys.readouterr().err == "atras: diverged: 8 (seed 0)\n"
    assert tables_of(tmp_path / "a") == tables_of(tmp_path / "b")
