"""Protocols: what they refuse, and when their hash changes."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from atras.attacks import ATTACKS, PGD, Attack
from atras.defences import DEFENCES, BatchCopies
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.schedules import SCHEDULES

OTHER_VALUES: dict[str, Any] = {
    "dataset": "mnist",
    "train_size": 100,
    "test_size": "all",
    "subset": "stratified",
    "channels": "last",
    "image_size": 64,
    "candidates": (Candidate((8,)),),
    "seeds": (1, 2),
    "axes": {"learning_rate": (0.001, 0.003)},
    "stem": "conv2",
    "augment": "flip",
    "activation": "tanh",
    "initialisation": "he",
    "head_dropout": 0.5,
    "epochs": 3,
    "adversarial_epochs": 0,
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "clip_gradient": 1.0,
    "label_smoothing": 0.1,
    "average": 0.9,
    "select": "robust",
    "epsilon": 8 / 255,
    "label_source": "true",
    "target": "class:3",
    "attacks": ("fgsm", "pgd"),
    "epsilons": (0.0, 0.1),
    "defence": "batch(pgd)",
    "transfer": True,
    "transfer_attacks": ("pgd",),
    "transfer_seeds": "all",
    "transfer_sources": (Candidate((40,)),),
    "transfer_targets": (Candidate((40,)),),
    "precision": "fp64",
    "evaluate_every": 5,
    "outcomes": "all",
}


def test_every_field_changes_the_hash() -> None:
    changed = {name: Protocol(**{name: value}).hash for name, value in OTHER_VALUES.items()}
    changed["momentum"] = Protocol(optimizer="sgd", momentum=0.9).hash
    changed["validation_size"] = Protocol(select="robust", validation_size=50).hash
    finished = {"epochs": 0, "adversarial_epochs": 0, "defence": "none", "candidates": (Candidate((8,)),)}
    changed["weights"] = Protocol(**finished, weights=("0" * 64,)).hash
    assert changed["weights"] != Protocol(**finished, weights=("1" * 64,)).hash
    axes = {"axes": ("learning_rate=0.1,0.2",), "candidates": (Candidate((8,)),)}
    changed["only"] = Protocol(**axes, only=("8 learning_rate=0.1",)).hash
    assert changed["only"] != Protocol(**axes).hash
    assert changed.keys() == {field.name for field in dataclasses.fields(Protocol)}
    assert len({*changed.values(), Protocol().hash}) == len(changed) + 1


def test_every_option_of_an_attack_and_of_a_defence_changes_the_hash() -> None:
    attacks = ("pgd", "pgd(steps=7)", "pgd(step_size=0.01)", "pgd(restarts=2)", "deepfool", "deepfool(norm=linf)")
    defences = ("copies(source=smallest)", "copies(source=24-192)", "batch(fgsm)", "batch(pgd)", "batch(pgd(steps=7))")
    hashes = {Protocol(attacks=(attack,)).hash for attack in attacks}
    hashes |= {Protocol(defence=defence).hash for defence in defences}
    assert len(hashes | {Protocol().hash}) == len(attacks) + len(defences) + 1


def test_hashes_and_values_are_those_of_earlier_runs() -> None:
    assert Protocol().hash == "aa65471570a8b5fa"
    attacks, defence = (PGD(steps=40), "deepfool"), BatchCopies(PGD(steps=7))
    other = Protocol(
        dataset="mnist", seeds=(1, 2), attacks=attacks, defence=defence, epsilons=(0.1,), optimizer="sgd", momentum=0.9
    )
    assert other.hash == "7731921ceeeba9f5"
    assert Protocol().to_dict() | {"candidates": 40} == {
        "dataset": "digits", "train_size": "default", "test_size": "default", "subset": "first",
        "channels": "auto", "image_size": None, "candidates": 40, "seeds": [0], "axes": [], "only": [], "weights": [],
        "stem": "auto", "activation": "relu", "initialisation": "glorot", "head_dropout": 0.0,
        "epochs": 20, "adversarial_epochs": 20, "batch_size": 128, "optimizer": "adam", "learning_rate": 0.001,
        "momentum": 0.0, "augment": "none", "schedule": "constant", "weight_decay": 0.0, "clip_gradient": None,
        "label_smoothing": 0.0, "average": 0.0, "select": "last", "validation_size": None,
            "epsilon": 0.05, "label_source": "predicted", "target": "none", "attacks": ["fgsm"],
        "epsilons": [], "defence": "copies", "transfer": False, "transfer_attacks": ["fgsm"],
        "transfer_seeds": "same", "transfer_sources": [], "transfer_targets": [], "precision": "auto",
        "outcomes": "auto",
        "evaluate_every": 0,
    }  # fmt: skip


def test_every_part_of_a_recipe_is_part_of_the_hash() -> None:
    changes: list[dict[str, Any]] = [
        {"schedule": "cosine"}, {"schedule": "cosine(warmup=2)"}, {"weight_decay": 1e-4}, {"optimizer": "adamw"},
        {"clip_gradient": 1.0}, {"label_smoothing": 0.1}, {"average": 0.999},
    ]  # fmt: skip
    hashes = [Protocol(**change).hash for change in changes]
    assert len({*hashes, Protocol().hash}) == len(changes) + 1
    again = Protocol(schedule=SCHEDULES.parse("cosine(warmup=2.0)"))
    assert again.hash == hashes[1]
    assert again.to_dict()["schedule"] == "cosine(warmup=2.0)"


def test_attacks_and_defences_may_be_given_as_texts() -> None:
    spelled = Protocol(attacks=("pgd(steps=40)", "deepfool"), defence="batch(pgd(steps=7))")
    assert spelled == Protocol(attacks=(PGD(steps=40), ATTACKS.parse("deepfool")), defence=BatchCopies(PGD(steps=7)))
    assert all(isinstance(attack, Attack) for attack in spelled.attacks)
    assert spelled.defence == DEFENCES.parse("batch(pgd(steps=7))")


def test_the_hash_does_not_depend_on_the_process() -> None:
    program = "import atras; print(atras.Protocol().hash)"
    command = [sys.executable, "-c", program]
    hashes = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert hashes == {Protocol().hash + "\n"}


def test_a_protocol_is_json() -> None:
    values = Protocol().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["candidates"][-1] == "64"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stem", "conv3"), ("activation", "swish"), ("initialisation", "zero"), ("optimizer", "lion"),
        ("label_source", "wrong"), ("precision", "fp16"), ("train_size", 0), ("test_size", "some"), ("epochs", 0),
        ("epochs", True), ("adversarial_epochs", -1), ("batch_size", 0), ("epsilon", -0.1), ("epsilon", 1.5),
        ("epsilon", float("nan")), ("learning_rate", float("inf")), ("head_dropout", 1.0), ("target", "class:x"),
        ("candidates", ()), ("candidates", (Candidate((8,)), Candidate((8,)))), ("seeds", (1, 1)), ("seeds", (-1,)),
        ("evaluate_every", 0.5), ("attacks", ()), ("attacks", ("fgsm", "fgsm")), ("attacks", ("bim",)),
        ("epsilons", (0.1, 2.0)), ("epsilons", (0.1, 0.1)), ("defence", "pgd"), ("defence", 5), ("transfer", 1),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_in_one_line_that_names_them(field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Protocol(**{field: value})
    message = str(caught.value)
    assert message.startswith((field, field.removesuffix("s")))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attacks": ("pgd(steps=0)",)}, "steps (=0): expected"),
        ({"attacks": ("pgd(step_size=-0.1)",)}, "step_size (=-0.1): expected"),
        ({"attacks": ("pgd(restarts=0)",)}, "restarts (=0): expected"),
        ({"defence": "copies(source=largest)"}, "copies: source (='largest'): expected own, smallest or a candidate"),
    ],
)
def test_options_of_attacks_and_defences_out_of_range_are_refused_alike(fields: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Protocol(**fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_fixed_set_of_another_attack_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"only the run's own fgsm has a fixed set.* take batch\(pgd\)"):
        Protocol(defence="copies(pgd)")


def test_copies_made_in_every_batch_have_no_other_source() -> None:
    with pytest.raises(InputError, match=r"defence .*: unknown option 'source=smallest'; options of batch: attack"):
        Protocol(defence="batch(pgd, source=smallest)")


def test_momentum_belongs_to_sgd() -> None:
    with pytest.raises(InputError, match="only optimizer sgd"):
        Protocol(momentum=0.9)


def test_a_target_past_the_last_class_is_refused() -> None:
    Protocol(target="class:9").check_classes(range(10))
    with pytest.raises(InputError, match="from 0 to 9"):
        Protocol(target="class:10").check_classes(range(10))


def test_a_target_of_a_transferred_attack_is_one_too() -> None:
    transferred = {"transfer": True, "transfer_attacks": ("pgd(target=class:10)",)}
    Protocol(**transferred).check_classes(range(11))
    with pytest.raises(InputError, match="from 0 to 9"):
        Protocol(**transferred).check_classes(range(10))


@pytest.mark.parametrize(
    "fields", [{"engine": "fast"}, {"executor": "x"}, {"device": "tpu"}, {"device": "cuda:x"}, {"memory_bytes": 0}]
)
def test_impossible_executions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Execution(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": 5}, "dataset .=5.: expected text"),
        ({"target": None}, "target .=None.: expected text"),
        ({"epochs": 10**5000}, "epochs .=more digits than Python prints.: expected a whole number"),
        ({"learning_rate": 10**5000}, "learning_rate .=more digits than Python prints.: expected a number"),
        ({"epsilon": float("nan")}, "epsilon .=nan.: expected a number"),
        ({"candidates": (40,)}, "candidates .=40.: expected a tuple of Candidate"),
        ({"candidates": ([],)}, "expected one or more whole numbers"),
        ({"epoch": 4}, "Protocol: unknown option 'epoch'; did you mean epochs?"),
        ({"zzz": 4}, "Protocol: unknown option 'zzz'; expected one of dataset"),
        ({"seeds": ([1],)}, "seed .=.1..: expected a whole number"),
        ({"seeds": tuple(range(100_001)), "candidates": (Candidate((8,)),)}, "expected at most 100000; split them"),
    ],
)
def test_fields_of_other_types_unknown_ones_and_populations_past_all_bounds_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Protocol(**fields)


def test_candidates_may_be_texts_or_layers_and_protocols_can_be_copied() -> None:
    protocol = Protocol(candidates=[(24, 192), "c8p2-16", Candidate((4,))])
    assert [candidate.name for candidate in protocol.candidates] == ["24-192", "c8p2-16", "4"]
    assert pickle.loads(pickle.dumps(protocol)) == copy.deepcopy(protocol) == protocol  # noqa: S301


@pytest.mark.parametrize("fields", [{"device": 5}, {"data_dir": 5}, {"download": 1}, {"recalibrate": None}])
def test_an_execution_takes_its_own_types_alone(fields):
    with pytest.raises(InputError, match=f"{next(iter(fields))} .=.*: expected"):
        Execution(**fields)


@pytest.mark.parametrize(
    "attacks", [("pgd", "pgd(epsilon=0.05)"), ("pgd(target=random)", "pgd(target=random, label_source=predicted)")]
)
def test_attacks_that_the_frames_could_not_tell_apart_are_refused(attacks: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"attack: .* are the same in this run; name one of them"):
        Protocol(attacks=attacks)


def test_equal_numbers_make_equal_experiments() -> None:
    whole = Protocol(epsilon=1, learning_rate=1, epsilons=(0, 1), attacks=(PGD(epsilon=0),))
    assert whole == Protocol(epsilon=1.0, learning_rate=1.0, epsilons=(-0.0, 1.0), attacks=(PGD(epsilon=-0.0),))
    assert whole.hash == Protocol(epsilon=1.0, learning_rate=1.0, epsilons=(0.0, 1.0), attacks=(PGD(epsilon=0.0),)).hash
    assert whole.to_dict()["epsilons"] == [0.0, 1.0]
    assert str(PGD(epsilon=np.float64(0.1))) == "pgd(epsilon=0.1)"


def test_bounds_that_pixels_do_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="expected bounds 0 to 1"):
        Protocol(attacks=(PGD(epsilon=0.3, bounds=(-1.0, 2.0)),))


def test_attacks_without_an_epsilon_of_their_own_have_all_of_the_run() -> None:
    protocol = Protocol(
        attacks=("square", "fgsm", "apgd(norm=l2)", "pgd(epsilon=0.3)", "deepfool", "pgd(epsilon=0.2)"),
        epsilons=(0.0, 2.0, 0.5),
    )
    made = [(attack.spec.attack, attack.spec.epsilon) for attack in protocol.stronger_attacks]
    assert made == [
        ("square", 0.05), ("square", 0.5), ("apgd(norm=l2)", 0.5), ("apgd(norm=l2)", 2.0), ("pgd", 0.2), ("pgd", 0.3),
        ("deepfool", None),
    ]  # fmt: skip
    assert protocol.curve_epsilons == (0.0, 0.5)  # no pixel changes by 2


@pytest.mark.parametrize(("options", "told"), [
    ({"epsilons": (2.0,)}, r"epsilons \(=2.0\): expected a number from 0 to 1"),
    ({"epsilons": (2.0,), "attacks": ("apgd(norm=l2, epsilon=1)",)}, r"epsilons \(=2.0\): expected a number from 0 to"),
    ({"attacks": ("apgd(norm=l2)",)}, "expected an epsilon, as the run's is one in linf; write .* or give --epsilons"),
    ({"epsilons": (0.0,), "attacks": ("apgd(norm=l2)",)}, "expected an epsilon, as the run's is one in linf"),
    ({"epsilons": (0.1,), "attacks": ("pgd", "pgd(epsilon=0.1)")}, "are the same in this run; name one of them"),
])  # fmt: skip
def test_epsilons_that_no_attack_has_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Protocol(**options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"attacks": ("pgd(steps=3)", "square")}, "worst(fgsm, pgd(steps=3), square)"),
        ({"attacks": ("deepfool", "pgd(epsilon=0.02)")}, "worst(fgsm, pgd(epsilon=0.02); partly deepfool)"),
        ({"attacks": ("pgd", "pgd(epsilon=0.1)")}, "worst(fgsm, pgd; partly pgd(epsilon=0.1))"),
        ({"attacks": ("apgd(norm=l2)",), "epsilons": (0.04, 0.3)},
         "worst(fgsm, apgd(epsilon=0.04, norm=l2); partly apgd(epsilon=0.3, norm=l2))"),
    ],
)  # fmt: skip
def test_the_worst_case_names_what_enters_wholly_and_what_in_part(options: dict[str, Any], name: str) -> None:
    assert Protocol(**options).worst_case == name
