"""The variants of a run: which can share a group, and what each has of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable

from atras.engines import VARIED
from atras.evaluation import keeps_outcomes
from atras.experiment import Protocol
from atras.networks import Spec, Variant
from atras.planning import Group, spec_of

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


def group_protocol(protocol: Protocol, variant: Variant, test_size: int) -> Protocol:
    """The experiment on members of a variant, as a part of a run that has axes, or as the run.

    Whether outcomes are kept depends on how many the whole run has.
    """
    own = protocol.of(variant)
    if not protocol.axes:
        return own
    return own.replace(outcomes="all" if keeps_outcomes(protocol, test_size) else "none")


def of_variant(groups: Iterable[Group], variant: Variant) -> tuple[Group, ...]:
    """The members of a variant, in the groups that have some; only they meet each other in a transfer."""
    own = [(group, tuple(member for member in group.members if member.variant == variant)) for group in groups]
    return tuple(
        group if members == group.members else dataclasses.replace(group, members=members)
        for group, members in own
        if members
    )
