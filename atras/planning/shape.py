"""The shared part of a protocol's networks, as images and a variant of the run decide it."""

from __future__ import annotations

from atras.experiment import Protocol
from atras.networks import Spec, choose_stem


def shape_of(protocol: Protocol, image_shape: tuple[int, int, int], classes: int) -> Spec:
    """The shared part of the networks of a protocol without axes, on images [C, H, W] of so many classes.

    Raises:
        InputError: if the stem does not fit the images.
    """
    return Spec(
        image_shape=image_shape,
        classes=classes,
        stem=choose_stem(image_shape) if protocol.stem == "auto" else protocol.stem,
        activation=protocol.activation,
        initialisation=protocol.initialisation,
        head_rate256=round(protocol.head_dropout * 256),
        stem_auto=protocol.stem == "auto",
    )


def spec_of(protocol: Protocol, spec: Spec) -> Spec:
    """The shared part of the networks of one variant, from that of another.

    Args:
        protocol: of the variant, as `Protocol.of` has it.
        spec: of any variant of the run, on the same images.
    """
    return shape_of(protocol, spec.image_shape, spec.classes)
