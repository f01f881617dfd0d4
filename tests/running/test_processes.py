"""Runs whose groups are computed by processes of this machine: the local run's files, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.running import Reporter, resume, run
from atras.running.executors import executor_for
from atras.running.executors.process import Process
from atras.running.executors.processes import _Memory
from atras.testing import SMALL, tables_of

pytestmark = pytest.mark.usefixtures("shared_cache")
ROOT = Path(__file__).parents[2]
LONGER = SMALL.replace(epochs=30, seeds=(0, 1), transfer=True)
PROCESSES = Execution(executor="processes", device="cpu", engine="fused", checkpoint_every=0)


def files_of(folder: Path) -> dict[str, bytes]:
    """Tables and networks."""
    return {**tables_of(folder), **{path.name: path.read_bytes() for path in (folder / "weights").iterdir()}}


class Killing(Reporter):
    """Kills a worker as soon as one has got somewhere, and later asks the run to stop."""

    def __init__(self) -> None:
        self.killed = False
        self.finished = 0

    def progress(self, *_: Any) -> None:
        if not self.killed:
            self.killed = True
            multiprocessing.active_children()[0].kill()

    def group_finished(self, *_: Any) -> None:
        self.finished += 1


class Hearing(Reporter):
    """Whether a transfer has got somewhere."""

    begun = False

    def part(self, name: str, share: float) -> None:
        self.begun = self.begun or share > 0


def test_the_local_files_though_a_worker_is_killed_and_the_run_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atras.running.executors.processes.slots_here", lambda _: 2)
    killing = Killing()
    with pytest.raises(Interrupted):
        run(LONGER, PROCESSES, out=tmp_path / "run", reporter=killing, stop=lambda: killing.finished > 0)
    assert not multiprocessing.active_children()
    hearing = Hearing()
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", reporter=hearing, stop=lambda: hearing.begun)
    assert list(tmp_path.glob("run/checkpoint/transfer-*"))
    results = resume(tmp_path / "run", execution=Execution(device="cpu", engine="fused"))
    assert {loss["reason"] for loss in results.run["losses"]} == {"its process ended (SIGKILL)"}
    assert not results.run["splits"]
    assert len(results.run["plan"]["groups"]) >= 2
    run(LONGER, Execution(device="cpu", engine="fused"), out=tmp_path / "local", config_plan=results.run["plan"])
    assert files_of(tmp_path / "run") == files_of(tmp_path / "local")


OPTIONS = ["--hidden", "8", "--seeds", "0-1", "--train-size", "60", "--test-size", "30", "--epochs", "30000",
           "--adversarial-epochs", "1", "--device", "cpu", "--checkpoint-every", "0.1"]  # fmt: skip


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "atras.batched", *OPTIONS, "--executor", "processes", "--out", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not list(folder.glob("checkpoint/*.safetensors")):
            assert process.poll() is None
            time.sleep(0.05)
        below = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent_of(path) == process.pid]
        assert below
        process.kill()
    for _ in range(200):
        if not any(Path(f"/proc/{each}").exists() for each in below):
            break
        time.sleep(0.05)
    assert not any(Path(f"/proc/{each}").exists() for each in below)


IDLE = """
import sys, time
from types import SimpleNamespace
from atras.running.executors.process import Process

if __name__ == "__main__":
    processes = [Process(None), Process(None)]
    for process in processes:
        process.start(SimpleNamespace(key="1"), "no task")
    for process in processes:
        try:
            list(process.told())
        except RuntimeError:
            pass
    print(*(process._process.pid for process in processes), flush=True)
    time.sleep(600)
"""


def test_idle_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IDLE)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        idle = list(map(int, process.stdout.readline().split()))
        assert len(idle) == 2
        assert all(alive(each) for each in idle)
        process.kill()
    begin = time.monotonic()
    while (left := list(filter(alive, idle))) and time.monotonic() - begin < 10:
        time.sleep(0.05)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert not left


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it ended just now


def test_what_is_wrong_in_a_process_is_told_in_the_runs_own() -> None:
    process = Process(None)
    process.start(SimpleNamespace(key="1"), "no task")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"AttributeError: 'str' object has no attribute 'device'"):
        list(process.told())
    process.end()
    process.join()


class Unreadable:
    """Can be sent, and not be made again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_what_a_process_cannot_read_is_told_too() -> None:
    process = Process(None)
    process.start(SimpleNamespace(key="1"), Unreadable())  # type: ignore[arg-type]
    ending = threading.Timer(60, process.end)  # else a test that fails would wait for ever
    ending.start()
    with pytest.raises(RuntimeError, match="ValueError: invalid literal for int"):
        list(process.told())
    ending.cancel()
    process.join()
    assert process._process.exitcode == 1


def test_what_cannot_be_sent_is_one_line() -> None:
    process = Process(None)
    with pytest.raises(InputError, match=r"expected a task that another process can be sent, got one .*; use --exec"):
        process.start(SimpleNamespace(key="1"), lambda: None)  # type: ignore[arg-type]
    process.end()
    process.join()


LEFT_OPEN = """
from types import SimpleNamespace
from atras.running.executors.processes import ProcessesPool
pool = ProcessesPool(1, False, 1)
process = pool._free.get()
process.start(SimpleNamespace(key="1"), "no task")
try:
    list(process.told())
except RuntimeError:
    print("ended")
"""


def test_an_executor_that_is_left_open_keeps_no_process_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"if __name__ == '__main__':{LEFT_OPEN.replace(chr(10), chr(10) + '    ')}")
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.communicate(timeout=60) == ("ended\n", None)
        finally:
            process.kill()


def test_tasks_wait_for_memory_but_one_always_goes() -> None:
    memory, order = _Memory(10), []
    begun = threading.Event()

    def second() -> None:
        with memory.of(7):
            order.append("second")

    with memory.of(20):
        order.append("first")
        other = threading.Thread(target=lambda: (begun.set(), second()))
        other.start()
        assert begun.wait(10)
        time.sleep(0.02)
        order.append("first done")
    other.join()
    assert order == ["first", "first done", "second"]
    with memory.of(5), memory.of(5):
        pass


def test_it_hands_out_gpus_itself() -> None:
    with pytest.raises(InputError, match=r"device \(='cuda:1'\): .* one for each GPU; or use --executor local"):
        executor_for(Execution(device="cuda:1", executor="processes"))
    assert executor_for(PROCESSES).slots(torch.device("cpu")) >= 1
