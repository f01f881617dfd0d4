"""Optimizer steps: how many an experiment has of each member, and how many a snapshot has behind it."""

from __future__ import annotations

from atras.experiment import Protocol

from .snapshot import Snapshot


def steps_of(protocol: Protocol, train_size: int) -> int:
    """Optimizer steps of a member over both phases, the last, smaller batch of an epoch included."""
    clean, second = epoch_steps(protocol, train_size)
    return protocol.epochs * clean + protocol.adversarial_epochs * second


def first_steps(protocol: Protocol, train_size: int) -> int:
    """Those of `steps_of` that the first training has."""
    return protocol.epochs * epoch_steps(protocol, train_size)[0]


def steps_done(snapshot: Snapshot, protocol: Protocol, train_size: int) -> int:
    """Number of the `steps_of` steps that a snapshot has behind it."""
    clean, second = epoch_steps(protocol, train_size)
    within = snapshot.tensors["losses"].shape[1] if "losses" in snapshot.tensors else 0
    if snapshot.stage == "train":
        return snapshot.epoch * clean + within
    before = protocol.epochs * clean
    if snapshot.stage == "measure_trained":
        return before
    if snapshot.stage == "adversarial":
        return before + snapshot.epoch * second + within * protocol.defence.steps_a_batch
    return steps_of(protocol, train_size)


def epoch_steps(protocol: Protocol, train_size: int) -> tuple[int, int]:
    """Optimizer steps of an epoch of the first and of the second training."""
    images = (train_size, protocol.defence.epoch_images(train_size))
    clean, adversarial = (-(-n // protocol.batch_size) for n in images)
    return clean, adversarial * protocol.defence.steps_a_batch
