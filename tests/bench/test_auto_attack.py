"""The comparison with the authors' AutoAttack: that both attack the same networks, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import auto_attack
from atras import Protocol, run
from atras.attacks import AutoAttack
from atras.data import load, pixels
from atras.networks import Candidate

STAND_IN = """
class Part:
    n_restarts = n_target_classes = n_queries = 0


class AutoAttack:
    def __init__(self, model, *, norm, eps, version, seed, device, attacks_to_run, verbose):
        self.model, self.eps, self.attacks = model, eps, attacks_to_run
        self.apgd, self.apgd_targeted, self.fab, self.square = Part(), Part(), Part(), Part()

    def run_standard_evaluation(self, images, labels, bs):
        assert self.model(images).argmax(1).equal(labels)  # what was lost before does not come again
        return (images + self.eps * (self.attacks == ["square"])).clamp(0, 1)
"""
"""An AutoAttack whose last attack alone changes images: it makes them lighter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two networks."""
    path = tmp_path_factory.mktemp("runs") / "run"
    candidates = (Candidate((8,)), Candidate((16, 8)))
    run(Protocol(candidates=candidates, epochs=3, adversarial_epochs=1), out=path)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' package, stood in for."""
    (tmp_path / "autoattack.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(auto_attack, "PACKAGES", ("autoattack",))


def command(folder: Path, *options: str) -> list[str]:
    # So large an epsilon leaves nothing after a few steps: whole budgets would take minutes.
    return [str(folder), "--members", "2", "--images", "12", "--epsilon", "0.9", *options]


@pytest.mark.usefixtures("package")
def test_the_command_tells_what_both_leave_and_how_long_they_take(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert auto_attack.main(command(folder, "--json", str(file))) == 0
    found = json.loads(file.read_text())["networks"]
    assert list(found) == ["trained", "defended"]
    for figures in found.values():
        clean, *left = figures["atras"]["accuracy"]
        assert clean == figures["authors"]["accuracy"][0] > left[-1]
        lightened = figures["authors"]["accuracy"]
        assert lightened[:4] == [clean] * 4
        assert lightened[4] < clean
        assert len(figures["atras"]["seconds"]) == len(figures["authors"]["seconds"]) == 4
        assert figures["ratio"] > 0
    assert "APGD" in capsys.readouterr().out


@pytest.mark.usefixtures("package")
def test_a_weaker_attack_than_theirs_ends_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert auto_attack.main(command(folder, "--tolerance", "-101")) == 1
    assert "atras leaves more than -101 points more of trained, defended" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["loop", "stack"])
def test_attack_by_attack_leaves_what_the_attack_as_a_whole_leaves(folder: Path, engine: str) -> None:
    test = load("digits", train_size=1, test_size=12).test
    images = pixels(test.images, torch.float32)
    _, (networks, _) = auto_attack.networks_of_run(folder, 2)
    case = auto_attack.Case(images, test.labels, AutoAttack(epsilon=0.4), engine)
    found = auto_attack.by_atras(case, networks)
    for place in range(2):
        alone = auto_attack.engine_of(case, networks, [place])
        whole = case.attack(alone, images, test.labels)
        assert torch.equal(found.right[-1][place], ~whole.success(alone, test.labels)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected the folder of a run, or --network and --weights"),
        (["--network", "8", "--weights", "w.pth"], "expected --dataset for --network"),
        (["nothing-here"], "nothing-here"),
        (["nothing-here", "--images", "0"], "images (=0): expected a whole number from 1 on"),
    ],
)
@pytest.mark.usefixtures("package")
def test_bad_options_get_one_line(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    try:
        status = auto_attack.main(options)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_the_package_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auto_attack, "PACKAGES", ("no_such_package",))
    assert auto_attack.main(["run"]) == 2
    assert "expected package no_such_package" in capsys.readouterr().err
