"""What this process may use, read from made-up file systems: control groups of both versions, quotas, namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atras import limits, torch_state
from atras.engines import FusedEngine, LoopEngine, why_not
from atras.environment import describe, machine_key
from atras.experiment import Execution, Protocol
from atras.limits import Limit, memory, processors
from atras.networks import Candidate, Member, Spec
from atras.running import make_plan
from atras.storage import memory_limit
from atras.testing import SMALL

CPU = torch.device("cpu")
MIB = 2**20
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_CPU = "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"


def tree(root: Path, groups: str, mounts: list[str], files: dict[str, object]) -> Path:
    """A file system with a process's groups, mounts, and the files of the groups."""
    content = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join(mounts), **files}
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.fixture(autouse=True)
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(48)), raising=False)


@pytest.mark.parametrize(
    ("files", "amount", "source"),
    [
        ({"a/b/memory.max": 100 * MIB, "a/memory.max": 300 * MIB}, 100, "a/b/memory.max"),
        ({"a/b/memory.max": "max", "a/memory.max": 300 * MIB}, 300, "a/memory.max"),
        ({"a/b/memory.max": 400 * MIB, "a/memory.max": 300 * MIB}, 300, "a/memory.max"),
        ({"a/b/memory.max": "max", "a/memory.high": 200 * MIB, "memory.max": 250 * MIB}, 200, "a/memory.high"),
        ({"memory.max": 250 * MIB, "other/memory.max": 1}, 250, "memory.max"),
    ],
)
def test_the_tightest_of_a_group_and_its_parents_caps_memory(
    files: dict[str, object], amount: int, source: str, tmp_path: Path
) -> None:
    root = tree(tmp_path, "0::/a/b", [V2], {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert memory(root) == Limit(amount * MIB, f"/sys/fs/cgroup/{source}")


def test_version_1_has_a_hierarchy_a_controller(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes": 300 * MIB,
        "sys/fs/cgroup/memory/slurm/job/step/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/elsewhere/memory.limit_in_bytes": 1,
        "sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us": 350000,
        "sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us": 100000,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
    }
    groups = "9:name=systemd:/elsewhere\n4:memory:/slurm/job/step\n3:cpu,cpuacct:/batch\n0::/elsewhere"
    root = tree(tmp_path, groups, [V1_CPU, V1_MEMORY, V2.replace("cgroup rw", "cgroup/unified rw")], files)
    assert memory(root) == Limit(300 * MIB, "/sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes")
    assert processors(root) == Limit(3, "/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us")


@pytest.mark.parametrize(
    ("own", "parent", "count", "source"),
    [
        ("200000 100000", "max 100000", 2, "/sys/fs/cgroup/a/b/cpu.max"),
        ("max 100000", "150000 100000", 1, "/sys/fs/cgroup/a/cpu.max"),  # 1.5 processors: a second thread would wait
        ("800000 100000", "700000 200000", 3, "/sys/fs/cgroup/a/cpu.max"),
        ("20000 100000", "max 100000", 1, "/sys/fs/cgroup/a/b/cpu.max"),
        ("max 100000", "max 100000", 48, "this process's affinity"),
        ("9900000 100000", "damaged", 48, "this process's affinity"),
        ("100000 0", "", 48, "this process's affinity"),
    ],
)
def test_quotas_of_a_group_and_its_parents_cap_processors(
    own: str, parent: str, count: int, source: str, tmp_path: Path
) -> None:
    files = {"sys/fs/cgroup/a/b/cpu.max": own, "sys/fs/cgroup/a/cpu.max": parent}
    assert processors(tree(tmp_path, "0::/a/b", [V2], files)) == Limit(count, source)


def test_a_container_whose_mount_begins_at_its_own_group(tmp_path: Path) -> None:
    """Without a namespace of its own /proc names the host's path, and the mount shows the part that is there."""
    mount = r"35 31 0:32 /docker/0\040f /sys/fs/cgroup/my\040memory ro - cgroup cgroup rw,memory"
    files = {
        "sys/fs/cgroup/my memory/memory.limit_in_bytes": 400 * MIB,
        "sys/fs/cgroup/my memory/sub/memory.limit_in_bytes": 300 * MIB,
    }
    assert memory(tree(tmp_path / "sub", "4:memory:/docker/0 f/sub", [mount], files)).amount == 300 * MIB
    assert memory(tree(tmp_path / "own", "4:memory:/docker/0 f", [mount], files)).amount == 400 * MIB


@pytest.mark.parametrize("path", ["/", "/../../other", "/kubepods/pod/x"])
def test_a_path_that_the_namespace_does_not_reach_leaves_the_mounts_own_group(path: str, tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": 500 * MIB, "sys/fs/cgroup/cpu.max": "400000 100000"}
    root = tree(tmp_path, f"0::{path}", [V2], files)
    assert memory(root) == Limit(500 * MIB, "/sys/fs/cgroup/memory.max")
    assert processors(root) == Limit(4, "/sys/fs/cgroup/cpu.max")


def test_without_control_groups_the_machine_or_a_resource_limit_is_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory(tmp_path).source == "this machine"
    assert processors(tmp_path) == Limit(48, "this process's affinity")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors(tmp_path) == Limit(64, "this machine")
    resource = pytest.importorskip("resource")
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
    code += f"exec(open({limits.__file__!r}).read())\nprint(memory(Path({str(tmp_path)!r})))"
    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY or memory(tmp_path).amount < 2**33:
        pytest.skip("a limit of 8 GiB is none here")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Limit(amount=8589934592, source='RLIMIT_AS')\n"


@pytest.fixture
def one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota of one processor, and torch set to two threads, which it does not see."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch_state, "_processors", lambda: Limit(1, "/sys/fs/cgroup/cpu.max"))
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_processor")
def test_engines_and_records_take_no_more_threads_than_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    logits = LoopEngine._logits
    monkeypatch.setattr(LoopEngine, "_logits", lambda *given: (seen.append(torch.get_num_threads()), logits(*given))[1])
    spec, members = Spec((1, 8, 8), 10), [Member(Candidate((8,)), 0)]
    LoopEngine(spec, members, Protocol(), CPU).logits(torch.zeros(3, 1, 8, 8))
    assert seen == [1]
    assert torch.get_num_threads() == 2  # the caller's, as it was
    found = describe(CPU)
    assert (found["cpu"]["threads"], found["cpu"]["threads_limit"]) == (1, "/sys/fs/cgroup/cpu.max")
    if found["kernels"]["cpu"]["available"]:
        assert found["kernels"]["cpu"]["threads"] == 1
    assert "|1|" in machine_key(CPU)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert describe(CPU)["cpu"]["threads"] == 2  # asked for


@pytest.mark.usefixtures("one_processor")
@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
def test_the_kernels_take_no_more_threads_than_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    from atras.engines import fused

    given: list[object] = []

    class Spy(fused.Step):
        def __init__(self, *args: Any, **options: Any) -> None:
            given.append(options["threads"])
            super().__init__(*args, **options)

    monkeypatch.setattr(fused, "Step", Spy)
    FusedEngine(Spec((1, 8, 8), 10), [Member(Candidate((8,)), 0)], Protocol(), CPU)
    assert given == [1]


@pytest.mark.usefixtures("one_processor")
def test_a_plan_is_for_what_the_process_may_use_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room = Limit(1000 * MIB, "/sys/fs/cgroup/job/memory.max")
    monkeypatch.setattr("atras.environment.memory", lambda: room)
    plan = make_plan(SMALL, Execution(device="cpu"))
    lines = (
        "memory: 600 MiB a group, 60% of 1000 MiB (/sys/fs/cgroup/job/memory.max)",
        "images: resident, 0 MiB",
        "threads: 1 (/sys/fs/cgroup/cpu.max)",
    )
    assert plan.limits == lines
    assert set(lines) <= set(plan.lines())
    assert plan.to_dict()["limits"] == list(lines)
    capped = make_plan(SMALL, Execution(device="cpu", memory_bytes=2000 * MIB), plan.to_dict())
    assert re.match(r"memory: 2000 MiB a group, as asked for by --memory, which is more than", capped.limits[0])


def test_files_are_read_within_the_cap_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.storage.bounded_read.memory", lambda: Limit(1000, "/sys/fs/cgroup/memory.max"))
    assert memory_limit() == 500
