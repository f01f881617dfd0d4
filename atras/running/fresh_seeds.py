"""Fresh seeds, on which what a run found is measured once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atras.checks import whole
from atras.errors import InputError
from atras.experiment import Protocol, recorded_axes, told_pair
from atras.results import strengths

_TRANSFER = ("transfer", "transfer_attacks", "transfer_seeds", "transfer_sources", "transfer_targets")


def check_fresh(protocol: Protocol, seeds: Sequence[int], out: str | Path | None, shard: object = None) -> None:
    """Refuse seeds that cannot confirm a run.

    Args:
        protocol: of the run.
        seeds: fresh ones.
        out: the run's folder.
        shard: the part of the run that is computed, where that is not all of it.

    Raises:
        InputError: if the run has one of the seeds, one is there twice, or the run is no run that can be confirmed.
    """
    name = f"confirm_seeds (={','.join(map(str, seeds))})"
    for seed in seeds:
        whole("confirm_seeds", seed, 0, 2**63 - 1)
    known = sorted(set(seeds) & set(protocol.seeds))
    if known:
        one = ", ".join(map(str, known))
        free = max((*protocol.seeds, *seeds)) + 1
        raise InputError(
            f"{name}: expected fresh seeds, got {one}, with which the run trains and chooses; write for example "
            f"--confirm-seeds {free}-{free + len(seeds) - 1}"
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{name}: expected each seed once; leave out what is there twice")
    if not protocol.trains:
        raise InputError(f"{name}: expected a run that trains its networks, got finished ones; leave it out")
    if out is None:
        raise InputError(f"{name}: expected a run in a folder, got one in memory; give out")
    if shard is not None:
        raise InputError(
            f"{name}: a part of a run has no winner; leave it out, and say it with --resume once the parts are merged"
        )
    if several := strengths(recorded_axes(protocol.to_dict())):
        raise InputError(
            f"{name}: expected one strength of attack, got {', '.join(several)}, between which networks are not "
            "compared, so that none is first; run each by itself, or leave --confirm-seeds out"
        )
    for defence in dict.fromkeys(one.defence for one in protocol.plain):
        if defence.looks_around:
            raise InputError(
                f"{name}: {defence} trains on images made on other candidates of the run, and that on fresh seeds "
                "has the first ones alone; leave --confirm-seeds out"
            )
    for attack in protocol.attacks:
        if attack.made_on is not None and any(stand.candidate is not None for stand in attack.made_on.stands):
            raise InputError(
                f"attack (={attack}): it names a candidate or seed, which the run on fresh seeds may not have; name "
                "independent or undefended, or leave --confirm-seeds out"
            )
    confirming(protocol, [told_pair(candidate.name, variant) for candidate, variant in protocol.pairs[:1]], seeds)


def confirming(protocol: Protocol, names: Sequence[str], seeds: Sequence[int]) -> Protocol:
    """The protocol that measures networks of a run on fresh seeds: as the run does, but for its transfer.

    Args:
        protocol: of the run.
        names: of candidates, with axes in their variants, as rankings have them.
        seeds: fresh ones.

    Raises:
        InputError: if it is none, as where an attack needs several seeds.
    """
    usual = Protocol()
    transfer: dict[str, Any] = {name: getattr(usual, name) for name in _TRANSFER}
    return protocol.narrowed(names, seeds=tuple(seeds), **transfer)
