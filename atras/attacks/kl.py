"""The inner maximisation of TRADES: away from the network's own answer, whatever the label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import number, whole
from atras.errors import InputError

from .attack import Attack, Attacked, Draw, Passes, Start, nowhere
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier


@dataclass(frozen=True, repr=False)
class KL(Attack):
    """Steps along the sign of the gradient of KL(p(clean image) || p(image)), from a little beside the image.

    Labels make no difference to it. Training needs it (TRADES); other attacks measure robustness better.

    Args:
        steps: at least 1.
        step_size: change of a pixel in a step; None for 2.5 epsilon / steps.
        noise: standard deviation of the normally distributed change that it begins with: on the image itself the
            divergence has no gradient.

    The others are those of `Attack`; there is no target.

    Raises:
        InputError: if a value is out of its range.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", algorithm 1.
    """

    steps: int = 10
    step_size: float | None = None
    noise: float = 0.001

    name = "kl"
    own_epsilons = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1, 10**6)
        number("noise", self.noise, 1e-6, 1.0)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, self.farthest)
        if self.target != "none":
            raise InputError(f"target (={self.target}): {self.name} has none; leave it out, or take pgd")

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(1, self.steps)

    def cost_of_making(self, classes: int) -> Passes:
        return self.cost(classes)  # the clean logits, in place of those of the examples

    def length(self, epsilon: float | Tensor) -> float | Tensor:
        """Of a step in the ball of epsilon; float64 [M] where members have their own."""
        return 2.5 * epsilon / self.steps if self.step_size is None else self.step_size

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        from .balls import LinfBall
        from .norms import normal_of

        self.check(images, start)
        members = len(networks.members)
        clean_logits = networks.logits(images) if start.clean_logits is None else start.clean_logits
        draw: Draw = starts(networks, images, self.name) if start.draw is None else start.draw
        epsilon, away = self.strengths(start), divergence_from(clean_logits)
        ball, length = LinfBall(images, epsilon, self.bounds), self.length(epsilon)
        progress = start.progress
        if progress is not None and progress.state:
            x, counts, no_gradient, done = _loaded(progress.state)
        else:
            x, done = images + self.noise * normal_of(draw(0)).to(images), 0
            counts = torch.zeros(2, members, dtype=torch.int64, device=images.device)
            no_gradient = torch.ones(members, images.shape[-4], dtype=torch.bool, device=images.device)
        for step in range(done + 1, self.steps + 1):
            gradients, _ = networks.gradient(x, away)
            x, left_alone = ball.step(x, gradients, length, 1)
            counts, no_gradient = counts + left_alone, no_gradient & nowhere(gradients)
            if progress is not None:
                now = {"x": x, "counts": counts, "no_gradient": no_gradient, "steps": torch.tensor(step)}
                progress.step(lambda now=now: now)  # type: ignore[misc]
        return Attacked(
            images=images,
            clipped=x,
            labels=self.loss_labels(clean_logits, labels, start).expand(members, -1),
            clean_logits=clean_logits,
            nan_gradients=counts[0],
            zero_gradients=counts[1],
            gradients=self.steps,
            no_gradient=no_gradient,
        )


def _loaded(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
    return state["x"].clone(), state["counts"].clone(), state["no_gradient"].clone(), int(state["steps"])


def divergence_from(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """The cotangent of KL(softmax(clean) || softmax(logits)), for clean logits [M, B, Y].

    It is the difference of the probabilities. At the class that is likeliest on the clean image it is minus the sum of
    the other differences: probabilities that round to 1 differ by nothing.
    """
    import torch

    expected, top = clean.softmax(-1), clean.argmax(-1, keepdim=True)

    def cotangent(logits: Tensor) -> Tensor:
        change = (logits.softmax(-1) - expected).scatter(-1, top, 0.0)
        return torch.scatter(change, -1, top, -change.sum(-1, keepdim=True))

    return cotangent
