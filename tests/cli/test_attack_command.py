"""The command `attack`: its help, its arguments, its folder, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from atras import cli
from atras.results import read


def execute(line: str) -> int:
    return cli.execute(cli.app, ["attack", *line.split()], "atras")


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).state_dict(), "w.pth")


SMALL = "--network 12 --weights w.pth --test-size 20 --device cpu"


def test_networks_are_attacked_into_a_folder_like_a_runs(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{SMALL} --attack pgd(steps=2) --epsilon 8/255 --seeds 0-1 --out runs/mine --quiet"
    assert execute(line) == 0
    out = capsys.readouterr().out
    assert "12: 910 parameters" in out
    assert "worst case" in out
    assert out.endswith("results are in runs/mine\n")
    results = read("runs/mine")
    assert (results.run["status"], results.trains, results.defends) == ("finished", False, False)
    assert results.run["protocol"]["epsilon"] == 8 / 255
    assert results.table["seed"].to_list() == [0, 1]
    assert execute("--resume runs/mine --quiet") == 0
    assert cli.execute(cli.app, ["claims", "runs/mine"], "atras") == 0
    assert cli.execute(cli.app, ["export", "runs/mine", "--best", "robust", "-o", "best.safetensors"], "atras") == 0
    assert execute("--weights best.safetensors --test-size 20 --device cpu --out runs/again --quiet --json") == 0
    told = capsys.readouterr().out
    assert "a run without training has none of the paper's claims to check: they are about its defence " in " ".join(
        told.split()
    )
    clean = [row for row in json.loads(told[told.index("\n{") :])["networks"] if row["label"] == "clean"]
    assert clean[0]["accuracy"] == results.table["test_accuracy"][0]


def test_finished_networks_beside_a_run_with_a_defence(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"{SMALL} --network 12-8 --out runs/mine --quiet") == 2  # a file for each
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).state_dict(), "w8.pth")
    assert execute(f"{SMALL} --network 8 --weights w8.pth --out runs/mine --quiet") == 0
    line = "run --hidden 12 --epochs 1 --train-size 60 --test-size 20 --device cpu --out runs/other --quiet"
    assert cli.execute(cli.app, line.split(), "atras") == 0
    capsys.readouterr()
    assert cli.execute(cli.app, ["compare", "runs/mine", "runs/other"], "atras") == 0
    out = capsys.readouterr().out
    assert "A has no defence: its networks stand beside defended ones as their training ends." in " ".join(out.split())
    lost = 20 - int(read("runs/other").table["worst_case_accuracy_after"][0] * 20 + 0.5)
    (row,) = (line.split() for line in out.splitlines() if line.startswith("12 (seed 0)"))
    assert int(row[3]) + int(row[5]) == lost  # both, and only B
    assert cli.execute(cli.app, ["report", "runs/mine", "-o", "two.md"], "atras") == 0
    assert "Not told apart from it by these images: " in Path("two.md").read_text()
    assert execute("--resume runs/other") == 2
    assert "expected the folder of finished networks" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert execute(f"{SMALL} --dry-run") == 0
    assert "depth 1: 12" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} <= {"w.pth", "cache"}


BAD = {
    "": "network: expected one or more networks to attack, none came; add --network or --weights",
    "--network 12": "network 12: expected a file of its weights, none came; add --weights FILE",
    "--weights w.pth": "network (=0 of them): expected one for each file of weights that does not say what it is of",
    "--network 12 --weights none.pth": "weights (='none.pth'): expected a file of weights: No such file",
    "--network 14 --weights w.pth": "w.pth: dense1.weight: expected shape 14x64 for network 14, found 12x64",
    "--network mine.py:make --weights w.pth": "mine.py cannot be read (No such file or directory)",
    f"{SMALL} --attack magic": "attack (='magic'): expected one of",
    f"{SMALL} --epochs 3": "no such option: --epochs",
    "--resume here --network 12": "resume and --network exclude each other",
    "--resume here": "resume (='here'): expected the folder of a run or a search, found no run.json in it",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_2(line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert execute(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("atras: ")
    assert error.count("\n") == 1
    assert BAD[line] in error
    assert not (tmp_path / "runs").exists()


def test_help_needs_no_torch_and_names_the_attacks() -> None:
    code = (
        "import runpy, sys; sys.argv = ['', 'attack', '--help']\n"
        "try: runpy.run_module('atras', run_name='__main__')\n"
        "finally: print({'torch', 'polars'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "atras attack --network mine.py:make --weights w.pth" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "autoattack" in done.stdout
    assert " --epochs " not in done.stdout
