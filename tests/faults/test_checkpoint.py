"""Checkpoints: what goes in comes out, on any engine; what was damaged is seen; what belongs elsewhere is not taken."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.data import load
from atras.engines import ENGINES, Engine, Epoch
from atras.errors import InputError, Interrupted
from atras.experiment import Execution, Protocol
from atras.networks import Member, permutation
from atras.results.results import read
from atras.running import GroupTask, make_spec, orchestrator, session, stopwatch
from atras.storage import safetensors_file
from atras.testing import SMALL, tables_of
from atras.training import checkpoint, epochs, stages, weights

CPU = torch.device("cpu")
MEMBERS = [Member(candidate, seed) for candidate in SMALL.candidates[:2] for seed in (0, 3)]
DOCUMENT: dict[str, Any] = {"rows": [1.5, None, "ä", math.pi], "image": bytes(range(256)), "loss": float("nan")}
TENSORS = {
    "steps": torch.tensor(7), "a/b": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "wide": torch.full((2,), torch.nan, dtype=torch.float64), "empty": torch.zeros(4, 0, dtype=torch.int64),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call, and with it a chance to stop, for each step."""
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)


def stop_after(calls: int) -> Callable[[], bool]:
    left = iter(range(calls))
    return lambda: next(left, None) is None


def execution(engine: str) -> Execution:
    return Execution(engine=engine, device="cpu", checkpoint_every=0)  # type: ignore[arg-type]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.safetensors"
    checkpoint.write(path, DOCUMENT, TENSORS)
    document, tensors = checkpoint.read(path)
    assert math.isnan(document.pop("loss"))
    assert document == {name: value for name, value in DOCUMENT.items() if name != "loss"}
    assert tensors.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        torch.testing.assert_close(tensors[name], values, rtol=0, atol=0, equal_nan=True)


def test_a_hundred_megabytes_of_pictures_come_out(tmp_path: Path) -> None:
    """Readers of safetensors take headers of 100 MB at the most."""
    path = tmp_path / "file.safetensors"
    rows = [{"pixels": bytes(13_000_000) + bytes([number])} for number in range(8)]
    checkpoint.write(path, {"rows": rows}, TENSORS)
    assert checkpoint.read(path).document == {"rows": rows}


def test_nothing_that_grows_with_a_run_stands_in_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty candidates' pictures of 256 x 256 colour pixels would make 120 MB of it, of which 100 can be read."""
    path = tmp_path / "file.safetensors"
    draw = random.Random(0)  # noqa: S311
    images = [draw.randbytes(2000) for _ in range(8)]
    rows = [{"pixels": images[i % 8], "signs": draw.randbytes(2000), "name": f"row {i}"} for i in range(100)]
    tensors = {f"parameters/{i}-{i}/0/dense1.weight": torch.full((i % 3, 2), float(i)) for i in range(200)}
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 1000)
    checkpoint.write(path, {"rows": rows}, tensors)
    document, found = checkpoint.read(path)
    assert document == {"rows": rows}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(values, tensors[name]) for name, values in found.items())
    assert path.stat().st_size < 108 * 2000 + 40_000  # equal bytes once, and none in base64


@pytest.mark.parametrize(("limit", "part"), [("MAX_HEADER_BYTES", "header"), ("memory_limit", "file")])
def test_a_file_that_could_not_be_read_back_is_never_written(
    limit: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, DOCUMENT, TENSORS)
    former = path.read_bytes()
    monkeypatch.setattr(safetensors_file, limit, 100 if limit.isupper() else lambda: 100)
    with pytest.raises(InputError, match=rf"file.safetensors: expected a {part} of at most 100 bytes, which can be"):
        checkpoint.write(path, DOCUMENT | {"more": 1}, TENSORS)
    assert path.read_bytes() == former


@pytest.mark.parametrize("engine", ["stack", "loop"])
def test_a_run_with_large_pictures_goes_on(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_step: None
) -> None:
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 2000)
    monkeypatch.setattr(weights, "MOST_HEADER_BYTES", 700)
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    labels = np.arange(60) % 3
    data = tmp_path / "colours.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    protocol = SMALL.replace(dataset=str(data), stem="none", train_size="all", test_size="all", epochs=1)
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    orchestrator.run(protocol, execution(engine), out=whole)
    measured: list[bool] = []
    trained = stages._Stages.measure_trained

    def stopping(self: Any) -> None:
        trained(self)
        measured.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(stages._Stages, "measure_trained", stopping)
        with pytest.raises(Interrupted):
            orchestrator.run(protocol, execution(engine), out=folder, stop=lambda: bool(measured))
    assert list(folder.glob("checkpoint/*"))
    orchestrator.resume(folder)
    assert tables_of(folder) == tables_of(whole)
    assert (folder / "examples.parquet").read_bytes() == (whole / "examples.parquet").read_bytes()


def test_every_changed_byte_is_seen(long: bool, tmp_path: Path, count: Callable[..., None]) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, DOCUMENT, TENSORS)
    content = path.read_bytes()
    draw = random.Random(0)  # noqa: S311
    places = range(len(content)) if long else draw.sample(range(len(content)), 400)
    for place in places:
        for bit in range(8) if long else [draw.randrange(8)]:
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(InputError, match="expected a checkpoint of this atras, found a damaged") as caught:
                checkpoint.read(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
            count("flips detected")
    for size in draw.sample(range(len(content)), 50):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged"):
            checkpoint.read(path)
        count("flips detected")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    header=st.binary(max_size=64)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)
)
def refuse(header: bytes, path: Path, count: Callable[..., None]) -> None:
    for content in (header, len(header).to_bytes(8, "little") + header):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged or foreign"):
            checkpoint.read(path)
        count("inputs fuzzed")


@pytest.mark.faults
def test_other_files_are_refused(tmp_path: Path, count: Callable[..., None]) -> None:
    path = tmp_path / "file.safetensors"
    refuse(path=path, count=count)
    for metadata in ("null", "[]", "{}", '{"sha256": 3, "format": "x"}', '{"sha256": null}'):
        header = f'{{"__metadata__": {metadata}}}'.encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(InputError, match="damaged or foreign"):
            checkpoint.read(path)


def trained(engine: Engine, first: int, last: int) -> torch.Tensor:
    """Losses of some steps of the first epoch."""
    data = load("digits", train_size=60, test_size=30)
    orders = torch.stack([permutation(seed, "train", 1, 60) for seed in (0, 3)])[:, first * 16 : last * 16]
    rows = torch.tensor([(0, 3).index(member.seed) for member in engine.members])
    return engine.epoch(Epoch(data.train.images, data.train.labels, orders, rows, None, 0.0)).losses


def made(engine: str, protocol: Protocol, members: list[Member]) -> Engine:
    data = load("digits", train_size=60, test_size=30)
    found = ENGINES.get(engine)(make_spec(protocol, data.image_shape, data.classes), members, protocol, CPU)
    found.begin_phase("train")
    return found


@pytest.mark.faults
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_training_from_a_state_is_bitwise_what_it_would_have_been(engine: str, optimizer: str) -> None:
    protocol = SMALL.replace(precision="fp32", optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    members = MEMBERS[:1] if engine == "loop" else MEMBERS
    first, second = (made(engine, protocol, members) for _ in range(2))
    trained(first, 0, 2)
    second.load_state(first.state())
    assert second.steps == 2
    assert torch.equal(trained(first, 2, 4), trained(second, 2, 4))
    one, two = first.state(), second.state()
    assert one.keys() == two.keys()
    assert all(torch.equal(values, two[name]) for name, values in one.items())


@pytest.mark.faults
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_state_fits_other_engines_and_groups(optimizer: str) -> None:
    protocol = SMALL.replace(precision="fp32", optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    whole = made("stack", protocol, MEMBERS)
    trained(whole, 0, 2)
    state = whole.state()
    expected = trained(whole, 2, 4)
    for engine, chosen in (("loop", [1]), ("loop", [3]), ("fused", [3, 0]), ("stack", [2, 1])):
        part = made(engine, protocol, [MEMBERS[i] for i in chosen])
        part.load_state(state)
        # Two steps in float32 from equal parameters: sums of at most 64 terms in another order.
        torch.testing.assert_close(trained(part, 2, 4), expected[chosen], rtol=1e-4, atol=1e-5)


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_results_do_not_depend_on_how_many_steps_a_call_takes(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (0, 100):
        monkeypatch.setattr(epochs, "CALL_SECONDS", seconds)
        orchestrator.run(SMALL, execution(engine), out=tmp_path / str(seconds))
    assert tables_of(tmp_path / "0") == tables_of(tmp_path / "100")


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_a_run_stopped_at_every_call_ends_with_the_same_tables(
    engine: str, tmp_path: Path, every_step: None, count: Callable[..., None]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    orchestrator.run(SMALL, execution(engine), out=whole)
    with pytest.raises(Interrupted):
        orchestrator.run(SMALL, execution(engine), out=folder, stop=stop_after(2))
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    sessions = 1
    while sessions < 200:
        sessions += 1
        try:
            # Some calls come before the first step: the group's start, and images that are attacked again.
            orchestrator.resume(folder, stop=stop_after(8))
            break
        except Interrupted:
            count("interruptions survived")
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], len(run["sessions"])) == ("finished", sessions)
    assert sessions > 3
    assert tables_of(folder) == tables_of(whole)


@pytest.mark.faults
def test_the_seconds_of_a_killed_run_count_up_to_its_last_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    for module in (orchestrator, stopwatch):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    compute = GroupTask.run

    def slow(task: GroupTask, place: Any) -> Any:
        now[0] += 1000
        return compute(task, place)

    monkeypatch.setattr(GroupTask, "run", slow)

    def killed(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(GroupTask, "forget", killed)
        patch.setattr(session.Session, "leave", lambda *_: None)  # nor does SIGKILL let a run say anything
        with pytest.raises(Interrupted):
            orchestrator.run(SMALL, execution("stack"), out=tmp_path)
    run = read(tmp_path).run
    assert (run["status"], run["finished_groups"]) == ("running", [0])
    assert (run["timings"]["run_seconds"], run["timings"]["seconds_at"]["groups"]) == (1000, 1000)
    later = orchestrator.resume(tmp_path).run
    computed = len(later["plan"]["groups"])
    assert later["timings"]["run_seconds"] == later["timings"]["seconds_at"]["groups"] == 1000 * computed > 1000


@pytest.mark.faults
def test_a_damaged_checkpoint_is_refused_and_once_deleted_its_group_starts_anew(
    tmp_path: Path, every_step: None, count: Callable[..., None]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    orchestrator.run(SMALL, execution("stack"), out=whole)
    with pytest.raises(Interrupted):
        orchestrator.run(SMALL, execution("stack"), out=folder, stop=stop_after(5))
    (path,) = (folder / "checkpoint").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checksum is wrong\); delete it to start its group anew"):
        orchestrator.resume(folder)
    path.unlink()
    orchestrator.resume(folder)
    assert tables_of(folder) == tables_of(whole)
    count("flips detected")


@pytest.mark.faults
def test_another_protocol_is_refused_and_its_fields_named(tmp_path: Path, every_step: None) -> None:
    with pytest.raises(Interrupted):
        orchestrator.run(SMALL, execution("stack"), out=tmp_path, stop=stop_after(5))
    with pytest.raises(InputError, match=r"another epochs \(=5, recorded 2\), epsilon \(=0.5, recorded 0.05\); leave"):
        orchestrator.resume(tmp_path, SMALL.replace(epochs=5, epsilon=0.5))
    with pytest.raises(InputError, match=r"found no run.json in it"):
        orchestrator.resume(tmp_path / "nowhere")


@pytest.mark.faults
@pytest.mark.parametrize(("old", "new"), [("stack", "fused"), ("fused", "stack"), ("loop", "stack")])
def test_a_run_goes_on_with_another_engine_and_less_memory(
    old: str, new: str, tmp_path: Path, every_step: None
) -> None:
    expected = orchestrator.run(SMALL.replace(precision="fp32"), execution(old)).table
    with pytest.raises(Interrupted):
        orchestrator.run(SMALL.replace(precision="fp32"), execution(old), out=tmp_path, stop=stop_after(9))
    memory = Execution(engine=new, device="cpu", memory_bytes=2**20)  # type: ignore[arg-type]
    results = orchestrator.resume(tmp_path, execution=memory)
    assert results.table["hidden_layers"].to_list() == expected["hidden_layers"].to_list()
    assert [session["engine"] for session in results.run["sessions"]] == [old, new]
    # Rounding may turn a few of 30 to 120 images of networks that hardly train.
    for name in (name for name in expected.columns if name.endswith("accuracy")):
        assert (results.table[name] - expected[name]).abs().max() <= 0.1, name


@pytest.mark.faults
def test_a_finished_run_is_told_from_others(tmp_path: Path) -> None:
    whole = orchestrator.run(SMALL, execution("stack"), out=tmp_path)
    before = tables_of(tmp_path)
    again = orchestrator.resume(tmp_path)
    assert again.run == whole.run
    assert tables_of(tmp_path) == before
