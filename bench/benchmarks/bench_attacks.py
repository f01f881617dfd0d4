"""Attacks by lists of pairs on a small population, engine by engine; bench/auto_attack.py compares with others."""

from __future__ import annotations

import torch

from atras.attacks import ATTACKS
from atras.engines import ENGINES, Engine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

from .side_by_side import DEVICES, synchronize

# A hundredth of an epsilon leaves nearly all images, so that every step has all pairs.
ATTACKS_TIMED = (
    "apgd(epsilon=0.01, steps=10)",
    "apgd-t(epsilon=0.01, steps=10, targets=1)",
    "fab-t(epsilon=0.001, steps=10, targets=1)",
    "square(epsilon=0.01, queries=50)",
)
SPECS = {"8x8": Spec((1, 8, 8), 10), "28x28, conv2": Spec((1, 28, 28), 10, stem="conv2")}
CANDIDATES = tuple(Candidate((width, 4 * width)) for width in (16, 24, 32, 40))
IMAGES = 50


class PairAttacks:
    """An attack of four two-layer networks on 50 images each, all of which they classify as the labels say."""

    param_names = ("device", "spec", "engine", "attack")
    params = (DEVICES, list(SPECS), list(ENGINES), list(ATTACKS_TIMED))
    timeout = 300

    def setup(self, device: str, spec: str, engine: str, attack: str) -> None:
        kind, place = ENGINES.get(engine), torch.device(device)
        members = [Member(candidate, 0) for candidate in CANDIDATES[: 1 if kind.one_by_one else None]]
        try:
            self.networks: Engine = kind(SPECS[spec], members, Protocol(precision="fp32"), place)
        except InputError as error:
            raise NotImplementedError from error
        draw = torch.Generator().manual_seed(0)
        self.images = torch.rand(IMAGES, *SPECS[spec].image_shape, generator=draw).to(place)
        self.labels = self.networks.logits(self.images).argmax(-1)
        self.attack = ATTACKS.parse(attack)

    def time_attack(self, device: str, spec: str, engine: str, attack: str) -> None:
        self.attack(self.networks, self.images, self.labels)
        synchronize(device)
