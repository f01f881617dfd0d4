"""The executor whose workers are Ray's, on this machine or on many."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from atras.environment import total_memory
from atras.errors import InputError
from atras.experiment import Execution
from atras.running.unit import Surroundings, Task
from atras.torch_state import threads

from .executor import slots_here
from .link import Event, Link
from .pool import SECONDS_TO_ARRIVE, End, Message, Pool, PoolExecutor
from .ray_cluster import Cluster
from .relay import Relay
from .worker import Job, Result, compute_elsewhere

SECONDS_BETWEEN_COUNTS = 2.0
"""How often the machines of a cluster are counted: some may come or go."""

LEAST_STORE = 256 * 2**20
"""Bytes for what tasks share, beside images."""

SECONDS_TO_LEARN = 30.0
"""Time that a task waits at its beginning to hear whether it is wanted still."""

MEMORY_STEP = 64 * 2**20
"""Tasks that ask for the same memory are scheduled as one queue, so predictions are rounded up to this."""

MOST_OF_A_NODE = 0.9
"""Of a machine's memory, as Ray counts it, the most that a task asks for: a prediction keeps to a cap of its own."""


class RayExecutor(PoolExecutor):
    """Tasks as those of a Ray cluster, the longest first."""

    name = "ray"

    _cluster: Cluster | None = None

    def __init__(self, execution: Execution | None = None) -> None:
        super().__init__(execution)
        if (device := self.execution.device) not in ("auto", "cpu", "cuda", "cuda:all"):
            raise InputError(
                f"device (={device!r}): expected auto, cpu or cuda:all with executor ray, which hands out GPUs itself; "
                "or use --executor local"
            )

    def slots(self, device: torch.device) -> int:
        return self._counted(device) if self.execution.ray_address else slots_here(device)

    def _counted(self, device: torch.device) -> int:
        return max(1, sum(_tasks_on(node, device, threads().amount) for node in self._connection(0, 0).nodes()))

    def _connection(self, gpus: int, store_bytes: int) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster(self.execution.ray_address, gpus, store_bytes)
        return self._cluster

    def make_pool(self, task: Task, place: Surroundings) -> Pool:
        gpus = torch.cuda.device_count() if task.device.type == "cuda" else 0
        store = LEAST_STORE + (0 if place.data.streamed else 4 * place.data.image_bytes)
        store = min(store, max(LEAST_STORE, total_memory(torch.device("cpu")).amount // 3))
        return RayPool(self._connection(gpus, store), task.device, threads().amount)

    def close(self) -> None:
        super().close()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()


def _tasks_on(node: dict[str, Any], device: torch.device, cpus: int) -> int:
    """How many tasks a machine computes at once."""
    resources = node["Resources"]
    return int(resources.get("GPU", 0) if device.type == "cuda" else resources.get("CPU", 0) // cpus)


class RayPool(Pool):
    """Tasks of Ray's.

    Args:
        cluster: where.
        device: of the tasks.
        cpus: threads of each on a CPU.
    """

    def __init__(self, cluster: Cluster, device: torch.device, cpus: int) -> None:
        self._cluster, self._device, self._cpus = cluster, device, cpus
        self._ray = cluster.ray
        self._tasks: dict[Any, int] = {}
        self._left_out: set[str] = set()
        self._slots, self._count_next = 0, 0.0
        self._job: Any = None
        self._stopping = False
        gpu = device.type == "cuda"
        # A task's worker stays for the next one, on a GPU too: it has torch, the data and the kernels.
        self._work = self._ray.remote(num_cpus=1 if gpu else cpus, num_gpus=int(gpu), max_retries=0, max_calls=0)(_work)
        self._relay: Any = None
        self._answer: Any = None
        self._start_relay()

    def _start_relay(self) -> None:
        node = self._ray.get_runtime_context().get_node_id()
        beside = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        actor = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Relay)
        self._relay = actor.options(scheduling_strategy=beside).remote()

    def begin(self, job: Job) -> None:
        self._job = self._ray.put(job)

    def room(self) -> bool:
        if (now := time.monotonic()) >= self._count_next:
            self._count_next = now + SECONDS_BETWEEN_COUNTS
            nodes = [node for node in self._cluster.nodes() if node["NodeID"] not in self._left_out]
            self._slots = sum(_tasks_on(node, self._device, self._cpus) for node in nodes)
            if not self._slots and not self._tasks:
                self._refuse()
        # As many again as can be computed: they are there when workers are free, also while files are written here.
        return len(self._tasks) < 2 * self._slots

    def _refuse(self) -> None:
        wanted = "a GPU" if self._device.type == "cuda" else f"{self._cpus} CPUs, as this process has threads"
        nodes = ", ".join(
            f"{node['NodeManagerHostname']} with {node['Resources'].get('CPU', 0):g} CPUs"
            for node in self._cluster.nodes()
        )
        raise InputError(
            f"ray: expected a machine of the cluster with {wanted}, found {nodes or 'none'}; set OMP_NUM_THREADS, or "
            "start Ray there with --num-cpus"
        )

    def start(self, task: Task, attempt: int) -> None:
        options: dict[str, Any] = {}
        if self._device.type == "cpu" and (memory := self._memory(task)):
            options["memory"] = memory
        if self._left_out:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._left_out))})"}
        # A reference in a list: a worker that has the job does not fetch it again.
        ref = self._work.options(**options).remote(task, [self._job], self._relay, attempt)
        self._tasks[ref] = task.index

    def _memory(self, task: Task) -> int:
        largest = max((node["Resources"].get("memory", 0.0) for node in self._cluster.nodes()), default=0.0)
        asked = -(-task.predicted_bytes // MEMORY_STEP) * MEMORY_STEP
        return int(min(asked, MOST_OF_A_NODE * largest))

    def wait(self, seconds: float) -> list[End]:
        if not self._tasks:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._end(ref) for ref in ready]

    def _end(self, ref: Any) -> End:
        errors = self._ray.exceptions
        index = self._tasks.pop(ref)
        try:
            return End(index, self._ray.get(ref))
        except errors.RayTaskError:
            raise
        except errors.OutOfMemoryError:
            return End(index, None, "Ray ended it for its memory", memory=True)
        except errors.RayError as error:
            return End(index, None, _words(error))

    def messages(self, seconds: float = 0.0) -> list[Message]:
        found = self._answered(seconds)
        # What was on its way already may not have all that was told until now.
        return found + self._answered(seconds) if seconds else found

    def _answered(self, seconds: float) -> list[Message]:
        if self._answer is None:
            self._answer = self._relay.take.remote()
        if not self._ray.wait([self._answer], timeout=seconds)[0]:
            return []
        answer, self._answer = self._answer, None
        try:
            return [Message(*each) for each in self._ray.get(answer)]
        except self._ray.exceptions.RayError:
            # It is started anew, and does not know of this.
            if self._stopping:
                self.stop()
            return []

    def stop(self) -> None:
        self._stopping = True
        self._relay.stop.remote()

    def leave_out(self, result: Result) -> None:
        self._left_out.add(result.node)
        self._count_next = 0.0

    def close(self) -> None:
        with suppress(Exception):
            self.stop()
            for ref in self._tasks:
                self._ray.cancel(ref, force=True)
            self._ray.kill(self._relay)
        self._tasks = {}


class _RayLink(Link):
    """The line of a worker of Ray's. What is waited for is waited for in a thread of its own: see `_line`."""

    def __init__(self, relay: Any, index: int, attempt: int) -> None:
        super().__init__()
        self._relay, self._names = relay, (index, attempt)
        self._answer: Future[bool | None] | None = None
        self._asked = False

    def _told(self, events: list[Event], files: dict[str, bytes]) -> Future[bool | None]:
        return _line().submit(_answer_to, self._relay.exchange, *self._names, events, files)

    def send(self, events: list[Event], files: dict[str, bytes]) -> bool:
        self._hear()
        if self._answer is not None:
            return False
        self._answer = self._told(events, files)
        return True

    def asked_to_stop(self) -> bool:
        self._hear()
        return self._asked

    def stopped_before(self) -> bool:
        """Whether the run asked to stop while this task waited for its worker."""
        with suppress(TimeoutError):
            self._asked = bool(self._told([], {}).result(SECONDS_TO_LEARN))
        return self._asked

    def wait(self) -> None:
        """Until what was sent is there, so that nothing of it comes behind the task's result."""
        if self._answer is not None:
            with suppress(TimeoutError):
                self._answer.result(SECONDS_TO_ARRIVE)

    def fetch(self, path: Path) -> bytes | None:
        content: bytes | None = _line().submit(_answer_to, self._relay.read, path).result()
        return content

    def _hear(self) -> None:
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer, None
            self._asked = self._asked or bool(answer.result())


@cache
def _line() -> ThreadPoolExecutor:
    """The thread in which a worker waits for Ray.

    Of a task whose main thread waits, Ray takes it that it needs no CPU for the moment, and gives that to the next
    task, for which it starts one more process: that imports torch, and fetches the data.
    """
    return ThreadPoolExecutor(1, "atras-line")


def _answer_to(method: Any, *arguments: Any) -> Any:
    """What the relay answers; None where it was lost: it is started anew."""
    import ray

    with suppress(ray.exceptions.RayError):
        return ray.get(method.remote(*arguments))
    return None


def _work(task: Task, job: list[Any], relay: Any, attempt: int) -> Result:
    """A task, in a worker."""
    import ray

    if task.device.type == "cuda":
        task = dataclasses.replace(task, device=torch.device("cuda", 0))  # the one that Ray lets it see
    link = _RayLink(relay, task.index, attempt)
    if link.stopped_before():
        return Result("", interrupted=True)
    result = compute_elsewhere(task, _job(job[0]), link)
    link.wait()
    result.node = ray.get_runtime_context().get_node_id()
    return result


def _words(error: Exception) -> str:
    """What became of a worker, in a line."""
    return {
        "WorkerCrashedError": "its process ended", "NodeDiedError": "its machine is gone",
        "ObjectLostError": "its machine is gone", "OwnerDiedError": "its machine is gone",
    }.get(type(error).__name__, type(error).__name__)  # fmt: skip


_JOBS: dict[str, Job] = {}


def _job(reference: Any) -> Job:
    """A job, which a worker fetches once."""
    import ray

    if reference.hex() not in _JOBS:
        fetched: Any = _line().submit(ray.get, reference).result()
        _JOBS.clear()
        _JOBS[reference.hex()] = fetched
    return _JOBS[reference.hex()]
