"""Triton's interpreter, watched: programs in any order, and every address that they read and write."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watch:
    """What launches do with memory, while `watching`; whatever is wrong fails at once.

    A program may touch what lies in the tensors of its launch alone. Two programs of a launch write different numbers,
    and none reads what another one writes: only then may they run in any order, or at once. Of scratch memory is read
    what a launch before wrote, since `forget`.

    Args:
        order: of a launch's programs, `forward`, `reversed` or `shuffled`.
        scratch: uint8 memory; None for none.
    """

    def __init__(self, order: str, scratch: torch.Tensor | None = None) -> None:
        self.order, self.draw = order, random.Random(1)  # noqa: S311 (no secret)
        self.launches: list[str] = []
        self.programs = 0
        self.start = 0 if scratch is None else scratch.data_ptr()
        self.written = np.zeros(0 if scratch is None else scratch.numel(), dtype=bool)

    def forget(self) -> None:
        """A step begins: what scratch memory holds is nobody's any more."""
        self.written[:] = False

    def begin(self, name: str, tensors: list[torch.Tensor]) -> None:
        """A launch begins."""
        self.launches.append(name)
        self.ranges = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors]
        self.loads: list[tuple[int, np.ndarray]] = []
        self.stores: list[tuple[int, np.ndarray, int]] = []

    def note(self, pointers: np.ndarray, mask: np.ndarray, size: int, *, stored: bool) -> None:
        """A program reads or writes numbers of so many bytes."""
        at = np.unique(pointers[np.broadcast_to(mask, pointers.shape).astype(bool)].astype(np.int64))
        if not len(at):
            return
        inside = np.zeros(len(at), dtype=bool)
        for start, end in self.ranges:
            inside |= (at >= start) & (at + size <= end)
        what = "writes" if stored else "reads"
        assert inside.all(), f"{self.launches[-1]} {what} {len(at) - inside.sum()} numbers outside the launch's tensors"
        if stored:
            self.stores.append((self.program, at, size))
            return
        self.loads.append((self.program, at))
        of_scratch = at[(at >= self.start) & (at < self.start + len(self.written))] - self.start
        unwritten = (~self.written[of_scratch]).sum()
        assert not unwritten, f"{self.launches[-1]} reads {unwritten} numbers of scratch memory that nobody wrote"

    def end(self) -> None:
        """A launch is over."""
        for _, at, size in self.stores:
            of_scratch = at[(at >= self.start) & (at < self.start + len(self.written))] - self.start
            for byte in range(size):
                self.written[of_scratch + byte] = True
        if not self.stores:
            return
        stored, writers = _pairs([(program, at) for program, at, _ in self.stores])
        again = (stored[1:] == stored[:-1]) & (writers[1:] != writers[:-1])
        assert not again.any(), f"{self.launches[-1]}: {again.sum()} numbers are written by two programs"
        loaded, readers = _pairs(self.loads)
        at = np.searchsorted(stored, loaded).clip(max=len(stored) - 1)
        others = (stored[at] == loaded) & (writers[at] != readers)
        assert not others.any(), f"{self.launches[-1]}: {others.sum()} numbers are read that another program writes"

    def fill(self, tensor: torch.Tensor) -> None:
        """Torch itself wrote to a tensor."""
        at, size = tensor.data_ptr() - self.start, tensor.element_size()
        if 0 <= at < len(self.written) and tensor.numel():
            for byte in range(size):
                strides = [stride * size for stride in tensor.stride()]
                torch.from_numpy(self.written).as_strided(tensor.shape, strides, at + byte).fill_(True)

    def placed(self, grid: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...]:
        """The program whose turn it is, where in order it would be `index`'s."""
        count = int(np.prod(grid))
        if index == (0, 0, 0):
            self.places = list(range(count))
            if self.order == "reversed":
                self.places.reverse()
            elif self.order == "shuffled":
                self.draw.shuffle(self.places)
        self.program = self.places[np.ravel_multi_index(index, grid)]
        self.programs += 1
        return tuple(int(i) for i in np.unravel_index(self.program, grid))


def _pairs(found: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Addresses in order, and the programs that touched them."""
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.concatenate([each for _, each in found])
    programs = np.concatenate([np.full(len(each), program) for program, each in found])
    order = np.lexsort((programs, at))
    return at[order], programs[order]


class _Memory:
    """Takes the place of the interpreter's own access to memory."""

    def __init__(self, watch: Watch, real: Any) -> None:
        self.watch, self.real = watch, real

    def load(self, pointers: np.ndarray, mask: np.ndarray, other: np.ndarray, dtype: Any) -> Any:
        self.watch.note(pointers, mask, np.dtype(dtype).itemsize, stored=False)
        return self.real.load(pointers, mask, other, dtype)

    def store(self, pointers: np.ndarray, values: np.ndarray, mask: np.ndarray) -> Any:
        self.watch.note(pointers, mask, values.dtype.itemsize, stored=True)
        return self.real.store(pointers, values, mask)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name}: results would depend on the order of programs")


class _Torch(TorchDispatchMode):
    """Tells of what torch itself writes in place."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        mutates = function._schema.is_mutable and function._schema.name != "aten::set_"  # which the interpreter uses
        if mutates and isinstance(args[0], torch.Tensor):
            self.watch.fill(args[0])
        return result


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """A context in which the interpreter's launches are watched, and run in the watch's order."""
    from triton.runtime import interpreter

    call, place = interpreter.GridExecutor.__call__, interpreter.InterpreterBuilder.set_grid_idx

    def launch(self: Any, *args: Any, **options: Any) -> None:
        watch.begin(self.fn.__name__, [each for each in (*args, *options.values()) if isinstance(each, torch.Tensor)])
        call(self, *args, **options)
        watch.end()

    def placed(self: Any, *index: int) -> None:
        place(self, *watch.placed(self.grid_dim, index))

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", launch),
        mock.patch.object(interpreter.InterpreterBuilder, "set_grid_idx", placed),
        mock.patch.object(interpreter, "_interpreter", _Memory(watch, interpreter._interpreter)),
        _Torch(watch),
    ):
        yield watch
