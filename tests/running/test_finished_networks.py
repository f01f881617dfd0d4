"""Networks that are finished when a run begins, and runs without a defence: measured once, and nothing invented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atras
from atras import Candidate, Execution, InputError, Protocol
from atras.data import load, pixels
from atras.engines import Engine
from atras.results import Results, read
from atras.running import finished_networks, plan_lines, resume, run, session
from atras.testing import SMALL, tables_of

MINE = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""
PLACE = Execution(device="cpu", checkpoint_every=0)
ATTACKS = ("pgd(steps=4)", "apgd(steps=6)")


def trained_module() -> nn.Sequential:
    """A small network after a few steps, its normalisation's statistics those of the data."""
    torch.manual_seed(0)
    part = load("digits", train_size=200, test_size=1).train
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(network(pixels(part.images, torch.float32)), part.labels).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """A module in `mine.py:make`, its weights in `w.pth`, and a network of layers in `layers.pth`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("mine.py").write_text(MINE)
    network = trained_module()
    torch.save(network.state_dict(), "w.pth")
    torch.manual_seed(1)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).state_dict(), "layers.pth")
    return network


def asked(networks: list[str], files: list[str], **changes: Any) -> dict[str, Any]:
    """The arguments of `run` for finished networks."""
    candidates, weights = finished_networks(networks, files)
    fields: dict[str, Any] = {
        "candidates": candidates, "weights": tuple(each.sha256 for each in weights), "epochs": 0, "defence": "none",
        "precision": "fp32", "stem": "none", "train_size": 50, "test_size": 60, "epsilon": 0.1, "attacks": ATTACKS,
    }  # fmt: skip
    return {"protocol": Protocol(**(fields | changes)), "execution": PLACE, "weights": weights}


def figure(results: Results, attack: str, network: str) -> int:
    return int(results.metrics.filter(attack=attack, hidden_layers=network)["correct"][0])


def test_a_finished_network_has_the_figures_of_plain_torch_and_no_others(mine: nn.Sequential, tmp_path: Path) -> None:
    results = run(**asked(["mine.py:make", "12"], ["w.pth", "layers.pth"]), out=tmp_path / "run")
    test = load("digits", train_size=50, test_size=60).test
    images, labels = pixels(test.images, torch.float32), test.labels
    assert figure(results, "none", "make") == int((mine(images).argmax(1) == labels).sum())
    x = images.clone().requires_grad_()
    F.cross_entropy(mine(x), labels).backward()
    assert x.grad is not None
    moved = (images + 0.1 * x.grad.sign()).clamp(0, 1)
    assert figure(results, "fgsm", "make") == int((mine(moved).argmax(1) == labels).sum())
    row = results.table.filter(hidden_layers="make").row(0, named=True)
    known = {name for name, value in row.items() if value is not None}
    assert {name for name in known if "accuracy" in name or "recovery" in name} == {
        "test_accuracy", "attacked_accuracy_before_true", "worst_case_accuracy_before",
    }  # fmt: skip
    assert (row["status"], row["defence"], row["parameters"]) == ("trained", "none", 1498)
    assert results.metrics["precision"].null_count() == len(results.metrics)
    assert set(results.metrics["phase"]) == {"trained"}
    assert results.history.is_empty()
    assert set(results.metrics["mode"]) == {"clean", "white-box"}
    assert read(tmp_path / "run").table.equals(results.table)
    records = results.run["weights"]
    assert [(each["network"], each["format"], Path(each["file"]).name) for each in records] == [
        ("make", "pth", "w.pth"), ("12", "pth", "layers.pth"),
    ]  # fmt: skip
    assert [each["sha256"] for each in records] == results.run["protocol"]["weights"]


def test_the_command_and_atras_attack_count_alike(mine: nn.Sequential) -> None:
    results = run(**asked(["mine.py:make"], ["w.pth"]))
    test = load("digits", train_size=50, test_size=60).test
    found = atras.attack(mine, test.images, test.labels, ["fgsm", *ATTACKS], epsilon=0.1).frame
    for attack in ("none", "fgsm", *ATTACKS):
        assert figure(results, attack, "make") == found.filter(attack=attack)["correct"][0]


def test_files_that_say_what_they_are_need_no_network(mine: nn.Sequential, tmp_path: Path) -> None:
    example, batch = torch.zeros(2, 1, 8, 8), torch.export.Dim("batch")
    torch.export.save(torch.export.export(mine, (example,), dynamic_shapes=({0: batch},)), "program.pt2")
    small = SMALL.replace(candidates=(Candidate([6]),), epochs=1, defence="none", precision="fp32", activation="tanh")
    trained = run(small, PLACE, out=tmp_path / "trained")
    (own,) = (tmp_path / "trained" / "weights").iterdir()
    arguments = asked(["mine.py:make"], ["program.pt2", str(own), "w.pth"], activation="tanh", transfer=True)
    results = run(**arguments, out=tmp_path / "run")
    assert results.table["hidden_layers"].to_list() == ["program", "6", "make"]
    assert figure(results, "none", "program") == figure(results, "none", "make")
    assert figure(results, "fgsm", "program") == figure(results, "fgsm", "make")
    assert trained.table["parameters"].to_list() == results.table.filter(hidden_layers="6")["parameters"].to_list()
    pairs = {(row["source_hidden_layers"], row["target_hidden_layers"]) for row in results.transfer.to_dicts()}
    assert pairs == {(a, b) for a in ("program", "6", "make") for b in ("program", "6", "make")}


def test_two_files_of_one_function_are_told_apart(mine: nn.Sequential) -> None:
    shutil.copy("w.pth", "again.pth")
    candidates, _ = finished_networks(["mine.py:make", "mine.py:make"], ["w.pth", "again.pth"])
    assert [candidate.name for candidate in candidates] == ["make.w", "make.again"]


class Killed(BaseException):
    """Ends a process, which has no time to say anything."""


def test_a_run_that_was_killed_goes_on_bitwise(
    mine: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = asked(["mine.py:make", "12"], ["w.pth", "layers.pth"])
    run(**arguments, out=tmp_path / "whole")
    gradient, left = Engine.gradient, iter(range(9))

    def dying(self: Engine, *args: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return gradient(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "gradient", dying)
        patch.setattr(session.Session, "leave", lambda *_: None)
        with pytest.raises(Killed):
            run(**arguments, out=tmp_path / "run")
    weights = Path("layers.pth").read_bytes()
    torch.save({name: value + 1 for name, value in torch.load("layers.pth").items()}, "layers.pth")
    with pytest.raises(InputError, match=r"layers.pth: expected the weights that the run began with .*; restore them"):
        resume(tmp_path / "run")
    Path("layers.pth").unlink()
    with pytest.raises(InputError, match=r"layers.pth'\): expected a file of weights: No such file"):
        resume(tmp_path / "run")
    Path("layers.pth").write_bytes(weights)
    resume(tmp_path / "run")
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")


def test_without_a_defence_a_run_is_the_first_part_of_one_with_it() -> None:
    small = SMALL.replace(candidates=(Candidate([6]), Candidate([4, 4])), precision="fp32", attacks=("pgd(steps=3)",))
    whole, first = (run(small.replace(defence=defence), PLACE) for defence in ("copies", "none"))
    columns = [name for name in first.table.columns if first.table[name].null_count() == 0 and name != "defence"]
    assert {"train_accuracy", "test_accuracy", "attacked_accuracy_before", "worst_case_accuracy_before"} < set(columns)
    assert first.table.select(columns).equals(whole.table.select(columns))
    unlike = ["defence", "protocol_hash"]
    rows = whole.metrics.filter(phase="trained").drop(unlike)
    assert first.metrics.drop(unlike).equals(rows)
    assert (first.history["phase"].unique().to_list(), first.defends, first.trains) == (["train"], False, True)


WRONG: dict[str, tuple[list[str], list[str], str]] = {
    "no network": (["12"], ["w.pth", "layers.pth"], r"network \(=1 of them\): expected one for each file of weights"),
    "no weights": (["12"], [], r"network 12: expected a file of its weights, none came; add --weights FILE"),
    "nothing": ([], [], "expected one or more networks to attack"),
    "twice": (["12", "12"], ["layers.pth", "layers.pth"], "network 12: came twice"),
    "another": (["13"], ["layers.pth"], r"dense1.weight: expected shape 13x64 for network 13, found 12x64"),
    "a module": (["mine.py:make"], ["layers.pth"], "missing are 0.weight, 0.bias, 1.running_mean and 4 more"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("mine")
def test_networks_and_weights_that_do_not_fit_are_one_line_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    networks, files, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        run(**asked(networks, files), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"epochs \(=0\): expected a whole number from 1"),
        ({"weights": ("a" * 64,)}, r"weights \(=1 of them\): expected one for each candidate \(2\)"),
        ({"weights": ("a" * 64, "b" * 64)}, r"weights: expected no training of networks that are finished"),
        ({"weights": ("file.pth", "b" * 64), "epochs": 0}, r"weights \(='file.pth'\): expected a SHA-256"),
    ],
)
def test_a_protocol_trains_or_has_weights(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Protocol(candidates=(Candidate([4]), Candidate([5])), **fields)


def test_the_length_of_no_training_makes_no_other_experiment() -> None:
    assert Protocol(defence="none", adversarial_epochs=5).hash == Protocol(defence="none").hash


def test_surrogates_before_a_defence_that_there_is_not_are_refused() -> None:
    protocol = Protocol(defence="none", attacks=("pgd(surrogate=undefended)",))
    with pytest.raises(InputError, match="expected a defence, got none"):
        run(protocol, PLACE)


@pytest.mark.usefixtures("mine")
def test_the_plan_of_finished_networks_trains_nothing(tmp_path: Path) -> None:
    arguments = asked(["12"], ["layers.pth"])
    lines = plan_lines(arguments["protocol"], PLACE, None, weights=arguments["weights"])
    (line,) = (line for line in lines if line.startswith("depth 1: 12"))
    assert " 0.00 " in line
    assert not list(tmp_path.glob("run*"))


def test_values_are_those_of_run_json(mine: nn.Sequential, tmp_path: Path) -> None:
    del mine
    run(**asked(["mine.py:make"], ["w.pth"]), out=tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["protocol"]["networks"]["make"]["function"] == "make"
    assert len(content["protocol"]["weights"][0]) == 64
