"""A search from the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from atras.cli import program
from atras.engines import FusedEngine
from atras.experiment import Protocol
from atras.search.halving import round_lines
from atras.testing import tables_of
from atras.training import epochs


def execute(line: str) -> int:
    return program.execute(program.app, ["run", *line.split()], "atras")


def test_a_dry_run_prints_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--search halving --budget 1800 --dry-run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out == round_lines(Protocol(), 1800)
    assert out[-1] == "1800 of 1800 candidate-epochs; 1 seed a candidate"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--search random --budget 5", "search (='random'): expected one of halving"),
        ("--search halving", "budget: expected with --search, none came; add --budget N, in candidate-epochs"),
        ("--budget 5", "budget: expected with --search, which spends; add --search halving, or leave it out"),
        ("--search halving --budget much", "budget (='much'): expected a whole number; write for example 10"),
        ("--search halving --budget 900 --rank-by size --dry-run", "rank_by (='size'): expected one of accuracy, "),
        ("--search halving --budget 3", "budget (=3): 40 candidates need at least 720 candidate-epochs"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert execute(line) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1


def test_the_command_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--hidden 4 --hidden 8 --epochs 2 --adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu"
    assert execute(f"--search halving --budget 4 --out there --quiet {options}") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Pareto front")
    assert out[-1] == "results are in there"
    assert (tmp_path / "there" / "search.json").is_file()


def test_the_command_searches_over_variants_and_logs_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    there = tmp_path / "there"
    options = "--hidden 4 --hidden 8 --epochs 4 --adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu"
    axis = "--axis learning_rate=1e-3,1e-2 --search halving --budget 15"
    assert execute(f"{axis} {options} --dry-run") == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["round", "in", "variants"]
    assert execute(f"{axis} {options} --log tensorboard --out {there} --quiet") == 0
    assert "learning_rate=0.0" in capsys.readouterr().out
    kept = [len(list((there / f"round-{number}" / "tensorboard").iterdir())) for number in (1, 2, 3)]
    assert kept == [4, 2, 1]
    assert program.execute(program.app, ["show", str(there)], "atras") == 0
    assert capsys.readouterr().err == f"{there} is a search: this is round 3 of 3, 1 candidate in a variant\n"


def test_a_search_prints_json_and_stands_for_its_last_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    options = "--hidden 4 --hidden 8 --epochs 2 --adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu"
    assert execute(f"--search halving --budget 4 --out {there} --quiet --json {options}") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(there / "round-1")
    assert {row["hidden_layers"] for row in told["ranking"]} == {"4", "8"}
    assert program.execute(program.app, ["show", str(there), "--json"], "atras") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["table"] == told["table"]
    assert err == f"{there} is a search: this is round 1 of 1, 2 candidates\n"
    assert program.execute(program.app, ["report", str(there), "-o", str(tmp_path / "page.html")], "atras") == 0
    (there / "search.json").write_bytes((there / "search.json").read_bytes().replace(b"finished", b"finishes"))
    assert program.execute(program.app, ["show", str(there)], "atras") == 2


def test_the_command_ranks_by_what_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--hidden 4 --hidden 8 --epochs 2 --adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu"
    assert execute(f"--search halving --budget 4 --rank-by balanced --out {tmp_path / 'there'} --quiet {options}") == 0
    assert "against balanced robust accuracy" in capsys.readouterr().out.splitlines()[0]
    assert json.loads((tmp_path / "there" / "search.json").read_text())["rank_by"] == "balanced"


SEARCH = (
    "--search halving --budget 12 --quiet --hidden 4 --hidden 6 --hidden 8 --hidden 10 --epochs 4 "
    "--adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu --engine fused"
)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_ends_a_search_that_can_be_gone_on_with(
    name: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert execute(f"{SEARCH} --out {out}") == 0
    shown = capsys.readouterr().out
    tables = [tables_of(folder) for folder in sorted(out.glob("round-*"))]
    record = (out / "search.json").read_bytes()
    shutil.rmtree(out)
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    with monkeypatch.context() as patch:
        epoch, calls = FusedEngine.epoch, iter(range(10_000))

        def acting(self: FusedEngine, work: Any) -> Any:
            if next(calls) == 1:  # in the second round
                os.kill(os.getpid(), getattr(signal, name))
            return epoch(self, work)

        patch.setattr(FusedEngine, "epoch", acting)
        assert execute(f"{SEARCH} --out {out}") == status
    assert capsys.readouterr() == ("", f"atras: interrupted; go on with --resume {out}\n")
    assert json.loads((out / "search.json").read_text())["status"] == "interrupted"
    assert list((out / "round-2" / "checkpoint").iterdir())
    for _ in range(2):
        assert execute(f"--resume {out} --quiet") == 0
        assert capsys.readouterr() == (shown, "")
    assert len(tables) == 3
    assert [tables_of(folder) for folder in sorted(out.glob("round-*"))] == tables
    assert (out / "search.json").read_bytes() == record


def test_other_options_beside_the_resume_of_a_search_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (
        ("--budget 80", "resume and --budget exclude each other"),
        ("--search halving", "resume and --search exclude each other"),
        ("--epochs 3", "resume: expected the recorded protocol, got another epochs (=3, recorded 8)"),
    ):
        assert execute(f"--resume {stopped} {more}") == 2
        assert capsys.readouterr().err.startswith(f"atras: {message}")
    (stopped / "search.json").write_text("[" * 100_000)
    assert execute(f"--resume {stopped}") == 2
    assert capsys.readouterr().err.startswith(f"atras: {stopped}/search.json: expected JSON")


def test_a_diverged_member_fails_a_search_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = FusedEngine._build

    def wild(self: FusedEngine) -> None:
        build(self)
        self.learning_rates = tuple(1e38 for _ in self.learning_rates)

    monkeypatch.setattr(FusedEngine, "_build", wild)
    assert execute(f"{SEARCH} --out {tmp_path / 'out'}") == 0
    for options in (f"{SEARCH} --out {tmp_path / 'again'}", f"--resume {tmp_path / 'out'} --quiet"):
        capsys.readouterr()
        assert execute(f"{options} --fail-on-diverged") == 3
        assert re.fullmatch(r"atras: diverged: \d+ \(seed 0\)\n", capsys.readouterr().err)
