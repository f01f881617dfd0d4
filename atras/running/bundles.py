"""Variants that can share a group."""

from __future__ import annotations

from collections.abc import Hashable

from atras.engines import VARIED
from atras.experiment import Protocol
from atras.networks import Spec, Variant
from atras.planning import spec_of

from .defence_source import source_candidates


def bundles(protocol: Protocol, spec: Spec) -> list[tuple[Variant, ...]]:
    """Variants that can share a group, together: they differ only in what engines take for each member, and in what
    their defence does (`Defence.own`), and train on images made on the same other candidates.

    Args:
        protocol: of the run.
        spec: what its networks share.

    Raises:
        InputError: as `source_candidates`.
    """
    together: dict[Hashable, list[Variant]] = {}
    for variant in protocol.variants:
        defence = protocol.setting("defence", variant).at(protocol.setting("epsilon", variant))
        others = None
        if protocol.only and defence.looks_around:  # each variant has candidates of its own
            own = protocol.of(variant)
            others = source_candidates(own, spec_of(own, spec))
        together.setdefault((variant.without(*VARIED, "defence"), defence.in_common, others), []).append(variant)
    return list(map(tuple, together.values()))
