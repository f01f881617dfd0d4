"""What goes wrong on the command line is one line, and a status."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from atras import cli
from atras.cli import program
from atras.errors import InputError


def execute(line: str) -> int:
    return cli.execute(cli.app, ["run", *line.split()], "atras")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--epsilom 0.1", "no such option --epsilom; did you mean --epsilon?"),
        ("--zzz", "no such option: --zzz; see --help"),
        ("--epochs", "option '--epochs' requires an argument; see --help"),
        ("--quiet=3", "option '--quiet' does not take a value; see --help"),
        ("mnist", "got unexpected extra argument(s) (mnist); see --help"),
        ("--epochs three", "epochs (='three'): expected a whole number; write for example 10"),
        ("--epochs 0", "epochs (=0): expected a whole number from 1 to 1000000"),
        ("--batch-size 1.5", "batch_size (='1.5'): expected a whole number; write for example 10"),
        ("--learning-rate fast", "learning_rate (='fast'): expected a number; write for example 0.001"),
        ("--epsilon 8/0", "epsilon (='8/0'): expected a number or a fraction; write for example 0.05 or 8/255"),
        ("--epsilon 2", "epsilon (=2.0): expected a number from 0 to 1"),
        ("--seeds 4-0", "seeds (='4-0'): expected whole numbers; write for example 0-4 or 0,3,7"),
        ("--seeds 1,1", "seeds: 1 came twice; name each once"),
        ("--train-size half", "train_size (='half'): expected a whole number, all or default; write for example 5000"),
        ("--memory lots", "memory (='lots'): expected bytes or a number with a unit; write for example 4GiB or 512MiB"),
        ("--preset papper", "preset (='papper'): expected one of paper"),
        ("--stem conv3", "stem (='conv3'): expected one of auto, none, conv2, conv4"),
        ("--engine fast", "engine (='fast'): expected one of auto, loop, stack"),
        ("--device gpu", "device (='gpu'): expected auto, cpu, cuda, cuda:N or cuda:all"),
        ("--targeted 3", "target (='3'): expected none, random, least-likely or class:N, such as class:3"),
        ("--depth 9", "depth (=9): no candidate has it; choose from 1, 2, 3, 4, 5, 6, 7, 8"),
        (
            "--hidden 40 --factors 2",
            "hidden and factors both choose candidates: name them one by one or by range, not both",
        ),
        ("--attack-steps 40", '--attack-steps is no longer an option; write for example --attack "pgd(steps=40)"'),
        ("--step-size=1", '--step-size is no longer an option; write for example --attack "pgd(step_size=2/255)"'),
        ("--restarts 5", '--restarts is no longer an option; write for example --attack "pgd(restarts=5)"'),
        (
            "--train-attack x",
            '--train-attack is no longer an option; write for example --defence "batch(pgd(steps=7))"',
        ),
        (
            "--defence-source x",
            '--defence-source is no longer an option; write for example --defence "copies(source=smallest)"',
        ),
        ("--attack pdg", "attack (='pdg'): did you mean pgd? There are fgsm, random-fgsm, pgd, apgd"),
        ("--attack bim", "attack (='bim'): expected one of fgsm, random-fgsm, pgd, apgd"),
        (
            "--attack pgd(stepz=3)",
            "attack (='pgd(stepz=3)'): unknown option 'stepz=3'; did you mean steps? Options of pgd: epsilon,",
        ),
        ("--attack pgd(steps=0)", "steps (=0): expected a whole number from 1 to 1000000"),
        ("--attack pgd(steps=x)", "pgd: steps (='x'): expected a whole number; write for example 10"),
        ("--attack fgsm,fgsm", "attack: fgsm came twice; name each once"),
        ("--attack pgd(steps=3", "'pgd(steps=3': expected as many closing brackets as opening ones"),
        ("--defence nothing", "defence (='nothing'): expected one of copies, none, batch"),
        (
            "--defence batch(source=own)",
            "defence (='batch(source=own)'): unknown option 'source=own'; options of batch:",
        ),
        ("--executor x", "executor (='x'): expected one of local"),
        ("--rank-by balanced", "rank_by: expected with --search, which ranks; add --search halving, or leave it out"),
        ("--search halving --budget 900 --rank-by size", "rank_by (='size'): expected one of accuracy, balanced"),
        ("--search best --budget 3", "search (='best'): expected one of halving"),
        ("--budget 3", "budget: expected with --search, which spends; add --search halving, or leave it out"),
        ("--search halving", "budget: expected with --search, none came; add --budget N, in candidate-epochs"),
        ("--resume x --out y", "resume and --out exclude each other: a run goes on where and as it began"),
        ("--config none.toml", "none.toml: cannot be read (No such file or directory); "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    schedule: Any, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert execute(line) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1
    assert out == ""
    assert schedule.calls == []


def test_a_bad_candidate_names_the_right_spelling(schedule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--hidden 24x192") == 2
    assert "atras: hidden (='24x192'): expected widths separated by commas" in capsys.readouterr().err


def test_bad_input_found_by_the_run_is_one_line_too(schedule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    schedule.error = InputError("dataset (='x'): expected\none of ...")
    assert execute("--dataset x") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "atras: dataset (='x'): expected one of ..."


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()], ids=["interrupt", "abort"])
def test_an_interrupt_is_one_line_and_exit_130(
    schedule: Any, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    schedule.error = error
    assert execute("--quiet") == 130
    assert capsys.readouterr().err.strip() == "atras: interrupted"


def test_missing_kernels_are_one_line(
    schedule: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule.error = ModuleNotFoundError("No module named 'atras.kernels'")
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    assert execute("--quiet") == 2
    assert capsys.readouterr().err.startswith("atras: the package atras.kernels is not installed; run")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ImportError("a bug"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(schedule: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    schedule.error = error
    monkeypatch.setattr(program, "find_spec", lambda name: "found")
    with pytest.raises(type(error), match="a bug"):
        execute("--quiet")


def test_the_name_of_a_folder_to_resume_may_be_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"--resume {'x' * 5000}") == 2
    assert "found no run.json in it" in capsys.readouterr().err
