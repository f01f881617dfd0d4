"""The command `run`: what it calls, prints and writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import atras
from atras import cli
from atras.experiment import Execution, Protocol

ROOT = Path(atras.__file__).parents[1]


def execute(line: str) -> int:
    return cli.execute(cli.app, ["run", *line.split()], "atras")


def python(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    hidden = ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH", "COLUMNS")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, **options)


def test_a_run_ends_with_the_table_and_the_folder(schedule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--out there") == 0
    assert capsys.readouterr() == ("table of the results, 91 wide\nresults are in there\n", "a note\n")
    assert schedule.calls[0].out == Path("there")


def test_quiet_leaves_the_results_and_what_makes_them_mislead(
    schedule: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute("--out there --quiet") == 0
    figures = "table of the results, 91 wide\ncautions of the results, 91 wide\nresults are in there\n"
    assert capsys.readouterr() == (figures, "")


@pytest.mark.parametrize(("dataset", "stem"), [("digits", "digits"), ("x/part.npz", "part"), ("x/folder/", "folder")])
def test_results_go_to_a_folder_named_for_data_set_and_time(schedule: Any, dataset: str, stem: str) -> None:
    assert execute(f"--dataset {dataset}") == 0
    assert re.fullmatch(rf"runs/{stem}-\d{{8}}-\d{{6}}", schedule.calls[0].out.as_posix())


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    schedule: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute("--dry-run --epochs 3 --device cpu --out there") == 0
    assert capsys.readouterr().out == "group 1\ngroup 2, 91 wide\n"
    assert schedule.calls == []
    assert schedule.planned == [(Protocol(epochs=3, adversarial_epochs=3), Execution(device="cpu"))]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times stand in /proc")
def test_startup_is_counted_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from atras.cli import compute; print(compute.seconds_since_start())"
    start = time.perf_counter()
    seconds = float(python("-c", code).stdout)
    assert 0.29 <= seconds <= time.perf_counter() - start + 0.02


def test_startup_seconds_reach_the_run(schedule: Any) -> None:
    execute("--quiet")
    assert schedule.calls[0].startup_seconds > 0


STUBBED = """
from atras import cli, running
def lines(*_, **__):
    {action}
    return ["x"] * 100_000
running.plan_lines = lines
cli.main(["run", "--dry-run"])
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
    schedule: Any, tmp_path: Path, dataset: str, stem: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    Path("run.toml").write_text(f"dataset = {json.dumps(dataset)}")
    assert execute("--config run.toml") == 0
    assert re.fullmatch(rf"runs/{stem}-\d{{8}}-\d{{6}}", schedule.calls[0].out.as_posix())


def test_what_is_printed_is_shown_and_not_obeyed(schedule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--quiet --out \x1b[2J\udcff[bold]") == 0
    assert capsys.readouterr().out.endswith(r"results are in \x1b[2J\udcff[bold]" + "\n")
    assert execute("--\x1b[2J") == 2
    assert "\x1b" not in capsys.readouterr().err
