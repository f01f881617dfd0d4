"""Counted FLOPs and bytes of networks and groups: what the plan weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from atras.attacks.registry import GAP_IMAGES, GAP_STEPS
from atras.experiment.protocol import Protocol
from atras.kernels.step import gpu_layout
from atras.networks.network import Spec, parameter_count

Hidden = tuple[int, ...]

DEEPFOOL_STEPS = 4
"""Steps that DeepFool is taken to need: two to three an image are usual, and a chunk waits for its slowest ones."""

DEEPFOOL_CLASSES = 10


class Passes(NamedTuple):
    """Passes of images through a network: forward ones, and gradients of the images, which take two forward ones."""

    forward: float = 0
    gradient: float = 0

    def plus(self, other: Passes, times: float = 1) -> Passes:
        """These and the others so many times."""
        return Passes(self.forward + times * other.forward, self.gradient + times * other.gradient)


def copies_kept(protocol: Protocol) -> int:
    """How many copies of the evaluated images the protocol's attacks keep at once."""
    return 8 if protocol.attacks == ("fgsm",) and protocol.train_attack == "fgsm" else 12


def attack_passes(protocol: Protocol, name: str) -> Passes:
    """What an attack and the evaluation of its examples take for an image whose clean logits are known."""
    if name == "pgd":
        return Passes(protocol.restarts, protocol.attack_steps * protocol.restarts)
    if name.startswith("deepfool"):
        return Passes(DEEPFOOL_STEPS, DEEPFOOL_STEPS * DEEPFOOL_CLASSES)
    return Passes(1, 1)


def evaluation_passes(protocol: Protocol, train_size: int, test_size: int) -> Passes:
    """What evaluation and attacks of a member take in both phases, those in its training included."""
    fgsm = attack_passes(protocol, "fgsm")
    phase = Passes(forward=1 + len(set(protocol.epsilons) - {0.0, protocol.epsilon})).plus(fgsm)
    for name in protocol.attacks:
        phase = phase.plus(attack_passes(protocol, name), name != "fgsm")
    own = protocol.label_source == "true" and protocol.target == "none"
    test = Passes(forward=1).plus(phase, 2).plus(fgsm, 0 if own else 1)
    train = Passes(forward=3, gradient=1)
    total = Passes().plus(train, train_size).plus(test, test_size)
    if protocol.train_attack != "fgsm":
        steps = protocol.attack_steps if protocol.train_attack == "pgd-batch" else 1
        made = Passes(protocol.train_attack == "fgsm-batch", steps)
        total = total.plus(made, protocol.adversarial_epochs * train_size)
        total = total.plus(Passes(3, 1 + GAP_STEPS), protocol.adversarial_epochs * min(GAP_IMAGES, train_size))
    return total


def transfer_passes(protocol: Protocol, test_size: int) -> Passes:
    """What transfer takes of a member in both phases: its own attack, and the images of every candidate."""
    if not protocol.transfer:
        return Passes()
    return Passes().plus(Passes(1 + len(protocol.candidates), 1), 2 * test_size)


def forward_flops(spec: Spec, hidden: Hidden) -> int:
    """FLOPs of one image's forward pass: two for each multiply-add of convolutions and dense layers."""
    return 2 * (sum(_stem_products(spec)) + _head_products(spec, hidden))


def training_flops(spec: Spec, hidden: Hidden) -> int:
    """FLOPs of one image's training step: forward, weight gradients, and input gradients of all but the first layer."""
    widths = (spec.features, *hidden, spec.classes)
    first = _stem_products(spec)[0] if spec.convolutions else widths[0] * widths[1]
    return 3 * forward_flops(spec, hidden) - 2 * first


def activation_values(spec: Spec, hidden: Hidden) -> int:
    """Numbers that one image's forward pass keeps for its backward pass."""
    kept = math.prod(spec.image_shape)
    for i, layer in enumerate(spec.convolutions):
        values = layer.channels * math.prod(_convolved_side(spec, i))
        kept += 2 * values + (2 * math.prod(spec.stem_shapes[i + 1]) if layer.pool else 0)
    return kept + 2 * sum(hidden) + spec.classes


def padded(hiddens: Sequence[Hidden]) -> Hidden:
    """The widths that candidates of one depth share in a stack: the widest of each layer."""
    return tuple(max(widths) for widths in zip(*hiddens, strict=True))


def member_bytes(spec: Spec, hidden: Hidden, *, itemsize: int, batch: int, evaluation_batch: int, images: int) -> int:
    """Predicted bytes of one member at these (padded) widths.

    Args:
        spec: the shared shape of the networks.
        hidden: widths as they are stored.
        itemsize: bytes of a parameter, 4 or 8.
        batch, evaluation_batch: images of a training step and of an evaluation.
        images: how many keep a sign a pixel: the training and test set.

    Returns:
        Parameters, gradients, two moments and one temporary; activations and their gradients; signs.
    """
    parameters = 5 * parameter_count(spec, hidden) * itemsize
    pixels = math.prod(spec.image_shape)
    activations = 2 * max(batch, evaluation_batch) * (activation_values(spec, hidden) + pixels) * itemsize
    return parameters + activations + images * pixels


def fused_bytes(
    spec: Spec, hiddens: Sequence[Hidden], *, threads: int, batch: int, evaluation_batch: int, images: int, copies: int
) -> int:
    """Predicted bytes of a group in engine fused, whose members keep natural widths and share each thread's scratch.

    Args:
        spec: the shared shape of the networks.
        hiddens: widths of each member.
        threads: that compute.
        batch, evaluation_batch, images: as in `member_bytes`.
        copies: of the evaluated images, that an attack keeps at once.

    Returns:
        Parameters and two moments; signs; a batch's activations a thread; an evaluation's pictures and gradients.
    """
    pixels = math.prod(spec.image_shape)
    parameters = sum(3 * 4 * parameter_count(spec, hidden) for hidden in hiddens)
    scratch = threads * batch * max(activation_values(spec, hidden) for hidden in hiddens) * 4
    return parameters + scratch + len(hiddens) * pixels * (images + copies * 4 * evaluation_batch)


def fused_device_bytes(
    spec: Spec, hiddens: Sequence[Hidden], *, precision: str, batch: int, evaluation_batch: int, images: int
) -> int:
    """Predicted bytes of a group in engine fused on a GPU.

    Args:
        spec: the shared shape of the networks.
        hiddens: widths of each member.
        precision: of training.
        batch, evaluation_batch, images: as in `member_bytes`.

    Returns:
        What the step allocates; signs; an evaluation's pictures and gradients.
    """
    pixels = math.prod(spec.image_shape)
    layout = gpu_layout.Layout(spec.image_shape, spec.classes, hiddens, spec.stem)
    step = gpu_layout.device_bytes(layout, spec.activation, precision=precision, batch=batch)
    gradients = 2 * 4 * gpu_layout.EVALUATION_ROWS
    return step + len(hiddens) * pixels * (images + 3 * 4 * evaluation_batch + gradients)


def _stem_products(spec: Spec) -> list[int]:
    return [
        9 * spec.stem_shapes[i][0] * layer.channels * math.prod(_convolved_side(spec, i))
        for i, layer in enumerate(spec.convolutions)
    ]


def _convolved_side(spec: Spec, index: int) -> tuple[int, int]:
    """Height and width behind a convolution, before its pool."""
    grow = 2 * spec.convolutions[index].padding - 2
    _, height, width = spec.stem_shapes[index]
    return height + grow, width + grow


def _head_products(spec: Spec, hidden: Hidden) -> int:
    widths = (spec.features, *hidden, spec.classes)
    return sum(inputs * outputs for inputs, outputs in pairwise(widths))
