"""The preparation of a run: the device, the data on it, and the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch

from atras.attacks import Attack
from atras.data import CHARACTERS, Dataset
from atras.engines import DTYPES, ENGINES, FusedEngine, modules_engine, why_not, why_slow
from atras.environment import attack_backend, choose_device, total_memory, why_no_gpu
from atras.errors import InputError, wrapped
from atras.evaluation import keeps_outcomes, outcomes_line
from atras.experiment import Execution, Protocol
from atras.kernels.backends import bf16
from atras.networks import (
    Candidate,
    Member,
    Network,
    Spec,
    Variant,
    Weights,
    inspect_factory,
    members_of,
)
from atras.planning import (
    Group,
    Machine,
    Plan,
    Planned,
    Training,
    choose_engine,
    images_line,
    make_groups,
    memory_line,
    precision_reason,
    reason_for,
    shape_of,
    shared_trainings,
    spec_of,
    threads_line,
    transfer_bytes,
    transfer_parts,
    united,
    why_unfit,
)
from atras.planning import memory_cap as cap_of
from atras.rounding import counted
from atras.torch_state import threads

from .bundles import bundles
from .data_place import DataPlace
from .defence_source import source_candidates, sources_of
from .given import fitted_weights
from .predicted import predicted_group, predicted_training
from .progress import Reporter
from .speeds import Speeds

Load = Callable[[torch.device], Dataset]


class Prepared(NamedTuple):
    """Device, data, shape of the networks and plan: all before a run's first step."""

    device: torch.device
    data: Dataset
    spec: Spec
    plan: Plan


def make_plan(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a `run` with the same arguments, with predicted seconds; nothing is trained.

    Raises:
        InputError: as `run`.
    """
    return prepare(protocol, execution, config_plan).plan


def plan_lines(
    protocol: Protocol,
    execution: Execution,
    config_plan: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    weights: Sequence[Weights] = (),
    width: int = 80,
) -> list[str]:
    """What a `run` with the same arguments says before it begins: cautions, and the plan.

    What its seconds take for granted stands below. The reporter is told of images that are decoded.

    Raises:
        InputError: as `run`.
    """
    load = partial(DataPlace.of(protocol, execution).load, progress=(reporter or Reporter()).decoding)
    prepared = prepare(protocol, execution, config_plan, load)
    fitted_weights(protocol, prepared.spec, weights)
    cautions = cautions_before(protocol, prepared.data)
    outcomes = outcomes_line(protocol, prepared.data.classes, len(prepared.data.test))
    more = [outcomes] if outcomes not in cautions else []
    attacks: list[Attack | None] = []
    for one in protocol.plain:
        attacks += [*one.stronger_attacks, *one.transferred_attacks, getattr(one.defence, "attack", None)]
    names = dict.fromkeys(attack.name for attack in attacks if attack is not None and attack.drops_fooled)
    if names:
        more.append(
            f"as if no image were fooled by {', '.join(names)}: one that is costs no more, so it may take far less; "
            "the time left that a run shows starts from the same figures and is corrected as images are fooled"
        )
    return [*wrapped(cautions, width), *prepared.plan.lines(width), *wrapped(more, width)]


def cautions_before(protocol: Protocol, data: Dataset) -> list[str]:
    """Cautions that are known before a run begins, a line each: about its data, its attacks on them, and outcomes that
    it leaves out by itself; about modules of the user."""
    made = [attack for one in protocol.plain for attack in (*one.stronger_attacks, *one.transferred_attacks)]
    attacks = dict.fromkeys(text for attack in made for text in attack.cautions(data.classes))
    left_out = protocol.outcomes == "auto" and not keeps_outcomes(protocol, len(data.test))
    outcomes = [outcomes_line(protocol, data.classes, len(data.test))] if left_out else []
    own = [inspect_factory(factory, data.image_shape).cautions for factory in protocol.factories.values()]
    modules = [text for texts in own for text in texts]
    augmentation = dict.fromkeys(text for one in protocol.plain for text in augmentation_cautions(one, data))
    return [*data.cautions, *augmentation, *attacks, *outcomes, *modules]


def augmentation_cautions(protocol: Protocol, data: Dataset) -> list[str]:
    """Cautions about augmentation that changes what images are of, a line each."""
    if "flip" not in protocol.augment.split(",") or data.name not in CHARACTERS:
        return []
    return [
        f"augment: mirrored images of {data.name} are often no longer of their class (a 2 is no 2 in a mirror); take "
        "--augment crop"
    ]


def prepare(
    protocol: Protocol,
    execution: Execution,
    config_plan: Mapping[str, Any] | None = None,
    load: Load | None = None,
) -> Prepared:
    """Choose the device, load the data on it, and plan or take the recorded plan.

    Args:
        protocol, execution, config_plan: as `run`.
        load: as `load_data`.

    Raises:
        InputError: as `run`.
    """
    here = load_data(protocol, execution, load)
    if config_plan is None:
        return Prepared(*here, plan_for(protocol, execution, *here))
    recorded = Plan.from_dict(dict(config_plan), protocol)
    if not (reason := unfit(recorded, recorded.groups, protocol, execution, *here)):
        return Prepared(
            *here, dataclasses.replace(recorded, device=str(here[0]), limits=limit_lines(execution, *here[:2]))
        )
    # In the recorded precision, where that is possible.
    precision = recorded.precision if protocol.precision == "auto" else protocol.precision
    choices = [(execution.engine, wanted) for wanted in (precision, protocol.precision)]
    plan = plan_again(protocol, execution, *here, choices)
    return Prepared(*here, dataclasses.replace(plan, replanned=reason))


def unfit(
    plan: Plan,
    left: Collection[Group],
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
) -> str:
    """Why what is left of a recorded plan cannot be computed here as it is; empty where it can."""
    machine = machine_for(execution, device, data)
    sizes = len(data.train), len(data.test)
    for variant in dict.fromkeys(group.variant for group in left):
        own = group_protocol(protocol, variant, sizes[1])
        groups = [group for group in left if group.variant == variant]
        if reason := why_unfit(plan, groups, own, spec_of(own, spec), sizes, machine, execution.engine):
            return reason
    return ""


def load_data(protocol: Protocol, execution: Execution, load: Load | None = None) -> tuple[torch.device, Dataset, Spec]:
    """Choose the device, load the data on it, and see what networks they take.

    Args:
        protocol, execution: as `run`.
        load: loads the data on a device; None for those that the protocol and the execution name.

    Raises:
        InputError: as `run`.
    """
    for one in protocol.plain:
        one.check_networks()
    device = choose_device(execution.device)
    attack_backend(device, DTYPES[protocol.precision])
    data = (load or DataPlace.of(protocol, execution).load)(device)
    spec, *_ = [_checked_spec(one, data) for one in protocol.plain]
    return device, data, spec


def _checked_spec(protocol: Protocol, data: Dataset) -> Spec:
    """The networks' shape, once nothing speaks against them on these data."""
    protocol.check_classes(data.occurring.tolist())
    spec = make_spec(protocol, data.image_shape, data.classes)
    if protocol.trains:
        _check_trainable(protocol, spec, len(data.train))
    return spec


def _check_trainable(protocol: Protocol, spec: Spec, train_size: int) -> None:
    """Refuse modules of the user that cannot be trained, at all or on a batch of one image that there will be."""
    for name, factory in protocol.factories.items():
        if not inspect_factory(factory, spec.image_shape).trainable:
            raise InputError(
                f"network {name}: expected logits that depend on trainable parameters, got none; it cannot be trained, "
                "but attacked: see atras attack"
            )
    size = protocol.batch_size
    single = any(n and 1 in (size, n % size) for n in (train_size, protocol.defence.epoch_images(train_size)))
    for name, factory in protocol.factories.items() if single else ():
        if not inspect_factory(factory, spec.image_shape).trains_on_one:
            raise InputError(
                f"network {name}: expected to be trained on every batch, but it fails on one of a single image, which "
                f"the last batch of {counted(train_size, 'image')} is (batch normalisation?); give another "
                f"--batch-size (={size}) or --train-size"
            )


def make_spec(protocol: Protocol, image_shape: tuple[int, int, int], classes: int) -> Spec:
    """The shared part of a protocol's networks on images of this shape.

    Raises:
        InputError: if the stem or a candidate does not fit the images.
    """
    spec = shape_of(protocol, image_shape, classes)
    for candidate in protocol.candidates:
        Network(spec, candidate).places  # noqa: B018 (asking for the shapes refuses what does not fit)
    try:
        for candidate in all_candidates(protocol, spec)[len(protocol.candidates) :]:
            Network(spec, candidate).places  # noqa: B018
    except InputError as error:
        raise InputError(f"defence (={str(protocol.defence)!r}): its source does not fit the images: {error}") from None
    return spec


def machine_for(execution: Execution, device: torch.device, data: Dataset) -> Machine:
    """What this machine can do for some images, whatever the candidates."""
    return Machine(
        kind=device.type,
        memory_bytes=memory_cap(execution, device),
        fused=why_not(device),
        bf16=bf16(device),
        threads=threads().amount,
        fused_slow=why_slow() if device.type == "cpu" else "",
        streams=data.streamed,
    )


class Share(NamedTuple):
    """The candidates that one engine computes.

    Args:
        engine, precision: definite ones.
        candidates: at least one.
        machine: what it can do for these.
    """

    engine: str
    precision: str
    candidates: tuple[Candidate, ...]
    machine: Machine

    @property
    def layered(self) -> bool:
        """Whether they are made of layers, not modules of the user."""
        return not self.candidates[0].complete


def _shares(asked: str, protocol: Protocol, spec: Spec, machine: Machine, copies: int = 1) -> list[Share]:
    """Which engine computes which candidates: where none is asked for, those that engine fused has not are apart.

    Args:
        asked: engine, by name or `auto`.
        protocol, spec: of the members that are planned together.
        machine: what it can do, whatever the candidates.
        copies: members of each candidate among them.

    Raises:
        InputError: if an engine or a precision that is asked for cannot compute some.
    """
    candidates: dict[tuple[str, bool], list[Candidate]] = {}
    for each in all_candidates(protocol, spec):
        own = each.complete and asked == "auto"
        wanted = modules_engine(machine.kind, spec, each, copies) if own else asked
        apart = wanted == "auto" and _chooses_fused(protocol.precision, machine)
        apart = apart and bool(FusedEngine.refusal(spec, [each], machine.kind))
        candidates.setdefault((wanted, apart), []).append(each)
    shares = []
    # Those of layers first, and of these the ones that engine fused has.
    for (wanted, _), some in sorted(candidates.items(), key=lambda item: (item[0][0] != asked, item[0][1])):
        fused = machine.fused or (FusedEngine.refusal(spec, some, machine.kind) if wanted in ("auto", "fused") else "")
        here = dataclasses.replace(machine, fused=fused)
        engine, precision = choose_engine(wanted, protocol.precision, have_convolutions(some, spec), here)
        kind = ENGINES.get(engine)
        if refused := kind.refusal(spec, some, machine.kind) or kind.lacks(protocol, machine.kind):
            raise InputError(f"engine (={engine}): {refused}; use --engine auto, or another engine")
        shares.append(Share(engine, precision, tuple(some), here))
    return shares


def _chooses_fused(precision: str, machine: Machine) -> bool:
    """Whether `auto` means engine fused on a machine, for candidates that it has."""
    return choose_engine("auto", precision, False, machine)[0] == "fused"


def plan_for(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    done: Collection[Member] = (),
    machine: Machine | None = None,
    speeds: Speeds | None = None,
) -> Plan:
    """The plan for a machine, this one where none is given, with seconds by its speeds."""
    machine = machine or machine_for(execution, device, data)
    speeds = speeds or Speeds(data.train, anew=execution.recalibrate)
    planned: list[Planned] = []
    shares: list[Share] = []
    trainings: list[Training] = []
    sizes = len(data.train), len(data.test)
    for variants in bundles(protocol, spec):
        own = group_protocol(protocol, variants[0], len(data.test))
        if protocol.only:
            those = dict.fromkeys(candidate for candidate, variant in protocol.pairs if variant in variants)
            own = own.replace(candidates=tuple(those))
            absent = set(members_of(own.candidates, own.seeds, variants)) - set(protocol.members)
            done = [*done, *absent]
        shape = spec_of(own, spec)
        new = _shares(execution.engine, own, shape, machine, len(protocol.seeds) * len(variants))
        made = [each for share in new for each in _groups(share, own, shape, sizes, machine, done, variants)]
        trainings += sources_of(made, sizes, machine) if made else []
        planned += made
        shares += [share for share in new if share not in shares]
    if execution.shard is None:  # shards have nobody to share with
        planned, shared = shared_trainings(planned, sizes, machine)
        trainings += shared
    groups = [predicted_group(each, sizes, speeds) for each in planned]
    priced = [predicted_training(training, planned, sizes, speeds) for training in united(trainings)]
    engine, precision, *_ = shares[0]
    resolved = protocol.replace(precision=precision)
    no_gpu = why_no_gpu() if execution.device == "auto" else ""
    layered = [share for share in shares if share.layered]
    not_fused = dict.fromkeys(_not_fused(share, execution.engine, apart=len(layered) > 1) for share in layered)
    arithmetic = precision_reason(protocol.precision, engine, precision, machine) if layered else ""
    transfer = predicted_transfer_bytes(groups, resolved, spec, machine)
    reason = "; ".join(filter(None, [no_gpu, *not_fused]))
    reasons = (reason, arithmetic, limit_lines(execution, device, data), transfer, machine.threads)
    return Plan(str(device), engine, precision, tuple(groups), *reasons, trainings=tuple(priced))


def group_protocol(protocol: Protocol, variant: Variant, test_size: int) -> Protocol:
    """The experiment on members of a variant, as a part of a run that has axes, or as the run.

    Whether outcomes are kept depends on how many the whole run has.
    """
    own = protocol.of(variant)
    if not protocol.axes:
        return own
    return own.replace(outcomes="all" if keeps_outcomes(protocol, test_size) else "none")


def _not_fused(share: Share, asked: str, *, apart: bool) -> str:
    """Why engine fused is not taken for a share: a line for people; empty where it is.

    Args:
        share: of candidates of layers.
        asked: the engine that was asked for.
        apart: whether there are others, so that it is to say which these are.
    """
    reason = reason_for(asked, share.engine, share.machine)
    if not reason or not apart:
        return reason
    names = [candidate.name for candidate in share.candidates]
    shown = ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    return f"{reason}, for {shown}: engine {share.engine} in {share.precision} computes these"


def _groups(
    share: Share,
    protocol: Protocol,
    spec: Spec,
    sizes: tuple[int, int],
    machine: Machine,
    done: Collection[Member],
    variants: Sequence[Variant],
) -> list[Planned]:
    """The groups of one engine."""
    resolved = protocol.replace(precision=share.precision)
    own = set(share.candidates)
    others = [each for each in members_of(protocol.candidates, protocol.seeds, variants) if each.candidate not in own]
    groups = make_groups(resolved, spec, *sizes, share.engine, machine, [*done, *others], variants)
    return [Planned(group, resolved, spec) for group in groups]


def predicted_transfer_bytes(groups: Sequence[Group], protocol: Protocol, spec: Spec, machine: Machine) -> int | None:
    """Most memory at once in the transfer between the members of these groups; None without a transfer."""
    if not protocol.tries_other_networks or not groups:
        return None
    needs = []
    for variant in protocol.variants:
        own = protocol.of(variant)
        shape = spec_of(own, spec)
        parts = transfer_parts(of_variant(groups, variant), own, shape, machine)
        needs += [transfer_bytes(parts, own, shape, machine.memory_bytes)] if parts else []
    return max(needs)


def of_variant(groups: Iterable[Group], variant: Variant) -> tuple[Group, ...]:
    """The members of a variant, in the groups that have some; only they meet each other in a transfer."""
    own = [(group, tuple(member for member in group.members if member.variant == variant)) for group in groups]
    return tuple(
        group if members == group.members else dataclasses.replace(group, members=members)
        for group, members in own
        if members
    )


def memory_cap(execution: Execution, device: torch.device) -> int:
    """Most bytes that what is computed at once may be predicted to take."""
    return cap_of(execution.memory_bytes, total_memory(device).amount)


def limit_lines(execution: Execution, device: torch.device, data: Dataset) -> tuple[str, ...]:
    """What limits memory and threads here, and whether the images are resident, a line each for people."""
    memory = memory_line(execution.memory_bytes, total_memory(device))
    images = images_line(data.streamed, data.image_bytes, memory_cap(execution, device))
    return (memory, images, *([] if device.type == "cuda" else [threads_line(threads())]))


def all_candidates(protocol: Protocol, spec: Spec) -> list[Candidate]:
    """Those of a protocol, and those whose copies its defence takes."""
    return [*protocol.candidates, *source_candidates(protocol, spec)]


def have_convolutions(candidates: Iterable[Candidate], spec: Spec) -> bool:
    """Whether any network of these computes on images behind its first layer."""
    networks = (Network(spec, candidate) for candidate in candidates)
    return any(len(place.outputs) == 3 for network in networks for place in network.hidden)


def plan_again(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    choices: Sequence[tuple[str, str]],
    done: Collection[Member] = (),
) -> Plan:
    """A plan of what is left, with the first engine and precision that this machine can do.

    Args:
        protocol, execution, device, data, spec: of the run.
        choices: engines and precisions, the best first; where none can be done it is the first one's error that counts.
        done: members to leave out.

    Raises:
        InputError: if this machine can do none of them, or has too little memory.
    """
    machine = machine_for(execution, device, data)
    chosen = choices[0]
    for engine, precision in choices:
        with suppress(InputError):
            for one in protocol.plain:
                _shares(engine, one.replace(precision=precision), spec_of(one, spec), machine)
            chosen = engine, precision
            break
    place, resolved = dataclasses.replace(execution, engine=chosen[0]), protocol.replace(precision=chosen[1])
    return plan_for(resolved, place, device, data, spec, done)
