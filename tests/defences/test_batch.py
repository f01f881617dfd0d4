"""Training on copies made anew in every batch: on every engine, for any company, and seen when it overfits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atras.attacks import FGSM, PGD, Attack, RandomFGSM
from atras.data import Dataset, Split
from atras.defences import Batch, BatchCopies, Copies
from atras.engines import BatchStep, Engine, Epoch, FusedEngine, LoopEngine, StackEngine, why_not
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec, StepResult, batch_starts
from atras.training import run_group

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 3)
MEMBERS = [Member(Candidate((6, 4)), 0), Member(Candidate((5, 7)), 0), Member(Candidate((6, 4)), 3)]
PROTOCOL = Protocol(precision="fp32", batch_size=8, epsilon=0.1, epochs=1, adversarial_epochs=2)
VARIANTS = ("fgsm", "random-fgsm", "pgd", "pgd-best")
OPTIONS = {"pgd": "(steps={})", "pgd-best": "(steps={}, keep=best)"}
ENGINES = [
    LoopEngine,
    StackEngine,
    pytest.param(FusedEngine, marks=pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")),
]


def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 5, 5), generator=draw, dtype=torch.uint8)
    part = Split(images, torch.randint(0, 3, (30,), generator=draw))
    return Dataset("noise", part, part, 3)


def trained_on(variant: str, steps: int) -> Protocol:
    """The protocol whose copies are made anew in every batch by an attack, PGD of so many steps."""
    name = variant.removesuffix("-best")
    return PROTOCOL.replace(defence=f"batch({name}{OPTIONS.get(variant, '').format(steps)})")


def steps_of(protocol: Protocol, epoch: int, first: int = 0) -> BatchStep:
    """What a group trains by: the defence's step on each batch of an epoch, of which `first` are done."""
    defence = protocol.defence.at(protocol.epsilon)
    assert isinstance(defence, BatchCopies)

    def step(engine: Engine, images: Tensor, labels: Tensor, copied: Tensor, number: int) -> StepResult:
        return defence.step(engine, Batch(images, labels, copied, epoch, first + number))

    return step


def work(protocol: Protocol, members: list[Member], batch_step: BatchStep | None) -> Epoch:
    """A pass over 30 images and their copies, in an order for each seed."""
    seeds = list(dict.fromkeys(member.seed for member in members))
    orders = torch.stack([torch.randperm(60, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    order_of = torch.tensor([seeds.index(member.seed) for member in members])
    part = data().train
    return Epoch(part.images, part.labels, orders, order_of, None, protocol.epsilon, batch_step)


def by_hand(member: Member, protocol: Protocol, epoch: int) -> list[Tensor]:
    """Parameters after a pass whose copies are made one after the other, as a reader of docs/protocol.md would."""
    engine = LoopEngine(SPEC, [member], protocol, CPU)
    engine.begin_phase("adversarial")
    part = data().train
    (order,) = work(protocol, [member], None).orders
    for number, index in enumerate(order.split(8)):
        images, labels = part.images[index % 30].float() / 255, part.labels[index % 30]
        name = protocol.defence.attack.name  # type: ignore[attr-defined]
        start = batch_starts(member.seed, epoch, number, name, 0, len(index), (1, 5, 5))
        x = images if name == "fgsm" else (images + 0.1 * start).clamp(images - 0.1, images + 0.1)
        x = x if name == "random-fgsm" else x.clamp(0, 1)
        steps, size = {"fgsm": (1, 0.1), "random-fgsm": (1, 0.125), "pgd": (3, 0.25 / 3)}[name]
        way = [x]
        for _ in range(steps):
            x = (x + size * engine.gradient(x, labels)[0][0].sign()).clamp(0, 1)
            x = x.clamp(images - 0.1, images + 0.1)
            way.append(x)
        if "keep=best" in str(protocol.defence):
            x = best_of(engine, way, labels)
        engine.step(torch.where((index >= 30)[:, None, None, None], x, images), labels)
    return list(engine.get_parameters(0).values())


def best_of(engine: Engine, way: list[Tensor], labels: Tensor) -> Tensor:
    """Of each image the misclassified point of greatest loss, else the one of greatest loss."""
    images = []
    for i, label in enumerate(labels.tolist()):
        points = torch.stack([x[i] for x in way])
        logits = engine.logits(points)[0]
        losses = torch.nn.functional.cross_entropy(logits, torch.full((len(way),), label), reduction="none")
        images.append(points[(losses + 100 * (logits.argmax(-1) != label)).argmax()])
    return torch.stack(images)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_trains_on_copies_of_the_model_of_each_batch(variant: str, kind: type[Engine]) -> None:
    protocol = trained_on(variant, 3)
    groups = [[member] for member in MEMBERS] if kind is LoopEngine else [MEMBERS]
    for members in groups:
        engine = kind(SPEC, members, protocol, CPU)
        engine.begin_phase("adversarial")
        result = engine.epoch(work(protocol, members, steps_of(protocol, epoch=2)))
        assert result.losses.isfinite().all()
        for i, member in enumerate(members):
            found = engine.get_parameters(i).values()
            # Eight Adam steps of 1e-3; a gradient at rounding level may turn one of them around.
            for values, expected in zip(found, by_hand(member, protocol, 2), strict=True):
                torch.testing.assert_close(values, expected, rtol=0, atol=3e-4)


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_engine_fused_neighbours_change_no_bit(variant: str) -> None:
    protocol = trained_on(variant, 2)

    def trained(members: list[Member]) -> Engine:
        engine = FusedEngine(SPEC, members, protocol, CPU)
        engine.begin_phase("adversarial")
        engine.epoch(work(protocol, members, steps_of(protocol, epoch=1)))
        return engine

    together = trained(MEMBERS)
    for i, member in enumerate(MEMBERS):
        alone = trained([member]).get_parameters(0)
        assert all(torch.equal(alone[name], values) for name, values in together.get_parameters(i).items())


def test_a_pass_in_two_calls_is_the_pass_in_one() -> None:
    protocol = trained_on("random-fgsm", 1)
    whole, halves = (StackEngine(SPEC, MEMBERS, protocol, CPU) for _ in range(2))
    both = work(protocol, MEMBERS, steps_of(protocol, 1))
    for engine in (whole, halves):
        engine.begin_phase("adversarial")
    whole.epoch(both)
    halves.epoch(both._replace(orders=both.orders[:, :24]))
    halves.epoch(both._replace(orders=both.orders[:, 24:], batch_step=steps_of(protocol, 1, first=3)))
    assert all(torch.equal(whole.parameters[name], halves.parameters[name]) for name in whole.parameters)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_experiment_runs_and_tells_the_gap_after_every_epoch(variant: str, kind: type[Engine]) -> None:
    protocol = trained_on(variant, 2)
    members = MEMBERS[:1] if kind is LoopEngine else MEMBERS
    rows = run_group(kind(SPEC, members, protocol, CPU), data(), protocol)
    assert {row["status"] for row in rows.table} <= {"trained", "dead"}
    sample = [row for row in rows.metrics if row["epoch"] is not None]
    assert [(row["epoch"], row["attack"]) for row in sample[:: len(members)]] == [
        (1, "fgsm"), (1, "pgd(steps=10)"), (2, "fgsm"), (2, "pgd(steps=10)"),
    ]  # fmt: skip
    assert {(row["split"], row["n"], row["phase"], row["mode"]) for row in sample} == {
        ("train", 30, "defended", "white-box")
    }
    assert [
        (row["epoch"], row[f"train_accuracy_under_{attack}"])
        for attack in ("fgsm", "pgd")
        for row in rows.history
        if row["phase"] == "adversarial"
    ] == [
        (row["epoch"], row["correct"] / 30)
        for name in ("fgsm", "pgd(steps=10)")
        for row in sample
        if row["attack"] == name
    ]
    assert {row["steps"] for row in rows.history if row["phase"] == "adversarial"} == {8}


def test_the_papers_scheme_has_no_such_check() -> None:
    rows = run_group(StackEngine(SPEC, MEMBERS, PROTOCOL, CPU), data(), PROTOCOL)
    assert [row for row in rows.metrics if row["epoch"] is not None] == []
    assert {row["train_accuracy_under_pgd"] for row in rows.history} == {None}


def test_a_protocol_names_its_attacks() -> None:
    protocol = Protocol(
        epsilon=0.1, target="class:3", defence="batch(pgd(steps=7, step_size=0.02))",
        attacks=("pgd(steps=7, step_size=0.02, restarts=4)", "fgsm", "random-fgsm", "deepfool(norm=linf)"),
    )  # fmt: skip
    assert protocol.attack == FGSM(0.1, "predicted", "class:3")
    expected: list[Attack] = [PGD(0.1, steps=7, step_size=0.02, restarts=4), RandomFGSM(0.1)]
    assert list(protocol.stronger_attacks[:2]) == expected
    assert [attack.spec.attack for attack in protocol.stronger_attacks] == [
        "pgd(steps=7, step_size=0.02, restarts=4)", "random-fgsm", "deepfool(norm=linf)",
    ]  # fmt: skip
    assert protocol.defence.at(0.1) == BatchCopies(PGD(0.1, steps=7, step_size=0.02))
    assert Protocol().defence == Copies()
