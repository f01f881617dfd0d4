"""First trainings that several need, as tasks of their own: each once, before its groups, in whatever process."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from polars.testing import assert_frame_equal

from atras.errors import InputError, Interrupted
from atras.evaluation import Evaluator
from atras.experiment import EXECUTORS, Execution, trained_as
from atras.networks import Candidate
from atras.planning import Machine, Planned, Training, make_groups, shared_trainings, united
from atras.results import SCHEMAS, Results
from atras.running import (
    LocalExecutor,
    Outcome,
    Reporter,
    Surroundings,
    Task,
    make_plan,
    merge,
    plan_tasks,
    resume,
    run,
)
from atras.running.plans import plan_for
from atras.running.prepare import load_data
from atras.running.training_task import TrainingTask
from atras.testing import SMALL, tables_of
from atras.training import checkpoint, epochs

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
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)  # to be asked after every step
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
        "learning_rate": (0.001, 0.03), "defence": ("copies(source=smallest)", "ensemble(k=1, start=trained)"),
    }  # fmt: skip
    protocol = SOURCES.replace(candidates=CANDIDATES[:2], axes=axes)
    results = run(protocol, execution(engine))
    # Of each rate, whatever the defence: the smallest one, and the ensemble's other one.
    assert [each["source"] for each in results.run["trainings"]].count(True) == 4
    assert_solo(results, protocol, engine)


def test_the_seconds_of_a_source_are_those_of_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = SOURCES.replace(candidates=CANDIDATES[:2], defence="copies(source=smallest)")
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    calls = itertools.count(1)

    def slowly() -> bool:
        time.sleep(0.1)
        return next(calls) >= 5

    with pytest.raises(Interrupted):
        run(protocol, execution(), out=tmp_path, stop=slowly)
    assert list((tmp_path / "checkpoint").glob("first-*"))
    (training,) = resume(tmp_path).run["trainings"]
    assert training["seconds"] > 0.3  # the first session alone


def test_signs_of_a_source_are_taken_from_their_file_if_they_are_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = SOURCES.replace(candidates=CANDIDATES[:2], defence="copies(source=smallest)")
    run(protocol, execution(), out=tmp_path / "whole")
    gone, kept = tmp_path / "run", tmp_path / "kept.safetensors"

    class Stopping(Reporter):
        """Stops in the second training, which learns from the signs."""

        def progress(self, group: int, phase: str, *told: Any) -> None:
            if phase == "adversarial":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(protocol, execution(), out=gone, reporter=Stopping())
    first, signs = sorted((gone / "checkpoint").glob("first-*"), key=lambda path: len(path.name))
    document, tensors = checkpoint.read(signs)
    assert all(name.startswith("measured.signs-train") for name in tensors)
    for other in ({"protocol_hash": "0"}, {"members": ["8/7"]}):
        wrong = {name: torch.zeros_like(values) for name, values in tensors.items()}
        checkpoint.write(signs, document | other, wrong)
        with pytest.raises(ZeroDivisionError):
            resume(gone, reporter=Stopping())
        found = checkpoint.read(signs)
        assert found.document == document
        assert all(torch.equal(found.tensors[name], values) for name, values in tensors.items())
    kept.write_bytes(signs.read_bytes())
    signs.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(InputError, match=signs.name):
        resume(gone)
    signs.write_bytes(kept.read_bytes())
    signed = Evaluator._signed

    def of_test_images(self: Evaluator, split: str, *chunk: Any) -> Any:
        assert split == "test"  # no training image is attacked again
        return signed(self, split, *chunk)

    monkeypatch.setattr(Evaluator, "_signed", of_test_images)
    resume(gone)
    assert files_of(gone) == files_of(tmp_path / "whole")
    assert not first.parent.exists()


def test_a_first_training_that_a_group_does_for_itself_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_tasks.PlanTasks, "needed", lambda *_: [])
    results = run(SHARED.replace(axes={"defence": (TRADES, "none")}), execution(), out=tmp_path)
    plan = results.run["plan"]["trainings"]
    assert len(plan) == len(results.run["trainings"]) > 0
    assert all(each["seconds"] > 0 for each in results.run["trainings"])


def test_engines_of_one_member_read_what_they_begin_with_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = SHARED.replace(axes={"defence": (TRADES, "none")})
    reads: list[str] = []
    read = checkpoint.read

    def counting(path: Path) -> Any:
        reads.append(path.name)
        return read(path)

    monkeypatch.setattr(checkpoint, "read", counting)
    results = run(protocol, Execution(engine="loop", device="cpu", checkpoint_every=1000), out=tmp_path)
    groups = results.run["plan"]["groups"]
    assert all(len(group["members"]) == 2 for group in groups)
    assert sum(name.startswith("first-") for name in reads) == len(groups)  # each begins with one training


def test_the_smallest_source_of_a_variant_is_of_its_own_candidates() -> None:
    """Candidates of some variants alone, as rounds of a search have them: groups meet only where sources do."""
    axes = {"learning_rate": (0.001, 0.003, 0.03)}
    names = ["12 learning_rate=0.001", *(f"{name} learning_rate={rate}" for rate in (0.003, 0.03) for name in (8, 12))]
    protocol = SOURCES.replace(candidates=CANDIDATES[:2], seeds=(0,), defence="copies(source=smallest)", axes=axes)
    narrowed = protocol.narrowed(names)
    results = run(narrowed, execution())
    assert sorted(len(each["members"]) for each in results.run["plan"]["groups"]) == [1, 4]
    assert_solo(results, narrowed, "stack")


def test_nobody_learns_from_itself_for_want_of_a_source() -> None:
    protocol = SOURCES.replace(seeds=(0,), defence="copies(source=smallest)")
    plan = make_plan(protocol, execution()).to_dict() | {"trainings": []}
    with pytest.raises(InputError, match=r"plan: expected a training of 6-8, on whose .* 8/0 learns, found none"):
        run(protocol, execution(), config_plan=plan)


def test_a_plan_of_what_is_left_has_the_sources_of_what_is_left() -> None:
    protocol = SOURCES.replace(defence="copies(source=smallest)", axes={"learning_rate": (0.001, 0.003)})
    here = load_data(protocol, execution())
    done = [member for member in protocol.members if member.variant == protocol.variants[0]]
    plan = plan_for(protocol, execution(), *here, done=done)
    assert [training.variants for training in plan.trainings] == [protocol.variants[1:]]


def test_variants_have_sources_enough_or_are_refused() -> None:
    protocol = SOURCES.replace(defence="copies", axes={"defence": ("copies", "ensemble(k=3)")})
    with pytest.raises(InputError, match=r"expected more candidates than k \(=3\), got 3; write ensemble\(k=2\)"):
        make_plan(protocol, execution())


TRADES = "trades(beta=3, attack=kl(steps=1), start=trained)"
SHARED = SOURCES.replace(
    candidates=(Candidate.parse("8"), Candidate.parse("6-8")), seeds=(0, 3), defence="copies", evaluate_every=1,
    axes={
        "epsilon": (0.05, 0.1), "learning_rate": (0.001, 0.03),
        "defence": ("copies(source=smallest)", TRADES, "none"),
    },
)  # fmt: skip


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_variants_begin_with_one_first_training(engine: str, noted: list[Task]) -> None:
    axes = {"learning_rate": (0.001, 0.03), "defence": (TRADES, "none")}
    protocol = SHARED.replace(average=0.9, axes=axes)
    results = run(protocol, execution(engine, executor="noting"))
    shared = [task for task in noted if isinstance(task, TrainingTask) and not task.training.source]
    trained = [member for task in shared for member in task.planned.members]
    assert len(trained) == 8  # 2 candidates, 2 seeds and 2 rates: each once
    assert set(trained) == set(map(trained_as, protocol.members))
    assert_solo(results, protocol, engine)


def test_a_plan_counts_what_shared_trainings_save() -> None:
    plan = make_plan(SHARED, execution())
    solos = [make_plan(protocol, execution()) for protocol in SHARED.plain]
    alone = sum(group.flops for solo in solos for group in solo.groups)
    shared = [training for training in plan.trainings if not training.source]
    assert all(group.begun for group in plan.groups)
    saved = sum(training.saved_flops for training in shared)
    once = sum(training.group.flops for training in shared)
    assert saved == 5 * once  # six of the twelve variants begin with each of the two rates
    assert sum(group.flops for group in plan.groups) + once + saved == alone
    assert sum(training.saved_seconds or 0.0 for training in shared) > 0
    lines = plan.lines()
    assert any(line.startswith("before: shared first trainings") for line in lines)
    assert any("which saves" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert type(plan).from_dict(plan.to_dict(), SHARED).trainings == plan.trainings


def test_trainings_of_other_last_bits_have_names_of_their_own() -> None:
    """On a GPU, what engine fused sums together depends on the images of a step, which are twice those with trades."""
    protocol = SHARED.replace(axes={"epsilon": (0.05, 0.1), "defence": ("batch", "trades")})
    _, data, spec = load_data(protocol, execution())
    machine, sizes, planned = Machine("cuda", 2**34), (len(data.train), len(data.test)), []
    for pair in (protocol.variants[::2], protocol.variants[1::2]):
        own = protocol.of(pair[0])
        planned += [Planned(each, own, spec) for each in make_groups(own, spec, *sizes, "fused", machine, (), pair)]
    _, trainings = shared_trainings(planned, sizes, machine)
    assert united(trainings) == tuple(trainings)
    assert [training.step_images for training in trainings] == [16, 32]
    assert [Training.from_dict(training.to_dict()).key for training in trainings] == [each.key for each in trainings]


def test_what_differs_before_its_defence_or_selects_an_epoch_shares_nothing() -> None:
    rates = SHARED.replace(axes={"batch_size": (16, 20), "defence": ("copies",)})
    assert not make_plan(rates, execution()).trainings
    chosen = SHARED.replace(select="robust", axes={"defence": ("copies", "none", "batch(fgsm)")})
    plan = make_plan(chosen, execution())
    assert [group.begun for group in plan.groups] == [True, True, False, False, True, True]


def test_shared_trainings_go_on_and_are_spread_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = SHARED.replace(axes={"epsilon": (0.05, 0.1), "defence": ("copies(source=smallest)", "none")})
    found = run(protocol, execution("fused", executor="processes"), out=tmp_path / "processes")
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    calls, lives, folder = itertools.count(1), 0, tmp_path / "run"

    def stop() -> bool:
        return next(calls) % 25 == 0

    while True:
        try:
            if lives:
                resume(folder, stop=stop)
            else:
                run(protocol, execution("fused"), out=folder, config_plan=found.run["plan"], stop=stop)
            break
        except Interrupted:
            lives += 1
    assert lives > 1
    assert files_of(folder) == files_of(tmp_path / "processes")
    count = len(found.run["plan"]["trainings"])
    assert len(found.run["trainings"]) == len(json.loads((folder / "run.json").read_text())["trainings"]) == count
