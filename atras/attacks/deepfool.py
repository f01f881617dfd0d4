"""DeepFool: a small change that crosses a class boundary, found by crossing the nearest linear one again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from atras.checks import number, one_of, whole
from atras.registry import UNSPELLED

from .attack import Attack, Attacked, Passes, Spent, Start

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier

USUAL_STEPS = 4
"""Steps that it is taken to need, for a plan: two to three an image are usual, and a chunk waits for its slowest."""

TINY = 1e-4
"""Added to every distance, as the authors' code does: a point on the boundary itself has not crossed it."""


@dataclass(frozen=True, repr=False)
class DeepFool(Attack):
    """The smallest change it can find that crosses a class boundary, by steps to the nearest linearised one.

    With label source `predicted` each image leaves the class that the model gives it; with `true`, images that are
    misclassified already stay as they are.

    Args:
        epsilon, target: of no use to it: dropped, and refused; they have no spelling.
        norm: `l2` or `linf`, in which the distance to a boundary is measured.
        steps: most iterations an image.
        overshoot: share by which the sum of all steps is lengthened.
        classes: how many classes of highest logit on the clean image are tried, its own included; at least 2.

    Source: Moosavi-Dezfooli et al. 2016, algorithm 2 and section 3.3; the overshoot is their section 3.1's.
    """

    epsilon: float | None = field(default=None, metadata=UNSPELLED)
    target: str = field(default="none", metadata=UNSPELLED)
    norm: str = "l2"
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10

    name = "deepfool"
    bounded = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("target", self.target, ("none",))
        one_of("norm", self.norm, ("l2", "linf"))
        whole("steps", self.steps, 1, 10**6)
        number("overshoot", self.overshoot, 0.0, 10.0)
        object.__setattr__(self, "overshoot", float(self.overshoot))
        object.__setattr__(self, "epsilon", None)  # it has no bound
        whole("classes", self.classes, 2, 10**6)

    def cost(self, classes: int) -> Passes:
        return Passes(USUAL_STEPS, USUAL_STEPS * (min(self.classes, classes) - 1))

    def cost_of_making(self, classes: int) -> Passes:
        return self.cost(classes)  # it knows the logits of its examples

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        self.check(images, start)
        clean_logits = networks.logits(images) if start.clean_logits is None else start.clean_logits
        leave = self.loss_labels(clean_logits, labels, start)
        others = start.of_classes(clean_logits.scatter(-1, leave[..., None], -torch.inf))
        most = min(self.classes, others.shape[-1]) - 1
        order = start.class_at(others.argsort(-1, descending=True)[..., :most])
        shape = (*leave.shape, *images.shape[-3:])
        state = _State(images.expand(shape), torch.zeros(shape, dtype=images.dtype, device=images.device), clean_logits)
        active = (clean_logits.argmax(-1) == leave) & clean_logits.isfinite().all(-1)
        progress, done = start.progress, 0
        if progress is not None and progress.state:
            kept = progress.state
            done, active = int(kept["done"]), kept["active"].clone()
            state.change, state.logits, state.steps = (kept[name].clone() for name in ("change", "logits", "steps"))
        for step in range(done, self.steps):
            if not active.any():
                break
            state.steps += active
            self._cross(networks, state, leave, order, active)
            active &= (state.logits.argmax(-1) == leave) & state.logits.isfinite().all(-1)
            if progress is not None:
                progress.step(partial(state.tensors, active, step + 1))
        none = torch.zeros(len(leave), dtype=torch.int64, device=images.device)
        return Attacked(
            images=images,
            clipped=self._moved(state.images, state.change),
            labels=leave,
            clean_logits=clean_logits,
            logits=state.logits,
            nan_gradients=none,
            zero_gradients=none,
            gradients=0,
            spent=Spent(state.steps, state.steps * order.shape[-1]),
        )

    def _moved(self, images: Tensor, change: Tensor) -> Tensor:
        return (images + (1 + self.overshoot) * change).clamp(*self.bounds)

    def _cross(self, networks: Classifier, state: _State, leave: Tensor, order: Tensor, active: Tensor) -> None:
        """One more step of every active image towards its nearest boundary.

        Members have different numbers of active images: each brings as many as the one with most, and the others'
        steps are thrown away.
        """
        import torch

        index = active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(active.sum(1).max())]
        rows = torch.arange(len(active), device=active.device)[:, None]
        clean, change, logits = state.images[rows, index], state.change[rows, index], state.logits[rows, index]
        x, own = self._moved(clean, change), leave[rows, index]
        step = self._nearest(networks, x, logits, own, order[rows, index])
        chosen = active[rows, index]
        active[rows, index] &= step.abs().amax((2, 3, 4)) > 0  # where all gradients vanish it would stay for ever
        change = torch.where(chosen[..., None, None, None], change + step, change)
        reached = networks.logits(self._moved(clean, change))
        state.change[rows, index] = change
        state.logits[rows, index] = torch.where(chosen[..., None], reached, logits)

    def _nearest(self, networks: Classifier, x: Tensor, logits: Tensor, own: Tensor, order: Tensor) -> Tensor:
        """The shortest of the steps from x [M, K, C, H, W] to the linearised boundaries with the classes of order."""
        import torch

        own_logit = logits.gather(-1, own[..., None])[..., 0]
        shortest = torch.full_like(own_logit, torch.inf)
        step = torch.zeros_like(x)
        for j in range(order.shape[-1]):
            other = order[..., j]
            apart = torch.zeros_like(logits).scatter(-1, own[..., None], -1.0).scatter(-1, other[..., None], 1.0)
            normal, _ = networks.gradient(x, apart)  # of the difference of the two logits
            normal = torch.nan_to_num(normal, nan=0.0)
            gap = (logits.gather(-1, other[..., None])[..., 0] - own_logit).abs()
            size = (normal.abs().sum((2, 3, 4)) if self.norm == "linf" else normal.flatten(2).norm(dim=2)) + 1e-8
            distance = gap / size
            direction = normal.sign() if self.norm == "linf" else normal / size[..., None, None, None]
            nearer = distance < shortest
            step = torch.where(
                nearer[..., None, None, None], (distance + TINY)[..., None, None, None] * direction, step
            )
            shortest = torch.where(nearer, distance, shortest)
        return step


class _State:
    """The state of the iterations: total change [M, B, C, H, W] of the clean images, logits [M, B, Y] behind it, and
    the steps [M, B] that each image took."""

    def __init__(self, images: Tensor, change: Tensor, logits: Tensor) -> None:
        import torch

        self.images, self.change, self.logits = images, change, logits.clone()
        self.steps = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)

    def tensors(self, active: Tensor, done: int) -> dict[str, Tensor]:
        """All that the iterations go on from: images that are still to move [M, B], and iterations done, besides."""
        import torch

        own = {"change": self.change, "logits": self.logits, "steps": self.steps}
        return own | {"active": active, "done": torch.tensor(done)}
