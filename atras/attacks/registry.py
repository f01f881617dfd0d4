"""Which attacks a protocol asks for, as attack objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atras.engines.engine import Engine
from atras.experiment.protocol import Protocol
from atras.networks.randomness import batch_starts

from .attack import FGSM, Attack, Draw
from .deepfool import DeepFool
from .pgd import PGD, RandomFGSM

GAP_IMAGES = 100
"""First training images on which FGSM and PGD are compared after each epoch whose copies were made in every batch."""

GAP_STEPS = 10
"""Steps of PGD in that comparison."""


def protocol_attack(protocol: Protocol) -> FGSM:
    """The paper's attack: at the protocol's label source or target."""
    return FGSM(protocol.epsilon, protocol.label_source, protocol.target)


def named(name: str, protocol: Protocol, restarts: int | None = None) -> Attack:
    """An untargeted attack at the true label.

    Args:
        name: one of `Protocol.attacks`.
        protocol: its strength, steps and restarts.
        restarts: in place of the protocol's.
    """
    epsilon = protocol.epsilon
    if name == "pgd":
        starts = protocol.restarts if restarts is None else restarts
        return PGD(epsilon, steps=protocol.attack_steps, step_size=protocol.step_size, restarts=starts)
    if name == "random-fgsm":
        return RandomFGSM(epsilon)
    return FGSM(epsilon) if name == "fgsm" else DeepFool(epsilon, norm=name.removeprefix("deepfool-"))


def stronger(protocol: Protocol) -> list[Attack]:
    """What both models are attacked with besides FGSM at the true label."""
    return [named(name, protocol) for name in protocol.attacks if name != "fgsm"]


def gap_attacks(protocol: Protocol) -> list[Attack]:
    """FGSM, and the PGD that it should not be far from."""
    return [FGSM(protocol.epsilon), PGD(protocol.epsilon, steps=GAP_STEPS)]


@dataclass(frozen=True)
class BatchAttack:
    """Makes a batch's adversarial copies on the model as it is: what `Epoch.craft` calls.

    Args:
        attack: untargeted, at the true label.
        epoch: of the adversarial phase, from 1.
        first: number in its epoch of the first batch that comes.
    """

    attack: Attack
    epoch: int
    first: int = 0

    @classmethod
    def of(cls, protocol: Protocol, epoch: int, first: int = 0) -> BatchAttack | None:
        """What a protocol trains on; None where that is a fixed set."""
        name, batch, _ = protocol.train_attack.partition("-batch")
        return cls(named(name, protocol, restarts=1), epoch, first) if batch else None

    def __call__(self, engine: Engine, images: Tensor, labels: Tensor, copied: Tensor, batch: int) -> Tensor:
        """Attack the copies of a batch.

        Args:
            engine: the members.
            images: [B, C, H, W], or [M, B, C, H, W] where `copied` has the member axis.
            labels: int64, shaped like `copied`.
            copied: bool [B] or [M, B], which images are copies.
            batch: its number in the call.

        Returns:
            [M, B, C, H, W]; `images` themselves where there are no copies.
        """
        count = int(copied.sum(-1).max())
        if not count:
            return images
        # Members of different seeds have different copies: each brings as many images as the one with most copies.
        chosen = copied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
        members = torch.arange(len(engine.members), device=images.device)[:, None]
        own = () if copied.ndim == 1 else (members,)
        draw = self._draw(engine, images, chosen, self.first + batch)
        made = self.attack(engine, images[*own, chosen], labels[*own, chosen], draw=draw).clipped
        result = images.expand(len(members), *images.shape[-4:]).clone()
        really = copied[*own, chosen][..., None, None, None]
        result[members, chosen] = torch.where(really, made, result[members, chosen])
        return result

    def _draw(self, engine: Engine, images: Tensor, chosen: Tensor, batch: int) -> Draw:
        """Random starts by seed, epoch, batch and place in it."""
        size, *shape = images.shape[-4:]

        def draw(restart: int) -> Tensor:
            seeds = list(dict.fromkeys(member.seed for member in engine.members))
            all_starts = torch.stack([
                batch_starts(seed, self.epoch, batch, self.attack.name, restart, size, shape) for seed in seeds
            ]).to(images)  # fmt: skip
            if chosen.ndim == 1:
                return all_starts[0, chosen]
            rows = torch.tensor([seeds.index(member.seed) for member in engine.members], device=images.device)
            return all_starts[rows[:, None], chosen]

        return draw
