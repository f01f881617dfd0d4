"""A search by workers: what one process finds, by the same workers in all of its rounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import atras
from atras.running.executors.process import Process
from atras.search import search
from searches import CPU, PROTOCOL


def same_rounds(folder: Path, local: Path) -> None:
    rounds = sorted(path.name for path in local.glob("round-*"))
    assert len(rounds) == 4
    for name in rounds:
        assert atras.read(folder / name).table.equals(atras.read(local / name).table)


def test_processes_stay_from_round_to_round_and_for_fresh_seeds(
    found: tuple[atras.Results, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atras.running.executors.processes.slots_here", lambda _: 2)
    begun: list[Process] = []
    begin = Process._begin
    monkeypatch.setattr(Process, "_begin", lambda self: (begun.append(self), begin(self))[1])
    search(PROTOCOL, dataclasses.replace(CPU, executor="processes"), 80, tmp_path / "search", confirm_seeds=(9,))
    assert atras.read(tmp_path / "search" / "round-4").run["confirmed"]
    assert len(begun) == 2
    same_rounds(tmp_path / "search", found[1])


@pytest.mark.ray
def test_a_cluster_stays_from_round_to_round(
    found: tuple[atras.Results, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atras.running.executors import ray

    started: list[Any] = []
    cluster = ray.Cluster
    monkeypatch.setattr(ray, "Cluster", lambda *options: (started.append(options), cluster(*options))[1])
    search(PROTOCOL, dataclasses.replace(CPU, executor="ray"), 80, tmp_path / "search")
    assert len(started) == 1
    same_rounds(tmp_path / "search", found[1])
