"""Every number a run depends on, in one frozen value with a hash.

The figures depend on a `Protocol`; an `Execution` is only where and how fast they are computed. Both are plain
dataclasses, so the training engine needs no validation library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from atras.attacks import FGSM, Attack, Stand
from atras.checks import number, text, whole
from atras.errors import InputError, shown
from atras.loggers import LOGGERS, loggers_of
from atras.networks import Candidate, Factory, Member, Variant

from .axes import Axis, axes_of, check_axes, check_only, pairs_of, spelled, typed, variants_among, variants_of
from .choices import ENGINES, EXECUTORS
from .kinds import LOGGER_LIST, MEMORY
from .option import Option, Options, Setting, settings_of
from .parts import Attacking, Data, Defending, Evaluation, Given, Model, Population
from .ranges import number_from
from .readers import HeldOut, parse_shard, resolve_shard
from .training import Training

MAX_MEMBERS = 100_000
"""Most members accepted: past it a typing error in a range is likelier than a wish."""

_CANDIDATES = ("candidates", "transfer_sources", "transfer_targets")
_OF_TRANSFER = ("transfer_attacks", "transfer_seeds", "transfer_sources", "transfer_targets")

_LATER = (
    "augment", "schedule", "weight_decay", "clip_gradient", "label_smoothing", "average", "select", "validation_size",
    "axes", "only",
)  # fmt: skip
"""Fields that came later, and are part of the hash only where they are not at their defaults: experiments from before
there were such choices are the same ones."""

_VARIED = (Model, Training, Attacking, Defending)
"""Parts whose settings may differ between the members of a run, as they decide training or attack."""

_COMMON = ("attacks", "epsilons", "precision", "select", "validation_size")
"""Settings of these parts that all members of a run have in common: what is measured, how it is computed, and on which
images."""

VERSION = 6
"""Raised when the same fields come to mean another experiment; part of the hash."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Evaluation, Defending, Attacking, Training, Model, Given, Population, Data):
    """One experiment: data, candidates, training, attack, defence. The defaults are the preset `paper`.

    Its fields are those of its parts, each with its meaning in docs/options.md: `Protocol(dataset="mnist", epochs=5)`.

    Raises:
        InputError: if a value is out of its range.

    Source: what the paper states, and what was read out of its tables, is in docs/protocol.md.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "axes", tuple(spelled(axis, varied_settings()) for axis in self.axes))
        check_axes("axes", self.axes)  # of which two may have been names of one
        self._order_pairs()
        members = len(self.pairs) * len(self.seeds)
        if members > MAX_MEMBERS:
            raise InputError(
                f"candidates and seeds (={members} members): expected at most {MAX_MEMBERS}; split them over runs"
            )
        if self.axes:
            self._check_variants()
            return
        if self.momentum and self.optimizer != "sgd":
            raise InputError(
                f"momentum (={self.momentum}): only optimizer sgd has one; add --optimizer sgd or leave it out"
            )
        if self.label_smoothing and self.defence.own_objective:
            raise InputError(
                f"label_smoothing (={self.label_smoothing}): expected a defence that trains for the cross-entropy, got "
                f"{self.defence}, which has an objective of its own; leave one of them out"
            )
        self._check_selection()
        self._check_given()
        if not self.defence.trains:
            # One experiment, one hash: there is no second training whose length could differ.
            object.__setattr__(self, "adversarial_epochs", 0)
        self._check_attacks()

    def _order_pairs(self) -> None:
        """Bring `only` into the order of the table: one experiment, one hash."""
        if self.only and not self.axes:
            raise InputError("only: expected axes, whose variants it names, got none; give axes or leave it out")
        pairs = self._named_pairs
        if len(pairs) == len(self.candidates) * math.prod(len(axis.values) for axis in self.axes):
            pairs = ()  # all
        object.__setattr__(self, "only", tuple(told_pair(name, variant) for name, variant in pairs))

    @property
    def _named_pairs(self) -> tuple[tuple[str, Variant], ...]:
        return pairs_of(self.only, tuple(candidate.name for candidate in self.candidates), self.axes)

    @property
    def pairs(self) -> tuple[tuple[Candidate, Variant], ...]:
        """The candidates in their variants, in the order of the table: each in each, or those of `only`."""
        named = {candidate.name: candidate for candidate in self.candidates}
        return tuple((named[name], variant) for name, variant in self._named_pairs)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every combination of the axes' values that there is, the first axis slowest; one without settings where there
        are no axes."""
        return variants_among(self._named_pairs, self.axes) if self.only else variants_of(self.axes)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every candidate in each of its variants with each seed, in the order of the table."""
        return tuple(Member(candidate, seed, variant) for candidate, variant in self.pairs for seed in self.seeds)

    def narrowed(self, names: Collection[str], **changes: Any) -> Protocol:
        """The experiment on some of its candidates in variants alone.

        Args:
            names: as rankings have them: `24-192`, or with axes `24-192 learning_rate=0.003`.
            changes: of other fields.

        Raises:
            InputError: as the class.
        """
        wanted = set(names)
        pairs = [pair for pair in self.pairs if told_pair(pair[0].name, pair[1]) in wanted]
        variants = [variant for _, variant in pairs]
        axes = {
            axis.field: tuple(value for value in axis.values if any(each.get(axis.field) == value for each in variants))
            for axis in self.axes
        }
        only = tuple(told_pair(candidate.name, variant) for candidate, variant in pairs) if self.axes else ()
        candidates = tuple(dict.fromkeys(candidate for candidate, _ in pairs))
        return self.replace(candidates=candidates, axes=axes, only=only, **changes)

    @property
    def plain(self) -> tuple[Protocol, ...]:
        """The experiment of each variant, in their order."""
        return tuple(map(self.of, self.variants))

    def of(self, variant: Variant) -> Protocol:
        """The experiment on the members of a variant alone, which has no axes: the one of their solo run.

        Raises:
            InputError: if a value of the variant is none of its setting's.
        """
        if not (self.axes or variant.settings):
            return self
        settings, candidates = varied_settings(), self.candidates
        if self.only:
            candidates = tuple(candidate for candidate, own in self.pairs if own == variant)
        values = {name: typed(value, settings[name]) for name, value in variant.settings}
        return self.replace(candidates=candidates, axes=(), only=(), **values)

    def setting(self, field: str, variant: Variant) -> Any:
        """A setting of the members of a variant: its own, or the experiment's.

        Raises:
            InputError: if the variant's value is none of the setting's.
        """
        own = variant.get(field)
        return getattr(self, field) if own is None else typed(own, varied_settings()[field])

    def _check_variants(self) -> None:
        """Refuse combinations of values that are no experiments, and axes of networks that are finished."""
        if not self.trains:
            raise InputError("axis: expected networks that the run trains, got finished ones; leave it out")
        for variant in self.variants:
            try:
                self.of(variant)
            except InputError as error:
                raise InputError(f"axis, {variant.name}: {error}") from None

    @property
    def trains(self) -> bool:
        """Whether the run trains its networks, and does not find them finished."""
        return not self.weights

    @property
    def augments(self) -> bool:
        """Whether training images are changed at random."""
        return self.augment != "none"

    @property
    def selects(self) -> bool:
        """Whether one epoch of the last training is kept by its accuracy on images held out."""
        return self.select != "last"

    @property
    def held_out(self) -> HeldOut:
        """The number of training images held out to select an epoch by, for `data.load`."""
        if not self.selects:
            return "none"
        return "default" if self.validation_size is None else self.validation_size

    @property
    def step_images(self) -> int:
        """Most images of an optimizer step."""
        return self.batch_size * self.defence.views

    @property
    def attack(self) -> FGSM:
        """The paper's attack: FGSM at the protocol's label source or target."""
        return FGSM(self.epsilon, self.label_source, self.target)

    @property
    def true_label_attack(self) -> FGSM:
        """FGSM away from the true label: the white-box attack that both models are always attacked with."""
        return FGSM(self.epsilon, "true")

    @property
    def stronger_attacks(self) -> tuple[Attack, ...]:
        """The attacks besides that one, made on the evaluated network itself, with definite epsilons, each once."""
        own = [attack for attack in self.attacks if attack.surrogate is None]
        resolved = dict.fromkeys(each for attack in own for each in self.at_each(attack))
        climbs: dict[Attack, list[Attack]] = {}
        for attack in resolved:
            climbs.setdefault(attack.at_any_epsilon, []).append(attack)
        ordered = [each for own in climbs.values() for each in sorted(own, key=lambda one: one.epsilon or 0.0)]
        return tuple(attack for attack in ordered if attack != self.true_label_attack)

    def at_each(self, attack: Attack) -> tuple[Attack, ...]:
        """An attack at each epsilon that it is measured at, ascending: its own, or the run's and those of `epsilons`.

        The run's epsilon is one in `linf`; those of `epsilons` are taken in the attack's own norm, as far as it has
        them. FGSM at the true label has those from its one gradient (`curve_epsilons`).

        Raises:
            InputError: if there is none.
        """
        if attack.epsilon is not None or not attack.bounded:
            return (attack,)
        own = {self.epsilon} if attack.norm == "linf" else set()
        if attack != FGSM():
            own |= {epsilon for epsilon in self.epsilons if 0 < epsilon <= attack.farthest}
        if not own:
            raise InputError(
                f"{attack}: expected an epsilon, as the run's is one in linf; write epsilon=1.5 for example, or give "
                "--epsilons"
            )
        return tuple(dataclasses.replace(attack, epsilon=epsilon) for epsilon in sorted(own))

    def wholly_within(self, attack: Attack) -> bool:
        """Whether no pixel of what an attack makes changes by more than the run's epsilon, by the attack's own bound.

        The worst case over attacks counts all images of such an attack, and of another those that are within.

        Args:
            attack: with a definite epsilon; no pixel changes by more than that in any norm.
        """
        return attack.bounded and attack.strength <= self.epsilon

    @property
    def worst_case(self) -> str:
        """What the worst case over attacks is called in the frames: `worst(fgsm, pgd; partly deepfool)`.

        Those that are wholly within the run's epsilon come first.
        """
        attacks = [self.true_label_attack, *self.stronger_attacks]
        whole, partly = (
            dict.fromkeys(self._told(one) for one in attacks if self.wholly_within(one) == within)
            for within in (True, False)
        )
        rest = f"; partly {', '.join(partly)}" if partly else ""
        return f"worst({', '.join(whole)}{rest})"

    def _told(self, attack: Attack) -> str:
        """An attack without its epsilon where that is the run's."""
        own = attack.norm == "linf" and attack.epsilon == self.epsilon
        return str(attack.at_any_epsilon if own else attack)

    @property
    def curve_epsilons(self) -> tuple[float, ...]:
        """Those of `epsilons` that FGSM at the true label is measured at besides the run's."""
        return tuple(epsilon for epsilon in self.epsilons if epsilon != self.epsilon and epsilon <= FGSM().farthest)

    @property
    def surrogate_attacks(self) -> tuple[Attack, ...]:
        """The attacks that are made on other networks of the run, with definite epsilons."""
        own = [attack for attack in self.attacks if attack.surrogate is not None]
        return tuple(each for attack in own for each in self.at_each(attack))

    @property
    def tries_other_networks(self) -> bool:
        """Whether adversarial images of one network are tried on others, once all are trained."""
        return self.transfer or bool(self.surrogate_attacks)

    @property
    def transferred_attacks(self) -> tuple[Attack, ...]:
        """The attacks whose images are tried on other networks, with definite epsilons, each once."""
        own = [each for attack in self.transfer_attacks for each in self.at_each(attack)] if self.transfer else []
        return tuple(dict.fromkeys([*own, *(attack.without_surrogate() for attack in self.surrogate_attacks)]))

    @property
    def _unchanged_later(self) -> list[str]:
        """The fields that came later and are at their defaults."""
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        return [name for name in _LATER if getattr(self, name) == defaults[name]]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change when any field does."""
        values = self.to_dict()
        for name in self._unchanged_later:
            del values[name]
        if "networks" in values:  # wherever the files lie
            values["networks"] = {name: factory.identity for name, factory in self.factories.items()}
        text = json.dumps({"version": VERSION, **values}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; candidates by their names, and where modules of the user are made."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        candidates = {name: [c.name for c in values[name]] for name in _CANDIDATES}
        attacks = {name: list(map(str, values[name])) for name in ("attacks", "transfer_attacks", "axes")}
        own = {"networks": {name: factory.to_dict() for name, factory in self.factories.items()}}
        spelled = {"defence": str(self.defence), "schedule": str(self.schedule)}
        return values | lists | candidates | attacks | spelled | (own if self.factories else {})

    @property
    def factories(self) -> dict[str, Factory]:
        """What makes the modules of the user among the candidates, by name."""
        return {each.name: each.factory for each in self.candidates if each.factory is not None}

    def _check_selection(self) -> None:
        """Refuse to select among the epochs of no training, and images held out that nothing is selected by."""
        if self.selects and not self.trains:
            raise InputError(f"select (={self.select}): expected a training, got finished networks; leave it out")
        if self.validation_size is not None and not self.selects:
            raise InputError(
                f"validation_size (={self.validation_size}): only --select robust holds images out; add it or leave "
                "this out"
            )

    def _check_given(self) -> None:
        """Refuse finished networks that are to be trained, and training that has no epochs."""
        if self.trains:
            whole("epochs", self.epochs, 1, 10**6)
        elif len(self.weights) != len(self.candidates):
            raise InputError(
                f"weights (={len(self.weights)} of them): expected one for each candidate ({len(self.candidates)})"
            )
        elif self.epochs or self.defence.trains:
            raise InputError(
                "weights: expected no training of networks that are finished; write epochs=0 and defence='none'"
            )

    def _check_attacks(self) -> None:
        """Refuse attacks that the frames could not tell apart, and epsilons that no attack is measured at."""
        for attacks in (self.attacks, self.transfer_attacks):
            asked: dict[object, Attack] = {}
            for attack, spec in [(one, each.spec) for one in attacks for each in self.at_each(one)]:
                other = asked.setdefault(spec, attack)
                if other is not attack:
                    raise InputError(f"attack: {other} and {attack} are the same in this run; name one of them")
        every = (*self.attacks, *self.transfer_attacks)
        most = max([1.0, *(attack.farthest for attack in every if attack.bounded and attack.epsilon is None)])
        for epsilon in self.epsilons:
            number("epsilons", epsilon, 0.0, most)

    def check_networks(self) -> None:
        """Refuse surrogates and transfers of networks that the run does not have.

        Raises:
            InputError: it names the attack or option, and what to add.
        """
        for attack in self.attacks:
            for stand in attack.made_on.stands if attack.made_on is not None else ():
                self._check_stand(attack, stand)
        for name in _CANDIDATES[1:]:
            for candidate in getattr(self, name):
                if candidate not in self.candidates:
                    raise InputError(
                        f"{name} (={candidate.name}): expected a candidate of this run; add --hidden {candidate.name}"
                    )
        if self.transfer and self.transfer_seeds == "other" and len(self.seeds) < 2:
            raise InputError(
                "transfer_seeds (=other): expected at least two seeds, got one; write for example --seeds 0-1"
            )
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        changed = [name for name in _OF_TRANSFER if getattr(self, name) != defaults[name]]
        if changed and not self.transfer:
            raise InputError(f"{changed[0]}: expected a transfer, whose option it is; add --transfer or leave it out")

    def _check_stand(self, attack: Attack, stand: Stand) -> None:
        if stand.undefended and not self.defence.trains:
            raise InputError(
                f"attack (={attack}): undefended networks are tried on defended ones: expected a defence, got none; "
                "name another surrogate"
            )
        if stand.independent and len(self.seeds) < 2:
            raise InputError(
                f"attack (={attack}): independent copies have another seed: expected at least two seeds, got one; "
                "write for example --seeds 0-1"
            )
        if stand.candidate is not None and stand.candidate not in self.candidates:
            raise InputError(
                f"attack (={attack}): expected a candidate of this run as surrogate, got {stand.candidate.name}; add "
                f"--hidden {stand.candidate.name}"
            )
        if stand.seed is not None and stand.seed not in self.seeds:
            raise InputError(
                f"attack (={attack}): expected a seed of this run for its surrogate, got {stand.seed}; add it to "
                "--seeds"
            )

    def check_classes(self, classes: Sequence[int]) -> None:
        """Refuse a target that no training image has.

        Args:
            classes: those that training images have, ascending.

        Raises:
            InputError: if the target of an attack is `class:N` with another N, or is to be drawn and there is but one.
        """
        every = (*self.attacks, *self.transfer_attacks)
        for target in dict.fromkeys([self.target, *(attack.target for attack in every)]):
            if target.startswith("class:") and int(target.removeprefix("class:")) not in classes:
                span = f"a class from {classes[0]} to {classes[-1]}"
                expected = span if len(classes) > classes[-1] - classes[0] else f"{span} that training images have"
                raise InputError(f"target (={shown(target)}): expected {expected}")
            if target == "random" and len(classes) < 2:
                raise InputError(
                    f"target (={shown(target)}): expected training images of at least 2 classes, all are of class "
                    f"{classes[0]}; take more of them, or --subset stratified"
                )

    def replace(self, **changes: Any) -> Protocol:
        """A copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)


def varied_settings() -> dict[str, Setting]:
    """The settings that may be an axis, by the names of their fields."""
    settings = settings_of(Protocol)
    names = [name for part in _VARIED for name in settings_of(part) if name not in _COMMON]
    return {name: settings[name] for name in names}


def spelled_setting(field: str, value: Any) -> tuple[str, str]:
    """A setting that may be an axis, by the name of its field, and a value of it as variants spell it.

    Raises:
        InputError: if there is no such setting, or the value is none of its.
    """
    axis = spelled(Axis(field, (value,)), varied_settings())
    return axis.field, str(axis.values[0])


def told_pair(candidate: str, variant: Variant) -> str:
    """A candidate in a variant by its name in rankings: `24-192 learning_rate=0.003`."""
    return f"{candidate} {variant.name}".rstrip()


def recorded_pairs(record: Mapping[str, Any]) -> tuple[tuple[str, Variant], ...]:
    """The candidates in variants of a recorded protocol, in the order of the table.

    Args:
        record: what `Protocol.to_dict` gave.

    Raises:
        InputError: if it has no axes, or other names under `only`.
    """
    only = tuple(record.get("only") or ())
    check_only("only", only)
    return pairs_of(only, tuple(record["candidates"]), _recorded(record))


def _recorded(record: Mapping[str, Any]) -> tuple[Axis, ...]:
    axes = axes_of(record.get("axes") or ())
    check_axes("axes", axes)
    return tuple(spelled(axis, varied_settings()) for axis in axes)


def recorded_axes(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The variants of a recorded protocol, by their names, each with its values: numbers (None where a setting is off),
    or texts as they are spelled.

    Args:
        record: what `Protocol.to_dict` gave.

    Raises:
        InputError: if it has no axes, or other names under `only`.
    """
    settings, read = varied_settings(), _recorded(record)
    variants = variants_among(recorded_pairs(record), read) if record.get("only") else variants_of(read)
    values = {(axis.field, text): typed(text, settings[axis.field]) for axis in read for text in axis.values}
    return {
        variant.name: {
            pair[0]: values[pair] if isinstance(values[pair], int | float | None) else pair[1]
            for pair in variant.settings
        }
        for variant in variants
    }


PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
"""Field values by preset name. `paper` is our reconstruction of what the paper leaves open: the defaults."""


def _check_device(name: str, value: str) -> None:
    text(name, value)
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3}|:all)?", value):
        raise InputError(f"{name} (={shown(value)}): expected auto, cpu, cuda, cuda:N or cuda:all")


def _check_address(value: str) -> None:
    text("ray_address", value)
    if value != "auto" and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", value):
        raise InputError(f"ray_address (={shown(value)}): expected HOST:PORT of a cluster's head, or auto")


def _check_loggers(_: str, value: object) -> None:
    """They are checked where they are spelled."""
    del value


@dataclass(frozen=True, kw_only=True)
class Execution(Options):
    """Where and how a protocol is computed. Nothing here changes what a figure means.

    The meaning of each field is in docs/options.md.

    Raises:
        InputError: if a value is out of its range.
    """

    panel = "Execution"

    engine: Annotated[
        str,
        Option(
            "how members are computed", metavar="NAME", choices=ENGINES,
            besides={"auto": "the fastest that can compute the run"},
        ),
    ] = "auto"  # fmt: skip
    executor: Annotated[str, Option("who computes the groups", metavar="NAME", choices=EXECUTORS)] = "local"
    ray_address: Annotated[
        str | None,
        Option(
            "Ray cluster that computes the groups: HOST:PORT or auto", lambda _, value: _check_address(value),
            metavar="ADDRESS", default="one of this machine, for the run",
            meaning="With `--executor ray`. `auto` is the one that `RAY_ADDRESS` names, or that runs on this machine. "
            "Without an address the run starts a cluster that only this machine reaches, and ends it.",
        ),
    ] = None  # fmt: skip
    shard: Annotated[
        str | None,
        Option(
            "compute one part of the run alone: 3/16, or slurm", lambda _, value: parse_shard(value), metavar="I/N",
            accept=resolve_shard, default="the whole run",
            meaning="The third of sixteen; each has a folder of its own, and `atras merge` makes one run of them. "
            "`slurm` takes the numbers of the job array that it is a task of.",
        ),
    ] = None  # fmt: skip
    device: Annotated[
        str,
        Option(
            "auto, cpu, cuda, cuda:N or cuda:all", _check_device, metavar="NAME",
            meaning="`cuda:all` is a process for each GPU of this machine, through executor processes.",
        ),
    ] = "auto"  # fmt: skip
    memory_bytes: Annotated[
        int | None,
        Option(
            "most a group may need: 4GiB, 512MiB", lambda _, value: whole("memory", value, 2**20, 2**50), kind=MEMORY,
            key="memory", metavar="SIZE", default="what is free",
            meaning="As the plan predicts it. Bytes, or a number with a unit from KiB to TiB (powers of 1024) or KB to "
            "TB (of 1000).",
        ),
    ] = None  # fmt: skip
    data_dir: Annotated[
        str | None,
        Option(
            "folder that holds data sets", panel="Data", metavar="DIR", default="$ATRAS_DATA, then the cache",
            path=True,
            meaning="It is looked in before the user's cache.",
        ),
    ] = field(default_factory=lambda: os.environ.get("ATRAS_DATA") or None)  # fmt: skip
    download: Annotated[bool, Option("get a missing data set from its source", panel="Data", default="download")] = True
    recalibrate: Annotated[
        bool,
        Option("measure this machine's speed anew", meaning="Otherwise figures measured before are taken."),
    ] = False
    checkpoint_every: Annotated[
        float,
        Option(
            "seconds between checkpoints", number_from(0, 1e6), metavar="SECONDS", default="30, or more",
            meaning="Of a group in training or under attack, if writing them takes no more than 2 % of that; less "
            "often otherwise. 0 for as often as can be.",
        ),
    ] = 30.0  # fmt: skip
    log: Annotated[
        tuple[str, ...],
        Option(
            "also write every epoch to this logger; may be repeated", _check_loggers, kind=LOGGER_LIST, panel="Output",
            repeat=True, metavar="NAME", default="none", accept=loggers_of, choices=LOGGERS,
            meaning="A row for each epoch of each member, and its final figures; see docs/loggers.md. A logger that "
            "fails is told of once, and the run goes on without it.",
        ),
    ] = ()  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)
