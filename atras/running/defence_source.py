"""The candidates whose adversarial images others of a run are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from atras.defences import EnsembleTraining
from atras.engines import ENGINES
from atras.evaluation import AllSigns, Source, Sources, joined
from atras.experiment import Protocol
from atras.networks import Candidate, Network, Spec
from atras.planning import Group, Training
from atras.training import Watcher, begun_with, training_signs

from .training_task import engine_protocol, first_of, in_parts
from .unit import Surroundings, Task


def source_candidates(protocol: Protocol, spec: Spec) -> tuple[Candidate, ...]:
    """The candidates whose adversarial images others train on; none where each trains on its own.

    Raises:
        InputError: if the run has not those that its defence names, or too few.
    """
    by_size = sorted(protocol.candidates, key=lambda candidate: Network(spec, candidate).parameter_count)
    if isinstance(protocol.defence, EnsembleTraining):
        return protocol.defence.chosen(by_size)
    if protocol.defence.source == "own":
        return ()
    if protocol.defence.source == "smallest":
        return (by_size[0],)
    named = {candidate.name: candidate for candidate in protocol.candidates}
    return (named.get(protocol.defence.source) or Candidate.parse(protocol.defence.source),)


def defence_source(task: Task, trainings: Sequence[Training], place: Surroundings) -> Source | Sources | None:
    """The adversarial images that the defence of a task's members learns from, besides their own.

    Args:
        task: of members that learn.
        trainings: of the networks that are attacked; those that are not done are computed here.
        place: this process, which keeps the images for the next task.

    Raises:
        Interrupted: if the run was asked to stop.
        ShortageError: if there is no memory for one seed.
        InputError: if a checkpoint is damaged, or cannot be written.
    """
    by_candidate: dict[Candidate, list[Training]] = {}
    for training in trainings:
        by_candidate.setdefault(training.group.members[0].candidate, []).append(training)
    names = [each for each in source_candidates(task.protocol, task.spec) if each in by_candidate]
    found = [_source(candidate, by_candidate[candidate], task, place) for candidate in names]
    if task.protocol.defence.others:
        return Sources(tuple(found), task.protocol.defence.others)
    return found[0] if found else None


def _source(candidate: Candidate, trainings: Sequence[Training], task: Task, place: Surroundings) -> Source:
    """One of them, with its signs."""
    members = [member for training in trainings for member in training.group.members]
    seeds, variants = tuple(member.seed for member in members), tuple(member.variant for member in members)
    signs = joined([_signs(training, task, place) for training in trainings])
    return Source(candidate.name, signs, seeds, variants)


def _signs(training: Training, task: Task, place: Surroundings) -> AllSigns:
    """Those of the training images of a training's networks; they depend on the attack's label, not on its epsilon."""
    attack = task.protocol.attack
    key = training.key, attack.label_source, attack.target
    if key not in place.signs:
        first = first_of(training, task, place)
        place.reporter.note(f"{training.label}: attacking its training images")

        def work(part: Group) -> AllSigns:
            protocol = engine_protocol(part, task.protocol)
            engine = ENGINES.get(part.engine)(task.spec, part.members, protocol, task.device)
            snapshot = begun_with(part.members, [first])
            return training_signs(
                engine, place.data, protocol, part.evaluation_batch, _Asking(place), snapshot, part.chunk
            )

        place.signs[key] = joined(in_parts(task, training, place, work))
    return place.signs[key]


class _Asking(Watcher):
    """Asks whether to stop."""

    def __init__(self, place: Surroundings) -> None:
        self._place = place

    def stop(self) -> bool:
        return self._place.stop()
