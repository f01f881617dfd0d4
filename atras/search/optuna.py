"""Studies of Optuna whose trials are members: asked for a batch at a time, trained in groups, and told together.

Trials are ranked on images held out of the training set, as candidates of a search are; the test images stay unseen
until the best one is run. Optuna is the extra `optuna`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from atras import running
from atras.analysis import RANK_BY, ordered
from atras.checks import one_of, whole
from atras.errors import InputError, shown
from atras.experiment import Execution, Protocol, parse_file, spelled_setting, told_pair, varied_settings
from atras.loggers import Callback
from atras.networks import Candidate, Variant
from atras.results import Results
from atras.rounding import counted
from atras.running import Reporter
from atras.storage import expanded, remove_partials, take_folder, write_file

from .halving import adversarial_epochs, check_space
from .holdout import SELECTION, HeldOut, round_data, split_training

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

RECORD = "study.json"
ATTRIBUTE = "atras"
"""The user attribute of a trial that says which member it is."""

CANDIDATE = "candidate"
"""The key of what `propose` returns that is no field of `Protocol`."""

Propose = Callable[[Any], Mapping[str, Any]]
"""From a trial of Optuna, of which it asks values, to a member: its candidate and fields of `Protocol`."""


class Asked(NamedTuple):
    """A trial that is to be evaluated.

    Args:
        trial: of Optuna.
        candidate: its name.
        settings: fields of `Protocol` and their values as variants spell them.
    """

    trial: Any
    candidate: str
    settings: dict[str, str]


def optimize(
    study: Study,
    protocol: Protocol,
    propose: Propose,
    trials: int,
    out: str | Path,
    *,
    batch: int = 16,
    rounds: int = 1,
    rank_by: str = "accuracy",
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    reporter: Callable[[], Reporter] = Reporter,
    stop: running.Stop | None = None,
) -> Study:
    """Have a study choose members by the robust accuracy of those before, a batch of them trained at a time.

    A trial's value is what a search ranks by: the mean over seeds of the robust accuracy on images held out of the
    training set; 0 where no seed trained, or none is clearly better than always answering one class. Called again with
    the same study and folder it goes on: batches that were interrupted are finished first.

    Args:
        study: with direction `maximize`. For many trials a batch, TPESampler(constant_liar=True) keeps them apart.
        protocol: the experiment that all trials share: data, seeds, epochs, attacks; its first candidate is that of
            trials that name none.
        propose: from a trial to its member, such as `{"candidate": "24-192", "learning_rate": 0.003}`: values as axes
            take them; what is left out is the protocol's. It may raise `optuna.TrialPruned`.
        trials: in all, those before included.
        out: folder: each batch is a run in it.
        batch: trials that are trained at a time. Those that differ in candidate, learning rate and weight decay alone
            share groups.
        rounds: in how many a batch is trained, each twice as long as the one before and the last in full; between them
            each trial is reported to the study, whose pruner may end it. Each round begins at the initial weights.
        rank_by: `accuracy`, or `balanced` for its mean over classes.
        execution: where and how.
        callbacks, reporter, stop: as `running.run`; one reporter a batch.

    Returns:
        The study.

    Raises:
        InputError: if Optuna is not installed, the folder is another study's or has other rounds, a member is none; as
            `running.run`.
        Interrupted: if `stop` said so.
    """
    _optuna()
    whole("trials", trials, 1, 10**6)
    whole("batch", batch, 1, 10**4)
    whole("rounds", rounds, 1, 20)
    one_of("rank_by", rank_by, RANK_BY)
    if protocol.axes:
        raise InputError(
            f"axis (={protocol.axes[0].field}): expected a protocol without axes, whose values trials choose"
        )
    if [each.name for each in study.directions] != ["MAXIMIZE"]:
        told = ", ".join(each.name.lower() for each in study.directions)
        raise InputError(
            f"study: expected direction maximize alone, as a trial's value is an accuracy, got {told}; create it so"
        )
    if rounds > (most := protocol.epochs.bit_length()):
        raise InputError(
            f"rounds (={rounds}): expected at most {most} of {counted(protocol.epochs, 'epoch')}, as each is twice as "
            "long as the one before; lower it"
        )
    arguments: Any = {"callbacks": callbacks, "stop": stop}
    folder = expanded(out)
    lock = take_folder(folder)
    try:
        remove_partials(folder)
        number = _begin(folder, protocol, execution or Execution(), {"rounds": rounds, "rank_by": rank_by})
        own = _Study(study, protocol, folder, number, rounds, rank_by, execution or Execution(), reporter, arguments)
        own.finish_batches()
        while (left := trials - own.done()) > 0:
            own.evaluate(own.next_batch(), own.ask(propose, min(batch, left)))
    finally:
        lock.release()
    return study


def protocol_of(trial: FrozenTrial | Trial, protocol: Protocol) -> Protocol:
    """The experiment of a trial alone, on all training images and the test images: what `atras.run` takes.

    Args:
        trial: of a study that `optimize` was called with, such as `study.best_trial`.
        protocol: as there.

    Raises:
        InputError: if the trial is no such one.
    """
    known = trial.user_attrs.get(ATTRIBUTE)
    if not isinstance(known, dict):
        raise InputError(
            f"trial (={trial.number}): expected one that atras evaluated, got another; name one of its study"
        )
    if CANDIDATE not in known:
        raise InputError(
            f"trial (={trial.number}): expected one with a member, got one pruned by propose; name another"
        )
    return _protocol(protocol, [Asked(None, known[CANDIDATE], known["settings"])]).plain[0]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("expected the package optuna; run pip install 'atras[optuna]'") from None
    return optuna


def _begin(folder: Path, protocol: Protocol, execution: Execution, settings: Mapping[str, Any]) -> str:
    """The number of the study in a folder, which has its images held out from now on.

    Args:
        folder, protocol, execution: of the study.
        settings: what makes trials' values comparable besides the protocol; recorded beside it.

    Raises:
        InputError: if the folder holds something else, or the study of another protocol or other settings.
    """
    path = folder / RECORD
    if path.exists():
        record = parse_file(path)
        if record.get("protocol_hash") != protocol.hash:
            raise InputError(
                f"{path}: expected the study of this protocol ({protocol.hash}), found another's "
                f"({shown(record.get('protocol_hash'))}); name another folder"
            )
        for name, value in settings.items():
            if record.get(name) != value:
                raise InputError(
                    f"{name} (={value}): expected {shown(record.get(name))}, with which the study in {folder} was "
                    "begun; go on with that, or name another folder"
                )
        return str(record.get("id"))
    # A process that was killed at its very start left the images alone; they are written again.
    names = (each.name for each in folder.iterdir() if each.name != SELECTION)
    if there := sorted(name for name in names if not name.startswith(".")):
        raise InputError(
            f"out (={str(folder)!r}): expected a new or empty folder for a study, found {there[0]}; name another"
        )
    check_space(protocol)
    data = running.DataPlace.of(protocol, execution).load(torch.device("cpu"))
    write_file(folder / SELECTION, [split_training(data)])
    number = os.urandom(8).hex()
    record = {"id": number, "protocol_hash": protocol.hash, "protocol": protocol.to_dict(), **settings}
    write_file(path, [json.dumps(record, indent=2).encode()])
    return number


def _member(proposed: Mapping[str, Any], protocol: Protocol) -> tuple[str, dict[str, str]]:
    """Name of the candidate, and settings as variants spell them."""
    if not isinstance(proposed, Mapping):
        raise InputError(f"propose: expected a mapping such as {{'learning_rate': 0.003}}, got {shown(proposed)}")
    fields = dict(proposed)
    asked = fields.pop(CANDIDATE, protocol.candidates[0])
    candidate = asked if isinstance(asked, Candidate) else Candidate.parse(asked)
    return candidate.name, dict(spelled_setting(field, value) for field, value in fields.items())


def _protocol(protocol: Protocol, members: Sequence[Asked]) -> Protocol:
    """The experiment that has these members, and no other. What one of them leaves out is the protocol's."""
    fields = [field for field in varied_settings() if any(field in member.settings for member in members)]
    settings = [_all_settings(protocol, member, fields) for member in members]
    axes = {field: tuple(dict.fromkeys(own[field] for own in settings)) for field in fields}
    candidates = tuple(dict.fromkeys(member.candidate for member in members))
    names = [_name(member.candidate, own) for member, own in zip(members, settings, strict=True)]
    only = tuple(dict.fromkeys(names)) if axes else ()
    made = protocol.replace(candidates=tuple(map(Candidate.parse, candidates)), axes=axes, only=only)
    check_space(made)
    return made


def _all_settings(protocol: Protocol, member: Asked, fields: Sequence[str]) -> dict[str, str]:
    """The values of these fields that a member has, its own or the protocol's."""
    return {
        field: member.settings.get(field) or spelled_setting(field, getattr(protocol, field))[1] for field in fields
    }


def _name(candidate: str, settings: Mapping[str, str]) -> str:
    return told_pair(candidate, Variant(tuple(settings.items())))


class _Study:
    """One process at work on a study."""

    def __init__(
        self,
        study: Study,
        protocol: Protocol,
        folder: Path,
        number: str,
        rounds: int,
        rank_by: str,
        execution: Execution,
        reporter: Callable[[], Reporter],
        arguments: dict[str, Any],
    ) -> None:
        self.study, self.protocol, self.folder, self.number = study, protocol, folder, number
        self.rounds, self.rank_by, self.execution = rounds, rank_by, execution
        self.reporter, self.arguments, self.optuna = reporter, arguments, _optuna()

    def own(self) -> list[Any]:
        """The trials that this study asked for into this folder."""
        trials = self.study.get_trials(deepcopy=False)
        return [each for each in trials if each.user_attrs.get(ATTRIBUTE, {}).get("study") == self.number]

    def done(self) -> int:
        """Trials that are evaluated, or that its pruner ended."""
        return sum(each.state.is_finished() and each.state.name != "FAIL" for each in self.own())

    def next_batch(self) -> int:
        """The number of the batch that comes next, from 1."""
        return 1 + max((each.user_attrs[ATTRIBUTE]["batch"] for each in self.own()), default=0)

    def finish_batches(self) -> None:
        """Evaluate what was asked for before, and never told."""
        left: dict[int, list[Asked]] = {}
        for each in self.own():
            if not each.state.is_finished():
                known = each.user_attrs[ATTRIBUTE]
                trial = self.optuna.trial.Trial(self.study, each._trial_id)
                left.setdefault(known["batch"], []).append(Asked(trial, known[CANDIDATE], known["settings"]))
        for number in sorted(left):
            self.evaluate(number, left[number])

    def ask(self, propose: Propose, count: int) -> list[Asked]:
        """Trials with their members; those that are pruned at once are told."""
        number, asked = self.next_batch(), []
        for _ in range(count):
            trial = self.study.ask()
            known: dict[str, Any] = {"study": self.number, "batch": number}
            try:
                name, settings = _member(propose(trial), self.protocol)
                _protocol(self.protocol, [Asked(trial, name, settings)])
            except self.optuna.TrialPruned:
                trial.set_user_attr(ATTRIBUTE, known)
                self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
                continue
            except BaseException:
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
                raise
            trial.set_user_attr(ATTRIBUTE, {**known, CANDIDATE: name, "settings": settings})
            asked.append(Asked(trial, name, settings))
        return asked

    def evaluate(self, number: int, asked: list[Asked]) -> None:
        """Train a batch round by round, and tell the study what became of each trial."""
        for index in range(self.rounds):
            if not asked:
                return
            last, folder = index == self.rounds - 1, self.folder / f"batch-{number}" / f"round-{index + 1}"
            epochs = max(1, self.protocol.epochs >> (self.rounds - 1 - index))
            values = self.values(self.compute(asked, epochs, folder), asked)
            left = []
            for each, value in zip(asked, values, strict=True):
                if last:
                    self.study.tell(each.trial, value)
                elif self.pruned(each.trial, value, epochs):
                    self.study.tell(each.trial, state=self.optuna.trial.TrialState.PRUNED)
                else:
                    left.append(each)
            asked = left

    def pruned(self, trial: Any, value: float, epochs: int) -> bool:
        """Report a round of a trial; whether the study's pruner ends it."""
        reported = next(each for each in self.own() if each.number == trial.number).intermediate_values
        if epochs not in reported:  # by a process that was killed behind it
            trial.report(value, epochs)
        return bool(trial.should_prune())

    def compute(self, asked: Sequence[Asked], epochs: int, folder: Path) -> Results:
        """A round's run, from where it stands; it may have trials that were told before it was interrupted."""
        changes = {"epochs": epochs, "adversarial_epochs": adversarial_epochs(self.protocol, epochs)}
        own = _protocol(self.protocol, asked).replace(**round_data(self.folder), **changes)
        with contextlib.closing(self.reporter()) as reporter:
            arguments: Any = {"reporter": reporter, "place": HeldOut.of(own, self.execution), **self.arguments}
            if (folder / "run.json").exists():
                return running.resume(folder, None, self.execution, **arguments)
            return running.run(own, self.execution, out=folder, **arguments)

    def values(self, results: Results, asked: Sequence[Asked]) -> list[float]:
        """The value of each trial in a run."""
        fields = [text.partition("=")[0] for text in results.run["protocol"]["axes"]]
        known = {
            row["hidden_layers"]: float(row["mean"]) if row["trained"] and row["clear"] else 0.0
            for row in ordered(results, rank_by=self.rank_by).to_dicts()
        }
        return [known[_name(each.candidate, _all_settings(self.protocol, each, fields))] for each in asked]
