"""The examples of job arrays: a file for Slurm, which is told to stop and starts again, and shards under submitit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit

import atras
from atras.experiment import Execution
from atras.networks import Candidate
from atras.running import merge, run
from atras.testing import SMALL, tables_of

ROOT = Path(__file__).parents[2]
OPTIONS = "--hidden 8 --hidden 12 --seeds 0-1 --train-size 90 --test-size 90 --engine loop --device cpu --epochs 100"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a task of an array of one, with a Slurm that only writes down what it is told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    numbers = {"TASK_ID": "1", "TASK_MIN": "1", "TASK_MAX": "1", "TASK_COUNT": "1", "TASK_STEP": "1", "JOB_ID": "77"}
    array = {f"SLURM_ARRAY_{name}": value for name, value in numbers.items()}
    return {**os.environ, **array, "OUT": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="needs bash")
def test_a_task_that_is_told_to_stop_is_queued_again_and_goes_on(task: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "examples" / "slurm_array.sh"), *OPTIONS.split()]
    first = subprocess.Popen(command, env=task, cwd=ROOT, start_new_session=True)
    try:
        while not (tmp_path / "part-1" / "timings.parquet").exists():  # the last file that a run begins with
            assert first.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(first.pid, signal.SIGTERM)  # to the shell alone, as Slurm does
        assert first.wait(timeout=120) == 143
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert (tmp_path / "told").read_text() == "requeue 77_1\n"
    assert atras.read(tmp_path / "part-1").run["status"] == "interrupted"
    again = subprocess.run(command, env=task, cwd=ROOT, timeout=300, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    assert atras.read(tmp_path / "part-1").run["status"] == "part"
    assert (tmp_path / "told").read_text() == "requeue 77_1\n"  # not again


def test_shards_under_submitit_give_the_run_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import with_submitit

    protocol = SMALL.replace(candidates=tuple(map(Candidate.parse, ("8", "12"))), precision="fp32")
    executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"))
    found = with_submitit.submit(protocol, 2, tmp_path / "run", executor, "cpu")
    assert found.run["status"] == "finished"
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        run(protocol, Execution(shard=f"{number}/2", device="cpu"), out=part)
    merge(parts, tmp_path / "merged")
    assert tables_of(tmp_path / "run" / "all") == tables_of(tmp_path / "merged")
