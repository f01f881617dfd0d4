"""AutoAttack: four attacks, each on what the ones before it left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from atras.checks import one_of

from .apgd import APGD, APGDT
from .attack import Passes, Progress
from .fab import FABT
from .pair_attack import PairAttack
from .per_pair import Found
from .square import Square

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs

FAR = 10**9
"""Between the numbers of one part's draws and the next one's."""

EOT = 20
"""Gradients that are averaged for a step in version `rand`."""


@dataclass(frozen=True, repr=False)
class AutoAttack(PairAttack):
    """APGD-CE, targeted APGD, targeted FAB and Square, each on the images that the ones before it left.

    Args:
        norm: `linf` or `l2`.
        version: `standard`, or `rand` for networks that draw at random: APGD with cross-entropy and with DLR, gradients
            averaged over 20 passes.

    Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", section 6.
    """

    version: str = "standard"

    name = "autoattack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    kept_copies = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("version", self.version, ("standard", "rand"))

    @property
    def parts(self) -> tuple[PairAttack, ...]:
        """The attacks, in their order."""
        own: dict[str, Any] = {name: getattr(self, name) for name in ("epsilon", "norm", "label_source", "bounds")}
        if self.version == "rand":
            return APGD(**own, eot=EOT), APGD(**own, loss="dlr", eot=EOT)
        return APGD(**own), APGDT(**own), FABT(**own), Square(**own)

    def cautions(self, classes: int) -> tuple[str, ...]:
        return tuple(f"{self.name}: {text}" for part in self.parts for text in part.cautions(classes))

    def cost(self, classes: int) -> Passes:
        total = Passes(1)
        for part in self.parts:
            total = total.plus(part.cost_of_making(classes))
        return total

    def runs(self, classes: int) -> int:  # noqa: ARG002 (alike for any number of classes)
        return len(self.parts)

    def run(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor, run: int, progress: Progress) -> Found:
        found = self.parts[run].attack_pairs(pairs.drawing_from(run * FAR), clean, clean_logits, progress)
        # Their values are of different objectives: an image that no part turns stays as the first one left it.
        return replace(found, values=found.values.new_zeros(len(pairs)))
