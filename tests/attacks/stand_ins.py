"""Networks of which it is known what fools them, and a progress that stops an attack again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from atras.kernels import pad_pairs, unpad_pairs
from atras.networks import Candidate, Cotangent, Member

CPU = torch.device("cpu")
SHAPE = (1, 5, 5)


class Linear:
    """M linear networks, of which it is known exactly whether an image can be moved across a boundary."""

    device, dtype = CPU, torch.float64

    def __init__(self, members: int, classes: int, shape: Sequence[int] = SHAPE) -> None:
        self.members: Sequence[Member] = [Member(Candidate((1,)), seed) for seed in range(members)]
        self.classes = classes
        self.weights = torch.randn(members, classes, *shape, dtype=torch.float64)
        self.queries = torch.zeros(members, dtype=torch.int64)
        self.gradients = torch.zeros(members, dtype=torch.int64)

    def only(self, member: int) -> Linear:
        """One of them, by itself."""
        alone = Linear(1, self.classes)
        alone.members, alone.weights = self.members[member : member + 1], self.weights[member : member + 1]
        return alone

    def logits(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        self.queries += images.shape[-4] if counts is None else counts
        return self._logits(images, counts)

    def _logits(self, images: Tensor, counts: Tensor | None) -> Tensor:
        if counts is not None:
            return unpad_pairs(self._scores(pad_pairs(images, counts)), counts)
        return self._scores(images.expand(len(self.members), *images.shape[-4:]))

    def _scores(self, images: Tensor) -> Tensor:
        return torch.einsum("mbchw,mychw->mby", images - 0.5, self.weights)

    def gradient(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.gradients += images.shape[-4] if counts is None else counts
        logits = self._logits(images, counts)
        wanted = cotangent(logits) if callable(cotangent) else cotangent
        assert wanted is not None
        if not wanted.is_floating_point():
            labels = wanted.expand(logits.shape[:-1])
            wanted = logits.softmax(-1) - one_hot(labels, self.classes)  # margins are small here
        if counts is None:
            return torch.einsum("mby,mychw->mbchw", wanted, self.weights), logits
        return unpad_pairs(torch.einsum("mby,mychw->mbchw", pad_pairs(wanted, counts), self.weights), counts), logits

    def distances(self, images: Tensor, labels: Tensor, norm: str) -> Tensor:
        """[M, B], the norm of the smallest change to another class, for images that the bounds do not touch."""
        logits = self.logits(images)
        own = self.weights[torch.arange(len(self.members))[:, None], labels]
        normals = (self.weights[:, None] - own[:, :, None]).flatten(3)
        dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
        gaps = logits.gather(2, labels[..., None]) - logits
        sizes = torch.linalg.vector_norm(normals, ord=dual, dim=3)
        return (gaps / sizes.clamp(min=1e-12)).masked_fill(one_hot(labels, self.classes).bool(), torch.inf).amin(2)


class Faint(Linear):
    """Gradients so small that their squares vanish in float32; that of one pixel is NaN, that of another 0."""

    dtype = torch.float32

    def __init__(self, members: int, classes: int, scale: float = 1e-25) -> None:
        super().__init__(members, classes)
        self.weights, self.scale = self.weights.float(), scale

    def gradient(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gradients, logits = super().gradient(images, cotangent, counts)
        gradients = self.scale * gradients
        gradients[..., 0, 0], gradients[..., 0, 1] = torch.nan, 0.0
        return gradients, logits


def problem(classes: int, images: int = 40) -> tuple[Linear, Tensor, Tensor]:
    """Linear networks, images that stay within the bounds under every attack, and the labels that they give."""
    networks = Linear(3, classes)
    x = 0.4 + 0.2 * torch.rand(images, *SHAPE, dtype=torch.float64)
    return networks, x, networks.logits(x).argmax(-1)


class StoppedError(Exception):
    """Ends an attack between two steps."""


class Lives:
    """A progress that stops the attack after so many steps, and keeps where it stood, as a checkpoint does."""

    def __init__(self, steps: int) -> None:
        self.state: dict[str, Tensor] = {}
        self.steps, self.left, self.times = steps, steps, 0

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        self.left -= 1
        if not self.left:
            self.left, self.times = self.steps, self.times + 1
            self.state = {name: part.clone() for name, part in state().items()}
            raise StoppedError
