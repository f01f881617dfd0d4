"""How a worker of Ray's talks to its run, with a Ray that only writes down what is asked of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atras.running.executors.ray import RayPool, _job, _RayLink


class LostError(Exception):
    """Ray's, of an actor that is gone."""


class FakeRay:
    """Answers at once; a reference is what is behind it."""

    def __init__(self) -> None:
        self.asked_in: list[threading.Thread] = []
        self.exceptions = SimpleNamespace(RayError=LostError)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        self.asked_in.append(threading.current_thread())
        if isinstance(reference, Exception):
            raise reference
        return reference.value if isinstance(reference, Reference) else reference

    def wait(self, references: list[Any], timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        self.asked_in.append(threading.current_thread())
        return references, []


class Reference:
    def __init__(self, value: Any) -> None:
        self.value = value

    def hex(self) -> str:
        return f"reference {id(self)}"


def relay_that(exchange: Callable[..., Any], read: Callable[..., Any] = lambda _: None) -> Any:
    return SimpleNamespace(exchange=SimpleNamespace(remote=exchange), read=SimpleNamespace(remote=read))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    return fake


def test_a_task_asks_for_the_memory_that_is_predicted_but_never_for_more_than_a_machine_has() -> None:
    pool = object.__new__(RayPool)
    nodes = [{"Resources": {"memory": float(2**30)}}, {"Resources": {"CPU": 1.0}}]
    pool._cluster = SimpleNamespace(nodes=lambda: nodes)  # type: ignore[assignment]

    def asked(predicted: int) -> int:
        return pool._memory(SimpleNamespace(predicted_bytes=predicted))  # type: ignore[arg-type]

    assert [asked(1), asked(64 * 2**20 + 1), asked(2**40)] == [64 * 2**20, 128 * 2**20, int(0.9 * 2**30)]


def test_a_worker_never_waits_for_ray_in_its_main_thread(ray: FakeRay) -> None:
    """Ray takes a task that does so to need no CPU, and starts a further process for the next one."""
    told: list[tuple[Any, ...]] = []
    link = _RayLink(relay_that(lambda *what: told.append(what) or False, lambda path: path.name.encode()), 3, 1)
    assert not link.stopped_before()
    assert link.send([("note", ("a",))], {})
    link.wait()
    assert not link.asked_to_stop()
    assert link.send([], {"file": b""})
    link.wait()
    assert link.fetch(Path("folder/checkpoint")) == b"checkpoint"
    assert _job(Reference("job")) == "job"
    assert told == [(3, 1, [], {}), (3, 1, [("note", ("a",))], {}), (3, 1, [], {"file": b""})]
    assert ray.asked_in
    assert threading.main_thread() not in ray.asked_in


def test_a_worker_hears_that_it_is_to_stop_and_survives_the_loss_of_the_relay(ray: FakeRay) -> None:
    assert ray.exceptions.RayError is LostError
    assert _RayLink(relay_that(lambda *_: True), 0, 1).stopped_before()
    link = _RayLink(relay_that(lambda *_: True), 0, 1)
    assert link.send([], {})
    link.wait()
    assert link.asked_to_stop()
    lost = _RayLink(relay_that(lambda *_: LostError(), lambda _: LostError()), 0, 1)
    assert not lost.stopped_before()
    assert lost.send([], {})
    lost.wait()
    assert not lost.asked_to_stop()
    assert lost.fetch(Path("a")) is None
