"""Ray's workers, machines and the run's own process are killed at any moment: the run ends with the same files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from atras.errors import Interrupted
from atras.experiment import Execution
from atras.results import Results
from atras.running import resume, run
from atras.testing import SMALL, tables_of
from ray_cluster import add_node, connected, ray_cluster

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
LONGER = SMALL.replace(epochs=150, adversarial_epochs=50, evaluate_every=50, seeds=(0, 1))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two machines of a CPU each, to which this process is connected."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        with ray_cluster(nodes=2) as cluster, connected(cluster):
            yield cluster
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The run without a loss; its workers have torch from then on."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(LONGER, execution(cluster), out=folder)


def execution(cluster: Any) -> Execution:
    return Execution(executor="ray", ray_address=cluster.address, device="cpu", engine="fused", checkpoint_every=0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {**tables_of(folder), **{path.name: path.read_bytes() for path in (folder / "weights").iterdir()}}


def workers() -> list[int]:
    """The processes of this machine that compute a task."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::_work"):
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def killing(
    folder: Path, kill: Callable[[random.Random], bool], draw: random.Random, times: int
) -> Iterator[list[int]]:
    """While a run is under way, kill so often, each time when a checkpoint is there; how often it was done."""
    done: list[int] = []
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(draw.uniform(0.05, 0.5)) and len(done) < times:
            with contextlib.suppress(OSError):
                if list(folder.glob("checkpoint/group-*.safetensors")) and kill(draw):
                    done.append(1)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join()


def kill_worker(draw: random.Random) -> bool:
    there = workers()
    if there:
        os.kill(draw.choice(there), signal.SIGKILL)
    return bool(there)


def test_killed_workers_cost_nothing_but_time(
    cluster: Any, whole: tuple[Path, Results], long: bool, tmp_path: Path, count: Callable[..., None]
) -> None:
    killed, draw = 0, random.Random(None if long else 0)  # noqa: S311
    while killed < (60 if long else 5):
        folder = tmp_path / "run"
        with killing(folder, kill_worker, draw, 2) as done:  # fewer than make a group be halved
            results = run(LONGER, execution(cluster), out=folder, config_plan=whole[1].run["plan"])
        killed += len(done)
        assert files_of(folder) == files_of(whole[0])
        assert results.run["finished_groups"] == list(range(len(results.run["plan"]["groups"])))
        losses = results.run.get("losses", [])
        assert len(losses) <= len(done)  # some end between two tasks
        assert {loss["reason"] for loss in losses} <= {"its process ended"}
        assert not results.run["splits"]
        shutil.rmtree(folder)
    count("kills survived", killed)


def test_a_killed_machine_costs_nothing_but_time(
    cluster: Any, whole: tuple[Path, Results], long: bool, tmp_path: Path, count: Callable[..., None]
) -> None:
    for number in range(10 if long else 2):
        node = add_node(cluster)
        raylet = node.all_processes["raylet"][0].process.pid

        def kill(_: random.Random, raylet: int = raylet) -> bool:
            os.kill(raylet, signal.SIGKILL)
            return True

        folder = tmp_path / str(number)
        with killing(folder, kill, random.Random(number), 1) as done:  # noqa: S311
            run(LONGER, execution(cluster), out=folder, config_plan=whole[1].run["plan"])
        cluster.remove_node(node, allow_graceful=False)
        assert files_of(folder) == files_of(whole[0])
        count("kills survived", len(done))


DRIVER = """
import sys
from atras.running import resume
resume(sys.argv[1])
"""


def test_a_killed_run_goes_on_with_any_executor(
    cluster: Any, whole: tuple[Path, Results], long: bool, tmp_path: Path, count: Callable[..., None]
) -> None:
    for number in range(30 if long else 3):
        folder, draw = tmp_path / str(number), random.Random(number)  # noqa: S311
        begin = time.monotonic() + draw.uniform(0.3, 2)
        with contextlib.suppress(Interrupted):  # it may have been done before
            plan = whole[1].run["plan"]
            run(LONGER, execution(cluster), out=folder, config_plan=plan, stop=partial(over, begin))
        # Another process has the workers of its own job, and is killed with them.
        with subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], cwd=ROOT, stderr=subprocess.PIPE) as driver:
            begin = time.monotonic()
            before = stamps(folder)
            while driver.poll() is None and time.monotonic() - begin < 120 and stamps(folder) == before:
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 0.5))
            driver.kill()
        resume(folder, execution=Execution(device="cpu", engine="fused", checkpoint_every=0))
        assert files_of(folder) == files_of(whole[0])
        count("kills survived")


def stamps(folder: Path) -> dict[str, int]:
    """When checkpoints were written."""
    found = {}
    for path in folder.glob("checkpoint/group-*.safetensors"):
        with contextlib.suppress(OSError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def over(when: float) -> bool:
    return time.monotonic() > when
