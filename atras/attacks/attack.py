"""Attacks on a whole population at once. An attack is its parameters; the call makes the adversarial examples."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from atras.checks import number, one_of, plain
from atras.errors import InputError, shown
from atras.registry import UNSPELLED, accept_forms, changed, spell

from .surrogate import Surrogate, parse_surrogate

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier

Bounds = tuple[float, float]


class Draw(Protocol):
    """Random numbers of an attack on some images, uniform in [-1, 1)."""

    def __call__(self, number: int, shape: Sequence[int] | None = None) -> Tensor:
        """Draw `number` of every image: [B, *shape] where members share it, else [M, B, *shape].

        Args:
            number: of the draw, such as a restart, from 0.
            shape: of an image's own; None for its (C, H, W).
        """


FARTHEST = {"linf": 1.0, "l2": 1e3, "l1": 1e6}
"""Highest epsilon of each norm: what no image of a usual size can need."""

BRIEF_EPSILON = 1e-6

ROUNDING = 1e-4
"""Share by which a norm in float32 may be off: of 150,000 pixels, summed in any order, it is by less."""

OWN_COLUMNS = ("epsilon", "label_source", "target")
"""Options that have columns of their own in the frames."""


class AttackSpec(NamedTuple):
    """The name of an attack in the frames; parts that the attack does not have are None.

    Args:
        attack: its spelling without what follows.
        epsilon: largest change; None for an attack without a bound.
        label_source: `true` or `predicted`; None for a targeted attack.
        target: `none`, or what a targeted attack moves towards.
        source: candidate whose network the images were made on, where that is not the evaluated one.
        norm: in which the change is bounded, or measured: `linf`, `l2` or `l1`; None without an attack.
    """

    attack: str
    epsilon: float | None
    label_source: str | None
    target: str | None
    source: str | None = None
    norm: str | None = None


class Passes(NamedTuple):
    """Number of passes of an image through a network.

    Args:
        forward: forward passes.
        gradient: gradients of the image; each takes the work of two forward passes.
    """

    forward: float = 0
    gradient: float = 0

    def plus(self, other: Passes, times: float = 1) -> Passes:
        """These and the others so many times."""
        return Passes(self.forward + times * other.forward, self.gradient + times * other.gradient)


class Progress(Protocol):
    """Keeps an attack under way: one that takes long may go on in another process.

    Args:
        state: tensors by name, as they were given to `step` in the process before; empty at the beginning.
    """

    @property
    def state(self) -> Mapping[str, Tensor]: ...

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Told between two steps how to get the state; may raise, to stop the attack there."""


@dataclass(frozen=True)
class Start:
    """Starting values of an attack on some images.

    Args:
        clean_logits: [M, B, Y] of the images, where they are known already.
        draw: random starts; None for those of the first test images.
        targets: int64 [B] or [M, B]; only for target `random`.
        classes: int64 [K], ascending, the classes that occur, which alone are aimed at; None for all.
        progress: where the attack stands; None for an attack from its beginning, which nobody stops.
        fooled: bool [M, B], images that need no attack: those that `drops_fooled` leave them as they are. None for
            none.
        in_range: whether the images are known to be in [0, 1]: to look at them, a GPU has to be waited for.
        epsilons: float64 [M], each member's own in place of the attack's, of attacks that take them
            (`Attack.takes_epsilons`). None for that of the attack.
    """

    clean_logits: Tensor | None = None
    draw: Draw | None = None
    targets: Tensor | None = None
    classes: Tensor | None = None
    progress: Progress | None = None
    fooled: Tensor | None = None
    in_range: bool = False
    epsilons: Tensor | None = None

    def of_classes(self, logits: Tensor) -> Tensor:
        """[..., K], of logits [..., Y] those of the classes that occur."""
        return logits if self.classes is None else logits[..., self.classes]

    def class_at(self, places: Tensor) -> Tensor:
        """The classes at these places among those that occur."""
        return places if self.classes is None else self.classes[places]


class Spent(NamedTuple):
    """What an attack asked of the networks about each image, but for the clean logits, which all attacks share.

    Args:
        queries: int64 [M, B], forward passes without a gradient.
        gradients: int64 [M, B], gradients of the image, each of which brings the logits too.
    """

    queries: Tensor
    gradients: Tensor


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Adversarial examples of M members for one set of images.

    Args:
        images: [B, C, H, W] or [M, B, C, H, W], float, the clean images.
        clipped: [M, B, C, H, W], the adversarial images, within the bounds.
        labels: int64 [M, B], the labels of the attack's loss.
        clean_logits: [M, B, Y], on the clean images; None where the attack neither needed nor was given them.
        logits: [M, B, Y], on the adversarial images; None where the attack did not need them.
        nan_gradients, zero_gradients: int64 [M], pixels left as they were for that reason.
        gradients: how many gradients of every image those counts are of; 0 where none is counted.
        no_gradient: bool [M, B], images whose gradients are zero in every pixel and at every step, so that the attack
            had no way to go; in attacks by lists of pairs where one of their runs began. None where that is not looked
            at.
        unfinished: bool [M, B], images that are not turned though the objective rose so fast to the end of a run that
            ten times the last tenth would do; None where that is not looked at.
        blind_parts: the parts that follow no gradient, of an attack that has others too.
        spent: passes of each image; None where the attack spends `cost_of_making` on every one.
        part: int8 [M, B], the number of the attack's part that fooled each image, -1 for none; None without parts.
    """

    images: Tensor
    clipped: Tensor
    labels: Tensor
    clean_logits: Tensor | None
    logits: Tensor | None = None
    nan_gradients: Tensor
    zero_gradients: Tensor
    gradients: int = 1
    no_gradient: Tensor | None = None
    unfinished: Tensor | None = None
    blind_parts: tuple[int, ...] = ()
    spent: Spent | None = None
    part: Tensor | None = None

    def logits_of(self, networks: Classifier) -> Tensor:
        """[M, B, Y], on the adversarial images: those that the attack saw, or computed now."""
        return networks.logits(self.clipped) if self.logits is None else self.logits

    def distances(self, norm: str) -> Tensor:
        """[M, B], the norm of the change of each image: `linf`, `l2` or `l1`."""
        from .norms import norm_of

        return norm_of((self.clipped - self.images).flatten(0, 1), norm).view(self.clipped.shape[:2])

    def success(self, networks: Classifier, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the adversarial image is taken for another class than `labels` [B] or [M, B] say."""
        return self.logits_of(networks).argmax(-1) != labels


def nowhere(gradients: Tensor) -> Tensor:
    """bool [M, B]: whose gradient [M, B, C, H, W] is zero in every pixel."""
    from atras.torch_state import waits

    if waits(gradients):  # to choose the images to look at closer
        return ~gradients.flatten(2).any(2)
    nothing = ~gradients[..., gradients.shape[-2] // 2, :].flatten(2).any(2)  # the middle row tells of nearly all
    nothing[nothing.clone()] = ~gradients[nothing].flatten(1).any(1)
    return nothing


def spread(numbers: float | Tensor, images: Tensor) -> float | Tensor:
    """Numbers [M] as [M, 1, 1, 1, 1], of the images' type and on their device; one number as it is."""
    return numbers if isinstance(numbers, int | float) else numbers.to(images)[:, None, None, None, None]


def _within(images: Tensor, low: float, high: float) -> bool:
    """Whether all pixels are from one number to another; NaN is not."""
    if not images.numel():
        return True
    lowest, highest = images.aminmax()
    return bool((lowest >= low) & (highest <= high))


def check_target(target: object) -> None:
    """Refuse what names no target.

    Raises:
        InputError: if it is neither `none`, `random`, `least-likely` nor `class:N`.
    """
    if not isinstance(target, str) or not re.fullmatch(r"none|random|least-likely|class:\d{1,6}", target):
        raise InputError(f"target (={shown(target)}): expected none, random, least-likely or class:N, such as class:3")


@dataclass(frozen=True)
class Attack(ABC):
    """Base class of attacks.

    A subclass is a frozen dataclass: its fields are its options, spelled alike in Python, on the command line and in
    the frames, and the first line of its docstring is its line in `--help`.

    Args:
        epsilon: largest change of a pixel, in pixels of [0, 1]; 0 is the identity. None for the run's.
        label_source: label of the untargeted attack: `true`, or the attacked model's own `predicted` one.
        target: `none`; `class:N`, `random` (given to the call) or `least-likely` for the targeted attack.
        bounds: pixels are clipped to this range.
        surrogate: networks of a run that it is made on, in place of the one that it is tried on: `independent` (the
            same candidate with another seed), `undefended` (the same network before its defence),
            `undefended:independent`, `24-192` (a candidate of the run, with the same seed), `24-192/1` (with seed 1);
            several make an ensemble: `24+40-80` by their mean logits, or `losses(24+40-80)`,
            `probabilities(24+40-80)`. None for the one itself.

    Raises:
        InputError: if a value is out of its range.
    """

    epsilon: float | None = None
    label_source: str = "true"
    target: str = "none"
    bounds: Bounds = field(default=(0.0, 1.0), metadata=UNSPELLED)
    surrogate: str | None = field(default=None, kw_only=True)

    name: ClassVar[str]
    bounded: ClassVar[bool] = True
    """Whether the change stays within epsilon."""
    own_epsilons: ClassVar[bool] = False
    """Whether the call takes `Start.epsilons`, in linf; of this class alone, not of those that derive from it."""
    uses_gradients: ClassVar[bool] = True
    """Whether it follows gradients of the networks."""
    drops_fooled: ClassVar[bool] = False
    """Whether an image that is fooled costs no more; `cost` is that of one that never is."""
    searches: ClassVar[bool] = True
    """Whether it looks for any image in the ball; False for one of a definite step, which is what it measures."""
    kept_copies: ClassVar[int] = 12
    """Copies of the attacked images that it keeps at once, at the most: what a plan counts its memory by."""

    def __post_init__(self) -> None:
        accept_forms(self)
        object.__setattr__(self, "bounds", plain(self.bounds))
        if self.epsilon is not None:
            number("epsilon", self.epsilon, 0.0, self.farthest)
            object.__setattr__(self, "epsilon", float(self.epsilon) + 0.0)  # of which -0.0 is 0.0
        one_of("label_source", self.label_source, ("predicted", "true"))
        check_target(self.target)
        if self.surrogate is not None:
            object.__setattr__(self, "surrogate", str(parse_surrogate(self.surrogate)))

    def __str__(self) -> str:
        return spell(self)

    def __repr__(self) -> str:
        options = changed(self) | ({} if self.bounds == (0.0, 1.0) else {"bounds": self.bounds})
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    @property
    def norm(self) -> str:
        """The norm that the change is measured in: `linf`, `l2` or `l1`."""
        return "linf"

    @property
    def farthest(self) -> float:
        """The highest epsilon."""
        return FARTHEST[self.norm]

    @property
    def strength(self) -> float:
        """The epsilon, once it is a definite one.

        Raises:
            InputError: if it is still to be the run's.
        """
        if self.epsilon is None:
            raise InputError(f"{self}: expected an epsilon, got none; write for example {self.name}(epsilon=0.05)")
        return self.epsilon

    def at(self, epsilon: float) -> Self:
        """The attack with this epsilon, one in `linf`, where it has none of its own.

        Raises:
            InputError: if it has none and measures in another norm.
        """
        if self.epsilon is not None or not self.bounded:
            return self
        if self.norm != "linf":
            raise InputError(f"{self}: expected an epsilon, as the run's is one in linf; write epsilon=1.5 for example")
        return dataclasses.replace(self, epsilon=epsilon)

    @property
    def made_on(self) -> Surrogate | None:
        """The networks that it is made on; None for the one that it is tried on."""
        return None if self.surrogate is None else parse_surrogate(self.surrogate)

    def without_surrogate(self) -> Self:
        """The attack itself, to be made on whatever networks it is given."""
        return dataclasses.replace(self, surrogate=None)

    @property
    def in_training(self) -> Self:
        """The attack as a defence trains on it."""
        return self

    @property
    def takes_epsilons(self) -> bool:
        """Whether each member may have an epsilon of its own, as `Start.epsilons` has it.

        The class itself says so, by `own_epsilons`: one that derives from it makes images in its own way.
        """
        return bool(vars(type(self)).get("own_epsilons", False)) and self.norm == "linf"

    def strengths(self, start: Start) -> float | Tensor:
        """The epsilon, or float64 [M] where members have their own."""
        return self.strength if start.epsilons is None else start.epsilons

    @property
    def carries(self) -> bool:
        """Whether an image that fools at a smaller epsilon is one of this attack: balls of one centre are nested."""
        return self.bounded and self.searches and self.target == "none" and self.label_source == "true"

    @property
    def at_any_epsilon(self) -> Self:
        """What it is but for its epsilon."""
        return dataclasses.replace(self, epsilon=None)

    @property
    def direction(self) -> Literal[1, -1]:
        """1 where the attack ascends its loss, -1 where it descends it."""
        return 1 if self.target == "none" else -1

    @property
    def spec(self) -> AttackSpec:
        """The attack's name in the frames."""
        source = self.label_source if self.target == "none" else None
        epsilon = self.strength if self.bounded else None
        return AttackSpec(spell(self, leave_out=OWN_COLUMNS), epsilon, source, self.target, norm=self.norm)

    @property
    def parts(self) -> tuple[Attack, ...]:
        """The attacks that it is made of: itself, or others one after the other."""
        return (self,)

    @property
    def part_names(self) -> tuple[str, ...]:
        """How its parts are spelled, without what they share; nothing for an attack without parts."""
        if len(self.parts) == 1:
            return ()
        return tuple(spell(part, leave_out=(*OWN_COLUMNS, "norm")) for part in self.parts)

    def brief(self, steps: int) -> Self | None:
        """The attack with so many steps, one restart, target and constant, from which a plan learns what a step takes.

        Its epsilon is so small that hardly an image falls before the last step. None for an attack without steps.
        """
        names = {each.name for each in dataclasses.fields(self)}
        own = names & {"steps", "queries"}
        if not own:
            return None
        changes: dict[str, Any] = dict.fromkeys(own, steps) | dict.fromkeys(
            names & {"restarts", "targets", "binary_search_steps"}, 1
        )
        return dataclasses.replace(self, **changes | ({"epsilon": BRIEF_EPSILON} if self.bounded else {}))

    def cautions(self, classes: int) -> tuple[str, ...]:  # noqa: ARG002 (most are alike for any number of classes)
        """What makes its figures say less than they seem to, with so many classes, a line each."""
        return ()

    @abstractmethod
    def cost(self, classes: int) -> Passes:
        """Passes of the attack, and of evaluating its examples, for an image whose clean logits are known."""

    def cost_of_making(self, classes: int) -> Passes:
        """Passes of the attack alone, whose examples nobody evaluates."""
        made = self.cost(classes)
        return Passes(max(made.forward - 1, 0), made.gradient)

    def passes_of(self, attacked: Attacked, classes: int) -> Spent:
        """What it asked of networks of so many classes about each image of what it made."""
        if attacked.spent is not None:
            return attacked.spent
        made = self.cost_of_making(classes)
        return Spent(*(attacked.labels.new_full(attacked.clipped.shape[:2], int(passes)) for passes in made))

    @abstractmethod
    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        """Attack every member.

        Args:
            networks: the members.
            images: [B, C, H, W], shared, or [M, B, C, H, W], float, within the bounds.
            labels: int64 [B] or [M, B], the true classes.
            start: what is known of the images, random starts and random targets.

        Raises:
            InputError: if the images are out of bounds, or `random` comes without targets.
        """

    def check_inside(self, farthest: float) -> None:
        """Refuse what the attack has made, if it left its ball: figures of it would be of another epsilon.

        Args:
            farthest: norm of the largest change of an image, in the attack's norm.

        Raises:
            InputError: if it is larger than epsilon.
        """
        if self.bounded and farthest > self.strength * (1 + ROUNDING) + BRIEF_EPSILON:
            raise InputError(
                f"{self}: expected images within {self.strength:g} of the clean ones in {self.norm}, got "
                f"{farthest:.4g}; an attack moves no image further than its epsilon, or says bounded = False"
            )

    def check(self, images: Tensor, start: Start) -> None:
        """Refuse images out of bounds, a random target without targets, epsilons that are not taken, and a surrogate,
        which only a run finds."""
        if self.surrogate is not None:
            raise InputError(
                f"{self}: expected no surrogate, which is a network of a run; make the attack on it: "
                f"{type(self).__name__}()(surrogate, images, labels)"
            )
        if start.epsilons is not None and not self.takes_epsilons:
            raise InputError(
                f"{self}: expected one epsilon for all networks; attack those of each epsilon by themselves"
            )
        low, high = self.bounds
        known = start.in_range and low <= 0 and high >= 1
        if not known and not _within(images, low, high):
            raise InputError(
                f"{type(self).__name__}: expected pixels from {low:g} to {high:g}; normalise inside the model, not "
                "before it"
            )
        if self.target == "random" and start.targets is None:
            raise InputError(
                f"{type(self).__name__}: expected targets for target 'random', got none; pass networks.random_targets"
            )

    @property
    def needs_logits(self) -> bool:
        """Whether the labels of the loss depend on the model."""
        return self.target == "least-likely" or (self.target == "none" and self.label_source == "predicted")

    def loss_labels(self, logits: Tensor | None, labels: Tensor, start: Start) -> Tensor:
        """int64 [B] or [M, B], the labels of the attack's loss, from clean logits [M, B, Y] where it needs them."""
        chosen = labels
        if self.target.startswith("class:"):
            chosen = labels.new_full(labels.shape, int(self.target.removeprefix("class:")))
        elif self.target == "random" and start.targets is not None:
            chosen = start.targets
        elif self.target == "least-likely" and logits is not None:
            chosen = start.class_at(start.of_classes(logits).argmin(-1))
        elif self.needs_logits and logits is not None:
            chosen = logits.argmax(-1)
        return chosen if logits is None else chosen.expand(logits.shape[:2])
