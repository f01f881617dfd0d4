"""The oracle: a textbook training loop gives the loop engine's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atras.engines import LoopEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_ten_steps_equal_a_textbook_loop(optimizer: str) -> None:
    spec = Spec((1, 8, 8), 10)
    protocol = Protocol(precision="fp64", optimizer=optimizer)  # type: ignore[arg-type]
    engine = LoopEngine(spec, [Member(Candidate((6, 12)), 4)], protocol, torch.device("cpu"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10))
    network.double().load_state_dict(dict(zip(network.state_dict(), engine.get_parameters(0).values(), strict=True)))
    rule = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    textbook = rule(network.parameters(), lr=1e-3)
    engine.begin_phase("train")
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        images = torch.rand(20, 1, 8, 8, generator=draw, dtype=torch.float64)
        labels = torch.randint(0, 10, (20,), generator=draw)
        out = network(images)
        loss = nn.functional.cross_entropy(out, labels)
        textbook.zero_grad()
        loss.backward()
        textbook.step()
        result = engine.step(images, labels)
        assert result.losses.item() == pytest.approx(loss.item(), rel=1e-12)
        assert result.correct.item() == (out.argmax(1) == labels).sum().item()


def test_the_loop_takes_one_member() -> None:
    members = [Member(Candidate((6,)), 0), Member(Candidate((6,)), 1)]
    with pytest.raises(InputError, match="expected one member, got 2"):
        LoopEngine(Spec((1, 8, 8), 10), members, Protocol(), torch.device("cpu"))
