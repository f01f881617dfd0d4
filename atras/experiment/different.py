"""Variants that are equal in all that they do, however they are spelled: the same networks twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atras.errors import InputError
from atras.networks import Variant


def check_different(pairs: Iterable[tuple[str, Variant]], plain: Mapping[Variant, Any], train_size: int = 0) -> None:
    """Refuse two variants of a candidate that do the same: rankings would count its networks twice.

    Args:
        pairs: candidates in variants.
        plain: the experiment of each variant, a `Protocol`, which imports this.
        train_size: training images; 0 where they are not known yet.

    Raises:
        InputError: it names two such variants.
    """
    does = {
        variant: tuple(_does(one, field, train_size) for field, _ in variant.settings) for variant, one in plain.items()
    }
    found: dict[tuple[object, ...], Variant] = {}
    for candidate, variant in pairs:
        other = found.setdefault((candidate, *does[variant]), variant)
        if other != variant:
            apart = [field for field, value in variant.settings if value != other.get(field)]
            raise InputError(
                f"axis: {other.name} and {variant.name} do the same, as {' and '.join(apart)} changes nothing there: "
                "expected variants that differ; leave a value out, or give those where it changes something a run of "
                "their own"
            )


def _does(protocol: Any, field: str, train_size: int) -> Any:
    """What a setting comes to in an experiment without axes."""
    if field == "defence":
        return str(protocol.defence.at(protocol.epsilon))
    if field == "head_dropout":
        return round(protocol.head_dropout * 256)
    if field == "label_source" and protocol.target != "none":
        return ""
    if field == "batch_size" and train_size:
        return min(protocol.batch_size, max(train_size, protocol.defence.epoch_images(train_size)))
    return getattr(protocol, field)
