"""Counted FLOPs and bytes of networks and groups: what the plan weighs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from atras.attacks import FGSM, PGD, Attack, Passes
from atras.data import MOST_HELD_OUT
from atras.engines import DTYPES, convolutions_of, hidden_widths, own_convolutions
from atras.evaluation import GAP_IMAGES, GAP_STEPS, VALIDATION_STEPS, outcome_memory, trials_of
from atras.experiment import Protocol
from atras.kernels.step import cpu_layout, gpu_layout
from atras.networks import Member, Network, Variant


def copies_kept(protocol: Protocol) -> int:
    """Number of copies of the evaluated images that the protocol's attacks keep at once, and what is carried up."""
    defence = getattr(protocol.defence, "attack", None) if not protocol.defence.from_signs else None
    attacks = [protocol.attack, *protocol.stronger_attacks, *protocol.transferred_attacks]
    anew = 0 if protocol.defence.from_signs else Attack.kept_copies
    carried = 1 if protocol.epsilons else 0
    own = carried + max(each.kept_copies for each in attacks)
    return max([anew, own, *([defence.kept_copies] if defence else [])])


def weight_copies(protocol: Protocol) -> int:
    """Number of copies of its weights that a member keeps in plain torch beside those it trains with: their average,
    and a temporary of its update."""
    return 2 if protocol.average else 0


def selection_bytes(protocol: Protocol, networks: Sequence[Network], kind: str) -> int:
    """Bytes of the networks of the epochs selected so far, which are in the host's memory: on a GPU none."""
    if not protocol.selects or kind != "cpu":
        return 0
    return DTYPES[protocol.precision].itemsize * sum(network.parameter_count for network in networks)


def validation_passes(protocol: Protocol, classes: int, train_size: int) -> Passes:
    """Passes of a member on the images by which an epoch is selected."""
    if not protocol.selects:
        return Passes()
    images = protocol.validation_size or min(MOST_HELD_OUT, -(-train_size // 9))  # a tenth of all, with those left
    epochs = protocol.adversarial_epochs if protocol.defence.trains else protocol.epochs
    return Passes().plus(PGD(protocol.epsilon, steps=VALIDATION_STEPS).cost(classes), epochs * images)


def distance_bytes(protocol: Protocol, test_size: int) -> int:
    """Bytes a member of what an evaluation keeps of every test image and attack: distances, in both norms, and
    outcomes."""
    attacks = {protocol.attack, protocol.true_label_attack, *protocol.stronger_attacks}
    distances = 2 * DTYPES[protocol.precision].itemsize * test_size * (len(attacks) + len(protocol.curve_epsilons))
    return distances + outcome_memory(protocol, test_size)


def evaluation_passes(
    protocol: Protocol, classes: int, train_size: int, test_size: int, *, one_pass: bool = False
) -> Passes:
    """Passes of evaluation and attacks of a member in all its phases, those in its training included.

    Args:
        protocol: of the run.
        classes: logits.
        train_size, test_size: images.
        one_pass: whether a training step gives the images' gradient too.
    """
    together, apart = evaluation_parts(protocol, classes, train_size, test_size, one_pass=one_pass)
    return together.plus(apart)


def evaluation_parts(
    protocol: Protocol, classes: int, train_size: int, test_size: int, *, one_pass: bool = False
) -> tuple[Passes, Passes]:
    """The same in two parts: what all members of a group do at once, and what those of each epsilon do by themselves
    (`evaluation.Evaluators`)."""
    together, apart = _measuring_passes(protocol, classes, train_size, test_size, one_pass)
    return together, apart.plus(validation_passes(protocol, classes, train_size))


def _measuring_passes(
    protocol: Protocol, classes: int, train_size: int, test_size: int, one_pass: bool
) -> tuple[Passes, Passes]:
    fgsm = protocol.attack.cost(classes)
    phase = Passes(forward=1 + len(set(protocol.curve_epsilons) - {0.0})).plus(fgsm)
    for attack in protocol.stronger_attacks:
        phase = phase.plus(attack.cost(classes))
    own = protocol.attack == protocol.true_label_attack
    if not protocol.defence.trains:
        more = 0 if own or not protocol.trains else 1
        train = Passes(forward=1 if protocol.trains else 0)
        return Passes().plus(train, train_size), Passes().plus(phase.plus(fgsm, more), test_size)
    test = Passes(forward=1).plus(phase, 2).plus(fgsm, 0 if own else 1)
    train = Passes(forward=3, gradient=1)
    together, apart = Passes().plus(train, train_size), Passes().plus(test, test_size)
    if not protocol.defence.from_signs:
        within = one_pass and protocol.defence.within_steps
        made = Passes() if within else protocol.defence.at(protocol.epsilon).cost(classes)
        together = together.plus(made, protocol.adversarial_epochs * train_size)
        gap = FGSM().cost(classes).plus(Passes(2, GAP_STEPS))
        seen = min(GAP_IMAGES, train_size) if protocol.defence.compared else 0
        apart = apart.plus(gap, protocol.adversarial_epochs * seen)
    return together, apart


@lru_cache(maxsize=128)
def transfer_sources(protocol: Protocol, variant: Variant = Variant()) -> Mapping[Attack, Mapping[Member, int]]:
    """By attack that is transferred, how many times it is made on each member of a variant, whose protocol it is."""
    sources: dict[Attack, dict[Member, int]] = {}
    for attack, origin in dict.fromkeys((trial.attack, trial.origin) for trial in trials_of(protocol, variant)):
        times = sources.setdefault(attack, {})
        for network in origin.networks:
            times[network.member] = times.get(network.member, 0) + 1
    return sources


@lru_cache(maxsize=128)
def transfer_passes(
    protocol: Protocol, classes: int, test_size: int, variant: Variant = Variant()
) -> Mapping[Member, Passes]:
    """Passes of the members of a variant, whose protocol it is, that take part in the transfer: attacks made on them,
    and images that are tried on them."""
    passes: dict[Member, Passes] = {}

    def add(member: Member, more: Passes, times: int) -> None:
        passes[member] = passes.get(member, Passes()).plus(more, times * test_size)

    for attack, sources in transfer_sources(protocol, variant).items():
        for member, times in sources.items():
            add(member, Passes(1).plus(attack.cost_of_making(classes)), times)
    for member, times in Counter(trial.target.member for trial in trials_of(protocol, variant)).items():
        add(member, Passes(1), times)
    return passes


def forward_flops(network: Network) -> int:
    """FLOPs of one image's forward pass: two for each multiply-add."""
    return 2 * sum(place.layer.multiplications(place.inputs) for place in network.places)


def training_flops(network: Network) -> int:
    """FLOPs of one image's training step: forward, weight gradients, and input gradients of all but the first layer
    that has weights."""
    if network.own is not None:  # nobody knows which layer is its first
        return 3 * forward_flops(network)
    first = next((place for place in network.places if place.parameters), network.places[0])
    return 3 * forward_flops(network) - 2 * first.layer.multiplications(first.inputs)


def activation_values(network: Network) -> int:
    """Numbers that one image's forward pass keeps for its backward pass."""
    places = network.hidden if network.own is None else network.places
    hidden = sum(place.layer.kept_values(place.inputs) for place in places)
    return math.prod(network.spec.image_shape) + hidden + network.spec.classes


def member_bytes(
    network: Network, *, itemsize: int, batch: int, evaluation_batch: int, images: int, kept_copies: int = 0
) -> int:
    """Predicted bytes of one member.

    Args:
        network: at its widths as they are stored, padded or not.
        itemsize: bytes of a parameter, 4 or 8.
        batch, evaluation_batch: images of a training step and of an evaluation.
        images: how many keep a sign a pixel: the training and test set.
        kept_copies: of the parameters, beside those of training.

    Returns:
        Parameters, gradients, two moments and one temporary; activations and their gradients; signs.
    """
    kept = sum(map(math.prod, network.state_shapes.values())) - network.parameter_count  # neither trained nor moved
    parameters = ((5 + kept_copies) * network.parameter_count + kept) * itemsize
    pixels = math.prod(network.spec.image_shape)
    activations = 2 * max(batch, evaluation_batch) * (activation_values(network) + pixels) * itemsize
    return parameters + activations + images * pixels


def fused_bytes(
    networks: Sequence[Network],
    *,
    precision: str,
    threads: int,
    batch: int,
    evaluation_batch: int,
    images: int,
    copies: int,
    averages: bool = False,
    clips: bool = False,
) -> int:
    """Predicted bytes of a group in engine fused, whose members keep natural widths and share each thread's scratch.

    Args:
        networks: the members'.
        precision: of training.
        threads: that compute.
        batch, evaluation_batch, images: as in `member_bytes`.
        copies: of the evaluated images, that an attack keeps at once.
        averages, clips: whether weights are averaged, and gradients clipped.

    Returns:
        Parameters, two moments and an average; signs; a batch's activations, and gradients that wait for their norm, a
        thread; an evaluation's pictures and gradients.
    """
    pixels = math.prod(networks[0].spec.image_shape)
    parameters = sum((3 + averages) * 4 * network.parameter_count for network in networks)
    waiting = clips * max(network.parameter_count for network in networks)
    kept = threads * (max(_fused_values(network, batch, precision) for network in networks) + waiting)
    # A member alone is worked on by all threads, which need room beside that of members that go one to a thread.
    worked_in = (2 * threads - 1) * max(_workspace_values(network, precision) for network in networks)
    scratch = 4 * (kept + worked_in)
    return parameters + scratch + len(networks) * pixels * (images + copies * 4 * evaluation_batch)


def _fused_values(network: Network, batch: int, precision: str) -> int:
    """Numbers that a thread of engine fused keeps of a batch."""
    spec, convolutions = network.spec, own_convolutions(network)
    if not convolutions:
        return batch * activation_values(network)
    dense = sum(place.layer.kept_values(place.inputs) for place in network.hidden if len(place.outputs) == 1)
    own = cpu_layout.scratch_values(spec.image_shape, convolutions, spec.activation, batch, precision)
    return own + batch * dense


def _workspace_values(network: Network, precision: str) -> int:
    """Numbers that a thread of engine fused works in, for convolutions of a network's own."""
    convolutions = own_convolutions(network)
    return cpu_layout.workspace_values(network.spec.image_shape, convolutions, precision) if convolutions else 0


def fused_device_bytes(
    networks: Sequence[Network],
    *,
    precision: str,
    batch: int,
    evaluation_batch: int,
    images: int,
    averages: bool = False,
) -> int:
    """Predicted bytes of a group in engine fused on a GPU.

    Args:
        networks: the members'.
        precision: of training.
        batch, evaluation_batch, images: as in `member_bytes`.
        averages: whether weights are averaged.

    Returns:
        What the step allocates; signs; an evaluation's pictures and gradients.
    """
    spec, layout = networks[0].spec, _device_layout(networks)
    pixels = math.prod(spec.image_shape)
    step = gpu_layout.device_bytes(layout, spec.activation, precision=precision, batch=batch, average=averages)
    rows = gpu_layout.evaluation_rows(layout, spec.activation, precision=precision, batch=batch)
    gradients = 2 * 4 * rows
    return step + len(networks) * pixels * (images + 3 * 4 * evaluation_batch + gradients)


def fused_device_rows(networks: Sequence[Network], *, precision: str, batch: int) -> int:
    """Images that a group in engine fused takes at once in evaluation on a GPU; arguments as above."""
    activation = networks[0].spec.activation
    return gpu_layout.evaluation_rows(_device_layout(networks), activation, precision=precision, batch=batch)


def _device_layout(networks: Sequence[Network]) -> gpu_layout.Layout:
    spec, hiddens = networks[0].spec, [hidden_widths(network.candidate) for network in networks]
    return gpu_layout.Layout(spec.image_shape, spec.classes, hiddens, list(map(convolutions_of, networks)))
