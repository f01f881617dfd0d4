"""Every defence against a loop for one network in plain torch, written as its paper or its authors' code has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atras.defences import DEFENCES, Batch, Defence
from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec, batch_starts
from atras.training.defending import numbers_apart

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 4, activation="tanh")
MEMBERS = [Member(Candidate((6, 4)), 0), Member(Candidate((5, 7)), 3)]
EPSILON, EPOCHS, BATCHES, SIZE = 0.2, 2, 5, 8
STEPS = 3
"""Of every attack of many steps."""

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Draws:
    """Starts of the batch at hand, as docs/protocol.md counts them."""

    def __init__(self, seed: int, epoch: int, number: int, size: int, dtype: torch.dtype) -> None:
        self.keys, self.size, self.dtype = (seed, epoch, number), size, dtype

    def uniform(self, name: str) -> Tensor:
        return batch_starts(*self.keys, name, 0, self.size, (1, 5, 5)).to(self.dtype)

    def normal(self, name: str) -> Tensor:
        """Of variance 1: the quantile of the normal distribution at each uniform number."""
        return torch.distributions.Normal(0.0, 1.0).icdf((self.uniform(name).double() + 1) / 2).to(self.dtype)


def in_ball(x_adv: Tensor, x: Tensor) -> Tensor:
    return torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)


def climbed(model: nn.Module, x: Tensor, x_adv: Tensor, loss: Callable[[Tensor], Tensor], size: float) -> Tensor:
    """One step of PGD."""
    x_adv = x_adv.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
    return in_ball(x_adv.detach() + size * slope.sign(), x)


def pgd(model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    x_adv = in_ball(x + EPSILON * draws.uniform("pgd"), x)
    for _ in range(STEPS):
        x_adv = climbed(model, x, x_adv, lambda out: F.cross_entropy(out, y), 2.5 * EPSILON / STEPS)
    return x_adv


PLAIN: dict[str, Any] = {"weight_decay": 0.0, "clip_gradient": None, "average": 0.0}
RECIPE: dict[str, Any] = {"weight_decay": 0.05, "clip_gradient": 0.3, "average": 0.8, "schedule": "cosine"}


class Textbook:
    """A network under one defence: `step` is its loop's body."""

    def __init__(self, model: nn.Module, recipe: dict[str, Any] = PLAIN, steps: int = 0) -> None:
        self.model, self.clip = model, recipe["clip_gradient"]
        decay = recipe["weight_decay"]
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
        self.schedule = CosineAnnealingLR(self.optimizer, steps) if "schedule" in recipe else None
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe["average"]))
        self.delta: Tensor | None = None

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.average.update_parameters(self.model)

    def adversarial(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        self.update(F.cross_entropy(self.model(pgd(self.model, x, y, draws)), y))

    def fast(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        start = x + EPSILON * draws.uniform("random-fgsm")  # which is not clipped to [0, 1]
        x_adv = climbed(self.model, x, start, lambda out: F.cross_entropy(out, y), 1.25 * EPSILON)
        self.update(F.cross_entropy(self.model(x_adv), y))

    def trades(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        model, kl = self.model, nn.KLDivLoss(reduction="sum")
        natural = F.softmax(model(x), dim=1).detach()
        x_adv = x + 0.001 * draws.normal("kl")
        for _ in range(STEPS):
            x_adv = climbed(model, x, x_adv, lambda out: kl(F.log_softmax(out, dim=1), natural), 2.5 * EPSILON / STEPS)
        out, out_adv = model(x), model(x_adv)
        robust = (1.0 / len(x)) * kl(F.log_softmax(out_adv, dim=1), F.softmax(out, dim=1))
        self.update(F.cross_entropy(out, y) + 6.0 * robust)

    def mart(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        x_adv = pgd(self.model, x, y, draws)
        logits, logits_adv = self.model(x), self.model(x_adv)
        adv_probs = F.softmax(logits_adv, dim=1)
        tmp1 = torch.argsort(adv_probs, dim=1)[:, -2:]
        new_y = torch.where(tmp1[:, -1] == y, tmp1[:, -2], tmp1[:, -1])
        loss_adv = F.cross_entropy(logits_adv, y) + F.nll_loss(torch.log(1.0001 - adv_probs), new_y)
        nat_probs = F.softmax(logits, dim=1)
        true_probs = torch.gather(nat_probs, 1, y[:, None])[:, 0]
        divergence = nn.KLDivLoss(reduction="none")(torch.log(adv_probs), nat_probs).sum(dim=1)
        self.update(loss_adv + 5.0 * (1.0 / len(x)) * torch.sum(divergence * (1.0 - true_probs)))

    def logit_pairing(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        x_adv = pgd(self.model, x, y, draws)
        logits = self.model(torch.cat([x, x_adv]))
        clean, adversarial = logits.chunk(2)
        self.update(F.cross_entropy(logits, torch.cat([y, y])) + 0.5 * F.mse_loss(clean, adversarial))

    def free(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        if self.delta is None:
            self.delta = torch.zeros_like(x)
        for _ in range(3):
            noise = self.delta[: len(x)].clone().requires_grad_()
            moved = x + noise
            inside = (moved >= 0) & (moved <= 1)  # versions of torch differ in the gradient of a clamp at its bounds
            seen = torch.where(inside, moved, moved.detach().clamp(0, 1))
            self.update(F.cross_entropy(self.model(seen), y))  # with the gradient by the weights comes the noise's
            assert noise.grad is not None
            self.delta[: len(x)] += EPSILON * noise.grad.sign()
            self.delta.clamp_(-EPSILON, EPSILON)

    def fosc(self, x: Tensor, y: Tensor, draws: Draws, epoch: int, size: float = EPSILON / 4) -> None:
        bound = max(0.3 * (1 - (epoch - 1) / (5 / 6 * EPOCHS)), 0)
        x_adv = in_ball(x + EPSILON * draws.uniform("fosc"), x)
        going = torch.ones(len(x), dtype=torch.bool)
        for _ in range(4):
            moved = climbed(self.model, x, x_adv, lambda out: F.cross_entropy(out, y, reduction="sum"), size)
            x_adv = torch.where(going[:, None, None, None], moved, x_adv).requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(self.model(x_adv), y, reduction="sum"), x_adv)
            slope, change = slope.flatten(1), (x_adv.detach() - x).flatten(1)
            going = going & (EPSILON * slope.norm(p=1, dim=1) - (change * slope).sum(1) > bound)
        self.stopped = getattr(self, "stopped", 0) + int((~going).sum())
        self.update(F.cross_entropy(self.model(x_adv.detach()), y))

    def fosc_of_short_steps(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        self.fosc(x, y, draws, epoch, 0.03)

    def batch(self, x: Tensor, y: Tensor, draws: Draws, epoch: int, mix: float = 0.8) -> None:
        drawn = (batch_starts(*draws.keys, "mix", 0, len(x), ()).double() + 1) / 2
        copied = torch.arange(len(x)) % 2 == 1
        copied = copied & (drawn < 2 * mix) if mix < 0.5 else copied | (drawn < 2 * mix - 1)
        self.mixed = getattr(self, "mixed", 0) + int(copied.sum())
        x_adv = climbed(self.model, x, x, lambda out: F.cross_entropy(out, y), EPSILON)
        self.update(F.cross_entropy(self.model(torch.where(copied[:, None, None, None], x_adv, x)), y))

    def batch_of_few(self, x: Tensor, y: Tensor, draws: Draws, epoch: int) -> None:
        self.batch(x, y, draws, epoch, 0.3)


SPELLED = {
    "adversarial": f"adversarial(pgd(steps={STEPS}))",
    "fast": "fast",
    "trades": f"trades(attack=kl(steps={STEPS}))",
    "mart": f"mart(attack=pgd(steps={STEPS}))",
    "logit_pairing": f"logit-pairing(attack=pgd(steps={STEPS}))",
    "free": "free(replays=3)",
    "fosc": "fosc(criterion=0.3, steps=4)",
    "fosc_of_short_steps": "fosc(criterion=0.3, steps=4, step_size=0.03)",
    "batch": "batch(mix=0.8)",
    "batch_of_few": "batch(mix=0.3)",
}


def batches(dtype: torch.dtype) -> list[tuple[int, int, Tensor, Tensor]]:
    """Epoch, number, images with pixels at and near both bounds, and labels: the last batch of an epoch is smaller."""
    draw, found = torch.Generator().manual_seed(1), []
    for epoch in range(1, EPOCHS + 1):
        for number in range(BATCHES):
            size = SIZE if number < BATCHES - 1 else SIZE - 3
            images = (1.4 * torch.rand(size, 1, 5, 5, generator=draw, dtype=torch.float64) - 0.2).clamp(0, 1)
            found.append((epoch, number, images.to(dtype), torch.randint(0, 4, (size,), generator=draw)))
    return found


def trained(
    kind: type[Engine], members: list[Member], defences: list[Defence], precision: str, recipe: dict[str, Any] = PLAIN
) -> Engine:
    own = defences[0]
    protocol = Protocol(
        precision=precision, batch_size=SIZE, epsilon=EPSILON, learning_rate=0.1, optimizer="sgd", momentum=0.9,
        defence=own, **recipe,
    )  # fmt: skip
    engine, kept = kind(SPEC, members, protocol, CPU), {}
    engine.begin_phase("adversarial", EPOCHS * BATCHES * own.steps_a_batch)
    engine.reads_average = False  # as in an epoch: attacks of training meet the network that is trained
    numbers = numbers_apart(defences, CPU)
    for epoch, number, images, labels in batches(engine.dtype):
        copied = torch.arange(len(labels)) % 2 == 1
        result = own.step(engine, Batch(images, labels, copied, epoch, number, None, EPOCHS, kept, own=numbers))
        assert result.losses.isfinite().all()
        assert (result.correct <= len(labels) * own.views * own.steps_a_batch).all()
    assert engine.steps == EPOCHS * BATCHES * own.steps_a_batch
    return engine


def by_the_book(
    member: Member, name: str, dtype: torch.dtype, recipe: dict[str, Any] = PLAIN
) -> tuple[Textbook, list[Tensor]]:
    first, second = member.candidate.widths
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(25, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, 4)
    ).to(dtype)
    initial = Network(SPEC, member.candidate).initial_parameters(member.seed, dtype)
    model.load_state_dict(dict(zip(model.state_dict(), initial.values(), strict=True)))
    book = Textbook(model, recipe, EPOCHS * BATCHES * DEFENCES.parse(SPELLED[name]).steps_a_batch)
    for epoch, number, images, labels in batches(dtype):
        getattr(book, name)(images, labels, Draws(member.seed, epoch, number, len(images), dtype), epoch)
    return book, [values.detach() for values in model.parameters()]


def asked(name: str) -> list[Defence]:
    """What each of the members is trained by."""
    return [DEFENCES.parse(SPELLED[name]).at(EPSILON) for _ in MEMBERS]


@pytest.mark.parametrize("name", SPELLED)
def test_ten_steps_are_the_textbooks(name: str) -> None:
    books = [by_the_book(member, name, torch.float64) for member in MEMBERS]
    stack = trained(StackEngine, MEMBERS, asked(name), "fp64")
    for index, (member, (book, expected)) in enumerate(zip(MEMBERS, books, strict=True)):
        loop = trained(LoopEngine, [member], asked(name)[:1], "fp64")
        for found in (loop.get_parameters(0), stack.get_parameters(index)):
            for values, wanted in zip(found.values(), expected, strict=True):
                torch.testing.assert_close(values, wanted, rtol=1e-9, atol=1e-9)
        if name.startswith("fosc"):
            assert 0 < book.stopped < EPOCHS * BATCHES * SIZE  # some images ended early, and not all
        if name == "batch":
            assert 45 < book.mixed < 74  # of 74, four in five expected
        if name == "batch_of_few":
            assert 10 < book.mixed < 35  # of the 35 copies, three in five expected


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
@pytest.mark.parametrize("name", SPELLED)
def test_ten_steps_of_engine_fused_are_those_of_the_textbook(name: str) -> None:
    fused = trained(FusedEngine, MEMBERS, asked(name), "fp32")
    for index, member in enumerate(MEMBERS):
        _, expected = by_the_book(member, name, torch.float64)
        for values, wanted in zip(fused.get_parameters(index).values(), expected, strict=True):
            # Rounding may turn the sign of a pixel's gradient that is all but 0; one of 25 moves weights by so much.
            torch.testing.assert_close(values.double(), wanted, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["adversarial", "trades", "free"])
@pytest.mark.parametrize(
    "kind",
    [
        LoopEngine,
        StackEngine,
        pytest.param(FusedEngine, marks=pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")),
    ],
)
def test_the_recipe_holds_for_whatever_objective_a_defence_trains_for(kind: type[Engine], name: str) -> None:
    members = MEMBERS[:1] if kind is LoopEngine else MEMBERS
    precision, near = ("fp32", 5e-3) if kind is FusedEngine else ("fp64", 1e-9)  # as above
    engine = trained(kind, members, asked(name)[: len(members)], precision, RECIPE)
    for index, member in enumerate(members):
        book, weights = by_the_book(member, name, torch.float64, RECIPE)
        average = [values.detach() for values in book.average.module.parameters()]
        for found, wanted in ((engine.get_parameters(index), weights), (engine.evaluated_parameters(index), average)):
            for values, expected in zip(found.values(), wanted, strict=True):
                torch.testing.assert_close(values.double(), expected, rtol=0, atol=near)


WEIGHED = {
    "trades": f"trades(beta=0.5, attack=kl(steps={STEPS}))",
    "mart": f"mart(beta=0.5, attack=pgd(steps={STEPS}))",
    "logit_pairing": f"logit-pairing(weight=3, attack=pgd(steps={STEPS}))",
}


@pytest.mark.parametrize("name", SPELLED)
def test_members_with_numbers_of_their_own_train_as_alone(name: str) -> None:
    each = [asked(name)[0], DEFENCES.parse(WEIGHED.get(name, SPELLED[name])).at(0.07)]
    assert each[0].alike == each[1].alike
    assert all(len(set(numbers)) == 2 for numbers in zip(*(own.own.values() for own in each), strict=True))
    members = [MEMBERS[0], MEMBERS[0]]
    together = trained(StackEngine, members, each, "fp64")
    for index, defence in enumerate(each):
        alone = trained(LoopEngine, members[:1], [defence], "fp64").get_parameters(0)
        for values, wanted in zip(together.get_parameters(index).values(), alone.values(), strict=True):
            torch.testing.assert_close(values, wanted, rtol=1e-9, atol=1e-9)
    assert not torch.equal(*(together.get_parameters(index)["dense1.weight"] for index in (0, 1)))
