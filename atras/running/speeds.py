"""How fast an engine is: as measured on this machine, or as somebody says of another one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from atras.planning import GPUS, AttackSpeed, Machines, Speed, attack_speed, speed

if TYPE_CHECKING:
    from atras.attacks import Attack
    from atras.data import Split
    from atras.engines import Engine
    from atras.experiment import Protocol
    from atras.networks import Candidate, Spec


class Speeds:
    """The speeds of this machine.

    Args:
        part: images to measure on.
        anew: measure even where the cache has figures.
    """

    def __init__(self, part: Split, *, anew: bool = False) -> None:
        self.part, self.anew = part, anew

    def of(self, engine: type[Engine], spec: Spec, protocol: Protocol, candidate: Candidate) -> Speed:
        """Of an engine on networks like these."""
        return speed(engine, spec, protocol, self.part, candidate=candidate, anew=self.anew)

    def beside(self, engine: type[Engine], spec: Spec, protocol: Protocol, attack: Attack) -> AttackSpeed:
        """What an attack takes beside its passes."""
        return attack_speed(engine, spec, protocol, self.part, attack, anew=self.anew)


class ScaledSpeeds(Speeds):
    """This machine's, as if work shared by so many threads took less by as much, which is at the best so.

    Args:
        part, anew: as of `Speeds`.
        factor: threads there for each thread here.
    """

    def __init__(self, part: Split, factor: float, *, anew: bool = False) -> None:
        super().__init__(part, anew=anew)
        self.factor = factor

    def of(self, engine: type[Engine], spec: Spec, protocol: Protocol, candidate: Candidate) -> Speed:
        here = super().of(engine, spec, protocol, candidate)
        rates = {
            field.name: getattr(here, field.name) * self.factor
            for field in dataclasses.fields(Speed)
            if field.name != "step_seconds"
        }
        return dataclasses.replace(here, **rates)


class StatedSpeeds(Speeds):
    """Rates that nobody measured here: of a data sheet, or as told.

    Args:
        part: of no use.
        machines: which.
        told: FLOPs a second that one machine reaches in everything; None for its data sheet.
    """

    def __init__(self, part: Split, machines: Machines, told: float | None) -> None:
        super().__init__(part)
        self.machines, self.told = machines, told

    def of(self, engine: type[Engine], spec: Spec, protocol: Protocol, candidate: Candidate) -> Speed:
        del engine, spec, candidate
        if self.told is not None or self.machines.gpu is None:
            rate = self.told or 1.0
            return Speed(0.0, rate, rate, rate)
        gpu = GPUS[self.machines.gpu]
        training = {"bf16": gpu.bf16, "tf32": gpu.tf32, "fp64": gpu.fp32 / 2}.get(protocol.precision, gpu.fp32)
        return Speed(0.0, training, gpu.fp32, gpu.fp32)  # evaluation and attacks are in fp32

    def beside(self, engine: type[Engine], spec: Spec, protocol: Protocol, attack: Attack) -> AttackSpeed:
        del engine, spec, protocol, attack
        return AttackSpeed(0.0, 0.0)
