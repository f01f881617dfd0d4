"""What attacks keep of each pair: their state under way, and what they have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor


class PerPair:
    """Base class of dataclasses of tensors whose axis 0 is that of the pairs; what is no tensor is of all pairs."""

    recomputed: ClassVar[tuple[str, ...]] = ()
    """Fields that are not kept, as they follow from the pairs."""

    def only(self, kept: Tensor) -> Self:
        """Those of the pairs that a mask bool [P] keeps, or that are at the places int64 [K]."""
        parts = {name: value[kept] for name, value in self._tensors().items()}
        return replace(self, **parts)  # type: ignore[type-var]

    def tensors(self) -> dict[str, Tensor]:
        """What `loaded` takes."""
        return {name: value for name, value in self._tensors().items() if name not in self.recomputed}

    @classmethod
    def loaded(cls, tensors: Mapping[str, Tensor], **recomputed: Any) -> Self:
        """The state that these tensors were of; further ones are passed over."""
        names = [each.name for each in fields(cls) if each.name not in recomputed]  # type: ignore[arg-type]
        return cls(**recomputed, **{name: tensors[name].clone() for name in names})  # the kept ones stay as they are

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        own: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in own.items() if isinstance(value, torch.Tensor)}


@dataclass
class Found(PerPair):
    """What an attack, or a part of it, made of P pairs.

    Args:
        images: [P, C, H, W], within the ball and the bounds.
        fooled: bool [P], whether they are taken for another class than the label.
        values: [P], how far they came where they do not fool: higher is better, -infinity is no way at all.
    """

    images: Tensor
    fooled: Tensor
    values: Tensor

    @classmethod
    def nothing(cls, clean: Tensor) -> Self:
        """The clean images [P, C, H, W], none of which fools."""
        import torch

        values = clean.new_full((len(clean),), -torch.inf)
        return cls(clean.clone(), torch.zeros(len(clean), dtype=torch.bool, device=clean.device), values)

    def put(self, places: Tensor, images: Tensor, values: Tensor, fooled: Tensor | bool = True) -> None:
        """Keep images of the pairs at these places."""
        self.images[places], self.values[places], self.fooled[places] = images, values, fooled

    def improve(self, places: Tensor, found: Found) -> None:
        """Keep what was found of the pairs at these places that fools, or came further."""
        import torch

        better = found.fooled | (found.values > self.values[places])
        self.images[places] = torch.where(better[:, None, None, None], found.images, self.images[places])
        self.values[places] = torch.where(better, found.values, self.values[places])
        self.fooled[places] = found.fooled


def kept_of(found: Found, state: PerPair, done: int) -> dict[str, Tensor]:
    """All that a run goes on from: what is found, the state of the pairs that are left, and the steps done."""
    import torch

    return {**found.tensors(), **state.tensors(), "done": torch.tensor(done)}
