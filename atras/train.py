"""The experiment on one group of members: train, attack, adversarially train, attack again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .data import Dataset
from .engine import Engine, Epoch
from .measure import Population, Rows
from .protocol import Protocol
from .randomness import permutation

Progress = Callable[[str, int, float, float], None]
"""Called after each epoch with phase, the steps it had, mean loss and running accuracy of the group."""


def steps_of(protocol: Protocol, train_size: int) -> int:
    """Training steps of a member over both phases, the last, smaller batch of an epoch included."""
    clean, doubled = (-(-n // protocol.batch_size) for n in (train_size, 2 * train_size))
    return protocol.epochs * clean + protocol.adversarial_epochs * doubled


def run_group(
    engine: Engine, data: Dataset, protocol: Protocol, *, evaluation_batch: int = 250, progress: Progress | None = None
) -> Rows:
    """The whole experiment on the members of an engine.

    Args:
        engine: freshly made, at its initial weights.
        data: on the engine's device.
        protocol: what to do.
        evaluation_batch: images a forward pass in evaluation and attack.
        progress: told of every epoch.

    Returns:
        A table row a member, and every metric, epoch and phase behind it.
    """
    population = Population(engine, data, protocol, evaluation_batch)
    trainer = _Trainer(population, progress or _silence)
    trainer.train("train", protocol.epochs)
    population.measure_trained()
    population.phase = "defended"
    trainer.train("adversarial", protocol.adversarial_epochs, population.train_signs)
    population.measure_defended()
    return population.finish()


class _Trainer:
    def __init__(self, population: Population, progress: Progress) -> None:
        self.population, self.progress = population, progress
        self.engine, self.protocol = population.engine, population.protocol

    def train(self, phase: str, epochs: int, signs: Tensor | None = None) -> None:
        """Epochs over the clean set (`train`), or over the doubled set that the signs make (`adversarial`)."""
        population, part = self.population, self.population.data.train
        n = len(part) * (1 if signs is None else 2)
        steps = -(-n // self.protocol.batch_size)
        self.engine.begin_phase(phase)
        with population.timed(phase, epochs * steps):
            for epoch in range(1, epochs + 1):
                orders = torch.stack([permutation(seed, phase, epoch, n) for seed in population.seeds])
                orders = orders.to(self.engine.device)
                work = Epoch(part.images, part.labels, orders, population.seed_of, signs, self.protocol.epsilon)
                loss_sum, correct = self.engine.epoch(work)
                population.finite &= loss_sum.isfinite()
                self.note_epoch(phase, epoch, steps, loss_sum / n, correct / n)

    def note_epoch(self, phase: str, epoch: int, steps: int, losses: Tensor, accuracy: Tensor) -> None:
        """History rows of an epoch, its progress, and the test accuracy where that is asked for."""
        population, mean_losses, accuracies = self.population, losses.tolist(), accuracy.tolist()
        for member, loss, share in zip(self.engine.members, mean_losses, accuracies, strict=True):
            population.rows.history.append({
                "hidden_layers": member.candidate.name, "seed": member.seed, "phase": phase, "epoch": epoch,
                "steps": steps, "mean_loss": loss, "running_accuracy": share,
            })  # fmt: skip
        every = self.protocol.evaluate_every
        if every and epoch % every == 0:
            population.record(None, "test", population.score("test"), epoch=epoch)
        self.progress(phase, steps, sum(mean_losses) / len(mean_losses), sum(accuracies) / len(accuracies))


def _silence(phase: str, steps: int, loss: float, accuracy: float) -> None:
    """Progress that nobody asked for."""
