"""Runs on Ray: the local run's files, whatever the machines; progress and cautions in one place; nothing left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atras.experiment import Execution
from atras.networks import Candidate
from atras.running import Reporter, run
from atras.testing import SMALL, tables_of
from ray_cluster import add_node, connected, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cache")]
FOUR = SMALL.replace(candidates=tuple(map(Candidate.parse, ("8", "12", "6-8", "8-6"))), seeds=(0, 3), transfer=True)


@pytest.fixture(scope="module")
def cluster(one_thread: None) -> Iterator[Any]:
    with ray_cluster(nodes=1) as cluster, connected(cluster):
        yield cluster


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A thread computes, here and in workers, as a machine of the cluster has one CPU."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


def files_of(folder: Path) -> dict[str, bytes]:
    """Tables and networks."""
    return {**tables_of(folder), **{path.name: path.read_bytes() for path in (folder / "weights").iterdir()}}


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def note(self, message: str) -> None:
        self.told.append(("note", message))

    def group_started(self, *arguments: Any) -> None:
        self.told.append(("started", *arguments))

    def group_finished(self, *arguments: Any) -> None:
        self.told.append(("finished", *arguments))


def test_one_two_and_three_machines_give_the_local_files(cluster: Any, tmp_path: Path) -> None:
    for nodes, engine in ((1, "fused"), (2, "stack"), (3, "loop"), (3, "fused")):
        while len(cluster.list_all_nodes()) < nodes:
            add_node(cluster)
        options = {"engine": engine, "device": "cpu", "memory_bytes": 2**20 if engine == "fused" else None}
        protocol = FOUR.replace(defence="copies(source=smallest)") if engine == "stack" else FOUR
        heard, folder = Heard(), tmp_path / f"{engine}-{nodes}"
        found = run(protocol, Execution(executor="ray", ray_address=cluster.address, **options), out=folder / "ray",
                    reporter=heard)  # fmt: skip
        # The same plan, whose groups are enough for all machines.
        whole = run(protocol, Execution(**options), out=folder / "local", config_plan=found.run["plan"])
        assert len(found.run["plan"]["groups"]) >= 2 * nodes
        assert files_of(folder / "ray") == files_of(folder / "local")
        assert found.transfer.equals(whole.transfer)
        assert sorted(found.run["warnings"]) == sorted(whole.run["warnings"])
        assert not (folder / "ray" / "checkpoint").exists()
        indices = sorted(index for index, *_ in (rest for name, *rest in heard.told if name == "started"))
        assert [index for index in indices if index >= 0] == sorted(found.run["finished_groups"])
        trained = len(found.run.get("trainings", ()))
        assert indices[:trained] == list(range(-trained, 0))
