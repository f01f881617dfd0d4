"""Evaluations that go on where they were stopped: their counters, and how far they are, as tensors.

An evaluation stands between two images, between two attacks on the same images, or between two steps of an attack. All
that it has is in a `Course`; what a course goes on from is bitwise what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .carried import Carried
from .stored_signs import AllSigns, StoredSigns

PREFIX = "measured."
"""Begins the names of an evaluation's tensors, in which there is no slash: nobody takes them for a member's."""


class Signs:
    """Signs of gradients, image after image.

    Those that are in a file are not kept where a run stands: they are as many as the images are, and made again.

    Args:
        values: int8 [M, N, C, H, W], room for all of them.

    `missing` counts the first images whose signs were there once, and are to be made again.
    """

    def __init__(self, values: AllSigns) -> None:
        self.values, self.filled, self.missing = values, 0, 0

    def put(self, chunk: slice, signs: Tensor) -> None:
        """Take the signs [M, B, C, H, W] of the images that come next."""
        self.values[:, chunk] = signs
        self.filled = max(self.filled, chunk.stop)

    def tensors(self) -> dict[str, Tensor]:
        """What `load` takes: four signs a byte, [M, ...], or how many images have signs."""
        if isinstance(self.values, StoredSigns):
            return {"filled": torch.tensor(self.filled)}
        return {"packed": packed(self.values[:, : self.filled]), "filled": torch.tensor(self.filled)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self.filled = int(tensors["filled"])
        if isinstance(self.values, StoredSigns):
            self.missing = self.filled
            return
        place = self.values[:, : self.filled]
        place.copy_(unpacked(tensors["packed"].to(place.device), place.shape))


def packed(signs: Tensor) -> Tensor:
    """uint8 [M, K]: signs of -1, 0 and 1, [M, ...], two bits each."""
    flat = (signs.flatten(1) + 1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 4))
    flat = flat.view(len(flat), flat.shape[1] // 4, 4)
    return flat[..., 0] | flat[..., 1] << 2 | flat[..., 2] << 4 | flat[..., 3] << 6


def unpacked(values: Tensor, shape: torch.Size) -> Tensor:
    """int8 of a shape [M, ...], from what `packed` made of it."""
    parts = torch.stack([values >> shift & 3 for shift in (0, 2, 4, 6)], -1).flatten(1)
    return (parts[:, : shape[1:].numel()].to(torch.int8) - 1).view(shape)


class Steps:
    """Where an attack stands: an `attacks.Progress` that can be stopped and kept between any two steps.

    Args:
        pause: called there; may raise.

    `made` counts the steps that were made in this process.
    """

    def __init__(self, pause: Callable[[], None]) -> None:
        self.state: Mapping[str, Tensor] = {}
        self.made = 0
        self._pause = pause
        self._live: Callable[[], Mapping[str, Tensor]] | None = None

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Told between two steps how to get the state of the attack."""
        self._live, self.made = state, self.made + 1
        self._pause()

    def tensors(self) -> dict[str, Tensor]:
        """The state of the attack under way."""
        return dict(self.state if self._live is None else self._live())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self.state = dict(tensors)


class Within:
    """How far an evaluation is within a chunk of images that several attacks are made on.

    Args:
        pause: as in `Steps`.
    """

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        self.at = self.stop = 0
        self.alive: list[Tensor] = []
        self.clean_logits: Tensor | None = None
        self.steps = Steps(pause)
        self.carried = Carried()

    def attacked(self, stop: int, clean_logits: Tensor | None) -> None:
        """One more attack is made on the images before `stop`, and counted."""
        self.at, self.stop, self.clean_logits = self.at + 1, stop, clean_logits
        self.steps = Steps(self._pause)
        self._pause()


class Course:
    """One evaluation: how many images are done, and what is counted of them.

    Args:
        counted: objects by name whose attributes are tensors, numbers, lists of tensors or such objects.
        pause: called between images, attacks and steps; may raise.
        done: images that are left out.
    """

    def __init__(self, counted: Mapping[str, Any], pause: Callable[[], None], done: int = 0) -> None:
        self.done, self.counted, self._pause = done, dict(counted), pause
        self.within = Within(pause)

    def chunks(self, count: int, size: int) -> Iterator[slice]:
        """The images that are left, so many at a time; those of an interrupted chunk as it was cut."""
        while self.done < count:
            self._pause()
            stop = self.within.stop or min(self.done + size, count)
            yield slice(self.done, stop)
            self.done, self.within = stop, Within(self._pause)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for `load`."""
        return _tensors(self, "")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        _load(self, tensors)


def _tensors(value: Any, name: str) -> dict[str, Tensor]:
    """The tensors and numbers that a value is made of, by the way to them; functions and None are passed over."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, bool | int):
        return {name: torch.tensor(int(value))}
    if callable(value) or value is None:
        return {}
    parts = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else None
    if parts is None:
        parts = value.tensors() if isinstance(value, Signs | Steps) else vars(value)
    return {k: v for key, part in parts.items() for k, v in _tensors(part, f"{name}.{key}".lstrip(".")).items()}


def _load(value: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give an object, or a dict of them, the tensors and numbers that `_tensors` took from it."""
    parts = value if isinstance(value, dict) else vars(value)
    for key in dict.fromkeys(name.partition(".")[0] for name in tensors):
        below = below_of(tensors, f"{key}.")
        old = parts[key]
        if not below:
            new = tensors[key]
            parts[key] = type(old)(new.item()) if isinstance(old, bool | int) else _like(new, old)
        elif isinstance(old, list):
            parts[key] = [below[str(index)] for index in range(len(below))]
        elif isinstance(old, Signs | Steps):
            old.load(below)
        else:
            _load(old, below)


def _like(new: Tensor, old: Tensor | None) -> Tensor:
    return new if old is None else new.to(old)


def below_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
