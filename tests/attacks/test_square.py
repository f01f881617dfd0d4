"""The square attack: what it finds is what random search over whole images, a pair at a time, finds."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from atras.attacks import Draw, Square, Start, starts
from atras.attacks.norms import scaled
from atras.attacks.square import DRAWN
from atras.attacks.square_proposals import PROPOSALS
from atras.kernels import members_of_pairs
from atras.networks import Candidate, Member

SHAPE = (1, 5, 5)
EPSILONS = {"linf": 0.06, "l2": 0.3}


class Linear:
    """M linear networks, which count the images that they are asked about."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, members: int, classes: int) -> None:
        self.members = [Member(Candidate((1,)), seed) for seed in range(members)]
        self.weights = torch.randn(members, classes, *SHAPE, dtype=torch.float64)
        self.queries = 0

    def logits(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        if counts is None:
            images = images.expand(len(self.members), *images.shape[-4:])
            return torch.einsum("mbchw,mychw->mby", images - 0.5, self.weights)
        self.queries += len(images)
        # Each image by itself, so that its rounding does not depend on the others.
        return ((images - 0.5)[:, None] * self.weights[members_of_pairs(counts)]).sum((2, 3, 4))


def problem(norm: str, queries: int) -> tuple[Linear, Tensor, Tensor, Square]:
    """Networks, images, the labels that they give, and an attack that fools some pairs early, some late, some never."""
    networks = Linear(3, 4)
    x = torch.rand(10, *SHAPE, dtype=torch.float64)
    labels = networks.logits(x).argmax(-1)
    return networks, x, labels, Square(epsilon=EPSILONS[norm], norm=norm, queries=queries)


class Search:
    """Random search on one pair, with whole images, as the paper has it; it stops as soon as the pair is fooled."""

    def __init__(self, networks: Linear, member: int, label: int, attack: Square, clean: Tensor) -> None:
        self.weights, self.label, self.attack, self.clean = networks.weights[member], label, attack, clean
        self.make = PROPOSALS[attack.norm](attack.strength, attack.bounds, clean.shape)

    def value(self, image: Tensor) -> float:
        scores: list[float] = ((image - 0.5) * self.weights).sum((1, 2, 3)).tolist()
        return max(score for place, score in enumerate(scores) if place != self.label) - scores[self.label]

    def run(self, draw: Draw, image: int) -> tuple[Tensor, int]:
        """The best image, and the queries made."""
        best = self.make.start(draw(0, self.make.start_shape)[image, None], self.clean[None])[0]
        value, query = self.value(best), 0
        while value <= 0 and query < self.attack.queries - 1:
            drawn = draw(1 + query // DRAWN, (DRAWN, self.make.numbers))[image, query % DRAWN]
            side = self.side(self.attack.share(query))
            tried = self.corner(best, drawn, side) if self.attack.norm == "linf" else self.bump(best, drawn, side)
            if self.value(tried) > value:
                best, value = tried, self.value(tried)
            query += 1
        return best, query + 1

    def side(self, share: float) -> int:
        wanted = round((share * SHAPE[1] * SHAPE[2]) ** 0.5)
        if self.attack.norm == "linf":
            return max(wanted, 1)
        return max(wanted + 1 - wanted % 2, 3)  # odd, so that a bump has a middle

    def square(self, drawn: Tensor, side: int) -> tuple[slice, slice]:
        row, column = (
            min(int((float(number) + 1) / 2 * (size - side + 1)), size - side)
            for number, size in zip(drawn, SHAPE[1:], strict=True)
        )
        return slice(row, row + side), slice(column, column + side)

    def corner(self, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        tried, (rows, columns) = best.clone(), self.square(drawn[:2], side)
        change = self.attack.strength * (-1 if drawn[2] < 0 else 1)
        tried[:, rows, columns] = (self.clean[:, rows, columns] + change).clamp(0, 1)
        return tried

    def bump(self, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        epsilon, change, both = self.attack.strength, best - self.clean, torch.zeros(SHAPE, dtype=torch.bool)
        to, giving = self.square(drawn[:2], side), self.square(drawn[2:4], side)
        both[:, *to] = both[:, *giving] = True
        own, mass = change[:, *to].clone(), (change * both).square().sum()
        spare = max(epsilon**2 - float(change.square().sum()), 0.0)
        hill = self.hill(side)
        made = (hill if drawn[4] < 0 else hill.T) * (-1 if drawn[5] < 0 else 1) + own / own.norm().clamp(min=1e-12)
        change[both] = 0.0
        change[:, *to] = made / made.norm().clamp(min=1e-12) * (spare + mass).sqrt()
        return (self.clean + scaled(change[None], epsilon, "l2")[0]).clamp(0, 1)

    def hill(self, side: int) -> Tensor:
        """A hill above a valley: what a start of one tile would be made of."""

        def rings(height: int) -> Tensor:
            rows, columns = (torch.arange(size).sub(size // 2) for size in (height, side))
            far = torch.maximum(rows.abs()[:, None], columns.abs()[None])
            last = max(height // 2, side // 2)
            heights = torch.tensor(
                [sum(1 / (1 + n) ** 2 for n in range(at, last + 1)) for at in range(last + 2)], dtype=torch.float64
            )
            return heights[far] / heights[far].norm()

        half = side // 2
        both = torch.cat([rings(half), -rings(side - half)])
        return both / both.norm()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_finds_what_a_search_of_each_pair_alone_finds(norm: str) -> None:
    networks, x, labels, attack = problem(norm, queries=270)
    draw = cache(starts(networks, x, attack.name))
    own = draw(0, (1,)).ndim == 3  # of each member, as their seeds differ
    attacked = attack(networks, x, labels)
    found, spent = attacked.clipped, attacked.spent
    assert spent is not None
    needed, early, never, apart = 0, 0, 0, []
    for member in range(3):
        for image in range(len(x)):
            of = (lambda number, shape, m=member: draw(number, shape)[m]) if own else draw
            best, queries = Search(networks, member, int(labels[member, image]), attack, x[image]).run(of, image)
            apart.append(float((best - found[member, image]).abs().max()))
            needed, early, never = needed + queries, early + (1 < queries < 40), never + (queries == attack.queries)
    if norm == "linf":
        assert max(apart) == 0
        assert spent.queries.sum() == needed
    else:  # where a bump cancels what it is added to, rounding decides what is left, and so on from there
        assert sum(each < 1e-9 for each in apart) >= 0.9 * len(apart)
    assert early > 2
    assert never > 2
    # A few pairs that are fooled are asked about until they are dropped.
    assert (1 if norm == "linf" else 0.98) * needed <= networks.queries <= 1.07 * needed


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_order_of_the_images_does_not_matter(norm: str) -> None:
    networks, x, labels, attack = problem(norm, queries=60)
    draw, order = starts(networks, x, attack.name), torch.randperm(len(x))

    def moved(number: int, shape: object = None) -> Tensor:
        drawn = draw(number, shape)  # type: ignore[arg-type]
        return drawn[:, order] if len(drawn) == 3 else drawn[order]

    whole = attack(networks, x, labels).clipped
    again = attack(networks, x[order], labels[:, order], start=Start(draw=moved)).clipped
    assert torch.equal(again, whole[:, order])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_dead_and_diverged_members_keep_their_images(norm: str) -> None:
    networks, x, labels, attack = problem(norm, queries=40)
    networks.weights[0] = torch.nan
    networks.weights[1] = 0.0
    clipped = attack(networks, x, labels.clamp(min=1)).clipped
    assert torch.equal(clipped[0], x)
    assert torch.equal(clipped[1], x)  # it answers class 0, which no label is
    constant = attack(networks, x, torch.zeros_like(labels)).clipped[1]
    assert constant.isfinite().all()  # as good as any other: the start is kept
    assert torch.equal(networks.logits(constant)[1].argmax(-1), torch.zeros(len(x), dtype=torch.int64))
