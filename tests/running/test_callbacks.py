"""Callbacks are told each epoch of each member once, whatever interrupts the run; one that fails ends nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from atras import Callback
from atras.cli import program
from atras.errors import InputError, Interrupted
from atras.experiment import Execution, Protocol
from atras.loggers import EpochRow, RunInfo
from atras.networks import Candidate
from atras.results import Results, read
from atras.running import GroupTask, Reporter, resume, run, session
from atras.running.epoch_rows import OWN, epoch_rows
from atras.storage import LOCK
from atras.testing import SMALL
from atras.training import epochs

pytestmark = pytest.mark.usefixtures("shared_cache")

PROTOCOL = SMALL.replace(
    candidates=tuple(map(Candidate.parse, ("8", "12", "6-8"))), precision="fp32", evaluate_every=1,
    axes={"learning_rate": (1e-3, 3e-3)},
)  # fmt: skip
ONE = PROTOCOL.replace(candidates=PROTOCOL.candidates[:1], axes=())
STACK = Execution(engine="stack", device="cpu", checkpoint_every=0)


class Listener(Callback):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.runs: list[RunInfo] = []
        self.heard: list[EpochRow] = []
        self.final: list[Mapping[str, Any]] = []
        self.ends: list[str] = []

    def run_started(self, run: RunInfo) -> None:
        self.runs.append(run)

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        self.heard += rows

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.final += rows

    def run_ended(self, status: str) -> None:
        self.ends.append(status)


class Noting(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


class Killed(BaseException):
    """Ends a process, which has no time to say anything."""


def history_of(results: Results) -> list[tuple[Any, ...]]:
    """What callbacks are told, as the frames have it, sorted."""
    columns = ["hidden_layers", "variant", "seed", "phase", "epoch", "steps", "mean_loss", "running_accuracy"]
    tests = results.metrics.filter(split="test", attack="none").drop_nulls("epoch")
    phases = {"trained": "train", "defended": "adversarial"}
    measured = {
        (row["hidden_layers"], row["variant"], row["seed"], phases[row["phase"]], row["epoch"]): row["accuracy"]
        for row in tests.to_dicts()
    }
    return sorted((*row, measured[row[:5]]) for row in results.history.select(columns).rows())


def told(listener: Listener) -> list[tuple[Any, ...]]:
    names = ("mean_loss", "running_accuracy", "test_accuracy")
    return sorted(
        (row.hidden_layers, row.variant, row.seed, row.phase, row.epoch, row.steps, *map(row.figures.get, names))
        for row in listener.heard
    )


def members(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["hidden_layers"], row["variant"], row["seed"], row["test_accuracy"]) for row in rows)


def test_every_epoch_of_every_member_is_told_once(tmp_path: Path) -> None:
    listener = Listener()
    results = run(PROTOCOL, STACK, out=tmp_path / "runs" / "one", callbacks=[listener])
    assert len(listener.heard) == 3 * len(PROTOCOL.seeds) * 2 * (PROTOCOL.epochs + PROTOCOL.adversarial_epochs)
    assert told(listener) == history_of(results)
    assert members(listener.final) == members(results.table.to_dicts())
    (info,) = listener.runs
    assert (info.name, info.members, info.resumed) == ("runs/one", len(results.table), False)
    assert (info.protocol_hash, listener.ends) == (PROTOCOL.hash, ["finished"])


def test_a_run_in_memory_is_told_of_too() -> None:
    listener = Listener()
    results = run(ONE, STACK, callbacks=[listener])
    assert (listener.runs[0].folder, listener.runs[0].name) == (None, "digits")
    assert told(listener) == history_of(results)


@pytest.mark.parametrize("calls", [1, 9])
def test_a_run_that_goes_on_tells_nothing_twice(calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    first, count = Listener(), itertools.count()
    with pytest.raises(Interrupted):
        run(PROTOCOL, STACK, out=tmp_path, callbacks=[first], stop=lambda: next(count) > 4 * calls)
    second = Listener()
    results = resume(tmp_path, callbacks=[second])
    assert first.runs[0].id == second.runs[0].id
    assert (first.ends, second.ends, second.runs[0].resumed) == (["interrupted"], ["finished"], True)
    first.heard += second.heard
    assert told(first) == history_of(results)
    assert members([*first.final, *second.final]) == members(results.table.to_dicts())


def test_a_killed_run_whose_epochs_are_trained_again_tells_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies behind epochs that no checkpoint has, and in the midst of a line of its record."""
    first = Listener()

    def dying(rows: Sequence[EpochRow]) -> None:
        Listener.epochs(first, rows)
        if len(first.heard) > 8:
            first.heard = first.heard[: -len(rows)]  # the one under way comes again
            raise Killed

    first.epochs = dying  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "leave", lambda *_: None)
        with pytest.raises(Killed):
            run(PROTOCOL, Execution(engine="stack", checkpoint_every=1e6), out=tmp_path, callbacks=[first])
    (record,) = (tmp_path / "told").iterdir()
    record.write_text(f"{record.read_text()}[[0, 1], [[")
    second = Listener()
    results = resume(tmp_path, callbacks=[second])
    assert len(first.heard) >= 4
    first.heard += second.heard
    assert told(first) == history_of(results)


def test_a_callback_that_comes_later_hears_of_what_was_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget, count = GroupTask.forget, itertools.count()

    def dying(self: GroupTask) -> None:
        forget(self)
        if next(count) == 1:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(GroupTask, "forget", dying)
        with pytest.raises(Interrupted):
            run(PROTOCOL, STACK, out=tmp_path)
    listener = Listener()
    results = resume(tmp_path, callbacks=[listener])
    assert told(listener) == history_of(results)
    assert members(listener.final) == members(results.table.to_dicts())


@pytest.mark.parametrize("method", ["run_started", "epochs", "run_ended"])
def test_one_that_fails_is_told_of_once_and_the_run_goes_on(method: str, tmp_path: Path) -> None:
    class Failing(Listener):
        pass

    def fail(*_: object) -> None:
        calls.append(method)
        raise OSError("no space\nleft")

    setattr(Failing, method, fail)
    calls: list[str] = []
    other, noted = Listener(), Noting()
    results = run(ONE, STACK, out=tmp_path / "run", callbacks=[Failing(), other], reporter=noted)
    assert calls == [method]
    told_of = [line for line in noted.lines if line.startswith("log: ")]
    assert told_of == ["log: Failing failed (OSError: no space left) and is told nothing more; the run goes on"]
    assert told(other) == history_of(results)
    assert results.table.equals(run(ONE, STACK).table)


def test_a_run_is_finished_though_a_callback_is_interrupted_at_its_end(tmp_path: Path) -> None:
    class Stopped(Listener):
        def run_ended(self, status: str) -> None:
            super().run_ended(status)
            raise KeyboardInterrupt

    listener = Stopped()
    with pytest.raises(KeyboardInterrupt):
        run(ONE, STACK, out=tmp_path, callbacks=[listener])
    assert (read(tmp_path).run["status"], listener.ends) == ("finished", ["finished"])
    assert not (tmp_path / LOCK).exists()


def test_a_failed_one_is_told_the_rest_when_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)

    class Failing(Listener):
        fails = True

        def epochs(self, rows: Sequence[EpochRow]) -> None:
            if self.fails and self.heard:
                raise OSError
            super().epochs(rows)

    count, listener = itertools.count(), Failing()
    with pytest.raises(Interrupted):
        run(PROTOCOL, STACK, out=tmp_path, callbacks=[listener], stop=lambda: next(count) > 40)
    assert listener.heard
    assert listener.ends == []
    listener.fails = False
    results = resume(tmp_path, callbacks=[listener])
    assert told(listener) == history_of(results)


def test_a_record_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    tmp_path.joinpath("told").write_text("in the way")
    noted = Noting()
    results = run(ONE, STACK, out=tmp_path, callbacks=[Listener()], reporter=noted)
    assert results.run["status"] == "finished"
    assert [line.partition(" (")[0] for line in noted.lines if line.startswith("log: ")] == ["log: Listener failed"]


def test_members_that_diverge_have_no_figures() -> None:
    who: dict[str, Any] = {"hidden_layers": "8", "variant": "", "seed": 0, "phase": "train", "epoch": 1, "steps": 4}
    (row,) = epoch_rows([{**who, **dict.fromkeys(OWN), "mean_loss": float("nan")}], [])
    assert (row.member, row.figures) == ("8 seed 0", {})


def test_accuracies_under_attack_are_those_of_the_history() -> None:
    who: dict[str, Any] = {"hidden_layers": "8", "variant": "", "seed": 0, "epoch": 1}
    history = {**who, "phase": "adversarial", "steps": 4, **dict.fromkeys(OWN)}
    history |= {"train_accuracy_under_fgsm": 0.75, "train_accuracy_under_pgd": 0.25}
    counted = {**who, "phase": "defended", "attack": "pgd(steps=10)", "split": "train", "correct": 1, "n": 4}
    (row,) = epoch_rows([history], [counted])
    assert row.figures == {"train_accuracy_under_fgsm": 0.75, "train_accuracy_under_pgd": 0.25}


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(InputError, match=r"callbacks: expected objects of a class derived from atras\.Callback, got 3"):
        run(PROTOCOL, STACK, callbacks=[3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("tensorbord", "log (='tensorbord'): did you mean tensorboard?"),
        ("wandb(mode=loud)", "wandb: mode (='loud'): expected one of offline, online"),
        ("mlflow,mlflow", "log (='mlflow'): expected each logger once"),
    ],
)
def test_a_logger_that_there_is_not_is_one_line(log: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.execute(program.app, ["run", "--log", log, "--dry-run"], "atras") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1


def test_loggers_are_no_part_of_the_experiment_and_are_recorded(tmp_path: Path) -> None:
    execution = Execution(log=["wandb(mode=offline)", "tensorboard"])  # type: ignore[arg-type]
    assert execution.log == ("wandb", "tensorboard")
    assert execution.to_dict()["log"] == ("wandb", "tensorboard")
    assert Execution().log == ()
    assert "log" not in Protocol().to_dict()
