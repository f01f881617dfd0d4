"""The experiment on a group: every column against a textbook script, and what failed members leave behind."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from patterns import DATA, MEMBERS, PROTOCOL, SPEC
from torch import Tensor, nn

from atras.engines import Engine, LoopEngine, StackEngine
from atras.evaluation import Rows
from atras.experiment import Protocol
from atras.networks import Member, Network, permutation
from atras.training import run_group, steps_of

CPU = torch.device("cpu")


def run(engine: type[Engine], members: list[Member], protocol: Protocol = PROTOCOL) -> Rows:
    return run_group(engine(SPEC, members, protocol, CPU), DATA, protocol, evaluation_batch=17)


def textbook(member: Member) -> dict[str, float]:
    """The whole experiment as a reader of docs/protocol.md would write it for one network."""
    hidden = member.candidate.widths
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(36, hidden[0]), nn.Tanh(), nn.Linear(*hidden), nn.Tanh()]
    network = nn.Sequential(*layers, nn.Linear(hidden[1], 4)).double()
    initial = Network(SPEC, member.candidate).initial_parameters(member.seed, torch.float64)
    network.load_state_dict(dict(zip(network.state_dict(), initial.values(), strict=True)))
    (x, y), (x_test, y_test) = ((part.images.double() / 255, part.labels) for part in (DATA.train, DATA.test))

    def fit(phase: str, images: Tensor, labels: Tensor, epochs: int) -> None:
        adam = torch.optim.Adam(network.parameters(), lr=0.01)
        for epoch in range(1, epochs + 1):
            for index in permutation(member.seed, phase, epoch, len(labels)).split(16):
                adam.zero_grad()
                nn.functional.cross_entropy(network(images[index]), labels[index]).backward()
                adam.step()

    def attack(images: Tensor, labels: Tensor | None) -> Tensor:
        images = images.clone().requires_grad_()
        out = network(images)
        nn.functional.cross_entropy(out, out.argmax(1) if labels is None else labels, reduction="sum").backward()
        return (images + 0.1 * images.grad.sign()).clamp(0, 1).detach()

    def accuracy(images: Tensor, labels: Tensor) -> float:
        return (network(images).argmax(1) == labels).double().mean().item()

    fit("train", x, y, 3)
    found = {"train_accuracy": accuracy(x, y), "test_accuracy": accuracy(x_test, y_test)}
    old_attack = attack(x_test, None)
    found["attacked_accuracy_before"] = accuracy(old_attack, y_test)
    found["attacked_accuracy_before_true"] = accuracy(attack(x_test, y_test), y_test)
    doubled = torch.cat([x, attack(x, None)]), torch.cat([y, y])
    fit("adversarial", *doubled, 2)
    found["adversarial_train_accuracy"] = accuracy(*doubled)
    found["adversarial_test_accuracy"] = accuracy(x_test, y_test)
    found["attacked_accuracy_after_static"] = accuracy(old_attack, y_test)
    found["attacked_accuracy_after_white_box"] = accuracy(attack(x_test, y_test), y_test)
    return found


@pytest.mark.parametrize("together", [True, False])
def test_every_accuracy_is_the_textbook_scripts(together: bool) -> None:
    groups = [MEMBERS] if together else [[member] for member in MEMBERS]
    table = [row for group in groups for row in run(StackEngine, group).table]
    for member, row in zip(MEMBERS, table, strict=True):
        expected = textbook(member)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)
        static = expected["attacked_accuracy_after_static"] - expected["attacked_accuracy_before"]
        white_box = expected["attacked_accuracy_after_white_box"] - expected["attacked_accuracy_before_true"]
        assert (row["recovery_static"], row["recovery_white_box"]) == pytest.approx((static, white_box), abs=1e-12)
        assert (row["hidden_layers"], row["seed"]) == (member.candidate.name, member.seed)
        assert row["status"] == "trained"


def test_the_experiment_is_not_trivial() -> None:
    row = run(StackEngine, MEMBERS[:1]).table[0]
    accuracies = [value for name, value in row.items() if "accuracy" in name]
    assert len(set(accuracies)) >= 6  # equal columns could be swapped without a test noticing


def test_loop_and_stack_give_the_same_rows() -> None:
    stacked = run(StackEngine, MEMBERS)
    looped = [run(LoopEngine, [member]) for member in MEMBERS]
    assert stacked.table == [row for rows in looped for row in rows.table]
    for frame in ("metrics", "history"):
        own = {(row["hidden_layers"], row["seed"]): [] for row in stacked.table}  # type: ignore[var-annotated]
        for row in getattr(stacked, frame):
            own[row["hidden_layers"], row["seed"]].append(row)
        for rows, expected in zip(looped, own.values(), strict=True):
            for row, wanted in zip(getattr(rows, frame), expected, strict=True):
                assert row.keys() == wanted.keys()
                for key, value in wanted.items():
                    if key != "backend":
                        assert row[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


def test_metrics_carry_the_attack_and_its_traces() -> None:
    rows = run(StackEngine, MEMBERS).metrics
    assert len(rows) == len(MEMBERS) * 10
    clean = [row for row in rows if row["mode"] == "clean"]
    static = [row for row in rows if row["mode"] == "static"]
    fresh = [row for row in rows if row["mode"] == "white-box"]
    assert all(row["mean_linf"] is None and row["epsilon"] == 0.0 and row["attack"] == "none" for row in clean)
    assert all(row["zero_gradient_fraction"] is None for row in clean + static)
    assert all(row["mean_linf"] == pytest.approx(0.1) for row in fresh)
    assert all(0 <= row["zero_gradient_fraction"] < 1 and row["nan_gradients"] == 0 for row in fresh)  # type: ignore[operator]
    assert {(row["phase"], row["label_source"]) for row in fresh} == {
        ("trained", "predicted"), ("trained", "true"), ("defended", "true"),
    }  # fmt: skip


def test_an_attack_at_the_true_label_is_made_and_recorded_once() -> None:
    rows = run(StackEngine, MEMBERS, PROTOCOL.replace(label_source="true"))
    assert all(row["attacked_accuracy_before"] == row["attacked_accuracy_before_true"] for row in rows.table)
    assert len(rows.metrics) == len(MEMBERS) * 9


def test_history_has_every_epoch_and_evaluate_every_adds_test_accuracies() -> None:
    rows = run(StackEngine, MEMBERS, PROTOCOL.replace(evaluate_every=2))
    first = [row for row in rows.history if (row["hidden_layers"], row["seed"]) == ("12-3", 7)]
    assert [(row["phase"], row["epoch"], row["steps"]) for row in first] == [
        ("train", 1, 4), ("train", 2, 4), ("train", 3, 4), ("adversarial", 1, 7), ("adversarial", 2, 7),
    ]  # fmt: skip
    assert first[2]["mean_loss"] < first[0]["mean_loss"]  # type: ignore[operator]
    epochs = [row["epoch"] for row in rows.metrics if row["hidden_layers"] == "12-3" and row["epoch"]]
    assert epochs == [2, 2]
    assert steps_of(PROTOCOL, 50) == 3 * 4 + 2 * 7


@pytest.mark.parametrize(("defence", "steps"), [("copies", 7), ("adversarial(fgsm)", 4), ("free(replays=3)", 12)])
def test_a_schedule_is_told_the_steps_of_each_phase_and_of_its_epochs(defence: str, steps: int) -> None:
    protocol = PROTOCOL.replace(defence=defence, schedule="cosine(warmup=1)")
    engine, told = StackEngine(SPEC, MEMBERS[:1], protocol, CPU), []
    begin = engine.begin_phase

    def noted(*given: Any) -> None:
        told.append(given)
        begin(*given)

    engine.begin_phase = noted  # type: ignore[method-assign]
    run_group(engine, DATA, protocol)
    assert told == [("train", 3 * 4, 4), ("adversarial", 2 * steps, steps)]
    assert engine.steps == 2 * steps


def test_a_diverged_member_has_no_accuracies_and_leaves_the_others_bitwise_unchanged() -> None:
    def rows(rate: float) -> Rows:
        engine = StackEngine(SPEC, MEMBERS, PROTOCOL, CPU, learning_rates=[0.01, rate, 0.01])
        return run_group(engine, DATA, PROTOCOL)

    calm, wild = rows(0.01), rows(1e308)
    assert wild.table[1]["status"] == "diverged"
    assert all(wild.table[1][name] is None for name in wild.table[1] if "accuracy" in name or "recovery" in name)
    assert any(not math.isfinite(row["mean_loss"]) for row in wild.history if row["hidden_layers"] == "12-3")  # type: ignore[arg-type]
    assert [wild.table[0], wild.table[2]] == [calm.table[0], calm.table[2]]
    others = [row for row in calm.metrics if row["hidden_layers"] != "12-3"]
    assert [row for row in wild.metrics if row["hidden_layers"] != "12-3"] == others


def test_a_member_that_diverges_under_attack_training_keeps_its_first_accuracies() -> None:
    engine = StackEngine(SPEC, MEMBERS, PROTOCOL, CPU)
    begin = engine.begin_phase

    def spoil(phase: str, *steps: int) -> None:
        if phase == "adversarial":
            engine.learning_rates = (0.01, 1e308, 0.01)
        begin(phase, *steps)

    engine.begin_phase = spoil  # type: ignore[method-assign]
    row = run_group(engine, DATA, PROTOCOL).table[1]
    assert row["status"] == "diverged"
    assert row["attacked_accuracy_before_true"] is not None
    assert row["adversarial_test_accuracy"] is None
    assert row["recovery_white_box"] is None


def test_a_member_that_predicts_one_class_is_dead() -> None:
    engine = StackEngine(SPEC, MEMBERS, PROTOCOL, CPU, learning_rates=[0.01, 1e-30, 0.01])
    engine.set_parameters(1, {name: torch.zeros_like(values) for name, values in engine.get_parameters(1).items()})
    table = run_group(engine, DATA, PROTOCOL).table
    assert [row["status"] for row in table] == ["trained", "dead", "trained"]
    shares = (torch.bincount(DATA.test.labels, minlength=4) / 40).tolist()
    assert table[1]["test_accuracy"] in [pytest.approx(share) for share in shares]


def test_a_targeted_protocol_keeps_the_true_label_figures_untargeted() -> None:
    rows = run(StackEngine, MEMBERS, PROTOCOL.replace(target="random"))
    modes = {(row["mode"], row["target"], row["label_source"]) for row in rows.metrics if row["attack"] == "fgsm"}
    assert modes == {("static", "random", None), ("white-box", "random", None), ("white-box", "none", "true")}


def test_an_engine_is_gone_with_its_group_and_waits_for_no_collection() -> None:
    """Its parameters and scratch would be there beside those of the next one."""
    engine = StackEngine(SPEC, MEMBERS[:1], PROTOCOL, CPU)
    left = weakref.ref(engine)
    gc.collect()
    gc.disable()
    try:
        run_group(engine, DATA, PROTOCOL, evaluation_batch=17)
        del engine
        assert left() is None
    finally:
        gc.enable()
