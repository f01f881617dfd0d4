"""Memory that runs out at any allocation: the group is divided and goes on. And memory that must not grow."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from atras.engines import ENGINES, FusedEngine
from atras.errors import InputError
from atras.evaluation import Transfer
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.results.results import Results
from atras.running import orchestrator
from atras.running.divided import out_of_memory
from atras.running.prepare import make_plan
from atras.testing import SMALL
from atras.training import epochs

# Five members of one depth, all in one group.
PROTOCOL = SMALL.replace(candidates=tuple(Candidate((width,)) for width in (8, 12, 16, 20, 24)), precision="fp64")
ERRORS: dict[str, Exception] = {
    "MemoryError": MemoryError(),
    "bad_alloc": MemoryError("std::bad_alloc"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
}
SITES = ("_build", "begin_phase", "epoch", "logits", "gradient", "get_parameters")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shortage(monkeypatch: pytest.MonkeyPatch, engine: str, site: str, error: Exception, room: int, first: int) -> None:
    """From the first-th call of a method on, an engine of more members than there is room for gets no memory."""
    kind = ENGINES.get(engine)
    method, calls = getattr(kind, site), itertools.count()

    def allocate(self: Any, *args: Any, **options: Any) -> Any:
        if len(self.members) > room and next(calls) >= first:
            raise copy.copy(error)  # a traceback keeps engines
        return method(self, *args, **options)

    monkeypatch.setattr(kind, site, allocate)


def execution(engine: str) -> Execution:
    return Execution(engine=engine, device="cpu", checkpoint_every=0)  # type: ignore[arg-type]


def accuracies(results: Results) -> Any:
    return results.table.select(pl.col("^.*_accuracy.*$")).to_numpy()


@pytest.mark.faults
@pytest.mark.parametrize("out", [True, False], ids=["folder", "in memory"])
@pytest.mark.parametrize("site", SITES)
def test_a_group_without_memory_goes_on_as_two(
    site: str, out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    if site == "get_parameters" and not out:
        site = "_step"  # without a folder nothing is kept
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    expected = accuracies(orchestrator.run(PROTOCOL, execution("stack")))
    for index, error in enumerate(ERRORS.values()):
        with monkeypatch.context() as patch:
            # The calibration makes engines too, of four members at the most.
            first = {"_build": 0, "begin_phase": index % 2}.get(site, index)
            shortage(patch, "stack", site, error, 4 if index % 2 else 2, first)
            results = orchestrator.run(PROTOCOL, execution("stack"), out=tmp_path / str(index) if out else None)
        groups = [[name for name, _ in group["members"]] for group in results.run["plan"]["groups"]]
        assert groups == ([["8", "12"], ["16", "20", "24"]] if index % 2 else [["8", "12"], ["16"], ["20", "24"]])
        assert len(results.run["splits"]) == len(groups) - 1
        assert results.table["hidden_layers"].to_list() == ["8", "12", "16", "20", "24"]
        # In float64 another grouping may turn one image of 30 or 60 at the most.
        assert abs(accuracies(results) - expected).max() <= 1 / 30 + 1e-9
        assert results.timings["members"].to_list()
        assert results.timings["group"].unique().sort().to_list() == list(range(len(groups)))
        count("memory shortages survived", len(groups) - 1)


@pytest.mark.faults
def test_a_divided_group_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    begun: list[tuple[int, str]] = []
    begin = ENGINES.get("stack").begin_phase

    def noted(self: Any, phase: str, *steps: int) -> None:
        begun.append((len(self.members), phase))
        begin(self, phase, *steps)

    make_plan(PROTOCOL, execution("stack"))  # so that nothing is left to be calibrated
    monkeypatch.setattr(ENGINES.get("stack"), "begin_phase", noted)
    # 8 steps of the first training, and one of the second.
    shortage(monkeypatch, "stack", "epoch", MemoryError(), 3, 9)
    results = orchestrator.run(PROTOCOL, execution("stack"), out=tmp_path)
    assert begun == [(5, "train"), (5, "adversarial"), (2, "adversarial"), (3, "adversarial")]
    assert not any(results.table.null_count().select(pl.col("^.*_accuracy.*$")).row(0))
    count("memory shortages survived")


@pytest.mark.faults
def test_engine_fused_is_divided_too_and_bitwise_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    protocol = PROTOCOL.replace(precision="fp32")
    expected = orchestrator.run(protocol, execution("fused")).table
    shortage(monkeypatch, "fused", "epoch", ERRORS["bad_alloc"], 3, 2)
    results = orchestrator.run(protocol, execution("fused"), out=tmp_path)
    assert len(results.run["splits"]) == 1
    assert results.table.equals(expected)  # members lie at their natural widths: there is no padding to change
    count("memory shortages survived")


@pytest.mark.faults
def test_one_member_that_does_not_fit_is_an_error_and_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    make_plan(PROTOCOL, execution("stack"))  # which measures the machine's speed, if need be
    with monkeypatch.context() as patch:
        shortage(patch, "stack", "logits", ERRORS["cpu"], 0, 0)
        with pytest.raises(InputError, match=r"memory: expected room .*--memory .*--batch-size .*--resume") as caught:
            orchestrator.run(PROTOCOL, execution("stack"), out=tmp_path)
    assert "\n" not in str(caught.value)
    results = orchestrator.resume(tmp_path)
    assert results.run["status"] == "finished"
    assert [session["found"] for session in results.run["sessions"]] == ["start", "failed"]
    count("memory shortages survived")


def test_only_a_lack_of_memory_counts_as_one() -> None:
    assert all(out_of_memory(error) for error in ERRORS.values())
    assert not any(
        out_of_memory(error) for error in (RuntimeError("shapes"), ValueError("not enough memory"), OSError())
    )


@pytest.fixture
def in_transfer(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Its last element says whether a transfer is under way."""
    under_way = [False]
    go = Transfer.run

    def noted(self: Transfer, *given: Any) -> None:
        under_way.append(True)
        try:
            go(self, *given)
        finally:
            under_way.append(False)

    monkeypatch.setattr(Transfer, "run", noted)
    return under_way


def short_in_transfer(
    monkeypatch: pytest.MonkeyPatch, under_way: list[bool], engine: str, site: str, error: Exception, room: int
) -> None:
    """An engine of more members than there is room for gets no memory in the transfer."""
    kind = ENGINES.get(engine)
    method = getattr(kind, site)

    def allocate(self: Any, *args: Any, **options: Any) -> Any:
        if under_way[-1] and len(self.members) > room:
            raise copy.copy(error)  # a traceback keeps engines
        return method(self, *args, **options)

    monkeypatch.setattr(kind, site, allocate)


PAIRS = PROTOCOL.replace(transfer=True, precision="fp32")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("site", "error"), [*zip(["_build", "set_parameters", "logits", "gradient"], ERRORS.values(), strict=True)]
)
def test_a_transfer_without_memory_goes_on_in_halves(
    site: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_transfer: list[bool],
    count: Callable[..., None],
) -> None:
    expected = orchestrator.run(PAIRS, execution("fused"))
    short_in_transfer(monkeypatch, in_transfer, "fused", site, error, 2)
    results = orchestrator.run(PAIRS, execution("fused"), out=tmp_path)
    assert results.run["status"] == "finished"
    # Members lie at their natural widths: there is no padding to change, and nothing differs.
    assert results.table.equals(expected.table)
    assert results.transfer.equals(expected.transfer)
    # Short with all five, with the one part in turn, and with 2 and 3 members.
    splits = results.run["splits"]
    assert [(split["group"], split["phase"], split["members"]) for split in splits] == [(None, "transfer", 5)] * 3
    count("memory shortages survived", 3)


@pytest.mark.faults
def test_a_transfer_for_which_there_is_no_memory_loses_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_transfer: list[bool], count: Callable[..., None]
) -> None:
    expected = orchestrator.run(PAIRS, execution("stack"))
    with monkeypatch.context() as patch:
        short_in_transfer(patch, in_transfer, "stack", "logits", ERRORS["cpu"], 0)
        with pytest.raises(
            InputError, match=r"memory: expected room for the transfer of one member.*--resume"
        ) as caught:
            orchestrator.run(PAIRS, execution("stack"), out=tmp_path)
        assert "\n" not in str(caught.value)
        inside = orchestrator.run(PAIRS, execution("stack"))
    assert inside.table.equals(expected.table)
    assert inside.transfer.is_empty()
    assert [line for line in inside.run["warnings"] if line.startswith("transfer is left out: memory: expected room")]
    trained: list[str] = []
    begin = ENGINES.get("stack").begin_phase
    monkeypatch.setattr(ENGINES.get("stack"), "begin_phase", lambda *given: (trained.append(given[1]), begin(*given)))
    results = orchestrator.resume(tmp_path)
    assert trained == []
    assert results.table.equals(expected.table)
    assert results.transfer.equals(expected.transfer)
    count("memory shortages survived", 2)


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_a_transfer_stays_within_the_cap(
    engine: str, monkeypatch: pytest.MonkeyPatch, in_transfer: list[bool], tmp_path: Path
) -> None:
    wide = PAIRS.replace(candidates=tuple(Candidate((width,) * 2) for width in (96, 100, 104, 108, 112)), seeds=(0, 1))
    expected = orchestrator.run(wide, execution(engine))
    whole = expected.run["plan"]["predicted_transfer_bytes"]
    cap = whole // 2
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    kind, most = ENGINES.get(engine), [0]
    build = kind._build

    def noted(self: Any) -> None:
        build(self)
        if in_transfer[-1]:
            alive.add(self)
            most[0] = max(most[0], sum(len(each.members) for each in alive))

    monkeypatch.setattr(kind, "_build", noted)
    capped = orchestrator.run(wide, replace(execution(engine), memory_bytes=cap))
    assert capped.run["plan"]["predicted_transfer_bytes"] <= cap < whole
    assert 0 < most[0] < 10  # of ten members
    assert capped.run["splits"] == []
    # In float32 another grouping may turn one image of 30 or 60 at the most.
    difference = capped.transfer["accuracy"] - expected.transfer["accuracy"]
    assert difference.abs().max() <= 1 / 30 + 1e-6  # type: ignore[operator]


@pytest.mark.faults
def test_the_defences_source_is_divided_too(monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]) -> None:
    protocol = PROTOCOL.replace(precision="fp32", seeds=(0, 1, 2), defence="copies(source=smallest)")
    expected = orchestrator.run(protocol, execution("fused")).table
    kind = ENGINES.get("fused")
    epoch = kind.epoch

    def allocate(self: Any, work: Any) -> Any:
        if len(self.members) in (2, 3):  # the source's three seeds; the group has fifteen members
            raise MemoryError
        return epoch(self, work)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "epoch", allocate)
        results = orchestrator.run(protocol, execution("fused"))
        assert results.table.equals(expected)
        told = [{**split, "reason": None} for split in results.run["splits"]]
        shared = {"group": None, "phase": "train-trained", "reason": None}
        assert told == [{**shared, "members": 3}, {**shared, "members": 2}]
        patch.setattr(kind, "epoch", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(InputError, match=r"memory: expected room for the defence's source 8 one seed at a time"):
            orchestrator.run(protocol, execution("fused"))
    count("memory shortages survived", 2)


def learn_at(monkeypatch: pytest.MonkeyPatch, engine: str, rates: dict[str, float]) -> None:
    """Give some members learning rates that no protocol may ask for."""
    build = ENGINES.get(engine)._build

    def with_rates(self: Any) -> None:
        build(self)
        own = zip(self.members, self.learning_rates, strict=True)
        self.learning_rates = tuple(rates.get(member.name, rate) for member, rate in own)

    monkeypatch.setattr(ENGINES.get(engine), "_build", with_rates)


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["stack", "fused"])
def test_a_diverged_member_costs_the_others_nothing(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    def table(rate: float) -> pl.DataFrame:
        with monkeypatch.context() as patch:
            learn_at(patch, engine, {"16/0": rate})
            return orchestrator.run(PROTOCOL.replace(precision="fp32"), execution(engine)).table

    calm, wild = table(PROTOCOL.learning_rate), table(1e38)
    others = pl.col("hidden_layers") != "16"
    assert wild.filter(others).equals(calm.filter(others))
    (row,) = wild.filter(~others).rows(named=True)
    assert row["status"] == "diverged"
    assert row["attacked_accuracy_after_white_box"] is None
    count("diverged members isolated")


@pytest.mark.faults
def test_a_group_that_diverged_altogether_is_not_trained_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    epoch = FusedEngine.epoch

    def noted(self: FusedEngine, work: Any) -> Any:
        calls.append(1)
        return epoch(self, work)

    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    monkeypatch.setattr(FusedEngine, "epoch", noted)
    learn_at(monkeypatch, "fused", {f"{candidate.name}/0": 1e38 for candidate in PROTOCOL.candidates})
    results = orchestrator.run(PROTOCOL.replace(precision="fp32", epochs=3), execution("fused"))
    assert results.table["status"].unique().to_list() == ["diverged"]
    assert len(calls) <= 8  # of 12 and 8: the first epoch's, or the second's where its losses were finite yet
    assert results.history.height == 5 * 4


@pytest.fixture
def resident() -> Callable[[], int]:
    """Gives this process's memory in bytes."""
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("needs /proc")
    return lambda: int(path.read_text().split()[1]) * 4096


@pytest.mark.parametrize("engine", ["stack", "fused"])
def test_memory_does_not_grow_with_the_steps(
    engine: str, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: Callable[[], int]
) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0.05)
    seen: list[int] = []

    def watch() -> bool:
        seen.append(resident())
        return False

    steps = 10_000 if long else 1000
    protocol = Protocol(
        candidates=PROTOCOL.candidates, train_size=64, test_size=16, batch_size=16, precision="fp32",
        epochs=steps // 4, adversarial_epochs=1,
    )  # fmt: skip
    orchestrator.run(protocol, Execution(engine=engine, device="cpu", checkpoint_every=1), out=tmp_path, stop=watch)  # type: ignore[arg-type]
    assert len(seen) > 10
    # History rows: a few hundred bytes a member and epoch, and as much in the checkpoint that is being written.
    allowed = 8 * 2**20 + 4000 * 5 * protocol.epochs
    assert seen[-1] - seen[len(seen) // 4] < allowed
