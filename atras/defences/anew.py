"""What defences share whose adversarial images are made anew in every batch."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from atras.attacks import Attack, Draw, Passes, Start
from atras.checks import one_of
from atras.errors import InputError, shown

from .defence import Batch, Defence

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable


def check_attack(defence: Any) -> None:
    """Refuse a defence whose attack is none, is targeted, takes its label from the network, or is made on another."""
    name, attack = defence.name, defence.attack
    if not isinstance(attack, Attack):
        raise InputError(f"{name}: attack (={shown(attack)}): expected an attack, such as FGSM()")
    if attack.target != "none" or attack.label_source != "true":
        raise InputError(
            f"{name}: attack (={attack}): expected an untargeted attack at the true label; leave target and "
            "label_source out"
        )
    if attack.surrogate is not None:
        raise InputError(
            f"{name}: attack (={attack}): expected one made on the network that is trained; leave surrogate out"
        )


def draws(networks: Trainable, batch: Batch, name: str, chosen: Tensor | None = None) -> Draw:
    """Random starts in a batch, by seed, epoch, batch and place in it, whatever members are beside.

    Args:
        networks: whose seeds count.
        batch: the whole batch.
        name: what they are for.
        chosen: int64 [K] or [M, K], the places that are attacked; None for all.
    """
    size, *own_shape = batch.images.shape[-4:]

    def draw(number: int, shape: Sequence[int] | None = None) -> Tensor:
        import torch

        from atras.networks import batch_starts, seeds_of

        seeds, place = seeds_of(networks.members)
        keys = (batch.epoch, batch.number, name, number, size, own_shape if shape is None else shape)
        every = torch.stack([batch_starts(seed, *keys) for seed in seeds]).to(batch.images)
        if chosen is None:
            return every[0] if len(seeds) == 1 else every[place]
        if chosen.ndim == 1:
            return every[0, chosen]
        return every[torch.tensor(place, device=every.device)[:, None], chosen]

    return draw


def own_epsilon(attack: Attack) -> dict[str, float]:
    """The epsilon of an attack of a defence, where members may each have their own, for `Defence.own`."""
    return {"epsilon": attack.strength} if attack.takes_epsilons else {}


def without_epsilon(attack: Attack) -> Attack:
    """The attack but for that, for `Defence.alike`."""
    return attack.at_any_epsilon if attack.takes_epsilons else attack


@dataclass(frozen=True, repr=False)
class Anew(Defence):
    """Base class of defences that make an adversarial image of every training image, anew in every batch.

    Args:
        start: `scratch` for the initial weights, which adversarial training begins with in its sources, or `trained`
            for those that the first training led to.

    Raises:
        InputError: if a value is out of its range, or the attack is targeted, takes its label from the network, or is
            made on another one.
    """

    start: str = field(default="scratch", kw_only=True)

    copies = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("start", self.start, ("scratch", "trained"))
        check_attack(self)

    @property
    def compared(self) -> bool:
        return True

    @property
    def made_by(self) -> Attack:
        """The attack that makes the adversarial images."""
        attack: Attack = self.attack  # type: ignore[attr-defined]  # a field of the subclass, or a property
        return attack.in_training

    def at(self, epsilon: float) -> Self:
        return dataclasses.replace(self, attack=self.made_by.at(epsilon))  # type: ignore[call-arg]  # likewise

    @property
    def own(self) -> dict[str, float]:
        return own_epsilon(self.made_by)

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, attack=without_epsilon(self.made_by))  # type: ignore[call-arg]  # likewise

    def cost(self, classes: int) -> Passes:
        return self.made_by.cost_of_making(classes)

    def made(self, networks: Trainable, batch: Batch) -> Tensor:
        """[M, B, C, H, W], the adversarial image of every image of a batch, in the order of the batch."""
        draw = draws(networks, batch, self.made_by.name)
        start = Start(draw=draw, classes=batch.classes, in_range=batch.in_range, epsilons=batch.own.get("epsilon"))
        return self.made_by(networks, batch.images, batch.labels, start=start).clipped


@dataclass(frozen=True, repr=False)
class Paired(Anew):
    """Base class of defences whose objective looks at the logits of an image and of its adversarial image at once.

    Both go through the network in one step, first all images of the batch and behind them the adversarial ones.
    """

    views = 2
    own_objective = True
    weighed_by: ClassVar[str]
    """The field, a number, by which a part of the objective is weighed: each member may have its own."""

    @property
    def own(self) -> dict[str, float]:
        return super().own | {self.weighed_by: getattr(self, self.weighed_by)}

    @property
    def alike(self) -> Self:
        return dataclasses.replace(super().alike, **{self.weighed_by: 0.0})  # type: ignore[arg-type]  # the field's name

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        import torch

        made = self.made(networks, batch)
        both = torch.cat([batch.images.expand(made.shape), made], 1)
        labels, weights = batch.labels.expand(made.shape[:2]), batch.own.get(self.weighed_by)
        if weights is None:
            weights = torch.full((len(made),), getattr(self, self.weighed_by), dtype=torch.float64, device=made.device)
        objective = gradient_of(self._halves(labels, weights.to(made)))
        return networks.step(both, torch.cat([labels, labels], 1), objective)

    @abstractmethod
    def losses(self, clean: Tensor, adversarial: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[M], the objective of a batch, from logits [M, B, Y] of its images and of the adversarial ones, labels
        [M, B], and weights [M], the members' numbers of the field `weighed_by`."""

    def _halves(self, labels: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
        def losses(logits: Tensor) -> Tensor:
            clean, adversarial = logits.chunk(2, dim=1)
            return self.losses(clean, adversarial, labels, weights)

        return losses


def gradient_of(losses: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A cotangent: d(objective) / d(logits), from a function of logits [M, B, Y] to each member's objective [M]."""
    import torch

    def cotangent(logits: Tensor) -> Tensor:
        with torch.enable_grad():
            own = logits.detach().requires_grad_()
            return torch.autograd.grad(losses(own).sum(), own)[0]

    return cotangent


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[M], the mean cross-entropy of logits [M, B, Y] at labels [M, B]."""
    return -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0].mean(-1)
