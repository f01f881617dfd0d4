"""Cautions known before a run stand in the terminal, in run.json and in the report, and a dry run shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import atras
from atras import cli
from atras.data import load
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.report import write as write_report
from atras.running import Reporter, run, said_before
from atras.search import search

CPU = Execution(device="cpu")
pytestmark = pytest.mark.usefixtures("shared_cache")
LINE = "data: no training image of 60 is of class 2, but 20 of the 60 test images taken"


def write_sorted(folder: Path) -> Path:
    """Data sorted by class: 30 training and 20 test images of each of three, a bright bar at another place in each."""
    draw, arrays = np.random.default_rng(0), {}
    for part, each in (("train", 30), ("test", 20)):
        labels = np.arange(3).repeat(each)
        images = draw.integers(0, 60, (3 * each, 6, 6), dtype=np.uint8)
        images[np.arange(3 * each), 2 * labels] += 190
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    path = folder / "sorted.npz"
    np.savez(path, **arrays)
    return path


class Listener(Reporter):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, message: str) -> None:
        self.heard.append(message)


def test_a_run_on_sorted_data_says_so_everywhere(tmp_path: Path) -> None:
    listener = Listener()
    protocol = Protocol(
        dataset=str(write_sorted(tmp_path)), candidates=(Candidate((8,)),), train_size=60, epochs=1,
        adversarial_epochs=1,
    )  # fmt: skip
    results = run(protocol, CPU, out=tmp_path / "run", reporter=listener)
    assert listener.heard[0].startswith(LINE)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["warnings"][0].startswith(LINE)
    assert written["data"]["train_class_counts"] == [30, 30, 0]
    page = write_report([results], tmp_path / "page.md", "md").read_text()
    assert LINE in page.replace("\\", "")


def test_dry_runs_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sorted(tmp_path)
    line = f"run --dataset {path} --train-size 60 --hidden 8 --hidden 4 --dry-run --device cpu"
    for more in ("", " --search halving --budget 200"):
        assert cli.execute(cli.app, f"{line}{more}".split(), "atras") == 0
        assert LINE in capsys.readouterr().out


def test_a_search_says_it_of_the_data_and_not_of_what_it_holds_out(tmp_path: Path) -> None:
    listener = Listener()
    protocol = Protocol(
        dataset=str(write_sorted(tmp_path)), candidates=tuple(Candidate((width,)) for width in (4, 6, 8, 10)),
        train_size=60, epochs=4, adversarial_epochs=0,
    )  # fmt: skip
    search(protocol, CPU, 12, tmp_path / "search", reporter=lambda: listener)
    said = [line.split(":")[0] for line in listener.heard if line.startswith(("data: ", "round "))]
    assert said == ["data", "round 1 of 3", "round 2 of 3", "round 3 of 3", "data"]
    dark = np.load(tmp_path / "sorted.npz")
    np.savez(tmp_path / "dark.npz", **{name: dark[name] // (16 if "x" in name else 1) for name in dark})
    listener.heard.clear()
    search(protocol.replace(dataset=str(tmp_path / "dark.npz"), train_size="all"), CPU, 12, tmp_path / "other",
           reporter=lambda: listener)  # fmt: skip
    assert sum("brightest" in line for line in listener.heard) == 4  # of two parts, at the start and in the last round
    assert not any(
        "data: " in line for line in json.loads((tmp_path / "other/round-1/run.json").read_text())["warnings"]
    )


def test_a_search_on_sorted_data_ranks_on_every_class(tmp_path: Path) -> None:
    protocol = Protocol(
        dataset=str(write_sorted(tmp_path)), candidates=tuple(Candidate((width,)) for width in (2, 12, 16, 20)),
        epochs=16, adversarial_epochs=4, batch_size=8, learning_rate=0.01,
    )  # fmt: skip
    results = search(protocol, CPU, 72, tmp_path / "search")
    held_out = np.load(tmp_path / "search" / "selection.npz")
    assert np.bincount(held_out["y_train"]).tolist() == [24, 24, 24]
    assert np.bincount(held_out["y_test"]).tolist() == [6, 6, 6]
    first = atras.read(tmp_path / "search" / "round-1").table
    assert first["test_accuracy"].max() > 0.6  # on classes that were hardly trained it would be near 0
    assert results.table["hidden_layers"].to_list() != ["2"]
    assert json.loads((tmp_path / "search" / "search.json").read_text())["hold_out"] == "stratified"


def test_attacks_that_too_few_classes_change_are_named_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, listener = write_sorted(tmp_path), Listener()
    line = f"run --dataset {path} --hidden 8 --attack apgd-t(steps=2) --attack autoattack --dry-run --device cpu"
    assert cli.execute(cli.app, line.split(), "atras") == 0
    text = " ".join(capsys.readouterr().out.split())
    expected = (
        "apgd-t: with 3 classes there is no targeted difference of logits ratio; the difference of the two logits"
    )
    assert expected in text
    assert f"autoattack: {expected}" in text
    protocol = Protocol(
        dataset=str(path), candidates=(Candidate((4,)),), epochs=1, adversarial_epochs=1, test_size=4,
        attacks=("apgd-t(steps=2, surrogate=undefended)", "apgd(steps=2, loss=dlr)", "pgd"),
    )  # fmt: skip
    run(protocol, CPU, out=tmp_path / "run", reporter=listener)
    told = [line for line in listener.heard if "difference of logits ratio" in line]
    assert len(told) == 1  # with three classes the untargeted one is defined
    assert told[0].startswith(expected)
    assert told[0] in json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]


@pytest.mark.parametrize(("augment", "cautions"), [("none", 0), ("crop", 0), ("flip", 1), ("crop,flip", 1)])
def test_mirrored_digits_are_cautioned_against(
    augment: str, cautions: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"run --hidden 8 --train-size 60 --augment {augment} --dry-run --device cpu"
    assert cli.execute(cli.app, line.split(), "atras") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("augment: mirrored images of digits are often no longer of their class") == cautions
    data = load("digits")
    asked = Protocol(augment=augment)  # type: ignore[arg-type]
    assert len(said_before.augmentation_cautions(asked, data)) == cautions
    assert said_before.augmentation_cautions(asked, dataclasses.replace(data, name="cifar10")) == []
