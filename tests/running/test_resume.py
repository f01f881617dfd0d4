"""Runs that go on: with groups that finished in any order, a plan made anew, groups divided, records damaged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.engines import StackEngine
from atras.errors import InputError, Interrupted
from atras.experiment import EXECUTORS, Execution
from atras.networks import Candidate
from atras.results import Results, read, writer
from atras.running import GroupTask, LocalExecutor, Outcome, Reporter, Surroundings, make_plan, resume, run, session
from atras.storage import json_with_checksum
from atras.testing import SMALL, tables_of
from atras.training import epochs

PROTOCOL = SMALL.replace(
    candidates=tuple(map(Candidate.parse, ("8", "12", "16", "6-8", "6-8-6"))), precision="fp32", transfer=True
)
STACK = Execution(engine="stack", device="cpu", checkpoint_every=0)


class Killed(BaseException):
    """Ends a process, which has no time to say anything."""


class Backwards(LocalExecutor):
    """The last group first."""

    name = "backwards"

    def map(self, tasks: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
        return super().map(tasks[::-1], place)


class Listener(Reporter):
    """Keeps what groups began."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        self.labels.append(label)


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    EXECUTORS.register(Backwards)
    yield
    EXECUTORS.unregister("backwards")


def killed(folder: Path, monkeypatch: pytest.MonkeyPatch, groups: int = 1, go_on: Execution | None = None) -> None:
    """Run PROTOCOL backwards, or go on with it, until so many more groups have finished."""
    forget, calls = GroupTask.forget, itertools.count(1)

    def dying(self: GroupTask) -> None:
        forget(self)
        if next(calls) == groups:
            raise Killed

    execution = Execution(engine="stack", executor="backwards", device="cpu", checkpoint_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(GroupTask, "forget", dying)
        patch.setattr(session.Session, "leave", lambda *_: None)

        def start() -> Results:
            return run(PROTOCOL, execution, out=folder) if go_on is None else resume(folder, execution=go_on)

        with pytest.raises(Killed):
            start()


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}


def timings_of(results: Results) -> list[tuple[Any, ...]]:
    """All of the timings but the seconds."""
    return sorted(results.timings.drop("seconds").rows(), key=repr)


def test_the_last_group_of_the_plan_may_have_finished_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(PROTOCOL, STACK, out=tmp_path / "whole")
    killed(tmp_path / "run", monkeypatch)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    last = len(recorded["plan"]["groups"]) - 1
    assert (recorded["status"], recorded["finished_groups"], last) == ("running", [last], 2)
    listener = Listener()
    found = resume(tmp_path / "run", reporter=listener)
    assert listener.labels == ["depth 2: 6-8", "depth 1: 8 .. 16"]  # backwards, and nothing twice
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    assert found.transfer.equals(whole.transfer)
    assert timings_of(found) == timings_of(whole)
    assert (found.run["plan"], found.run["finished_groups"]) == (whole.run["plan"], [0, 1, 2])


def test_groups_of_a_large_run_are_found_apart_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(PROTOCOL, STACK, out=tmp_path / "whole")
    monkeypatch.setattr(writer, "MOST_ROWS", 0)
    killed(tmp_path / "run", monkeypatch)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished_groups"] == []
    assert [path.name for path in (tmp_path / "run" / "finished").iterdir()] == ["0000002.zip"]
    assert len(read(tmp_path / "run").table) == 1
    killed(tmp_path / "run", monkeypatch, go_on=STACK)  # of the groups that are left the first one
    assert read(tmp_path / "run").run["finished_groups"] == [0, 2]
    listener = Listener()
    found = resume(tmp_path / "run", reporter=listener)
    assert listener.labels == ["depth 2: 6-8"]
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")
    assert timings_of(found) == timings_of(whole)
    assert found.transfer.equals(whole.transfer)
    assert not (tmp_path / "run" / "finished").exists()


@pytest.mark.parametrize(
    "execution",
    [
        Execution(engine="fused", device="cpu"),
        Execution(engine="loop", device="cpu"),
        Execution(engine="stack", device="cpu", memory_bytes=2**20),
    ],
    ids=["fused", "loop", "less memory"],
)
def test_a_plan_made_anew_keeps_finished_groups(
    execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(PROTOCOL, STACK)
    killed(tmp_path, monkeypatch)
    kept = json.loads((tmp_path / "run.json").read_text())["plan"]["groups"][2]
    killed(tmp_path, monkeypatch, go_on=execution)
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert recorded["plan"]["groups"][0] == kept
    assert recorded["finished_groups"] == [0, 1]
    results = resume(tmp_path, execution=execution)
    groups = results.run["plan"]["groups"]
    assert results.run["finished_groups"] == list(range(len(groups)))
    assert groups[0] == kept
    assert sum(len(group["members"]) for group in groups) == len(PROTOCOL.candidates)
    assert [group["engine"] for group in groups[1:]] == [execution.engine] * (len(groups) - 1)
    own = pl.col("hidden_layers") == "6-8-6"
    assert results.table.filter(own).equals(whole.table.filter(own))
    assert results.metrics.filter(own).equals(whole.metrics.filter(own))
    assert results.table["hidden_layers"].to_list() == whole.table["hidden_layers"].to_list()
    for number, group in enumerate(groups):
        trained = results.timings.filter(pl.col("group") == number, pl.col("phase") == "train-trained")
        assert trained["members"].to_list() == [len(group["members"])], number
    assert results.timings["group"].drop_nulls().unique().sort().to_list() == list(range(len(groups)))


@pytest.mark.parametrize(
    "numbers", [1, None, "0", {}, [0, 0], [3], [-1], [0, 7], [True], [0.0], ["0"], [[0]], [None], [10**30]]
)
def test_what_can_be_no_set_of_finished_groups_is_refused(
    numbers: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, monkeypatch)
    path = tmp_path / "run.json"
    path.write_bytes(json_with_checksum(json.loads(path.read_text()) | {"finished_groups": numbers}))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(
        InputError, match=r"run\.json: finished_groups \(=.*expected numbers of groups of its plan"
    ) as e:
        resume(tmp_path)
    assert "\n" not in str(e.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def without_room(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """From here on a stack of more members than there is room for gets no memory."""
    build = StackEngine._build

    def _build(self: StackEngine) -> None:
        if len(self.members) > room:
            raise MemoryError("no room")
        build(self)

    monkeypatch.setattr(StackEngine, "_build", _build)


def names_of(results: dict[str, Any]) -> list[list[str]]:
    return [[name for name, _ in group["members"]] for group in results["plan"]["groups"]]


def test_a_divided_groups_second_half_comes_at_the_end_whenever_the_run_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(PROTOCOL, STACK)  # so that nothing is left to be calibrated
    with monkeypatch.context() as patch:
        without_room(patch, 2)
        whole = run(PROTOCOL, STACK, out=tmp_path / "whole")
        halves = [["8"], ["6-8"], ["6-8-6"], ["12", "16"]]
        assert names_of(whole.run) == halves
        assert [(split["group"], split["members"]) for split in whole.run["splits"]] == [(0, 3)]
        for groups in (1, 2, 3):  # backwards: two groups finish, the first is divided, and then its halves
            folder = tmp_path / str(groups)
            killed(folder, patch, groups)
            recorded = json.loads((folder / "run.json").read_text())
            assert recorded["finished_groups"] == {1: [2], 2: [1, 2], 3: [1, 2, 3]}[groups]
            if groups == 3:
                assert names_of(recorded) == halves
            listener = Listener()
            found = resume(folder, reporter=listener)
            assert names_of(found.run) == halves
            assert found.run["finished_groups"] == [0, 1, 2, 3]
            assert len(listener.labels) == {1: 4, 2: 3, 3: 1}[groups]  # once more where it is to be divided first
            assert tables_of(folder) == tables_of(tmp_path / "whole")
            assert timings_of(found) == timings_of(whole)
            assert weights_of(folder) == weights_of(tmp_path / "whole")


def test_a_loop_keeps_the_networks_that_its_unfinished_group_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    execution = Execution(engine="loop", device="cpu", checkpoint_every=0)
    whole = run(PROTOCOL, execution, out=tmp_path / "whole")
    folder = tmp_path / "stopped"

    def in_the_second_member() -> bool:
        networks = len(list(folder.glob("weights/*")))
        return networks == 2 and next(calls) > 4

    calls = itertools.count()
    with pytest.raises(Interrupted):
        run(PROTOCOL, execution, out=folder, stop=in_the_second_member)
    assert len(list(folder.glob("checkpoint/*"))) == 1
    found = resume(folder)
    assert weights_of(folder) == weights_of(tmp_path / "whole")
    assert tables_of(folder) == tables_of(tmp_path / "whole")
    assert found.transfer.equals(whole.transfer)


def test_another_engine_leaves_no_networks_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    calls = itertools.count()
    loop = Execution(engine="loop", device="cpu", checkpoint_every=0)
    with pytest.raises(Interrupted):
        run(PROTOCOL, loop, out=tmp_path, stop=lambda: bool(list(tmp_path.glob("weights/*"))) and next(calls) > 4)
    resume(tmp_path, execution=STACK)
    whole = run(PROTOCOL, STACK, out=tmp_path / "whole")
    assert weights_of(tmp_path).keys() == weights_of(tmp_path / "whole").keys()
    assert whole.run["plan"]["engine"] == "stack"
