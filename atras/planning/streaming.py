"""Images that are resident on the device, or streamed there in chunks: both from sizes and the memory cap alone."""

from __future__ import annotations

import math

from atras.experiment import Protocol
from atras.networks import Spec

from .machine import Machine

SHARE = 8
"""Images of a set are resident where they take at most this part of the cap, and so may a chunk: a group keeps a sign a
pixel for each of its members beside them."""

LEAST = 2**24
"""Bytes of images that are resident whatever the cap is: a process takes many times as much before it has any."""

HELD = 4
"""Copies of a chunk at once: the one that is trained on, the next one, and what each of them is made from."""


def room_for_images(cap: int) -> int:
    """Most bytes that the images of a set may take on the device; those of a larger set are streamed."""
    return max(cap // SHARE, LEAST)


def chunk_images(protocol: Protocol, spec: Spec, members: int, train_size: int, machine: Machine) -> int:
    """Images of each order that are on the device at once while a group trains: whole batches.

    Args:
        protocol, spec: of the run.
        members: that train at once.
        train_size: training images.
        machine: its cap, and whether images are streamed.

    Returns:
        0 where all are, as they lie.
    """
    if not train_size or not (machine.streams or protocol.augments):
        return 0
    batches = machine.memory_bytes // SHARE // (chunk_bytes(protocol, spec, members, protocol.batch_size))
    most = -(-protocol.defence.epoch_images(train_size) // protocol.batch_size)
    return max(1, min(batches, most)) * protocol.batch_size


def chunk_bytes(protocol: Protocol, spec: Spec, members: int, chunk: int) -> int:
    """Predicted bytes of the chunks of so many images of each order that are there at once: as float32, with signs."""
    pixels, seeds = math.prod(spec.image_shape), len(protocol.seeds)
    signs = members if protocol.defence.from_signs else 0
    return HELD * chunk * seeds * pixels * (4 + signs)


def images_line(streams: bool, image_bytes: int, cap: int) -> str:
    """Whether the images are resident or streamed, and why: a line for people."""
    size, room = (f"{amount / 2**20:.0f} MiB" for amount in (image_bytes, room_for_images(cap)))
    if streams:
        return f"images: streamed from their file, {size} are more than the {room} for them (1/{SHARE} of the memory)"
    return f"images: resident, {size}"
