"""A module that a user brings, as the one layer of a candidate: from images to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.networks.factories import Factory

from .layer import Activate, Layer, Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from atras.networks.inspection import Inspection


@dataclass(frozen=True)
class Own(Layer):
    """A whole network: no stem stands before it, no dense layer and no dropout behind it.

    Its parameters and buffers have the module's own names. It goes by its factory's name, which only a run that holds
    the factory can read.

    Args:
        factory: makes the module.
    """

    factory: Factory

    kind = "own"
    complete = True

    def __str__(self) -> str:
        return self.factory.name

    @classmethod
    def parse(cls, text: str) -> Own | None:  # noqa: ARG003 (a name alone says nothing of where the module is)
        return None

    def inspect(self, shape: Shape) -> Inspection:
        """What there is to know of the module on images of a shape, looked at once.

        Raises:
            InputError: if the module is none that can be trained and attacked; one line says why.
        """
        from atras.networks.inspection import inspect_factory

        return inspect_factory(self.factory, shape)

    def module(self, seed: int) -> nn.Module:
        """A new module, its weights drawn at a key of seed and name."""
        from atras.networks.randomness import stable_key

        return self.factory.make(stable_key(seed, self.factory.name, "init"))

    @property
    def depth(self) -> int:
        """Layers with weights less the last."""
        from atras.networks.inspection import depth_of

        return depth_of(self.factory)

    def output_shape(self, shape: Shape) -> Shape:
        return (self.inspect(shape).classes,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return dict(self.inspect(shape).parameters)

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:
        raise NotImplementedError("engine modules computes a module, with its own code")

    def modules(self, shape: Shape, activation: Callable[[], nn.Module]) -> Sequence[tuple[str, nn.Module]]:
        raise NotImplementedError("a module has its own layers")

    def multiplications(self, shape: Shape) -> int:
        return self.inspect(shape).multiplications

    def kept_values(self, shape: Shape) -> int:
        return self.inspect(shape).kept_values
