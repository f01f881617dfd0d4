"""Whole runs by every part of a recipe in engine fused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from atras.engines import why_not
from atras.errors import Interrupted
from atras.experiment import Execution
from atras.running import resume, run
from atras.running.prepare import prepare
from atras.schedules import Cosine
from atras.testing import SMALL

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(bool(why_not(CPU)), reason=why_not(CPU))
PROTOCOL = SMALL.replace(
    precision="fp32", optimizer="adamw", weight_decay=0.1, clip_gradient=0.5, label_smoothing=0.1, average=0.8,
    schedule=Cosine(warmup=1),
)  # fmt: skip
RUN = Execution(device="cpu", engine="fused", checkpoint_every=0)


def test_auto_takes_fused_whatever_the_recipe() -> None:
    for changes in ({}, {"optimizer": "sgd", "momentum": 0.9}):
        plain, own = (prepare(each.replace(**changes), Execution(device="cpu")) for each in (SMALL, PROTOCOL))
        assert [group.engine for group in own.plan.groups] == [group.engine for group in plain.plan.groups]
        assert prepare(PROTOCOL.replace(**changes), RUN).plan.groups[0].engine == "fused"


@pytest.mark.parametrize("after", [3, 13])
def test_a_run_that_was_stopped_ends_as_the_others(after: int, tmp_path: Path) -> None:
    """In the first training and in the second."""
    whole, calls = run(PROTOCOL, RUN), itertools.count()
    with pytest.raises(Interrupted):
        run(PROTOCOL, RUN, out=tmp_path / "stopped", stop=lambda: next(calls) > after)
    assert resume(tmp_path / "stopped").table.equals(whole.table)
