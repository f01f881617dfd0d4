"""First trainings that several need, as tasks of their own: each once, before its groups, in whatever process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal

from atras.errors import InputError, Interrupted
from atras.experiment import EXECUTORS, Execution
from atras.networks import Candidate
from atras.results import SCHEMAS, Results
from atras.running import LocalExecutor, Outcome, Surroundings, Task, make_plan, merge, resume, run
from atras.testing import SMALL, tables_of
from atras.training import stages

pytestmark = pytest.mark.usefixtures("shared_cache")
CANDIDATES = tuple(map(Candidate.parse, ("8", "12", "6-8")))
SOURCES = SMALL.replace(
    candidates=CANDIDATES, seeds=(0, 3), precision="fp32", epochs=2, adversarial_epochs=1, defence="ensemble(k=2)"
)


def execution(engine: str = "stack", **changes: Any) -> Execution:
    return Execution(engine=engine, device="cpu", checkpoint_every=0, **changes)


def files_of(folder: Path) -> dict[str, bytes]:
    """Tables and networks."""
    return {**tables_of(folder), **{path.name: path.read_bytes() for path in (folder / "weights").iterdir()}}


def assert_solo(results: Results, protocol: Any, engine: str) -> None:
    for variant in protocol.variants:
        solo, alone = run(protocol.of(variant), execution(engine)), results.of_variant(variant.name)
        for frame in ("table", "history", "metrics", "examples", "outcomes"):
            hashes = [column for column in SCHEMAS[frame] if column == "protocol_hash"]
            expected, own = getattr(solo, frame).drop(hashes), getattr(alone, frame).drop(hashes)
            assert len(expected), frame
            assert_frame_equal(own, expected, check_exact=True)


@pytest.fixture
def noted() -> Iterator[list[Task]]:
    """The tasks of runs with executor `noting`, in the order in which they are done."""
    done: list[Task] = []

    class Noting(LocalExecutor):
        """Keeps what is computed."""

        name = "noting"

        def map(self, tasks: Sequence[Any], place: Surroundings) -> Iterator[Outcome[Any]]:
            for outcome in super().map(tasks, place):
                done.append(outcome.task)
                yield outcome

    EXECUTORS.register(Noting)
    yield done
    EXECUTORS.unregister("noting")


def test_a_source_is_a_task_before_its_groups(noted: list[Task], tmp_path: Path) -> None:
    results = run(SOURCES, execution(executor="noting"), out=tmp_path / "run")
    made = [task.makes for task in noted if task.makes]
    assert len(set(made)) == len(made) == 3
    for place, task in enumerate(noted):
        assert task.needs <= {each.makes for each in noted[:place]}
    assert [task.needs for task in noted if not task.makes] == [frozenset(made)] * 2
    recorded = results.run["trainings"]
    assert sorted(each["members"] for each in recorded) == [["12/0", "12/3"], ["6-8/0", "6-8/3"], ["8/0", "8/3"]]
    assert all(each["source"] and each["seconds"] > 0 for each in recorded)
    assert not (tmp_path / "run/checkpoint").exists()


@pytest.mark.parametrize("in_memory", [False, True])
def test_other_processes_compute_sources_to_the_same_files(in_memory: bool, tmp_path: Path) -> None:
    found = run(SOURCES, execution(executor="processes"), out=None if in_memory else tmp_path / "processes")
    whole = run(SOURCES, execution(), out=None if in_memory else tmp_path / "local", config_plan=found.run["plan"])
    assert len(found.run["trainings"]) == 3
    if in_memory:
        assert found.table.equals(whole.table)
    else:
        assert files_of(tmp_path / "processes") == files_of(tmp_path / "local")


def test_a_run_that_is_stopped_in_a_source_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(SOURCES, execution(), out=tmp_path / "whole")
    monkeypatch.setattr(stages, "CALL_SECONDS", 0)  # to be asked after every step
    calls = itertools.count(1)
    with pytest.raises(Interrupted):
        run(SOURCES, execution(), out=tmp_path / "run", stop=lambda: next(calls) >= 12)
    assert list((tmp_path / "run/checkpoint").glob("first-*"))
    results = resume(tmp_path / "run")
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    names = [each["members"] for each in results.run["trainings"]]
    assert names == [each["members"] for each in whole.run["trainings"]]


def test_shards_train_the_sources_that_they_need(tmp_path: Path) -> None:
    folders = [tmp_path / f"part-{number}" for number in (1, 2)]
    parts = [run(SOURCES, execution(shard=f"{n}/2"), out=folder) for n, folder in enumerate(folders, start=1)]
    run(SOURCES, execution(), out=tmp_path / "whole", config_plan=parts[0].run["plan"])
    merge(folders, tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_sources_of_variants_are_those_of_their_solo_runs(engine: str) -> None:
    axes = {
        "learning_rate": (0.001, 0.03), "epsilon": (0.05, 0.1),
        "defence": ("copies(source=smallest)", "ensemble(k=1, start=trained)"),
    }  # fmt: skip
    protocol = SOURCES.replace(candidates=CANDIDATES[:2], axes=axes)
    results = run(protocol, execution(engine))
    # Of each rate, whatever the epsilon and the defence: the smallest one, and the ensemble's other one.
    assert len(results.run["trainings"]) == 4
    assert_solo(results, protocol, engine)


def test_variants_have_sources_enough_or_are_refused() -> None:
    protocol = SOURCES.replace(defence="copies", axes={"defence": ("copies", "ensemble(k=3)")})
    with pytest.raises(InputError, match=r"expected more candidates than k \(=3\), got 3; write ensemble\(k=2\)"):
        make_plan(protocol, execution())
