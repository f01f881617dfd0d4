"""Groups divided anew: their checkpoints are handed on; and memory that ran out is told from other errors."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from atras.engines import ENGINES
from atras.errors import InputError
from atras.evaluation import PREFIX, Row
from atras.networks import member_name
from atras.planning import Group
from atras.training import Checkpoint, checkpoint

ALLOCATION_FAILURES = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Texts by which a plain RuntimeError of torch says that there is no memory left."""


class ShortageError(InputError):
    """No memory for the least that can be computed at once."""


def shortage(work: Callable[[], object]) -> str:
    """Do something that may run out of memory, and give back what it held then.

    Returns:
        The words of the shortage; empty where there was none.
    """
    try:
        work()
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
    else:
        return ""
    # Out of the handler: it holds what had been allocated.
    free_memory()
    return reason


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on the device or off it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_FAILURES)


def free_memory() -> None:
    """Give back what an abandoned group held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hand_on_checkpoints(folder: Path, groups: Sequence[Group]) -> None:
    """Give each new group its share of the checkpoint that has all its members.

    The old checkpoints stay, so that the run can be killed before the new division is recorded.
    """
    for path in checkpoint.paths(folder, checkpoint.GROUP):
        whole = checkpoint.read(path)
        for group in groups:
            names = [member.name for member in group.members]
            target = checkpoint.path_of(folder, group.members)
            one_by_one = ENGINES.get(group.engine).one_by_one
            joint = whole.document.get("parts") == 1 and (not one_by_one or len(names) == 1)
            if joint and set(names) <= set(whole.document.get("members", ())) and not target.exists():
                checkpoint.write(target, *share(whole, names))


def remove_other_checkpoints(folder: Path, groups: Iterable[Group]) -> None:
    """Delete the checkpoints of all but these groups."""
    checkpoint.forget(folder, checkpoint.GROUP, {checkpoint.path_of(folder, group.members) for group in groups})


def share(whole: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """The part of a checkpoint that belongs to some of its members, in their new order.

    Args:
        whole: of members that are computed together.
        names: `Member.name` of each.
    """
    places = [whole.document["members"].index(name) for name in names]
    wanted = set(names)
    tensors = {}
    for name, values in whole.tensors.items():
        if name.startswith(PREFIX):
            continue  # counted for all members at once: the halves measure from the start of the stage
        if "/" not in name:
            tensors[name] = values[places] if name in ("losses", "correct") else values
        elif "/".join(name.split("/")[1:3]) in wanted:
            tensors[name] = values
    record = {key: value for key, value in whole.document["record"].items() if key != "shown"}
    record |= {key: [record[key][place] for place in places] for key in ("finite", "dead", "accuracies")}
    record["rows"] = {frame: _rows_of(rows, wanted) for frame, rows in record["rows"].items()}
    part = len(names) / len(whole.document["members"])
    record["rows"]["timings"] = [
        row | {"members": len(names), "seconds": row["seconds"] * part} for row in record["rows"]["timings"]
    ]
    seconds = whole.document["seconds"] * part
    return Checkpoint(whole.document | {"members": list(names), "record": record, "seconds": seconds}, tensors)


def _rows_of(rows: list[Row], wanted: set[str]) -> list[Row]:
    names = ("hidden_layers", "seed", "variant")
    return [row for row in rows if "seed" not in row or member_name(*(str(row[name]) for name in names)) in wanted]
