"""The base class of what attacks keep of each pair."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


class PerPair:
    """Base class of dataclasses of tensors whose axis 0 is that of the pairs; what is no tensor is of all pairs."""

    def only(self, kept: Tensor) -> Self:
        """Those of the pairs that a mask bool [P] keeps."""
        import torch

        own: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        parts = {name: value[kept] for name, value in own.items() if isinstance(value, torch.Tensor)}
        return replace(self, **parts)  # type: ignore[type-var]
