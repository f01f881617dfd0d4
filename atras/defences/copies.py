"""The paper's defence: a fixed set of adversarial copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import FGSM, Attack, Passes
from atras.errors import InputError, shown
from atras.networks import Candidate

from .defence import Batch, Defence

if TYPE_CHECKING:
    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class Copies(Defence):
    """The paper's: training goes on with an adversarial copy of every image, made once on the trained network.

    Args:
        attack: what makes the copies: `fgsm`, as the run makes it (its epsilon, label source and target), whose copies
            are kept as signs.
        source: whose copies each candidate is trained on: its `own`; those of the `smallest` candidate (by
            parameters), or of the one named, such as `24-192`, with the same seed.

    Raises:
        InputError: if the attack is another one, or the source is no candidate.

    Source: ATRAS, section on adversarial training (docs/protocol.md, "Definitions").
    """

    attack: Attack = FGSM()
    source: str = "own"

    name = "copies"
    from_signs = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.attack, Attack):
            raise InputError(f"copies: attack (={shown(self.attack)}): expected an attack, such as FGSM()")
        if self.attack != FGSM():
            raise InputError(
                f"copies: attack (={self.attack}): expected fgsm without options; only the run's own fgsm has a fixed "
                f"set, which is kept as signs: take batch({self.attack.without_surrogate()})"
            )
        try:
            if self.source not in ("own", "smallest"):
                object.__setattr__(self, "source", Candidate.parse(self.source).name)
        except (InputError, TypeError):
            raise InputError(
                f"copies: source (={shown(self.source)}): expected own, smallest or a candidate; write for example "
                "source=24-192"
            ) from None

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (made once, when the trained networks are measured)
        return Passes()

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        raise NotImplementedError("the engine itself makes the copies from their signs")
