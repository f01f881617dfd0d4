"""Iterated attacks along the loss gradient, with random starts: PGD and random-start FGSM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from atras.checks import number, one_of, truth, whole
from atras.registry import UNSPELLED

from .apgd import LOSSES, STANDS_IN
from .attack import Attack, Attacked, Draw, Passes, Progress, Start, nowhere
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier, Cotangent

    from .balls import L2Ball, LinfBall


class _Kept(NamedTuple):
    """Adversarial images [M, B, C, H, W], and their logits [M, B, Y] where they are known."""

    images: Tensor
    logits: Tensor | None


class _Within(NamedTuple):
    """Where the steps stay, and how long each is, in its norm."""

    ball: LinfBall | L2Ball
    length: float | Tensor


@dataclass
class _Way:
    """Where the attack stands.

    Args:
        counts: int64 [2, M], NaN and zero gradients so far.
        no_gradient: bool [M, B], images that had no gradient so far.
        restart, step: finished ones; steps are of the restart under way.
        x: [M, B, C, H, W], [B, C, H, W] at the start; None between two restarts.
        best: of all points so far.
    """

    counts: Tensor
    no_gradient: Tensor
    restart: int = 0
    step: int = 0
    x: Tensor | None = None
    best: _Kept | None = None

    @classmethod
    def begun(cls, members: int, images: Tensor) -> _Way:
        """The state at the beginning of an attack on images [..., B, C, H, W]."""
        import torch

        counts = torch.zeros(2, members, dtype=torch.int64, device=images.device)
        return cls(counts, torch.ones(members, images.shape[-4], dtype=torch.bool, device=images.device))

    def tensors(self) -> dict[str, Tensor]:
        """The state between two steps, for `load`."""
        import torch

        numbers = torch.tensor([self.restart, self.step])
        known = {"counts": self.counts, "no_gradient": self.no_gradient, "numbers": numbers, "x": self.x}
        if self.best is not None:
            known |= {"images": self.best.images, "logits": self.best.logits}
        return {name: values for name, values in known.items() if values is not None}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self.restart, self.step = tensors["numbers"].tolist()
        self.counts, self.no_gradient, self.x = (tensors[name].clone() for name in ("counts", "no_gradient", "x"))
        if "images" in tensors:
            self.best = _Kept(tensors["images"], tensors.get("logits"))


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """Projected gradient descent: steps along the gradient, with random starts, inside the ball of epsilon.

    An image keeps the best point on its way, over all steps and restarts, the starts included: one where the attack
    reached its aim (another class than its label, or the target), and of those or of all the one whose loss came
    furthest.

    Args:
        epsilon: largest change in the norm; in `l2` it must be given, as the run's is in `linf`.
        steps: at least 1.
        step_size: length of a step in the norm; None for 2.5 epsilon / steps.
        restarts: at least 1.
        random_start: whether each restart begins at a random point, in `linf` uniform in the ball, in `l2` at the
            distance epsilon; without, at the image itself.
        norm: `linf`, where steps are along the gradient's sign, or `l2`, where they are along the gradient.
        loss: `ce` (cross-entropy), `margin` (the highest other logit less the label's) or `dlr` (difference of logits
            ratio), each of the label, or of the target.
        keep: the `best` point on the way, or the `last` one, of the best restart; `auto` for the best, and in a defence
            for the last, as its sources have it, where it also costs less.

    The others are those of `Attack`.

    Source: Madry et al. 2018, section 2.1, and section 5 for `l2` and the size of steps; Croce and Hein 2020, algorithm
    1, for keeping the best, and section 4 for `dlr`; Carlini and Wagner 2017, section V.A (f6), for the margin.
    """

    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    norm: str = "linf"
    loss: str = "ce"
    keep: str = "auto"

    name = "pgd"
    own_epsilons = True

    def __post_init__(self) -> None:
        one_of("norm", self.norm, ("linf", "l2"))
        super().__post_init__()
        one_of("loss", self.loss, LOSSES)
        one_of("keep", self.keep, ("auto", "best", "last"))
        whole("steps", self.steps, 1, 10**6)
        whole("restarts", self.restarts, 1, 10**6)
        truth("random_start", self.random_start)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, self.farthest)
            object.__setattr__(self, "step_size", float(self.step_size))

    @property
    def keeps_best(self) -> bool:
        """Whether an image keeps the best point on its way; without, the last one of the best restart."""
        return self.keep != "last"

    @property
    def in_training(self) -> Self:
        return replace(self, keep="last") if self.keep == "auto" else self

    def cautions(self, classes: int) -> tuple[str, ...]:
        if self.loss != "dlr" or classes > 2:
            return ()
        return (f"{self.name}: with 2 classes there is no difference of logits ratio; {STANDS_IN}",)

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(self.restarts, self.steps * self.restarts)

    def cost_of_making(self, classes: int) -> Passes:
        compared = self.keeps_best or self.restarts > 1  # then it knows the logits of its examples
        return self.cost(classes) if compared else super().cost_of_making(classes)

    def length(self, epsilon: float | Tensor) -> float | Tensor:
        """Of a step in the ball of epsilon, in the norm; float64 [M] where members have their own."""
        return 2.5 * epsilon / self.steps if self.step_size is None else self.step_size

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        from .balls import BALLS

        self.check(images, start)
        clean_logits = start.clean_logits
        if clean_logits is None and self.needs_logits:
            clean_logits = networks.logits(images)
        chosen = self.loss_labels(clean_logits, labels, start).expand(len(networks.members), -1)
        draw: Draw = starts(networks, images, self.name) if start.draw is None else start.draw
        way = _Way.begun(len(networks.members), images)
        progress = start.progress
        if progress is not None and progress.state:
            way.load(progress.state)
        epsilon = self.strengths(start)
        within = _Within(BALLS[self.norm](images, epsilon, self.bounds), self.length(epsilon))
        while way.restart < self.restarts:
            self._ascend(networks, within, chosen, way, draw, progress)
        best = cast(_Kept, way.best)  # there is at least one restart
        return Attacked(
            images=images,
            clipped=best.images,
            labels=chosen,
            clean_logits=clean_logits,
            logits=best.logits,
            nan_gradients=way.counts[0],
            zero_gradients=way.counts[1],
            gradients=self.steps * self.restarts,
            no_gradient=way.no_gradient,
        )

    def _ascend(
        self,
        networks: Classifier,
        within: _Within,
        labels: Tensor,
        way: _Way,
        draw: Draw,
        progress: Progress | None,
    ) -> None:
        """All steps that are left from the start that is under way, of which the best point is kept."""
        ball, length = within
        if way.x is None:
            way.x = self._first_point(ball, draw(way.restart)) if self.random_start else ball.images
        while way.step < self.steps:
            gradients, logits = networks.gradient(way.x, self._objective(labels))
            if self.keeps_best:
                self._keep(networks, way, _Kept(way.x.expand(gradients.shape), logits), labels)
            way.x, left_alone = ball.step(way.x, gradients, length, self.direction)
            way.counts += left_alone
            way.no_gradient &= nowhere(gradients)
            way.step += 1
            if progress is not None:
                progress.step(way.tensors)
        self._keep(networks, way, _Kept(way.x, None), labels)
        way.restart, way.step, way.x = way.restart + 1, 0, None

    def _first_point(self, ball: LinfBall | L2Ball, draw: Tensor) -> Tensor:
        """Where a restart begins, by a draw that is uniform in [-1, 1)."""
        return ball.begin(draw)

    def _keep(self, networks: Classifier, way: _Way, new: _Kept, labels: Tensor) -> None:
        """Keep of each image the better one of the best so far and a new one."""
        way.best = new if way.best is None else self._better_of(networks, way.best, new, labels)

    def _better_of(self, networks: Classifier, old: _Kept, new: _Kept, labels: Tensor) -> _Kept:
        """Of each image the better one of two; the old one where they are alike."""
        import torch

        before = networks.logits(old.images) if old.logits is None else old.logits
        after = networks.logits(new.images) if new.logits is None else new.logits
        better = self._better(after, before, labels)
        images = torch.where(better[..., None, None, None], new.images, old.images)
        return _Kept(images, torch.where(better[..., None], after, before))

    def _better(self, new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the new adversarial image, by its logits, is a better one than the old."""
        reached, before = self._reached(new, labels), self._reached(old, labels)
        further = self.direction * (self._values(new, labels) - self._values(old, labels)) > 0
        return further.where(reached == before, reached)

    def _values(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[M, B], the loss of logits [M, B, Y] at labels [M, B], or what orders images as it does."""
        from atras.networks import Objective, log_odds  # the cross-entropy is 0 for all where float32 is sure

        if self.loss == "ce":
            return log_odds(logits, labels)
        return Objective(self.loss, labels).values(logits)

    def _objective(self, labels: Tensor) -> Cotangent:
        """The loss at labels [M, B] as an engine takes it."""
        from atras.networks import Objective

        return labels if self.loss == "ce" else Objective(self.loss, labels)

    def _reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        predictions = logits.argmax(-1)
        return predictions != labels if self.target == "none" else predictions == labels


@dataclass(frozen=True, repr=False)
class RandomFGSM(PGD):
    """FGSM from a random start: one step of 1.25 epsilon from a uniform point of the ball, back into the ball.

    The gradient is taken at that point, which may lie outside the pixels' range: training on steps from starts that are
    clipped overfits catastrophically where many pixels are black (docs/validation.md).

    Args:
        step_size: change of a pixel in the step; None for 1.25 epsilon.
        clip_start: whether the point is clipped to the pixels' range before the gradient is taken.
        norm, loss, keep: of no use to it: as by default, and without a spelling.

    The others are those of `PGD`.

    Source: Wong, Rice, Kolter 2020, "Fast is better than free", algorithm 3, and their code for MNIST; theirs for
    CIFAR-10 clips the start.
    """

    steps: int = 1
    norm: str = field(default="linf", metadata=UNSPELLED)
    loss: str = field(default="ce", metadata=UNSPELLED)
    keep: str = field(default="last", metadata=UNSPELLED)  # it is the step
    clip_start: bool = False

    name = "random-fgsm"
    own_epsilons = True
    searches = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, ("linf",))
        one_of("loss", self.loss, ("ce",))
        one_of("keep", self.keep, ("last",))
        truth("clip_start", self.clip_start)

    def _first_point(self, ball: LinfBall | L2Ball, draw: Tensor) -> Tensor:
        return ball.begin(draw) if self.clip_start else ball.unclipped(draw)

    def length(self, epsilon: float | Tensor) -> float | Tensor:
        return 1.25 * epsilon if self.step_size is None else self.step_size
