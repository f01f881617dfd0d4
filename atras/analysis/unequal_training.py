"""Variants whose second trainings are of unequal length, since some begin with trained weights and some anew."""

from __future__ import annotations

from collections.abc import Mapping

from atras.defences import DEFENCES
from atras.errors import InputError
from atras.results import Results


def begins(defence: str) -> str:
    """What the second training of a defence begins with: `trained` weights, initial ones (`scratch`), or nothing.

    Args:
        defence: as a protocol spells it; one that is not known here, as that of a package elsewhere, gives nothing.
    """
    try:
        found = DEFENCES.parse(defence)
    except InputError:
        return ""
    return found.start if found.trains else ""


def unequal_training(parts: Mapping[str, Results]) -> str:
    """A sentence where some variants' defences go on from trained weights and others begin with initial ones.

    Args:
        parts: the results of each variant, by what it is called.

    Returns:
        Empty where all begin alike.
    """
    starts = {label: begins(str(one.run["protocol"].get("defence", "copies"))) for label, one in parts.items()}
    ahead, anew = ([label for label, start in starts.items() if start == begin] for begin in ("trained", "scratch"))
    if not ahead or not anew:
        return ""
    return (
        f"Not trained equally long: the defence goes on from trained weights in {', '.join(ahead)}, and begins with "
        f"the initial ones in {', '.join(anew)}. With few epochs a lead of the former may be that of longer training: "
        "see with a larger --adversarial-epochs whether it stays."
    )
