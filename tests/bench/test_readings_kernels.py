"""What readings.py launches on a GPU, recorded without one: every activation, dropout, and both kinds of nodes."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import readings_kernels
from gpu_kernels import recording


def test_kernels_of_every_reading_are_recorded() -> None:
    with recording(90) as recorder:
        readings_kernels.record(recorder, every=39)
    forward = [each.constant for each in recorder.found.values() if "forward" in each.name]
    assert len({each.get("ACTIVATION") for each in forward if each.get("ACTIVATION") is not None}) >= 3
    labels = {each.label.partition(":")[0] for each in recorder.found.values()}
    assert {"screen", "filters"} <= labels
