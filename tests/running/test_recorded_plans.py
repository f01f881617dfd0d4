"""A recorded plan on a machine that cannot do what it says: planned anew, said and recorded, and nothing is lost."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from atras.cli import app, execute
from atras.engines import has_bf16, why_not
from atras.errors import InputError, Interrupted
from atras.experiment import Execution, Protocol
from atras.kernels import backends
from atras.networks import Candidate
from atras.results import Results
from atras.running import Reporter, make_plan, resume, run
from atras.storage import json_with_checksum
from atras.testing import SMALL
from atras.training import epochs

CPU = torch.device("cpu")
PROTOCOL = SMALL.replace(
    candidates=tuple(map(Candidate.parse, ("8", "12", "6-8"))), epochs=2, adversarial_epochs=1, transfer=True
)
FUSED = Execution(engine="fused", device="cpu", checkpoint_every=0)
needs_bf16 = pytest.mark.skipif(bool(why_not(CPU)) or not has_bf16(), reason="no bf16 in this processor")
needs_fused = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


class Listener(Reporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def plan(self, lines: list[str]) -> None:
        self.lines += lines

    def note(self, message: str) -> None:
        self.lines.append(message)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.lines).split())


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to go on as on a processor without bf16."""
    lacking = backends.Bf16(False, False, "this processor has neither AVX512-BF16 nor AMX")
    return lambda: monkeypatch.setattr(backends, "bf16_on_cpu", lambda *_: lacking)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to go on as where no compiler was."""

    def change() -> None:
        monkeypatch.setattr(backends, "_cpu", None)
        monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built; install a C++ compiler")

    return change


def stopped(folder: Path, protocol: Protocol, execution: Execution = FUSED, after: int = 6) -> dict[str, Any]:
    """A run that was stopped after so many calls; what it recorded."""
    calls = itertools.count()
    with pytest.raises(Interrupted):
        run(protocol, execution, out=folder, stop=lambda: next(calls) >= after)
    return changed(folder)


def changed(folder: Path, **values: Any) -> dict[str, Any]:
    """The content of run.json, with other values."""
    path = folder / "run.json"
    content = json.loads(path.read_text())
    if values:
        path.write_bytes(json_with_checksum({**content, **values}))
    return content | values


def precisions(results: Results) -> dict[str, list[str]]:
    """Of each phase, the precisions of its rows in `metrics`."""
    frame = results.metrics.group_by("phase").agg(pl.col("precision").unique().sort())
    return dict(frame.iter_rows())


@needs_bf16
@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_a_bf16_run_goes_on_where_there_is_no_bf16(
    asked: str, tmp_path: Path, without_bf16: Callable[[], None]
) -> None:
    protocol = PROTOCOL.replace(precision="bf16")
    recorded = stopped(tmp_path, protocol)
    if asked == "auto":  # as on a machine on which bf16 is the faster one
        auto = protocol.replace(precision="auto")
        changed(tmp_path, protocol=auto.to_dict(), protocol_hash=auto.hash)
        for path in tmp_path.glob("checkpoint/*"):
            path.unlink()
    assert recorded["plan"]["precision"] == "bf16"
    without_bf16()
    listener = Listener()
    found = resume(tmp_path, reporter=listener)
    assert found.run["status"] == "finished"
    assert (found.run["plan"]["precision"], found.run["plan"]["engine"]) == ("fp32", "fused")
    assert "precision (=bf16): this processor has neither" in listener.text
    first, second = found.run["sessions"]
    assert (first["precision"], first["planned_anew"], second["precision"]) == ("bf16", None, "fp32")
    assert second["planned_anew"].startswith("precision (=bf16): this processor has neither")
    assert any("trained in bf16 so far, fp32 from here on" in line for line in found.run["warnings"])
    # What had been trained in bf16 is not lost, and every row says what it comes from.
    begun = "bf16+fp32" if asked == "bf16" else "fp32"
    assert precisions(found) == {"trained": [begun], "defended": [begun]}
    assert found.run["protocol"]["precision"] == asked
    assert len(found.table) == 3
    assert len(found.transfer) > 0


@needs_bf16
def test_what_was_trained_in_bf16_alone_says_so(tmp_path: Path, without_bf16: Callable[[], None]) -> None:
    calls = itertools.count()

    def in_the_second_training() -> bool:
        snapshots = list(tmp_path.glob("checkpoint/*"))
        return bool(snapshots) and b'"stage": "adversarial' in snapshots[0].read_bytes() and next(calls) > 2

    with pytest.raises(Interrupted):
        run(PROTOCOL.replace(precision="bf16"), FUSED, out=tmp_path, stop=in_the_second_training)
    without_bf16()
    assert precisions(resume(tmp_path)) == {"trained": ["bf16"], "defended": ["bf16+fp32"]}


@needs_bf16
def test_a_resumed_run_may_be_given_another_precision(tmp_path: Path) -> None:
    stopped(tmp_path, PROTOCOL.replace(precision="bf16"))
    with pytest.raises(InputError, match="epochs"):
        resume(tmp_path, PROTOCOL.replace(precision="fp32", epochs=3))
    with pytest.raises(InputError, match="precision"):  # whose networks have numbers of another type
        resume(tmp_path, PROTOCOL.replace(precision="fp64"))
    assert execute(app, ["run", "--resume", str(tmp_path), "--precision", "fp32", "--quiet"], "atras") == 0
    content = changed(tmp_path)
    assert (content["status"], content["plan"]["precision"]) == ("finished", "fp32")
    assert content["plan"]["replanned"] == "precision fp32 is asked for"


@needs_fused
def test_a_run_of_engine_fused_goes_on_without_its_kernels(tmp_path: Path, without_kernels: Callable[[], None]) -> None:
    def some_are_done() -> bool:
        return bool(changed(tmp_path)["finished_groups"])

    execution = dataclasses.replace(FUSED, memory_bytes=2**20, checkpoint_every=1e6)
    with pytest.raises(Interrupted):
        run(PROTOCOL.replace(precision="fp32", train_size=500), execution, out=tmp_path, stop=some_are_done)
    assert len(changed(tmp_path)["finished_groups"]) < 3
    without_kernels()
    listener = Listener()
    found = resume(tmp_path, reporter=listener)
    assert found.run["plan"]["engine"] == "stack"
    assert "the C++ extension is not built" in listener.text
    assert {backend.partition("/")[0] for backend in found.metrics["backend"].unique()} == {"fused", "stack"}
    assert len(found.transfer) == 2 * 9  # also of networks whose engine is not here


def test_a_run_of_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    execution = Execution(engine="stack", checkpoint_every=0)
    recorded = stopped(tmp_path, PROTOCOL.replace(precision="fp32"), execution)
    if recorded["plan"]["device"] != "cpu":
        pytest.skip("there is a GPU")
    plan = recorded["plan"]
    groups = [{**group, "engine": "fused", "precision": "tf32"} for group in plan["groups"]]
    changed(tmp_path, plan={**plan, "device": "cuda:0", "engine": "fused", "precision": "tf32", "groups": groups})
    listener = Listener()
    found = resume(tmp_path, reporter=listener)
    assert (found.run["plan"]["device"], found.run["plan"]["precision"]) == ("cpu", "fp32")
    assert "it is for device cuda:0, this is cpu" in listener.text


def recorded_plan(protocol: Protocol, **changes: Any) -> dict[str, Any]:
    plan = make_plan(protocol, Execution(engine="stack", device="cpu")).to_dict()
    own = {name: value for name, value in changes.items() if name in ("engine", "precision")}
    return {**plan, **changes, "groups": [{**group, **own} for group in plan["groups"]]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "tf32", "engine": "fused"}, r"engine \(=fused\)|precision \(=tf32\): only GPUs have it"),
        ({"device": "cuda:1"}, "it is for device cuda:1, this is cpu"),
        ({"engine": "fused", "threads": 999}, r"engine \(=fused\)|it is for 999 threads"),
    ],
)
def test_a_configuration_whose_plan_does_not_fit_is_planned_anew(changes: dict[str, Any], reason: str) -> None:
    protocol = PROTOCOL.replace(transfer=False)
    plan = recorded_plan(protocol, **changes)
    listener = Listener()
    found = run(protocol, Execution(device="cpu"), config_plan=plan, reporter=listener)
    own = make_plan(protocol, Execution(device="cpu"))
    wanted = "fp32" if plan["precision"] == "fp32" else own.precision
    assert (found.run["plan"]["device"], found.run["plan"]["precision"]) == ("cpu", wanted)
    assert found.metrics["precision"].unique().to_list() == [wanted]
    assert "planned anew, the recorded plan does not fit: " in listener.text
    assert re.search(reason, found.run["plan"]["replanned"])
    assert found.run["sessions"][0]["planned_anew"] == found.run["plan"]["replanned"]


@needs_bf16
def test_a_configuration_in_bf16_is_repeated_where_bf16_is_and_in_fp32_elsewhere(
    without_bf16: Callable[[], None],
) -> None:
    protocol = PROTOCOL.replace(transfer=False)
    plan = make_plan(protocol.replace(precision="bf16"), FUSED).to_dict()
    assert make_plan(protocol, FUSED, plan).to_dict() == plan
    without_bf16()
    again = make_plan(protocol, FUSED, plan)
    assert (again.precision, again.engine) == ("fp32", "fused")
    assert again.replanned
    # A new run in a precision that was asked for by name is refused, not changed.
    with pytest.raises(InputError, match="use --precision fp32"):
        make_plan(protocol.replace(precision="bf16"), FUSED, plan)


def test_a_plan_for_more_memory_is_planned_anew() -> None:
    protocol = PROTOCOL.replace(transfer=False, precision="fp32", seeds=tuple(range(9)), train_size=500)
    plan = make_plan(protocol, Execution(engine="stack", device="cpu")).to_dict()
    small = Execution(engine="stack", device="cpu", memory_bytes=2**20)
    again = make_plan(protocol, small, plan)
    assert len(again.groups) > len(plan["groups"])
    assert "a group needs" in again.replanned
    # The bytes are counted anew: those in the file are another machine's, or nobody's.
    lying = {**plan, "groups": [{**group, "predicted_bytes": 1} for group in plan["groups"]]}
    assert make_plan(protocol, small, lying).replanned == again.replanned


def test_a_plan_that_fits_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(PROTOCOL.replace(transfer=False), Execution(engine="stack", device="cpu"), out=tmp_path)
    assert first.run["plan"]["replanned"] == ""
    config = ["run", "--config", str(tmp_path / "run.json"), "--dry-run"]
    assert execute(app, config, "atras") == 0
    assert "planned anew" not in capsys.readouterr().out
    # An option that a plan depends on leaves it out, and that is said.
    assert execute(app, [*config, "--engine", "loop"], "atras") == 0
    out = capsys.readouterr().out
    assert out.startswith("planned anew: the options given change what the recorded plan was made for\n")
    assert "engine loop" in out
