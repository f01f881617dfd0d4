"""What a run says of its machine, and the speed it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from atras.data import Split
from atras.data.download import cache_dir
from atras.engines import LoopEngine, StackEngine
from atras.environment import choose_device, describe, machine_key, total_memory
from atras.errors import InputError
from atras.experiment import Protocol
from atras.kernels import backends
from atras.networks import Candidate, Spec
from atras.planning import Speed, calibration

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), 10)
PART = Split(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10)


def test_the_environment_is_json_and_names_what_changes_figures() -> None:
    found = describe(CPU)
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert found["kernels"]["cpu"]["available"] or found["kernels"]["cpu"]["reason"]


def test_memory_is_the_machines_or_less() -> None:
    assert 2**28 < total_memory(CPU).amount < 2**50


def test_automatic_device_is_one_that_works() -> None:
    assert torch.zeros(1, device=choose_device("auto")).item() == 0
    with pytest.raises(InputError, match="use --device cpu"):
        choose_device("cuda:99")


@pytest.mark.parametrize("engine", [LoopEngine, StackEngine])
def test_speed_is_measured_once_and_kept(engine: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = calibration.speed(engine, SPEC, Protocol(), PART)
    assert measured.flops_per_second > 1e6
    assert measured.step_seconds >= 0
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1.0, 2.0, 3.0, 4.0))
    assert calibration.speed(engine, SPEC, Protocol(), PART) == measured
    assert calibration.speed(engine, SPEC, Protocol(batch_size=64), PART) == Speed(1.0, 2.0, 3.0, 4.0)
    assert calibration.speed(engine, SPEC, Protocol(), PART, anew=True) == Speed(1.0, 2.0, 3.0, 4.0)
    assert calibration.speed(engine, SPEC, Protocol(), PART) == Speed(1.0, 2.0, 3.0, 4.0)


def test_convolutions_have_a_speed_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen: list[str] = []

    def step(engine: type, candidates: Sequence[Candidate], *_: object) -> tuple[float, float, float]:
        seen.extend(candidate.name for candidate in candidates)
        return 1.0, 1.0, 1.0

    monkeypatch.setattr(calibration, "_call_seconds", step)
    dense, own = (Protocol(candidates=(Candidate.parse(name),)) for name in ("8", "c3-8"))
    calibration.speed(StackEngine, SPEC, dense, PART)
    assert not any("c" in name for name in seen)
    calibration.speed(StackEngine, SPEC, own, PART)
    assert "c32-c128" in seen
    assert len(json.loads((cache_dir() / "calibration.json").read_text())) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_cache_is_measured_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1.0, 2.0, 3.0, 4.0))
    path = cache_dir() / "calibration.json"
    path.parent.mkdir()
    path.write_text(content)
    assert calibration.speed(StackEngine, SPEC, Protocol(), PART) == Speed(1.0, 2.0, 3.0, 4.0)
    assert isinstance(json.loads(path.read_text()), dict)


def test_the_key_names_the_machine() -> None:
    assert str(torch.get_num_threads()) in machine_key(CPU)
    assert all(name in machine_key(CPU).split("|") for name in backends.instruction_sets()[:1])


@pytest.mark.parametrize(
    "value",
    [
        *(["1", 2, 3, 4], [1, 2], [1, 0, 3, 4], [-1, 2, 3, 4], [1, 2, 3, float("nan")]),
        *([float("nan"), 2, 3, 4], [1, 2, 1e19, 4], [True, 2, 3, 4], None),
    ],
)
def test_what_can_be_no_speed_is_measured_again(value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1.0, 2.0, 3.0, 4.0))
    calibration.speed(StackEngine, SPEC, Protocol(), PART)
    path = cache_dir() / "calibration.json"
    (key,) = json.loads(path.read_text())
    path.write_text(json.dumps({key: value}))
    assert calibration.speed(StackEngine, SPEC, Protocol(), PART) == Speed(1.0, 2.0, 3.0, 4.0)
    assert json.loads(path.read_text()) == {key: [1.0, 2.0, 3.0, 4.0]}


def test_without_a_place_for_the_cache_speed_is_measured_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1.0, 2.0, 3.0, 4.0))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert calibration.speed(StackEngine, SPEC, Protocol(), PART) == Speed(1.0, 2.0, 3.0, 4.0)
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert calibration.speed(StackEngine, SPEC, Protocol(), PART) == Speed(1.0, 2.0, 3.0, 4.0)
    with pytest.raises(InputError, match="XDG_CACHE_HOME: expected a folder"):
        cache_dir()
