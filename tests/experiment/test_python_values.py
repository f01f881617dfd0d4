"""Values as Python callers have them: lists, ranges, numpy's numbers and arrays, paths, fractions in text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atras.attacks import FGSM, PGD, Attack, DeepFool
from atras.defences import BatchCopies, Copies
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Conv, Dense, k_complete

SMALL = (Candidate((8,)),)

SAME: list[tuple[str, Any, Any]] = [
    ("seeds", [0, 3], (0, 3)),
    ("seeds", range(3), (0, 1, 2)),
    ("seeds", np.arange(3), (0, 1, 2)),
    ("seeds", [np.int64(0), np.uint8(3)], (0, 3)),
    ("seeds", np.int32([7]), (7,)),
    ("seeds", "0-2", (0, 1, 2)),
    ("candidates", list(SMALL), SMALL),
    ("candidates", [Candidate(np.array([8]))], SMALL),
    ("epochs", np.int64(3), 3),
    ("batch_size", np.array(32), 32),
    ("train_size", np.int16(100), 100),
    ("learning_rate", np.float64(0.01), 0.01),
    ("learning_rate", np.float32(0.5), 0.5),
    ("learning_rate", np.int64(1), 1.0),
    ("epsilon", "8/255", 8 / 255),
    ("epsilon", "0.1", 0.1),
    ("epsilon", np.float64(0.1), 0.1),
    ("epsilon", np.array(0.1), 0.1),
    ("epsilons", [0, "8/255"], (0.0, 8 / 255)),
    ("epsilons", "0,8/255", (0.0, 8 / 255)),
    ("epsilons", np.array([0.0, 0.25]), (0.0, 0.25)),
    ("epsilons", [], ()),
    ("attacks", "fgsm,pgd(steps=3)", (FGSM(), PGD(steps=3))),
    ("attacks", [PGD(epsilon="8/255"), "deepfool"], (PGD(epsilon=8 / 255), DeepFool())),
    ("transfer", np.bool_(True), True),
    ("stem", np.str_("conv2"), "conv2"),
    ("dataset", Path("/data/mine.npz"), "/data/mine.npz"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "given", "plain"), SAME)
def test_a_protocol_takes_usual_forms_and_does_not_remember_which(field: str, given: Any, plain: Any) -> None:
    found, expected = Protocol(**{field: given}), Protocol(**{field: plain})
    assert found == expected
    assert (found.hash, hash(found)) == (expected.hash, hash(expected))
    assert json.loads(json.dumps(found.to_dict())) == expected.to_dict()
    value = getattr(found, field)
    assert type(value) is type(getattr(expected, field))
    assert type(value) is not tuple or [type(item) for item in value] == [type(item) for item in plain]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"data_dir": Path("/data")}, {"data_dir": "/data"}),
        ({"memory_bytes": "4GiB"}, {"memory_bytes": 4 * 2**30}),
        ({"memory_bytes": np.int64(2**30)}, {"memory_bytes": 2**30}),
        ({"checkpoint_every": np.float32(5)}, {"checkpoint_every": 5.0}),
        ({"download": np.False_}, {"download": False}),
    ],
)
def test_an_execution_takes_them_too(given: dict[str, Any], plain: dict[str, Any]) -> None:
    assert Execution(**given) == Execution(**plain)
    assert json.dumps(Execution(**given).to_dict()) == json.dumps(Execution(**plain).to_dict())


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (PGD(epsilon="8/255", steps=np.int64(3)), PGD(epsilon=8 / 255, steps=3)),
        (PGD(step_size="2/255", random_start=np.bool_(False)), PGD(step_size=2 / 255, random_start=False)),
        (PGD(0.1, bounds=[0.0, 1.0]), PGD(0.1)),
        (PGD(np.array(0.25), bounds=np.array([0.0, 1.0])), PGD(0.25)),
        (FGSM(epsilon=np.float32(0.5)), FGSM(epsilon=0.5)),
        (DeepFool(overshoot=np.float64(0.02), classes=np.int8(10)), DeepFool()),
    ],
)
def test_attacks_take_them_too(given: Attack, plain: Attack) -> None:
    assert (given, hash(given), str(given), repr(given)) == (plain, hash(plain), str(plain), repr(plain))


def test_defences_layers_and_families_take_them_too() -> None:
    assert BatchCopies("pgd(steps=7)") == BatchCopies(PGD(steps=7))
    assert Copies(np.str_("fgsm"), source=np.str_("24-192")) == Copies(source="24-192")
    assert (Dense(np.int64(8)), hash(Dense(np.int64(8)))) == (Dense(8), hash(Dense(8)))
    assert Conv(np.int64(8), kernel=np.uint8(5), dropout=np.float64(0.25)) == Conv(8, kernel=5, dropout=0.25)
    assert Candidate([np.int64(24), 192]).name == "24-192"
    assert k_complete(np.array([8, 16]), np.array([2]), np.int64(64)) == k_complete([8, 16], [2], 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Protocol(epochs=np.float64(3)), r"epochs \(=3.0\): expected a whole number"),
        (lambda: Protocol(epochs="3"), r"epochs \(='3'\): expected a whole number"),
        (lambda: Protocol(epochs=np.arange(2)), r"epochs \(=\(0, 1\)\): expected a whole number"),
        (lambda: Protocol(epochs=np.True_), r"epochs \(=True\): expected a whole number"),
        (lambda: Protocol(learning_rate="0.1"), r"learning_rate \(='0.1'\): expected a number"),
        (lambda: Protocol(epsilon="8/0"), r"epsilon \(='8/0'\): expected a number or a fraction"),
        (lambda: Protocol(epsilon="300/255"), "epsilon .*: expected a number from 0 to 1"),
        (lambda: Protocol(epsilons=["a"]), r"epsilons \(='a'\): expected a number or a fraction"),
        (lambda: Protocol(epsilons={0.1}), r"epsilons \(=\{0.1\}\): expected a tuple"),
        (lambda: Protocol(seeds=np.array([0.5])), r"seed \(=0.5\): expected a whole number"),
        (lambda: Protocol(seeds="a"), r"seeds \(='a'\): expected whole numbers"),
        (lambda: Protocol(seeds=range(10**15)), "expected at most 100000"),
        (lambda: Protocol(dataset=b"mnist"), r"dataset \(=b'mnist'\): expected text"),
        (lambda: Protocol(stem=Path("conv2")), "stem .*: expected text"),
        (lambda: Protocol(transfer=np.int64(1)), r"transfer \(=1\): expected True or False"),
        (lambda: Execution(memory_bytes="much"), r"memory \(='much'\): expected bytes"),
        (lambda: PGD(epsilon="a"), r"epsilon \(='a'\): expected a number or a fraction"),
        (lambda: PGD(steps="3"), r"steps \(='3'\): expected a whole number"),
        (lambda: PGD(steps=np.float64(3)), r"steps \(=3.0\): expected a whole number"),
        (lambda: BatchCopies("pdg"), r"attack \(='pdg'\): did you mean pgd"),
        (lambda: Candidate(np.array([8.5])), r"hidden \(=.*\): expected one or more whole numbers"),
        (lambda: Candidate("24"), r"hidden \(='24'\): expected one or more whole numbers"),
    ],
)
def test_other_types_are_still_one_line(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


class TestHome:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    def test_a_protocol_on_files_at_home_is_one_experiment_however_it_is_written(self, home: Path) -> None:
        assert Protocol(dataset="~/mine.npz") == Protocol(dataset=home / "mine.npz")
        assert Protocol(dataset="~/mine.npz").hash == Protocol(dataset=f"{home}/mine.npz").hash
        assert Protocol(dataset="digits").dataset == "digits"
        assert Protocol(dataset="./~").dataset == "./~"
        assert Protocol(dataset="~nobody-of-that-name/x").dataset == "~nobody-of-that-name/x"

    def test_the_data_folder_may_be_at_home_by_option_and_by_environment(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert Execution(data_dir="~/data").data_dir == f"{home}/data"
        assert Execution(data_dir=Path("~/data")).data_dir == f"{home}/data"
        monkeypatch.setenv("ATRAS_DATA", "~/data")
        assert Execution().data_dir == f"{home}/data"
