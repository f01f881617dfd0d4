"""What is tried on what: adversarial images made on some networks of a run, given to others of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from atras.attacks import Attack, Stand, Surrogate
from atras.experiment import Protocol
from atras.networks import Member, Variant

PHASES = ("trained", "defended")
"""The networks of a run: after the first and after the second training."""


def phases_of(protocol: Protocol) -> tuple[str, ...]:
    """Those of `PHASES` that a run has: the last one only with a defence."""
    return PHASES if protocol.defence.trains else PHASES[:1]


class Trained(NamedTuple):
    """A network of a run.

    Args:
        phase: `trained` or `defended`.
        member: which.
    """

    phase: str
    member: Member


class Origin(NamedTuple):
    """What an attack is made on.

    Args:
        networks: one, or those of an ensemble.
        how: of an ensemble, what it is the mean of.
    """

    networks: tuple[Trained, ...]
    how: str = "logits"


class Trial(NamedTuple):
    """The adversarial images of an origin, tried on a target.

    Args:
        attack: with a definite epsilon.
        origin: what it is made on.
        target: what its images are tried on.
        surrogate: how an attack of the run spells its origin; None in the transfer of all pairs.
    """

    attack: Attack
    origin: Origin
    target: Trained
    surrogate: str | None


def trials_of(protocol: Protocol, variant: Variant = Variant()) -> list[Trial]:
    """All trials of a run, or of one of its variants, in the order of their rows.

    First the transfer, by attack, phase, source, target and seeds; then attacks on surrogates, by attack, phase, target
    and seed.

    Args:
        protocol: without axes.
        variant: of all members, which meet no others.
    """
    surrogates = protocol.surrogate_attacks
    return [*_pairs(protocol, variant), *(each for one in surrogates for each in _made_on(one, protocol, variant))]


def _pairs(protocol: Protocol, variant: Variant) -> Iterator[Trial]:
    if not protocol.transfer:
        return
    sources, targets = (
        chosen or protocol.candidates for chosen in (protocol.transfer_sources, protocol.transfer_targets)
    )
    seeds = [
        (of_source, seed)
        for seed in protocol.seeds
        for of_source in ([seed] if protocol.transfer_seeds == "same" else protocol.seeds)
        if protocol.transfer_seeds != "other" or of_source != seed
    ]
    attacks = dict.fromkeys(each for attack in protocol.transfer_attacks for each in protocol.at_each(attack))
    for attack, phase, source, target in itertools.product(attacks, phases_of(protocol), sources, targets):
        for of_source, seed in seeds:
            origin = Origin((Trained(phase, Member(source, of_source, variant)),))
            yield Trial(attack, origin, Trained(phase, Member(target, seed, variant)), None)


def _made_on(attack: Attack, protocol: Protocol, variant: Variant) -> Iterator[Trial]:
    """Those of an attack on surrogates, but for networks that would only meet themselves.

    What is undefended is tried on what is defended alone: among networks before their defence it is nothing new.
    """
    surrogate, own = attack.made_on, attack.without_surrogate()
    if surrogate is None:
        return
    phases = PHASES[1:] if any(stand.undefended for stand in surrogate.stands) else phases_of(protocol)
    for phase, candidate, seed in itertools.product(phases, protocol.candidates, protocol.seeds):
        target = Trained(phase, Member(candidate, seed, variant))
        origin = _origin(surrogate, target, protocol.seeds)
        if origin.networks != (target,):
            yield Trial(own, origin, target, str(surrogate))


def _origin(surrogate: Surrogate, target: Trained, seeds: Sequence[int]) -> Origin:
    """The networks that stand for a target."""
    networks = dict.fromkeys(_standing(stand, target, seeds) for stand in surrogate.stands)
    return Origin(tuple(networks), surrogate.how if len(networks) > 1 else Surrogate.how)


def _standing(stand: Stand, target: Trained, seeds: Sequence[int]) -> Trained:
    own = target.member
    seed = own.seed if stand.seed is None else stand.seed
    if stand.independent:
        seed = seeds[(seeds.index(own.seed) + 1) % len(seeds)]
    candidate = own.candidate if stand.candidate is None else stand.candidate
    return Trained(PHASES[0] if stand.undefended else target.phase, Member(candidate, seed, own.variant))
