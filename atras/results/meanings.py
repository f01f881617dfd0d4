"""What a column of the table is measured with besides the network and the test images: figures may mean different
things by it, in two runs or in the variants of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atras.registry import spell_value

_ATTACK = ("epsilon",)
_OWN_ATTACK = ("epsilon", "label_source", "target")
_WORST = ("epsilon", "attacks", "epsilons")

FIELDS = {
    "attacked_accuracy_before": _OWN_ATTACK,
    "attacked_accuracy_before_true": _ATTACK,
    "adversarial_train_accuracy": (*_OWN_ATTACK, "defence"),
    "attacked_accuracy_after_static": _OWN_ATTACK,
    "attacked_accuracy_after_white_box": _ATTACK,
    "worst_case_accuracy_before": _WORST,
    "worst_case_accuracy_after": _WORST,
    "balanced_accuracy_after_white_box": _ATTACK,
    "balanced_accuracy_after_worst_case": _WORST,
    "recovery_static": _OWN_ATTACK,
    "recovery_white_box": _ATTACK,
}
"""By column, the fields of a protocol that say what is measured; of the others none does."""

STRENGTH = FIELDS["worst_case_accuracy_after"]
"""Those that say how strong the attacks are by which networks are ranked: the weakest attack would always win."""


def measured_at(settings: Mapping[str, Mapping[str, Any]], column: str = "worst_case_accuracy_after") -> dict[str, str]:
    """What tells apart the figures that stand in a column by what they are measured with: equal texts may be compared.

    Args:
        settings: the values of axes, by variant (`recorded_axes`) or by candidate in a variant.
        column: of the table.

    Returns:
        By the same names the settings that differ, such as `epsilon=0.1`; empty texts where all are measured alike.
    """
    fields = [name for name in FIELDS.get(column, ()) if len({own.get(name) for own in settings.values()}) > 1]
    return {name: " ".join(f"{field}={spell_value(own[field])}" for field in fields) for name, own in settings.items()}


def strengths(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The strengths of attack at which networks are ranked, where there are several: `["epsilon=0.1", "epsilon=0.2"]`.

    Args:
        settings: as of `measured_at`.
    """
    found = list(dict.fromkeys(measured_at(settings).values()))
    return found if len(found) > 1 else []
