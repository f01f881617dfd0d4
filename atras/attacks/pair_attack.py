"""The base class of attacks that work through a list of (member, image) pairs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from atras.checks import one_of
from atras.registry import UNSPELLED

from .attack import Attack, Attacked, Progress, Spent, Start
from .per_pair import Found
from .random_starts import starts
from .stages import Stage, Unwatched, stages

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier

    from .pairs import Pairs


@dataclass(frozen=True, repr=False)
class PairAttack(Attack):
    """An untargeted attack on the images that a member classifies correctly, each pair by itself.

    Misclassified images, and those whose logits are not finite, stay as they are. A pair that is fooled leaves the
    list; what becomes of a pair does not depend on the others.

    Args:
        epsilon: largest change in the norm; for another norm than `linf` it must be given, as the run's is in `linf`.
        target: of no use to it: dropped, and refused; it has no spelling.
        norm: `linf`, `l2` or, where the attack has it, `l1`.
    """

    target: str = field(default="none", metadata=UNSPELLED)
    norm: str = "linf"

    drops_fooled = True
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    """The norms that the attack has."""

    def __post_init__(self) -> None:
        one_of("norm", self.norm, self.norms)
        super().__post_init__()
        one_of("target", self.target, ("none",))

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        from .pairs import Pairs

        self.check(images, start)
        progress = Unwatched() if start.progress is None else start.progress
        known = progress.state.get("clean_logits", start.clean_logits)
        clean_logits = networks.logits(images) if known is None else known
        chosen = self.loss_labels(clean_logits, labels, start)
        own = images.expand(*chosen.shape, *images.shape[-3:])
        right = (clean_logits.argmax(-1) == chosen) & clean_logits.isfinite().all(-1)
        right = right if start.fooled is None else right & ~start.fooled
        draw = starts(networks, images, self.name) if start.draw is None else start.draw
        pairs = Pairs.where(networks, right, chosen, replace(start, draw=draw))
        if "spent" in progress.state:
            pairs.spent.copy_(progress.state["spent"])
            pairs.signs.copy_(progress.state["signs"])
        clipped, part = own.clone(), torch.full(chosen.shape, -1, dtype=torch.int32, device=images.device)
        if len(pairs) and (not self.bounded or self.strength > 0):
            counted = {"spent": pairs.spent, "signs": pairs.signs}
            inner = Stage(
                progress, 0, lambda: {"clean_logits": clean_logits, **{k: v.clone() for k, v in counted.items()}}
            )
            found = self.attack_pairs(pairs, own[right], clean_logits[right], inner)
            clipped[right], part[right] = found.images, found.by
            pairs.signs[1][right] &= ~found.fooled
        none = torch.zeros(len(chosen), dtype=torch.int64, device=images.device)
        return Attacked(
            images=images,
            clipped=clipped,
            labels=chosen,
            clean_logits=clean_logits,
            nan_gradients=none,
            zero_gradients=none,
            gradients=0,
            no_gradient=pairs.signs[0] if self.uses_gradients else None,
            unfinished=pairs.signs[1] if self.uses_gradients else None,
            blind_parts=self._blind_parts,
            spent=Spent(*pairs.spent),
            part=part.to(torch.int8) if len(self.parts) > 1 else None,
        )

    @property
    def _blind_parts(self) -> tuple[int, ...]:
        blind = tuple(place for place, each in enumerate(self.parts) if not each.uses_gradients)
        return blind if len(blind) < len(self.parts) else ()

    def attack_pairs(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor, progress: Progress) -> Found:
        """Attack pairs that are classified correctly, in one run after the other, each on what is left.

        Args:
            pairs: P of them, at least one.
            clean: [P, C, H, W], their images.
            clean_logits: [P, Y], theirs.
            progress: of all runs.

        Returns:
            Images that fool, or else those of the run that came furthest.
        """
        found = Found.loaded(progress.state) if "images" in progress.state else Found.nothing(clean)
        count = self.runs(pairs.start.of_classes(clean_logits).shape[-1])
        for run, inner in stages(progress, count, found.tensors):
            left = (~found.fooled).nonzero()[:, 0]
            if not len(left):
                break
            found.improve(left, self.run(pairs.only(left), clean[left], clean_logits[left], run, inner), run)
        return found

    @abstractmethod
    def runs(self, classes: int) -> int:
        """How many runs there are at the most, with so many classes to choose from."""

    @abstractmethod
    def run(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor, run: int, progress: Progress) -> Found:
        """One run; as `attack_pairs` but for its number."""
