"""Attacks on members with epsilons of their own: each is attacked as alone."""

from __future__ import annotations

import pytest
import torch

from atras.attacks import ATTACKS, Start
from atras.engines import StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

CPU = torch.device("cpu")
SPEC = Spec((2, 5, 3), 3)
MEMBERS = [Member(Candidate((6,)), seed) for seed in (0, 0, 3)]
EPSILONS = (0.3, 0.05, 0.0)


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(7, 2, 5, 3, generator=draw, dtype=torch.float64).to(dtype), torch.randint(
        0, 3, (7,), generator=draw
    )


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize(
    "name", ["fgsm", "fgsm(target=least-likely)", "pgd(steps=3, restarts=2)", "random-fgsm", "kl(steps=3)"]
)
def test_each_is_attacked_as_alone(name: str, precision: str) -> None:
    protocol = Protocol(precision=precision)
    engine = StackEngine(SPEC, MEMBERS, protocol, CPU)
    images, labels = inputs(engine.dtype)
    own = torch.tensor(EPSILONS, dtype=torch.float64)
    found = ATTACKS.parse(name).at(1.0)(engine, images, labels, start=Start(epsilons=own))
    for index, epsilon in enumerate(EPSILONS):
        alone = ATTACKS.parse(name).at(epsilon)(
            StackEngine(SPEC, MEMBERS[index : index + 1], protocol, CPU), images, labels
        )
        assert torch.equal(found.clipped[index], alone.clipped[0])
        assert (found.clipped[index] - images).abs().max() <= epsilon + 1e-6  # of the rounding of the pixels


def test_an_attack_with_one_epsilon_for_all_says_so() -> None:
    engine = StackEngine(SPEC, MEMBERS, Protocol(), CPU)
    own = torch.tensor(EPSILONS, dtype=torch.float64)
    for name in ("apgd(epsilon=0.1)", "pgd(norm=l2, epsilon=1)"):
        with pytest.raises(InputError, match="expected one epsilon for all networks"):
            ATTACKS.parse(name)(engine, *inputs(engine.dtype), start=Start(epsilons=own))
