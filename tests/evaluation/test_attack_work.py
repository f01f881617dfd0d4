"""How far attacks are: by the passes that a plan prices, less those that images which fall need no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atras.attacks import ATTACKS, Start
from atras.engines import StackEngine
from atras.evaluation import Attacking, AttackWork, Steps
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

MEMBERS = [Member(Candidate((8,)), 0), Member(Candidate((8,)), 1)]
IMAGES, CHUNK = 30, 10


def told(epsilon: float) -> tuple[list[Attacking], AttackWork, float]:
    """What is told at each step of two attacks, the work, and what it took of what it is priced at."""
    networks = StackEngine(Spec((1, 6, 6), 3), MEMBERS, Protocol(precision="fp32"), torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(IMAGES, 1, 6, 6, generator=draw), torch.randint(0, 3, (IMAGES,), generator=draw)
    attacks = [ATTACKS.parse(name).at(epsilon) for name in ("pgd(steps=4)", "apgd(steps=10)", "square(queries=30)")]
    work, seen, spent = AttackWork(attacks, 3, len(MEMBERS), IMAGES), [], 0.0

    def weight(passes: tuple[Tensor | float, Tensor | float]) -> float:
        return float(passes[0]) + 2 * float(passes[1])

    for first in range(0, IMAGES, CHUNK):
        x, y, standing = images[first : first + CHUNK], labels[first : first + CHUNK], None
        for at, attack in enumerate(attacks):
            steps = Steps(lambda: seen.append(work.now(at, first, CHUNK, steps, standing)))  # noqa: B023
            made = attack(networks, x, y, start=Start(progress=steps))
            work.made(at, made, len(MEMBERS) * CHUNK)
            right = ~made.success(networks, y)
            standing = right if standing is None else standing & right
            pairs = len(MEMBERS) * CHUNK
            own = None if made.spent is None else pairs + weight((made.spent.queries.sum(), made.spent.gradients.sum()))
            spent += weight(attack.cost(3)) * pairs if own is None else own
    priced = sum(weight(attack.cost(3)) for attack in attacks) * len(MEMBERS) * IMAGES
    return seen, work, spent / priced


def test_the_work_becomes_what_it_takes_as_images_fall() -> None:
    seen, work, truth = told(0.3)
    assert truth < 0.5, "hardly an image falls: the test could not fail"
    assert seen[0].work > 1.5 * truth
    later = [each for each in seen if each.share > 0.5]
    assert later
    # By half the work two of three chunks are known.
    assert all(each.work == pytest.approx(truth, rel=0.35) for each in later)
    assert work.now(3, IMAGES - CHUNK, CHUNK, Steps(lambda: None)) == (work.attacks[-1], 1.0, pytest.approx(truth))
    assert {each.attack.name for each in seen} == {"pgd", "apgd", "square"}


def test_where_nothing_falls_it_is_what_a_plan_prices_for_what_is_classified_correctly() -> None:
    seen, _, truth = told(1e-6)
    assert max(each.work for each in seen) <= 1.0
    shares = [each.share for each in seen]
    assert shares == pytest.approx(sorted(shares), abs=0.1)
    assert seen[-1].work == pytest.approx(truth, rel=0.05)


def test_an_attack_that_goes_on_elsewhere_counts_what_is_behind_it_as_it_costs_here() -> None:
    attacks = [ATTACKS.parse("pgd(steps=4)").at(0.1)]
    work = AttackWork(attacks, 3, 2, 40)
    assert work.now(0, 30, 10, Steps(lambda: None)).share == pytest.approx(0.75)
