"""A cluster that a run starts for itself: only this machine reaches it, and it ends with the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from atras.errors import InputError
from atras.experiment import Execution
from atras.running import run
from atras.running.executors import executor_for
from atras.running.executors.ray_cluster import Cluster, read_token_anew
from atras.testing import SMALL

ROOT = Path(__file__).parents[2]
OPTIONS = ["--hidden", "8", "--hidden", "12", "--seeds", "0-1", "--train-size", "60", "--test-size", "30"]
OPTIONS += ["--epochs", "30000", "--adversarial-epochs", "1", "--device", "cpu", "--checkpoint-every", "0.1"]
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""Addresses of this machine alone, as the system's tables write them."""


def processes_below(parent: int) -> list[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it ended just now
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = [parent]
    for each in found:
        found += children.get(each, [])
    return found


def listened_to(processes: list[int]) -> set[str]:
    """The addresses at which processes listen."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(str(file.readlink()))
            except OSError:
                continue
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One whose path leaves room for that of a socket, deleted with all that is left in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's tables of sockets")
def test_it_listens_on_this_machine_alone_and_a_signal_leaves_a_run_for_any_executor(
    tmp_path: Path, short_folder: Path
) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(short_folder),
    }  # fmt: skip
    before = set(short_folder.iterdir())
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "atras.batched", *OPTIONS, "--executor", "ray", "--out", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        lines = [next(process.stderr)]
        while not lines[-1].startswith("group 1"):
            lines.append(next(process.stderr))
        while not list(folder.glob("checkpoint/*.safetensors")):
            time.sleep(0.05)
        started = processes_below(process.pid)
        addresses = listened_to(started)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (143, "")
    assert [line for line in errors.splitlines() if not line.startswith("group ")] == [
        f"atras: interrupted; go on with --resume {folder}"
    ]
    assert addresses
    assert addresses <= set(LOOPBACK)
    assert not any(Path(f"/proc/{each}").exists() for each in started)
    assert set(short_folder.iterdir()) == before
    assert list(folder.glob("checkpoint/*.safetensors"))


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells of processes in /proc")
def test_a_start_that_fails_leaves_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(node: object) -> None:
        raise RuntimeError("it said no")

    monkeypatch.setattr(pytest.importorskip("ray._private.node").Node, "_init_gcs_client", fail)
    before = set(processes_below(os.getpid()))
    with pytest.raises(InputError, match=r"executor \(=ray\): expected Ray to start on this machine: it said no$"):
        Cluster(None, 0, 100 * 2**20)
    assert set(processes_below(os.getpid())) <= before


@pytest.mark.ray
def test_it_stands_between_other_clusters_of_the_same_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a token of its own, of which Ray keeps the first one that a process reads."""
    ray = pytest.importorskip("ray")

    def users() -> None:
        ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
                 configure_logging=False)  # fmt: skip
        assert ray.is_initialized()
        ray.shutdown()

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray puts the token of a cluster that names none
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    read_token_anew()
    users()
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    cluster = Cluster(None, 0, 80 * 2**20)
    assert len(cluster.nodes()) == 1
    cluster.close()
    users()


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"expected the package ray; run pip install 'atras\[ray\]'$"):
        run(SMALL, Execution(executor="ray", device="cpu"))


def test_a_cluster_that_is_not_reached_is_one_line_that_knows_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect\nat length")

    private = SimpleNamespace(worker=SimpleNamespace())
    fake = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None, _private=private)
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    text = r"reached: Failed to connect; start it with .*, or set RAY_AUTH_MODE=token if it wants a token$"
    with pytest.raises(InputError, match=text):
        Cluster("127.0.0.1:6379", 0, 0)


def test_an_address_is_checked_before_ray_is_asked() -> None:
    for address in ("ray://host:10001", "host", "host:port", ""):
        with pytest.raises(InputError, match=r"ray_address \(=.*\): expected HOST:PORT"):
            Execution(ray_address=address)
    assert Execution(ray_address="10.0.0.1:6379").ray_address == "10.0.0.1:6379"


def test_all_gpus_are_a_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    executor = executor_for(Execution(device="cuda:all"))
    assert executor.name == "processes"
    assert executor.slots(torch.device("cuda", 0)) == 4
    assert executor_for(Execution(device="cuda")).name == "local"
    with pytest.raises(InputError, match=r"device \(='cuda:1'\): .* hands out GPUs itself"):
        executor_for(Execution(device="cuda:1", executor="ray"))
    with pytest.raises(InputError, match=r"expected a GPU (of this machine|that can be used)"):
        run(SMALL, Execution(device="cuda:all"))
