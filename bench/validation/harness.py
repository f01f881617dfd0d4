"""What the scripts of validation share: a budget of time, data and engines without polars, results that are kept."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from atras.attacks import Attack
from atras.data import Dataset
from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.environment import describe
from atras.errors import InputError, Interrupted
from atras.evaluation import Evaluator, Rows
from atras.experiment import Execution, Protocol
from atras.networks import Member, Spec
from atras.running.prepare import load_data, make_spec
from atras.training import Watcher

Row = dict[str, Any]


class StoppedError(Exception):
    """The budget is spent."""


class Clock(Watcher):
    """Seconds that a script may take; as a watcher it stops a group when they are over.

    Args:
        seconds: from now on; None for as many as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self.start, self.seconds = time.perf_counter(), seconds

    @property
    def passed(self) -> float:
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        return float("inf") if self.seconds is None else self.seconds - self.passed

    def check(self) -> None:
        """Raise `StoppedError` where nothing is left."""
        if self.stop():
            raise StoppedError

    def stop(self) -> bool:
        return self.left <= 0


class Results:
    """Rows in a JSON file, which is whole after every addition.

    Args:
        path: the file.
        about: what all rows have in common.
    """

    def __init__(self, path: Path, about: Row) -> None:
        self.path, self.document = path, {**about, "rows": []}
        self.write()

    @property
    def rows(self) -> list[Row]:
        rows: list[Row] = self.document["rows"]
        return rows

    def add(self, rows: Sequence[Row], **about: Any) -> None:
        """Append rows, and note what else is to be told of the whole."""
        self.document |= about
        self.rows.extend(rows)
        self.write()

    def write(self) -> None:
        beside = self.path.with_name(f"{self.path.name}.part")
        beside.write_text(json.dumps(self.document, default=str) + "\n")
        beside.replace(self.path)


class Setting:
    """Data and device of a script, for any networks on these images.

    Args:
        protocol: names the data.
        execution: names the device and the folder of data.
    """

    def __init__(self, protocol: Protocol, execution: Execution) -> None:
        self.device: torch.device
        self.data: Dataset
        self.device, self.data, _ = load_data(protocol, execution)
        self.environment = describe(self.device)

    def spec(self, protocol: Protocol) -> Spec:
        """What networks of a protocol share on these images, whatever networks its defence takes copies of."""
        return make_spec(protocol.replace(defence="none"), self.data.image_shape, self.data.classes)

    def engines(self, protocol: Protocol) -> Iterator[Engine]:
        """`engines_for` all members of a protocol."""
        return engines_for(self.spec(protocol), protocol.members, protocol, self.device)

    def sync(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def engines_for(spec: Spec, members: Sequence[Member], protocol: Protocol, device: torch.device) -> Iterator[Engine]:
    """Engines that have all members among them, each made when its turn comes.

    Engine fused computes what it has on this device, as many together as it takes; of all else stacks those of one
    structure, and what is alone the loop, which are slower.
    """
    groups: dict[tuple[type[Engine], Hashable], list[Member]] = {}
    for member in members:
        refused = why_not(device) or FusedEngine.refusal(spec, [member.candidate], device.type)
        kind = StackEngine if refused else FusedEngine
        groups.setdefault((kind, kind.alike(spec, member.candidate, device.type)), []).append(member)
    for (kind, _), some in groups.items():
        kind = LoopEngine if kind is StackEngine and len(some) == 1 else kind
        precision = protocol.precision if protocol.precision in ("auto", *kind.precisions) else "fp32"
        yield kind(spec, some, protocol.replace(precision=precision), device)


def figures_of(rows: Rows, **common: Any) -> list[Row]:
    """Correct predictions on the test images, of every network, phase and attack.

    Args:
        rows: of a group.
        common: what is to stand in each.
    """
    kept = ("hidden_layers", "seed", "phase", "mode", "attack", "epsilon", "label_source", "n", "correct")
    measured = [row for row in rows.metrics if row["split"] == "test" and row["epoch"] is None]
    status = {(row["hidden_layers"], row["seed"]): row["status"] for row in rows.table}
    return [
        {**common, **{name: row[name] for name in kept}, "status": status[row["hidden_layers"], row["seed"]]}
        for row in measured
    ]


def figure(member: Member, name: str, values: tuple[float, int], **common: Any) -> Row:
    """A figure of a defended network that is no accuracy of a run's: (correct, n), or (sum, n) of what is measured."""
    correct, n = values
    return {
        **common, "hidden_layers": member.candidate.name, "seed": member.seed, "phase": "defended", "mode": "own",
        "attack": name, "n": n, "correct": correct,
    }  # fmt: skip


def stay(engine: Engine, setting: Setting, protocol: Protocol, attack: Attack, batch: int) -> list[tuple[int, int]]:
    """Of each member, how many test images keep their predicted class under an attack, and how many there are."""
    evaluator, kept = Evaluator(engine, setting.data, protocol, batch), torch.zeros(len(engine.members))
    for chunk, images, labels in evaluator.chunks("test"):
        attacked = evaluator.attack(attack, "test", chunk, images, labels)
        same = engine.logits(attacked.clipped).argmax(-1) == engine.logits(images).argmax(-1)
        kept += same.sum(1).cpu()
    return [(int(count), len(setting.data.test)) for count in kept.tolist()]


def main_of(work: Callable[[argparse.Namespace, Results], None], asked: argparse.Namespace, script: str) -> int:
    """Do the work of a script, and say how it ended.

    Args:
        work: adds rows; may raise `InputError`, `Interrupted` or `StoppedError`.
        asked: its options.
        script: its name.

    Returns:
        0, also where the budget ended it; 2 for bad input.
    """
    settings = {name: value for name, value in vars(asked).items() if name != "out"}
    results = Results(asked.out, {"script": script, "settings": settings, "complete": False})
    try:
        work(asked, results)
        results.add([], complete=True)
    except (Interrupted, StoppedError):
        print(f"{script}: the budget of {asked.seconds:g} s is spent; {len(results.rows)} rows are written", flush=True)
    except InputError as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2
    return 0


def numbers(kind: type[Any]) -> Any:
    """Of an option's value: 0.03,0.04 to (0.03, 0.04)."""
    return lambda text: tuple(kind(each) for each in text.split(","))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every script has."""
    parser.add_argument("--data", default="mnist", help="a data set's name, or a file such as an npz with x_train, ...")
    parser.add_argument("--data-dir", help="where data sets that are named lie")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="of training: auto, fp32, tf32 or bf16")
    parser.add_argument("--train-size", type=int, default=5000, help="first training images; default: 5000")
    parser.add_argument("--test-size", type=int, default=5000, help="first test images; default: 5000")
    parser.add_argument("--evaluation-batch", type=int, default=250, metavar="N", help="images of a forward pass")
    parser.add_argument("--seconds", type=float, help="budget, after which nothing more is begun; default: none")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file for the results")


def execution_of(asked: argparse.Namespace) -> Execution:
    """Where a script computes."""
    return Execution(device=asked.device, **({"data_dir": asked.data_dir} if asked.data_dir else {}))
