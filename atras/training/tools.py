"""What a group is computed with: its engine, what measures and records, what defends, and who watches."""

from __future__ import annotations

from dataclasses import dataclass

from atras.data import Dataset
from atras.defences import Defence
from atras.engines import Engine
from atras.environment import attack_backend
from atras.evaluation import (
    Evaluator,
    Evaluators,
    Measurement,
    Recorder,
    Source,
    Sources,
    examples_kept,
    shown_attacks,
)
from atras.experiment import Protocol

from .at_epsilons import evaluators_of
from .defending import Defending
from .watcher import Watcher


@dataclass(frozen=True, eq=False)
class Tools:
    """What a group is computed with.

    Args:
        engine: its members.
        protocol: what to do.
        evaluators: of the members.
        recorder: of what is measured.
        measurement: what is measured when.
        defending: the defence, and what it keeps.
        watcher: told of the progress, given snapshots, asked whether to stop.
        gathered: images of each order that are gathered at once; 0 for a batch.
    """

    engine: Engine
    protocol: Protocol
    evaluators: Evaluators
    recorder: Recorder
    measurement: Measurement
    defending: Defending
    watcher: Watcher
    gathered: int

    @property
    def evaluator(self) -> Evaluator:
        """Of all members at once."""
        return self.evaluators.whole

    @property
    def defence(self) -> Defence:
        """That of the first member; the others' differ in nothing but `Defence.own`."""
        return self.defending.defence

    @property
    def train_size(self) -> int:
        """Training images."""
        return len(self.evaluator.data.train)


def tools_of(
    engine: Engine,
    data: Dataset,
    protocol: Protocol,
    evaluation_batch: int,
    watcher: Watcher,
    source: Source | Sources | None = None,
    chunk: int = 0,
    population: int | None = None,
) -> Tools:
    """The tools for a group; the arguments are those of `run_group`."""
    defences = [
        protocol.setting("defence", member.variant).at(epsilon)
        for member, epsilon in zip(engine.members, engine.epsilons, strict=True)
    ]
    evaluators = evaluators_of(engine, data, protocol, evaluation_batch)
    backend = f"{engine.name}/{attack_backend(engine.device, engine.dtype)}"
    shown = len(shown_attacks(protocol))
    examples = examples_kept(population or len(protocol.candidates), data.image_shape, shown)
    recorder = Recorder(engine.members, engine.spec, data, engine.device, backend, protocol.seeds[0], examples)
    others = source.signs_for(engine.members) if isinstance(source, Sources) else ()
    own = None if isinstance(source, Sources) else source
    measurement = Measurement(evaluators, recorder, own)
    known = evaluators.whole.classes, others, evaluators.whole.in_range("train")
    defending = Defending(engine, defences, protocol.adversarial_epochs, *known)
    return Tools(engine, protocol, evaluators, recorder, measurement, defending, watcher, chunk)
