"""Defences in a run: what is kept and told, where it goes on, with whom, and what it costs."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atras.attacks import KL, PGD, Passes, RandomFGSM
from atras.data import Dataset, Split, load
from atras.defences import DEFENCES, FOSC, Batch, Defence
from atras.engines import Engine, FusedEngine, LoopEngine, ModulesEngine, StackEngine, why_not
from atras.errors import InputError, Interrupted
from atras.evaluation import cautions
from atras.evaluation.cautions import OVERFITTED
from atras.experiment import Protocol
from atras.networks import Candidate, Factory, Member, Network, Own, Spec
from atras.planning import cost
from atras.training import Snapshot, Watcher, run_group, steps_of

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 3)
MEMBERS = [Member(Candidate((6, 4)), 0), Member(Candidate((5, 7)), 0), Member(Candidate((6, 4)), 3)]
NAMES = (
    "adversarial(pgd(steps=2))", "fast", "trades(attack=kl(steps=2))", "mart(attack=pgd(steps=2))", "free(replays=2)",
    "fosc(steps=2)", "logit-pairing(attack=pgd(steps=2))", "batch(mix=0.25)",
)  # fmt: skip


def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 5, 5), generator=draw, dtype=torch.uint8)
    part = Split(images, torch.randint(0, 3, (30,), generator=draw))
    return Dataset("noise", part, part, 3)


def protocol(defence: str, **changes: Any) -> Protocol:
    return Protocol(
        precision="fp32", batch_size=8, epsilon=0.1, epochs=1, adversarial_epochs=2, defence=defence, **changes
    )


class StopsAfter(Watcher):
    """Keeps the snapshot at its so-many-th call of the second training, and stops there."""

    keeps = True

    def __init__(self, calls: int) -> None:
        self.left, self.kept, self.begun = calls, None, False

    def progress(self, phase: str, steps: int, loss: float, accuracy: float) -> None:
        assert 0 <= accuracy <= 1
        self.left -= phase == "adversarial"
        self.begun = self.begun or phase == "adversarial"

    def keep(self, snapshot: Snapshot) -> None:
        self.kept = snapshot

    def stop(self) -> bool:
        return self.begun and self.left <= 0


@pytest.mark.parametrize("name", [NAMES[2], NAMES[4], NAMES[5], NAMES[7]])
def test_a_run_that_is_killed_in_an_epoch_goes_on_bitwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.training.epochs.CALL_SECONDS", 0.0)  # a call a batch
    asked = protocol(name)

    def engine() -> Engine:
        return LoopEngine(SPEC, MEMBERS[:1], asked, CPU)

    whole = run_group(engine(), data(), asked)
    watcher = StopsAfter(3)
    with pytest.raises(Interrupted):
        run_group(engine(), data(), asked, watcher=watcher)
    assert watcher.kept is not None
    assert watcher.kept.stage == "adversarial"
    rest = run_group(engine(), data(), asked, snapshot=watcher.kept)
    assert rest.table == whole.table
    assert rest.metrics == whole.metrics
    assert [without_nan(row) for row in rest.history] == [without_nan(row) for row in whole.history]


def without_nan(row: dict[str, object]) -> dict[str, object]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


@pytest.mark.parametrize("name", ["adversarial(pgd(steps=2))", "trades(attack=kl(steps=2))", "free(replays=2)", "fosc"])
def test_a_neighbour_that_diverges_changes_no_bit(name: str) -> None:
    asked = protocol(name)

    def trained(spoiled: bool) -> dict[str, Tensor]:
        engine = StackEngine(SPEC, MEMBERS, asked, CPU)
        engine.begin_phase("adversarial")
        if spoiled:
            engine.set_parameters(1, {key: values * math.nan for key, values in engine.get_parameters(1).items()})
        part, kept, own = data().train, {}, asked.defence.at(0.1)
        for number in range(3):
            images, labels = part.images[:8] / 255, part.labels[:8]
            own.step(engine, Batch(images, labels, torch.arange(8) % 2 == 1, 1, number, None, 2, kept))
        return engine.get_parameters(2)

    assert all(torch.equal(*both) for both in zip(trained(False).values(), trained(True).values(), strict=True))


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
@pytest.mark.parametrize("name", ["trades(attack=kl(steps=2))", "free(replays=2)"])
def test_engine_fused_runs_them_as_the_stack_does(name: str) -> None:
    asked = protocol(name)
    groups: list[type[Engine]] = [FusedEngine, StackEngine]
    rows = [run_group(kind(SPEC, MEMBERS, asked, CPU), data(), asked) for kind in groups]
    for ours, theirs in zip(rows[0].history, rows[1].history, strict=True):
        assert ours["steps"] == theirs["steps"] == (4 if ours["phase"] == "train" else 4 * asked.defence.steps_a_batch)
        assert ours["mean_loss"] == pytest.approx(theirs["mean_loss"], rel=1e-3)  # float32, ten steps of Adam
        assert 0 <= ours["running_accuracy"] <= 1  # type: ignore[operator]
    seen = [row for row in rows[0].metrics if row["epoch"] is not None]
    assert {row["attack"] for row in seen} == {"fgsm", "pgd(steps=10)"}  # compared after every epoch


def test_a_defence_is_told_where_in_the_training_each_batch_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    told, step, asked = [], FOSC.step, protocol("fosc(steps=1)")

    def noted(defence: FOSC, networks: Any, batch: Batch) -> Any:
        told.append((batch.epoch, batch.epochs, batch.number))
        return step(defence, networks, batch)

    monkeypatch.setattr(FOSC, "step", noted)
    run_group(StackEngine(SPEC, MEMBERS[:1], asked, CPU), data(), asked)
    assert told == [(epoch, 2, number) for epoch in (1, 2) for number in range(4)]


def test_from_scratch_is_from_the_initial_weights_and_trained_is_not() -> None:
    begun: list[Tensor] = []

    class Seen(StackEngine):
        def _begin_phase(self, phase: str) -> None:
            begun.append(self.parameters["dense1.weight"].clone())
            super()._begin_phase(phase)

    for start in ("scratch", "trained"):
        asked = protocol(f"adversarial(fgsm, start={start})")
        run_group(Seen(SPEC, MEMBERS[:1], asked, CPU), data(), asked)
    initial = Network(SPEC, MEMBERS[0].candidate).initial_parameters(0, torch.float32)["dense1.weight"]
    same = [torch.equal(values[0], initial) for values in begun]
    assert same == [True, True, True, False]


class Net(nn.Module):
    """Has batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(25, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.first(images.flatten(1))))))


@pytest.mark.parametrize("name", ["trades(attack=kl(steps=2))", "free(replays=2)", "fosc(steps=2)"])
def test_modules_of_a_user_train_under_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = protocol(name)
    engine = ModulesEngine(SPEC, [Member(Candidate([Own(Factory.of("mine", Net))]), 0)], asked, CPU)
    initial, begun = engine.get_parameters(0), []
    begin = engine.begin_phase
    monkeypatch.setattr(engine, "begin_phase", lambda *given: (begun.append(engine.get_parameters(0)), begin(*given)))
    rows = run_group(engine, data(), asked)
    assert rows.table[0]["status"] != "diverged"
    assert all(torch.equal(begun[1][name], values) for name, values in initial.items())  # from scratch, buffers too
    assert not torch.equal(engine.get_parameters(0)["first.weight"], initial["first.weight"])


def test_the_attack_of_training_is_not_that_of_the_evaluation() -> None:
    defence = "adversarial(pgd(epsilon=0.3, steps=3))"
    asked = protocol(defence, attacks=("pgd(steps=5)",))
    seen: list[float] = []

    class Watched(StackEngine):
        def step(self, images: Tensor, labels: Tensor, cotangent: Any = None) -> Any:
            if images.ndim == 5:
                seen.append(float((images[0] - nearest(images[0])).abs().max()))
            return super().step(images, labels, cotangent)

    clean = data().train.images.float().flatten(1) / 255

    def nearest(images: Tensor) -> Tensor:
        return clean[torch.cdist(images.flatten(1), clean).argmin(1)].view_as(images)

    rows = run_group(Watched(SPEC, MEMBERS[:1], asked, CPU), data(), asked)
    assert max(seen) == pytest.approx(0.3, abs=1e-6)
    found = {(row["attack"], row["epsilon"]) for row in rows.metrics if row["mode"] == "white-box"}
    assert {epsilon for attack, epsilon in found if attack.startswith("pgd")} == {0.1}  # type: ignore[attr-defined]
    assert str(asked.defence) == defence


COSTS = {
    "adversarial(pgd(steps=7))": (Passes(0, 7), 1, 1),
    "adversarial(pgd(steps=7, keep=best))": (Passes(1, 7), 1, 1),
    "fast": (Passes(0, 1), 1, 1),
    "trades": (Passes(1, 10), 2, 1),
    "mart": (Passes(0, 10), 2, 1),
    "logit-pairing": (Passes(0, 10), 2, 1),
    "free(replays=4)": (Passes(0, 4), 1, 4),
    "fosc": (Passes(0, 10), 1, 1),
    "batch": (Passes(0, 1), 1, 1),
    "batch(mix=0.25)": (Passes(0, 0.5), 1, 1),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_plan_counts_what_a_defence_takes(name: str) -> None:
    made, views, steps = COSTS[name]
    asked, defence = protocol(name), DEFENCES.parse(name).at(0.1)
    assert (defence.cost(3), defence.views, defence.steps_a_batch) == (made, views, steps)
    positions = 2 if name.startswith("batch") else 1
    assert defence.images_seen(30) == 30 * views * steps * positions
    assert asked.step_images == 8 * views
    assert steps_of(asked, 30) == 4 + 2 * steps * -(-30 * positions // 8)
    passes = cost.evaluation_passes(asked, 3, 30, 30)
    other = cost.evaluation_passes(asked.replace(adversarial_epochs=3), 3, 30, 30)
    gap = Passes(1, 1).plus(Passes(2, 10))  # FGSM, PGD and its evaluation, of every training image of these
    assert other.gradient - passes.gradient == pytest.approx(30 * (made.gradient + gap.gradient))
    assert other.forward - passes.forward == pytest.approx(30 * (made.forward + gap.forward))


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("adversarial(start=best)", "start (='best'): expected one of scratch, trained"),
        ("adversarial(fgsm(target=class:1))", "adversarial: attack"),
        ("trades(beta=-1)", "beta (=-1.0): expected a number from 0"),
        ("trades(attack=fgsm(label_source=predicted))", "trades: attack"),
        ("mart(beta=inf)", "expected a number"),
        ("fast(epsilon=2)", "epsilon (=2.0)"),
        ("free(replays=0)", "replays (=0): expected a whole number from 1"),
        ("fosc(until=0)", "until (=0.0)"),
        ("logit-pairing(weight=-1)", "weight (=-1.0)"),
        ("batch(mix=1.5)", "mix (=1.5): expected a number from 0 to 1"),
        ("adversarial(pgd(keep=first))", "keep (='first'): expected one of auto, best, last"),
        ("trades(attack=kl(target=class:1))", "kl has none"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_in_one_line(spelled: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        DEFENCES.parse(spelled)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defences_are_spelled_as_they_are_read() -> None:
    for spelled in (*NAMES, "fast(0.3)", "fosc", "trades(beta=1.0, attack=pgd(steps=3), start=trained)"):
        defence = DEFENCES.parse(spelled)
        assert DEFENCES.parse(str(defence)) == defence
    at: Defence = DEFENCES.parse("trades").at(0.3)
    assert at == DEFENCES.parse("trades(attack=kl(epsilon=0.3))")
    assert at.attack == KL(0.3)  # type: ignore[attr-defined]
    fast = DEFENCES.parse("fast(step_size=0.375, clip_start=true)").at(0.3)
    assert fast.attack == RandomFGSM(0.3, step_size=0.375, clip_start=True)  # type: ignore[attr-defined]
    assert DEFENCES.parse("mart").at(0.3).attack == PGD(0.3, steps=10, keep="last")  # type: ignore[attr-defined]


def plain(member: Member) -> nn.Module:
    first, second = member.candidate.widths
    network = nn.Sequential(nn.Flatten(), nn.Linear(25, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
    network.append(nn.Linear(second, 3))
    initial = Network(SPEC, member.candidate).initial_parameters(member.seed, torch.float32)
    network.load_state_dict(dict(zip(network.state_dict(), initial.values(), strict=True)))
    return network


@pytest.mark.parametrize(
    "name",
    ["adversarial(fgsm(epsilon=0))", "trades(attack=kl(epsilon=0, steps=1))", "free(replays=3, epsilon=0)", "batch"],
)
def test_loss_and_accuracy_of_an_epoch_are_means_over_all_images_that_its_steps_saw(name: str) -> None:
    """Of weights that stay and images that are not changed they are those of a pass; the last batch is smaller."""
    asked = protocol(name, learning_rate=1e-12).replace(epsilon=0.0)
    rows = run_group(StackEngine(SPEC, MEMBERS, asked, CPU), data(), asked)
    part = data().train
    for row in rows.history:
        (member,) = (m for m in MEMBERS if (m.candidate.name, m.seed) == (row["hidden_layers"], row["seed"]))
        logits = plain(member)(part.images / 255)
        hits = (logits.argmax(1) == part.labels).double().mean()
        assert row["running_accuracy"] == pytest.approx(hits.item(), abs=1e-12)
        assert row["mean_loss"] == pytest.approx(F.cross_entropy(logits, part.labels).item(), rel=1e-5)  # float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["madry", "trades"])
def test_five_batches_are_the_toolboxs(kind: str) -> None:
    """The Toolbox has no keyed starts: both begin at the image. One that is cut in pixels both cut alike."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainerMadryPGD, AdversarialTrainerTRADESPyTorch
    from art.estimators.classification import PyTorchClassifier

    asked = Protocol(precision="fp32", batch_size=8, epsilon=0.1, optimizer="sgd", learning_rate=0.1, momentum=0.9)
    network = plain(MEMBERS[0])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    art = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (1, 5, 5), 3, optimizer=optimizer,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    draw = torch.Generator().manual_seed(2)
    batches = [(torch.rand(8, 1, 5, 5, generator=draw), torch.randint(0, 3, (8,), generator=draw)) for _ in range(5)]
    attack = {"eps": 0.1, "eps_step": 0.05, "max_iter": 4, "num_random_init": 0}
    if kind == "madry":
        trainer = AdversarialTrainerMadryPGD(art, nb_epochs=1, batch_size=8, **attack)
    else:
        made = ProjectedGradientDescent(art, verbose=False, **attack)
        trainer = AdversarialTrainerTRADESPyTorch(art, made, beta=6.0)
    for images, labels in batches:
        trainer.fit(images.numpy(), F.one_hot(labels, 3).numpy(), batch_size=8, nb_epochs=1)
    pgd = "pgd(steps=4, step_size=0.05, random_start=false)"
    defence = DEFENCES.parse(f"adversarial({pgd})" if kind == "madry" else f"trades(attack={pgd})").at(0.1)
    engine = LoopEngine(SPEC, MEMBERS[:1], asked, CPU)
    engine.begin_phase("adversarial")
    for number, (images, labels) in enumerate(batches):
        defence.step(engine, Batch(images, labels, torch.zeros(8, dtype=torch.bool), 1, number))
    for values, expected in zip(engine.get_parameters(0).values(), network.parameters(), strict=True):
        # float32; the Toolbox adds 1e-8 to the divergence and takes pixels of a gradient below it for 0.
        torch.testing.assert_close(values, expected.detach(), rtol=0, atol=2e-4)


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
def test_catastrophic_overfitting_of_single_steps_is_told_with_its_epochs() -> None:
    digits = load("digits")
    for defence, told in (
        ("adversarial(fgsm, start=trained)", True),
        ("adversarial(pgd(steps=3), start=trained)", False),
    ):
        asked = Protocol(
            precision="fp32", batch_size=16, epsilon=0.3, epochs=3, adversarial_epochs=3, learning_rate=0.003,
            defence=defence,
        )  # fmt: skip
        engine = FusedEngine(Spec((1, 8, 8), 10), [Member(Candidate((200, 200)), 0)], asked, CPU)
        rows = run_group(engine, digits, asked)
        found = [line for line in cautions(rows) if "catastrophic overfitting" in line]
        assert bool(found) == told
        assert not told or re.search(r"200-200 \(seed 0, epochs? [123]", found[0])
        gaps = [row["train_accuracy_under_fgsm"] - row["train_accuracy_under_pgd"] for row in rows.history[3:]]  # type: ignore[operator]
        assert (max(gaps) > OVERFITTED) == told  # what the history has is what is judged
