"""What an ascent tells of itself: where it found no gradient, and whether it ended in the midst of a rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from atras.attacks import ATTACKS, Start
from atras.engines import StackEngine
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

CPU = torch.device("cpu")
SPEC = Spec((1, 6, 6), 4)


def networks(flat: tuple[int, ...] = ()) -> StackEngine:
    """Three networks; those at these places have logits that no image changes."""
    members = [Member(Candidate((12,)), seed) for seed in range(3)]
    engine = StackEngine(SPEC, members, Protocol(precision="fp64"), CPU)
    for place in flat:
        values = engine.get_parameters(place)
        engine.set_parameters(
            place, {name: v * (0.0 if name == "logits.weight" else 1.0) for name, v in values.items()}
        )
    return engine


def images(count: int = 40) -> Tensor:
    return torch.rand(count, *SPEC.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Watched:
    """The state of an attack after each step."""

    def __init__(self) -> None:
        self.state: Mapping[str, Tensor] = {}
        self.seen: list[dict[str, Tensor]] = []

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        self.seen.append({name.rpartition("inner.")[2]: value.clone() for name, value in state().items()})


@pytest.mark.parametrize("name", ["apgd", "apgd(loss=dlr)", "apgd-t", "fab-t", "autoattack"])
def test_images_without_a_gradient_are_told(name: str) -> None:
    if name == "autoattack":  # its last attack follows no gradient, and would take long
        name = "autoattack(version=rand)"
    engine, x = networks(flat=(1,)), images(5)
    attacked = ATTACKS.parse(name).at(0.01)(engine, x, engine.logits(x).argmax(-1))
    assert attacked.no_gradient is not None
    assert attacked.no_gradient.tolist() == [[False] * 5, [True] * 5, [False] * 5]


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_an_ascent_that_ends_in_the_midst_of_a_rise_is_told(loss: str) -> None:
    engine, x, watched = networks(), images(), Watched()
    labels = engine.logits(x).argmax(-1)
    attack = ATTACKS.parse(f"apgd(epsilon=0.07, steps=10, loss={loss})")
    attacked = attack(engine, x, labels, start=Start(progress=watched))
    late, last = watched.seen[8], watched.seen[9]  # after 9 of 10 steps, and after all
    assert int(late["done"]) == 9
    before = dict(zip(late["place"].tolist(), late["best_value"].tolist(), strict=True))
    fooled = attacked.success(engine, labels)
    expected, boundary = torch.zeros_like(fooled), math.log(3) if loss == "ce" else 0.0
    left = (engine.logits(x).argmax(-1) == labels).nonzero()  # all pairs, in the order of the list
    for place, lost, value in zip(*(last[name].tolist() for name in ("place", "lost", "best_value")), strict=True):
        rise = value - before[place]
        member, image = left[place]
        expected[member, image] = not lost and rise > 0 and value + 10 * rise > boundary
    assert attacked.unfinished is not None
    assert torch.equal(attacked.unfinished, expected)
    assert expected.any() == (loss != "ce")  # on these networks
    assert not (attacked.unfinished & fooled).any()


def test_square_tells_of_no_gradient_and_no_rise() -> None:
    engine, x = networks(), images(3)
    attacked = ATTACKS.parse("square(epsilon=0.02, queries=5)")(engine, x, engine.logits(x).argmax(-1))
    assert attacked.no_gradient is None
    assert attacked.unfinished is None
