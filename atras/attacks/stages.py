"""Attacks of several stages that go on where they were stopped: each stage has a progress within that of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .attack import Progress

INNER = "inner."
"""Begins the names of a stage's own tensors."""


class Unwatched:
    """The progress of an attack from its beginning that nobody stops."""

    def __init__(self) -> None:
        self.state: Mapping[str, Tensor] = {}

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Go on."""


class Stage:
    """The progress of one stage.

    Args:
        whole: of all stages together.
        number: of the stage, from 0.
        kept: what is known from before the stage, by name; part of the state of the whole.
        goes_on: whether it is the stage that the state of the whole is of.
    """

    def __init__(
        self, whole: Progress, number: int, kept: Callable[[], Mapping[str, Tensor]], goes_on: bool = True
    ) -> None:
        self._whole, self._number, self._kept = whole, number, kept
        before = whole.state if goes_on else {}
        self.state = {name.removeprefix(INNER): part for name, part in before.items() if name.startswith(INNER)}

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Told between two steps how to get the state of the stage."""

        def together() -> dict[str, Tensor]:
            import torch

            inner = {f"{INNER}{name}": part for name, part in state().items()}
            return {"stage": torch.tensor(self._number), **self._kept(), **inner}

        self._whole.step(together)


def stages(
    whole: Progress, count: int, kept: Callable[[], Mapping[str, Tensor]] = dict
) -> Iterator[tuple[int, Progress]]:
    """The numbers of the stages that are left, and the progress of each.

    Args:
        whole: of all stages together.
        count: of the stages.
        kept: what the stages before the one under way have brought, by name.
    """
    first = int(whole.state["stage"]) if whole.state else 0
    for number in range(first, count):
        yield number, Stage(whole, number, kept if number else dict, number == first)
