"""What the scripts of validation share: a budget of time, data and engines without polars, results that are kept."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from atras.data import Dataset
from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.environment import describe
from atras.experiment import Execution, Protocol
from atras.networks import Member, Spec
from atras.running.prepare import load_data
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
