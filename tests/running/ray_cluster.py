"""A cluster of Ray's whose machines are processes of this one, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from atras.running.executors.ray_cluster import own_environment, read_token_anew


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """One with so many machines of one CPU each; it has `address`, `add_node` and `remove_node`."""
    with pytest.MonkeyPatch.context() as patch:
        # Before Ray is imported, and as runs say it.
        for name, value in own_environment().items():
            patch.setenv(name, value)
        read_token_anew()
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(nodes):
                add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()
    read_token_anew()


@contextlib.contextmanager
def connected(cluster: Any) -> Iterator[None]:
    """This process is connected, so that runs find workers that have torch already."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def add_node(cluster: Any, **options: Any) -> Any:
    """A further machine."""
    return cluster.add_node(
        num_cpus=1, include_dashboard=False, node_ip_address="127.0.0.1", object_store_memory=100 * 2**20, **options
    )
