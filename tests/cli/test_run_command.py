"""The command line: what each option sets, what errors look like, what a run prints."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import atras
from atras.cli import run_command
from atras.experiment.protocol import Execution, Protocol
from atras.networks.candidates import PAPER_CANDIDATES, Candidate, k_complete, with_depth

HEAVY = {
    "torch",
    "polars",
    "numpy",
    "atras.experiment.config_file",
    "atras.running.prepare",
    "atras.running.orchestrator",
    "atras.results.results",
}
"""Modules that `--help` must not import. Pydantic comes with typer itself; `config_file` is what imports it here."""
ROOT = Path(atras.__file__).parents[1]

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("--dataset mnist", {"dataset": "mnist"}),
    ("--data-dir there", {"data_dir": "there"}),
    ("--no-download", {"download": False}),
    ("--train-size 500", {"train_size": 500}),
    ("--test-size all", {"test_size": "all"}),
    ("--preset paper", {}),
    ("--hidden 40 --hidden 24,192", {"candidates": (Candidate((40,)), Candidate((24, 192)))}),
    ("--depth 1,2", {"candidates": with_depth(PAPER_CANDIDATES, [1, 2])}),
    ("--depth 1 --depth 2", {"candidates": with_depth(PAPER_CANDIDATES, [1, 2])}),
    ("--base-widths 8,16", {"candidates": k_complete([8, 16])}),
    ("--factors 2,4", {"candidates": k_complete(factors=[2, 4])}),
    ("--max-width 512", {"candidates": k_complete(max_width=512)}),
    ("--seeds 0-4", {"seeds": (0, 1, 2, 3, 4)}),
    ("--seeds 0,3,7", {"seeds": (0, 3, 7)}),
    ("--stem conv2", {"stem": "conv2"}),
    ("--activation gelu", {"activation": "gelu"}),
    ("--initialisation he", {"initialisation": "he"}),
    ("--head-dropout 0.5", {"head_dropout": 0.5}),
    ("--epochs 3", {"epochs": 3, "adversarial_epochs": 3}),
    ("--adversarial-epochs 5", {"adversarial_epochs": 5}),
    ("--batch-size 32", {"batch_size": 32}),
    ("--optimizer sgd --momentum 0.9", {"optimizer": "sgd", "momentum": 0.9}),
    ("--learning-rate 1e-4", {"learning_rate": 1e-4}),
    ("--epsilon 8/255", {"epsilon": 8 / 255}),
    ("--epsilon 0.1", {"epsilon": 0.1}),
    ("--label-source true", {"label_source": "true"}),
    ("--targeted class:3", {"target": "class:3"}),
    ("--attack fgsm --attack pgd", {"attacks": ("fgsm", "pgd")}),
    ("--attack-steps 7", {"attack_steps": 7}),
    ("--step-size 2/255", {"step_size": 2 / 255}),
    ("--restarts 3", {"restarts": 3}),
    ("--epsilons 0,0.1,8/255", {"epsilons": (0.0, 0.1, 8 / 255)}),
    ("--train-attack pgd-batch", {"train_attack": "pgd-batch"}),
    ("--transfer", {"transfer": True}),
    ("--defence-source 24,192", {"defence_source": "24-192"}),
    ("--precision fp64", {"precision": "fp64"}),
    ("--evaluate-every 2", {"evaluate_every": 2}),
    ("--engine loop", {"engine": "loop"}),
    ("--device cuda:1", {"device": "cuda:1"}),
    ("--memory 4GiB", {"memory_bytes": 4 * 2**30}),
    ("--recalibrate", {"recalibrate": True}),
    ("--checkpoint-every 5", {"checkpoint_every": 5.0}),
]


class Schedule:
    """Stands in for `atras.running.orchestrator` and `atras.running.prepare` and remembers what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.planned: list[tuple[Protocol, Execution]] = []
        self.error: BaseException | None = None

    def run(self, protocol: Protocol, execution: Execution, **rest: Any) -> str:
        self.calls.append(SimpleNamespace(protocol=protocol, execution=execution, **rest))
        if self.error is not None:
            raise self.error
        rest["reporter"].note("a note")
        return "the results"

    def make_plan(self, protocol: Protocol, execution: Execution, plan: dict[str, Any] | None) -> SimpleNamespace:
        self.planned.append((protocol, execution))
        return SimpleNamespace(lines=lambda: ["group 1", "group 2"])


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Schedule:
    stub = Schedule()
    summary = SimpleNamespace(summary_lines=lambda results, width: [f"table of {results}, {width} wide"])
    monkeypatch.setattr(atras, "schedule", stub, raising=False)
    monkeypatch.setattr(atras, "prepare", stub, raising=False)
    monkeypatch.setitem(sys.modules, "atras.analysis.summary_table", summary)  # type: ignore[arg-type]
    monkeypatch.delenv("ATRAS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "91")
    monkeypatch.chdir(tmp_path)
    return stub


def execute(line: str) -> int:
    return run_command.execute(run_command.app, ["run", *line.split()], "atras")


def python(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    hidden = ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH", "COLUMNS")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(("line", "changed"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_each_option_sets_its_field_and_no_other(schedule: Schedule, line: str, changed: dict[str, Any]) -> None:
    assert execute(line) == 0
    names = {field.name for field in dataclasses.fields(Protocol)}
    (call,) = schedule.calls
    assert call.protocol == Protocol(**{name: value for name, value in changed.items() if name in names})
    assert call.execution == Execution(**{name: value for name, value in changed.items() if name not in names})


def test_every_field_has_an_option_and_every_option_is_tried_above() -> None:
    fields = {field.name for kind in (Protocol, Execution) for field in dataclasses.fields(kind)}
    assert {name for _, changed in OPTIONS for name in changed} == fields
    command = typer.main.get_command(run_command.app).commands["run"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    tried = {word for line, _ in OPTIONS for word in line.split() if word.startswith("--")}
    others = {"--out", "--config", "--resume", "--dry-run", "--fail-on-diverged", "--quiet", "--version", "--download"}
    searching = {"--search", "--budget"}  # tests/test_search.py
    assert known - tried == others | searching


def test_options_outrank_the_file_and_the_file_the_defaults(schedule: Schedule) -> None:
    Path("run.toml").write_text('epochs = 4\nbatch-size = 7\ndownload = false\ndevice = "cpu"\n')
    assert execute("--config run.toml --batch-size 9 --download") == 0
    (call,) = schedule.calls
    assert call.protocol == Protocol(epochs=4, adversarial_epochs=4, batch_size=9)
    assert call.execution == Execution(device="cpu", download=True)


@pytest.mark.parametrize(
    ("line", "plan"), [("", {"groups": []}), ("--quiet --out x", {"groups": []}), ("--epochs 3", None)]
)
def test_a_run_json_repeats_its_plan_unless_an_option_changes_it(schedule: Schedule, line: str, plan: Any) -> None:
    content = {"protocol": Protocol(dataset="mnist").to_dict(), "execution": {}, "plan": {"groups": []}}
    Path("run.json").write_text(json.dumps(content))
    assert execute(f"--config run.json {line}") == 0
    assert schedule.calls[0].protocol.dataset == "mnist"
    assert schedule.calls[0].config_plan == plan


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
        ("--device gpu", "device (='gpu'): expected auto, cpu, cuda or cuda:N"),
        ("--targeted 3", "target (='3'): expected none, random, least-likely or class:N, such as class:3"),
        ("--depth 9", "depth (=9): no candidate has it; choose from 1, 2, 3, 4, 5, 6, 7, 8"),
        (
            "--hidden 40 --factors 2",
            "hidden and factors both choose candidates: name them one by one or by range, not both",
        ),
        ("--config none.toml", "none.toml: cannot be read (No such file or directory); "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    schedule: Schedule, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert execute(line) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1
    assert out == ""
    assert schedule.calls == []


def test_a_bad_candidate_names_the_right_spelling(schedule: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--hidden 24x192") == 2
    assert "atras: hidden (='24x192'): expected widths separated by commas" in capsys.readouterr().err


def test_bad_input_found_by_the_run_is_one_line_too(schedule: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    schedule.error = atras.InputError("dataset (='x'): expected\none of ...")
    assert execute("--dataset x") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "atras: dataset (='x'): expected one of ..."


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()], ids=["interrupt", "abort"])
def test_an_interrupt_is_one_line_and_exit_130(
    schedule: Schedule, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    schedule.error = error
    assert execute("--quiet") == 130
    assert capsys.readouterr().err.strip() == "atras: interrupted"


def test_missing_kernels_are_one_line(
    schedule: Schedule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule.error = ModuleNotFoundError("No module named 'atras.kernels'")
    monkeypatch.setattr(run_command, "find_spec", lambda name: None)
    assert execute("--quiet") == 2
    assert capsys.readouterr().err.startswith("atras: the package atras.kernels is not installed; run")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ImportError("a bug"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(schedule: Schedule, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    schedule.error = error
    monkeypatch.setattr(run_command, "find_spec", lambda name: "found")
    with pytest.raises(type(error), match="a bug"):
        execute("--quiet")


def test_a_run_ends_with_the_table_and_the_folder(schedule: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--out there") == 0
    assert capsys.readouterr() == ("table of the results, 91 wide\nresults are in there\n", "a note\n")
    assert schedule.calls[0].out == Path("there")


def test_quiet_leaves_only_the_results(schedule: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--out there --quiet") == 0
    assert capsys.readouterr() == ("table of the results, 91 wide\nresults are in there\n", "")


@pytest.mark.parametrize(("dataset", "stem"), [("digits", "digits"), ("x/part.npz", "part"), ("x/folder/", "folder")])
def test_results_go_to_a_folder_named_for_data_set_and_time(schedule: Schedule, dataset: str, stem: str) -> None:
    assert execute(f"--dataset {dataset}") == 0
    assert re.fullmatch(rf"runs/{stem}-\d{{8}}-\d{{6}}", schedule.calls[0].out.as_posix())


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    schedule: Schedule, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute("--dry-run --epochs 3 --device cpu --out there") == 0
    assert capsys.readouterr().out == "group 1\ngroup 2\n"
    assert schedule.calls == []
    assert schedule.planned == [(Protocol(epochs=3, adversarial_epochs=3), Execution(device="cpu"))]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times stand in /proc")
def test_startup_is_counted_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from atras.cli import run_command; print(run_command._seconds_since_start())"
    start = time.perf_counter()
    seconds = float(python("-c", code).stdout)
    assert 0.29 <= seconds <= time.perf_counter() - start + 0.02


def test_startup_seconds_reach_the_run(schedule: Schedule) -> None:
    execute("--quiet")
    assert schedule.calls[0].startup_seconds > 0


@pytest.mark.parametrize("command", ["atras run", "python -m atras.batched"])
def test_help_is_light_plain_and_fits_80_columns(command: str) -> None:
    module = "atras.batched" if "batched" in command else "atras"
    args = ["--help"] if "batched" in command else ["run", "--help"]
    code = (
        f"import runpy, sys; sys.argv = ['', *{args!r}]\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"finally: print({HEAVY} & set(sys.modules), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = python("-c", code)
    # Measured at 0.25 s; the promise is 0.5 s, and a busy test machine is given six times that.
    assert time.perf_counter() - start < 3
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert f"Usage: {command} [OPTIONS]" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for panel in ("Data", "Population", "Model", "Training", "Attack", "Execution", "Output"):
        assert f"─ {panel} ─" in done.stdout
    for option in {word for line, _ in OPTIONS for word in line.split() if word.startswith("--")}:
        assert f" {option} " in done.stdout


@pytest.mark.parametrize("command", ["claims", "compare", "export"])
def test_help_of_other_commands_is_light_and_fits_too(command: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['', {command!r}, '--help']\n"
        f"try: runpy.run_module('atras', run_name='__main__')\n"
        f"finally: print({HEAVY} & set(sys.modules), file=sys.stderr)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert f"Usage: atras {command} [OPTIONS]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_shows_the_default_values() -> None:
    text = " ".join(python("-m", "atras", "run", "--help").stdout.replace("│", " ").split())
    for default in ("digits", "20", "128", "0.001", "0.05", "predicted", "adam", "auto", "2,4,8,16,32"):
        assert f"(default: {default})" in text


def test_the_version_is_an_option_of_each_command() -> None:
    for args in (["atras", "--version"], ["atras", "run", "--version"], ["atras.batched", "--version"]):
        done = python("-m", *args)
        assert (done.stdout, done.stderr, done.returncode) == (f"atras {atras.__version__}\n", "", 0)


def test_without_a_command_atras_shows_its_help() -> None:
    done = python("-m", "atras")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: atras [OPTIONS] COMMAND" in done.stdout


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command.main(["rum"])
    assert caught.value.code == 2
    assert re.fullmatch(r"atras: no such command 'rum'.*run.*\n", capsys.readouterr().err)


STUBBED = """
import sys, types, atras
from atras import cli
def lines():
    {action}
    return ["x"] * 100_000
atras.schedule = atras.prepare = types.SimpleNamespace(make_plan=lambda *_: types.SimpleNamespace(lines=lines))
run_command.main(["run", "--dry-run"])
"""


def test_a_reader_that_goes_away_is_no_error() -> None:
    # Unbuffered, Python takes a write that the pipe cut short for a whole one.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", STUBBED.format(action="")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_results_that_cannot_be_printed_are_one_line_and_exit_2() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", STUBBED.format(action="")], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert re.fullmatch(r"atras: standard output: expected to write to it: No space left on device; .*\n", done.stderr)


def test_the_name_of_a_folder_to_resume_may_be_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"--resume {'x' * 5000}") == 2
    assert "found no run.json in it" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_is_one_line_and_exit_130() -> None:
    action = f"import os, time; os.kill(os.getpid(), {int(signal.SIGINT)}); time.sleep(5)"
    done = python("-c", STUBBED.format(action=action))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "atras: interrupted\n")


@pytest.mark.parametrize(
    ("dataset", "stem"),
    [("loop", "loop"), ("a\0b", "a_b"), ("\x1b[2J\n.npz", "_2J_"), ("/", "data"), ("x" * 300, "x" * 100)],
)
def test_the_folders_name_is_harmless_whatever_the_data_set_is_called(
    schedule: Schedule, tmp_path: Path, dataset: str, stem: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    Path("run.toml").write_text(f"dataset = {json.dumps(dataset)}")
    assert execute("--config run.toml") == 0
    assert re.fullmatch(rf"runs/{stem}-\d{{8}}-\d{{6}}", schedule.calls[0].out.as_posix())


def test_what_is_printed_is_shown_and_not_obeyed(schedule: Schedule, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--quiet --out \x1b[2J\udcff[bold]") == 0
    assert capsys.readouterr().out.endswith(r"results are in \x1b[2J\udcff[bold]" + "\n")
    assert execute("--\x1b[2J") == 2
    assert "\x1b" not in capsys.readouterr().err
