"""Transfer between the members of a finished run: its tasks, and their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from atras.attacks import Attack
from atras.engines import why_not
from atras.evaluation import Origin, OriginPart, Row, Rows, Transfer, phases_of, trials_of
from atras.networks import Candidate, Member, Network, Variant, member_name
from atras.planning import Group, forward_flops, tighter, transfer_bytes, transfer_parts

from .divided import ShortageError
from .executors import Executor, Outcome
from .origins import Origins
from .progress import Reporter
from .task import GroupTask
from .transfer_task import KEPT, Counted, TransferTask, counted, part_name
from .unit import Surroundings

WHAT = "transfer"
"""What a reporter is told of."""

ALMOST = 0.999
"""Most that is told to be done before all is."""

MEASURED = {"trained": "attacked_accuracy_before_true", "defended": "attacked_accuracy_after_white_box"}
"""By phase, the column of the table that is null where the network had diverged."""

Left = Mapping[Attack, Mapping[Origin, Sequence[int]]]
"""Numbers of trials, by attack and origin."""


def transfer_rows(
    withins: Sequence[Within], executor: Executor, place: Surroundings, short: Callable[[Row], None] = lambda _: None
) -> Rows:
    """Adversarial test images of members, tried on others, as the protocol asks for it.

    Args:
        withins: of each variant.
        executor: that computes.
        place: this process; its networks hold every member.
        short: told of each shortage of memory after which the transfer goes on in smaller parts.

    Returns:
        Complete rows.

    Raises:
        Interrupted: if the run was asked to stop.
        ShortageError: if there is no memory for one member.
    """
    own = {within.variant: within for within in withins}
    done = counted(withins[0].task.folder, withins[0].task.run_hash)
    left = [task for within in withins for task in within.tasks(done.get(within.variant.name))]
    shares = _Shares(place.reporter, sum(within.possible for within in withins))
    numbered = 0
    try:
        while left:
            tasks = [dataclasses.replace(task, index=number) for number, task in enumerate(left, numbered)]
            numbered += len(tasks)
            shares.begin(tasks)
            left = _computed(tasks, own, executor, dataclasses.replace(place, reporter=shares), short)
    finally:
        place.kept.pop(KEPT, None)
    rows = Rows()
    for within in withins:
        rows.extend(within.rows())
    place.reporter.part(WHAT, 1.0)
    return rows


def _computed(
    tasks: Sequence[TransferTask],
    withins: Mapping[Variant, Within],
    executor: Executor,
    place: Surroundings,
    short: Callable[[Row], None],
) -> list[TransferTask]:
    """Compute tasks; those that come in the place of tasks that memory did not suffice for."""
    shorts: list[Outcome[TransferTask]] = []
    for outcome in executor.map(tasks, place):
        if outcome.rows is None:
            shorts.append(outcome)
        else:
            withins[outcome.task.variant].take(outcome.task, outcome.rows)
    smaller = [task for outcome in shorts for task in withins[outcome.task.variant].smaller(outcome)]
    for outcome in shorts[:1]:  # it speaks for all, which were short at once
        place.reporter.note(f"transfer: out of memory ({outcome.reason}); goes on in smaller parts")
        short({**outcome.task.record, "reason": outcome.reason})
    return smaller


class Within:
    """The transfer between the members of one variant, as their solo run has it.

    Args:
        task: any of the run's, with the variant's protocol.
        place: this process.
        variant: of all members.
        groups: every member once, as it was trained.
        table: rows of the finished table.
        files: by member, those of its networks.
        at_once: tasks that share the memory.
    """

    def __init__(
        self,
        task: GroupTask,
        place: Surroundings,
        variant: Variant,
        groups: Sequence[Group],
        table: Sequence[Mapping[str, object]],
        files: Mapping[Member, tuple[str, ...]],
        at_once: int,
    ) -> None:
        self.variant, self.task, self._place, self._files = variant, task, place, files
        self._groups = [_possible(group, task.device) for group in groups]
        self._cap = task.memory_bytes // at_once
        members = [member for group in groups for member in group.members]
        self._members, self._seconds = len(members), 0.0
        fine = {phase: _measured(members, table, MEASURED[phase]) for phase in phases_of(task.protocol)}
        self._work = Transfer(place.data, task.protocol, trials_of(task.protocol, variant), fine)
        self._flops: dict[Candidate, int] = {}
        self._left = self._work.left()
        self.possible = sum(len(numbers) for origins in self._left.values() for numbers in origins.values())
        """How many trials there are between members that trained."""

    def tasks(self, done: Counted | None) -> list[TransferTask]:
        """What is left, divided as if nothing were done: so nobody has other company than in a run of one process.

        Args:
            done: what an earlier process has counted; None for nothing.
        """
        parts = transfer_parts(self._groups, self.task.protocol, self.task.spec, self.task.machine)
        tasks = list(self._divided(parts, self._cap, self._left))
        if done is not None:
            self._seconds = done.seconds
            for number, correct in done.correct.items():
                self._work.correct[number] = correct
        return [left for task in tasks if (left := self._unfinished(task)).numbers]

    def _unfinished(self, task: TransferTask) -> TransferTask:
        pairs = zip(task.numbers, task.trials, strict=True)
        left = [pair for pair in pairs if self._work.correct[pair[0]] is None]
        numbers, trials = tuple(number for number, _ in left), tuple(trial for _, trial in left)
        return dataclasses.replace(task, numbers=numbers, trials=trials)

    def smaller(self, outcome: Outcome[TransferTask]) -> list[TransferTask]:
        """A task with one part at a time, then in halves of parts and batches.

        Raises:
            ShortageError: if it cannot be any smaller.
        """
        task, left = outcome.task, dict[Origin, list[int]]()
        if task.cap:
            return [dataclasses.replace(task, cap=0, need=self._need(task.parts, 0))]
        parts = tighter(task.parts, self.task.protocol, self.task.spec, self.task.machine)
        if parts is None:
            raise ShortageError(
                "memory: expected room for the transfer of one member at a time, found none "
                f"({outcome.reason}); free some"
            )
        for number, trial in zip(task.numbers, task.trials, strict=True):
            left.setdefault(trial.origin, []).append(number)
        return list(self._divided(parts, 0, {task.attack: left}))

    def take(self, task: TransferTask, rows: Rows) -> None:
        """The counts of a task that is done."""
        for number, row in zip(task.numbers, rows.transfer, strict=True):
            correct: Any = row["correct"]
            self._work.correct[number] = correct
        for timing in rows.timings:
            seconds: Any = timing["seconds"]
            self._seconds += seconds

    def rows(self) -> Rows:
        """All rows, complete, in the order of the trials."""
        timing: Row = {"phase": "transfer", "members": self._members, "seconds": self._seconds, "steps": 0}
        return Rows(transfer=self._work.rows(), timings=[timing]).completed(self.task.shared, None)

    def _divided(self, parts: Sequence[Group], cap: int, left: Left) -> Iterator[TransferTask]:
        """Tasks of trials: a task an attack and what is attacked together."""
        origins = Origins(parts, self._work.fine, self.task, self._place)
        home = {member: number for number, part in enumerate(parts) for member in part.members}
        for attack, by_origin in left.items():
            for source in origins(by_origin, origins.parts):
                numbers = sorted(number for origin in source.origins for number in by_origin.get(origin, ()))
                if numbers:
                    yield self._task(attack, source, numbers, parts, home, cap)

    def _task(
        self,
        attack: Attack,
        source: OriginPart,
        numbers: Sequence[int],
        parts: Sequence[Group],
        home: Mapping[Member, int],
        cap: int,
    ) -> TransferTask:
        trials = tuple(self._work.trials[number] for number in numbers)
        attacked = [network.member for origin in source.origins for network in origin.networks]
        taking_part = {home[member] for member in (*attacked, *(trial.target.member for trial in trials))}
        own = tuple(parts[number] for number in sorted(taking_part))
        members = [member for part in own for member in part.members]
        making = self._of_making(attack) * sum(map(self._forward, attacked))
        return TransferTask(
            **self.task.common | {
                "files": tuple(dict.fromkeys(name for member in members for name in self._files.get(member, ()))),
            },
            variant=self.variant,
            parts=own,
            attack=attack,
            origins=source.origins,
            numbers=tuple(numbers),
            trials=trials,
            fine={phase: frozenset(fine & set(members)) for phase, fine in self._work.fine.items()},
            cap=cap,
            need=self._need(own, cap),
            work=making + sum(self._forward(trial.target.member) for trial in trials),
        )  # fmt: skip

    def _need(self, parts: Sequence[Group], cap: int) -> int:
        return transfer_bytes(parts, self.task.protocol, self.task.spec, cap)

    def _of_making(self, attack: Attack) -> int:
        """Forward passes that cost as much as to make an attack."""
        passes = attack.cost_of_making(self.task.spec.classes)
        return int(passes.forward + 2 * passes.gradient) or 1

    def _forward(self, member: Member) -> int:
        candidate = member.candidate
        if candidate not in self._flops:
            self._flops[candidate] = forward_flops(Network(self.task.spec, candidate))
        return self._flops[candidate]


class _Shares(Reporter):
    """Tells a reporter how far all tasks together are.

    Args:
        reporter: of the run.
        possible: trials of all tasks, and of those that are done already.
    """

    def __init__(self, reporter: Reporter, possible: int) -> None:
        self._reporter, self._possible, self._told = reporter, possible, 0.0
        self._sizes: dict[str, int] = {}
        self._parts: dict[str, float] = {}
        self._done = 0

    def begin(self, tasks: Sequence[TransferTask]) -> None:
        """Of all trials, those of these tasks are left."""
        self._sizes = {part_name(task.index): len(task.numbers) for task in tasks}
        self._parts, self._done = {}, self._possible - sum(self._sizes.values())
        self._tell()

    def note(self, message: str) -> None:
        self._reporter.note(message)

    def part(self, name: str, share: float) -> None:
        self._parts[name] = share
        self._tell()

    def _tell(self) -> None:
        done = self._done + sum(share * self._sizes.get(name, 0) for name, share in self._parts.items())
        # A task whose worker was lost begins anew from its checkpoint.
        self._told = max(self._told, min(done / self._possible, ALMOST))
        self._reporter.part(WHAT, self._told)


def _possible(group: Group, device: torch.device) -> Group:
    """A group as this machine can evaluate it: one that was finished elsewhere may have an engine that is not here."""
    return dataclasses.replace(group, engine="loop") if group.engine == "fused" and why_not(device) else group


def _measured(members: Sequence[Member], table: Sequence[Mapping[str, object]], column: str) -> set[Member]:
    names = ("hidden_layers", "seed", "variant")
    known = {member_name(*(str(row[name]) for name in names)) for row in table if row[column] is not None}
    return {member for member in members if member.name in known}
