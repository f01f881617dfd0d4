"""Training on copies made anew in every batch: on every engine, for any company, and seen when it overfits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atras.attacks.attack import FGSM, Attack
from atras.attacks.pgd import PGD, RandomFGSM
from atras.attacks.registry import BatchAttack, named, protocol_attack, stronger
from atras.data.datasets import Dataset, Split
from atras.engines.engine import Engine, Epoch, Member
from atras.engines.fused import FusedEngine, why_not
from atras.engines.loop import LoopEngine
from atras.engines.stack import StackEngine
from atras.experiment.protocol import Protocol
from atras.networks.candidates import Candidate
from atras.networks.network import Spec
from atras.networks.randomness import batch_starts
from atras.training.stages import run_group

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 3)
MEMBERS = [Member(Candidate((6, 4)), 0), Member(Candidate((5, 7)), 0), Member(Candidate((6, 4)), 3)]
PROTOCOL = Protocol(precision="fp32", batch_size=8, epsilon=0.1, epochs=1, adversarial_epochs=2)
VARIANTS = ("fgsm-batch", "random-fgsm-batch", "pgd-batch")
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


def work(protocol: Protocol, members: list[Member], craft: BatchAttack | None) -> Epoch:
    """A pass over 30 images and their copies, in an order for each seed."""
    seeds = list(dict.fromkeys(member.seed for member in members))
    orders = torch.stack([torch.randperm(60, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    order_of = torch.tensor([seeds.index(member.seed) for member in members])
    part = data().train
    return Epoch(part.images, part.labels, orders, order_of, None, protocol.epsilon, craft)


def by_hand(member: Member, protocol: Protocol, epoch: int) -> list[Tensor]:
    """Parameters after a pass whose copies are made one after the other, as a reader of docs/protocol.md would."""
    engine = LoopEngine(SPEC, [member], protocol, CPU)
    engine.begin_phase("adversarial")
    part = data().train
    (order,) = work(protocol, [member], None).orders
    for number, index in enumerate(order.split(8)):
        images, labels = part.images[index % 30].float() / 255, part.labels[index % 30]
        name = protocol.train_attack.removesuffix("-batch")
        start = batch_starts(member.seed, epoch, number, name, 0, len(index), (1, 5, 5))
        x = images if name == "fgsm" else (images + 0.1 * start).clamp(images - 0.1, images + 0.1).clamp(0, 1)
        steps, size = {"fgsm": (1, 0.1), "random-fgsm": (1, 0.125), "pgd": (3, 0.25 / 3)}[name]
        for _ in range(steps):
            x = (x + size * engine.input_gradient(x, lambda _, y=labels: y)[0][0].sign()).clamp(0, 1)
            x = x.clamp(images - 0.1, images + 0.1)
        engine.step(torch.where((index >= 30)[:, None, None, None], x, images), labels)
    return list(engine.parameters_of(0).values())


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_trains_on_copies_of_the_model_of_each_batch(variant: str, kind: type[Engine]) -> None:
    protocol = PROTOCOL.replace(train_attack=variant, attack_steps=3)
    groups = [[member] for member in MEMBERS] if kind is LoopEngine else [MEMBERS]
    for members in groups:
        engine = kind(SPEC, members, protocol, CPU)
        engine.begin_phase("adversarial")
        result = engine.epoch(work(protocol, members, BatchAttack.of(protocol, epoch=2)))
        assert result.losses.isfinite().all()
        for i, member in enumerate(members):
            found = engine.parameters_of(i).values()
            # Eight Adam steps of 1e-3; a gradient at rounding level may turn one of them around.
            for values, expected in zip(found, by_hand(member, protocol, 2), strict=True):
                torch.testing.assert_close(values, expected, rtol=0, atol=3e-4)


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_engine_fused_neighbours_change_no_bit(variant: str) -> None:
    protocol = PROTOCOL.replace(train_attack=variant, attack_steps=2)

    def trained(members: list[Member]) -> Engine:
        engine = FusedEngine(SPEC, members, protocol, CPU)
        engine.begin_phase("adversarial")
        engine.epoch(work(protocol, members, BatchAttack.of(protocol, epoch=1)))
        return engine

    together = trained(MEMBERS)
    for i, member in enumerate(MEMBERS):
        alone = trained([member]).parameters_of(0)
        assert all(torch.equal(alone[name], values) for name, values in together.parameters_of(i).items())


def test_a_pass_in_two_calls_is_the_pass_in_one() -> None:
    protocol = PROTOCOL.replace(train_attack="random-fgsm-batch")
    whole, halves = (StackEngine(SPEC, MEMBERS, protocol, CPU) for _ in range(2))
    both = work(protocol, MEMBERS, BatchAttack.of(protocol, 1))
    for engine in (whole, halves):
        engine.begin_phase("adversarial")
    whole.epoch(both)
    halves.epoch(both._replace(orders=both.orders[:, :24]))
    halves.epoch(both._replace(orders=both.orders[:, 24:], craft=BatchAttack.of(protocol, 1, first=3)))
    assert all(torch.equal(whole.parameters[name], halves.parameters[name]) for name in whole.parameters)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_experiment_runs_and_tells_the_gap_after_every_epoch(variant: str, kind: type[Engine]) -> None:
    protocol = PROTOCOL.replace(train_attack=variant, attack_steps=2)
    members = MEMBERS[:1] if kind is LoopEngine else MEMBERS
    rows = run_group(kind(SPEC, members, protocol, CPU), data(), protocol)
    assert {row["status"] for row in rows.table} <= {"trained", "dead"}
    sample = [row for row in rows.metrics if row["epoch"] is not None]
    assert [(row["epoch"], row["attack"]) for row in sample[:: len(members)]] == [
        (1, "fgsm"), (1, "pgd"), (2, "fgsm"), (2, "pgd"),
    ]  # fmt: skip
    assert {(row["split"], row["n"], row["phase"], row["mode"]) for row in sample} == {
        ("train", 30, "defended", "white-box")
    }
    assert {row["steps"] for row in rows.history if row["phase"] == "adversarial"} == {8}


def test_the_papers_scheme_has_no_such_check() -> None:
    rows = run_group(StackEngine(SPEC, MEMBERS, PROTOCOL, CPU), data(), PROTOCOL)
    assert [row for row in rows.metrics if row["epoch"] is not None] == []


def test_a_protocol_names_its_attacks() -> None:
    protocol = Protocol(
        epsilon=0.1, target="class:3", attacks=("pgd", "fgsm", "random-fgsm", "deepfool-linf"), attack_steps=7,
        step_size=0.02, restarts=4,
    )  # fmt: skip
    assert protocol_attack(protocol) == FGSM(0.1, "predicted", "class:3")
    expected: list[Attack] = [PGD(0.1, steps=7, step_size=0.02, restarts=4), RandomFGSM(0.1)]
    assert stronger(protocol)[:2] == expected
    assert [attack.label.name for attack in stronger(protocol)] == ["pgd", "random-fgsm", "deepfool-linf"]
    assert named("pgd", protocol, restarts=1) == PGD(0.1, steps=7, step_size=0.02)
