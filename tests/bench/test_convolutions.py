"""Networks with convolutions side by side: equal results before times, and none where they differ."""

from __future__ import annotations

import pytest
import torch

import convolutions
from atras.engines import why_not

pytestmark = pytest.mark.skipif(bool(why_not(torch.device("cpu"))), reason=why_not(torch.device("cpu")))
NAME = "c16k4s2z1-c32k4s2z1-100"


@pytest.fixture(autouse=True)
def threads_stay():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_both_sides_are_timed_on_equal_networks(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["convolutions.py", NAME])
    monkeypatch.setattr(convolutions, "ROUNDS", 1)
    assert convolutions.main() == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        f"{NAME} {what}" for what in ("forward", "gradient", "training")
    ]


def test_nothing_is_timed_where_the_sides_differ():
    contest = convolutions.Contest(NAME)
    assert contest.agree()
    with torch.no_grad():
        contest.module[0].bias.add_(0.1)
    assert not contest.agree()
