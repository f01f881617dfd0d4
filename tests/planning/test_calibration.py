"""Which networks an engine's speed is measured on."""

from __future__ import annotations

import pytest
import torch

from atras.data import Split
from atras.engines import ENGINES, Epoch, StackEngine
from atras.experiment import Protocol
from atras.networks import Candidate, Conv, Member, Spec, StepResult
from atras.planning import calibration


@pytest.mark.parametrize(
    ("names", "strides"), [(["c40-c80", "c8"], {1}), (["c16k4s2z1-c32k4s2z1-100"], {2}), (["24-192"], set())]
)
def test_speed_is_that_of_networks_like_the_candidates(
    names: list[str], strides: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Candidate] = []
    keys: list[str] = []
    batches: list[object] = []

    def call_seconds(engine: object, candidates: list[Candidate], *given: object) -> tuple[float, float, float]:
        measured.extend(candidates)
        batches.append(given[3])
        return float(len(measured)), 1.0, 2.0

    def measured_anew(key: str, measure, *_: object, **__: object) -> list[float]:
        keys.append(key)
        return measure()

    monkeypatch.setattr(calibration, "_call_seconds", call_seconds)
    monkeypatch.setattr(calibration, "known_or_measured", measured_anew)
    protocol = Protocol(candidates=tuple(map(Candidate.parse, names)), precision="fp32")
    part = Split(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    calibration.speed(ENGINES.get("fused"), Spec((1, 28, 28), 10), protocol, part)
    layers = [layer for candidate in measured for layer in candidate.layers if isinstance(layer, Conv)]
    assert {layer.stride for layer in layers} == strides
    assert ("3x3" in keys[0]) == (strides == {1})
    calibration.speed(ENGINES.get("fused"), Spec((1, 28, 28), 10), protocol.replace(batch_size=10**6), part)
    assert batches == [8, 128, 128, calibration.MOST_IMAGES]


@pytest.mark.parametrize(("steps", "expected"), [(1, []), (32, [32] * 7)])
def test_a_gpus_step_is_measured_within_an_epoch(
    steps: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by itself would tell what Python takes around it."""
    calls: list[int] = []

    class Counting(StackEngine):
        def epoch(self, work: Epoch) -> StepResult:
            result = super().epoch(work)
            calls.append(result.losses.shape[1])
            return result

    clock = iter(range(1000))
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(clock))
    protocol = Protocol(precision="fp32", batch_size=3)
    engine = Counting(Spec((1, 2, 2), 3), [Member(Candidate((4,)), 0)], protocol, torch.device("cpu"))
    engine.begin_phase("train")
    part = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert calibration.step_seconds(engine, part, 3, steps, 5) == pytest.approx(1 / steps)
    assert calls == expected
