"""Every number a run depends on, in one frozen value with a hash.

What decides the figures is a `Protocol`; what only decides where and how fast they are computed is an `Execution`.
Both are plain dataclasses, so the training engine needs no validation library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from atras.attacks import ATTACKS, FGSM, Attack
from atras.checks import distinct, number, one_of, text, truth, whole
from atras.defences import DEFENCES, Copies, Defence
from atras.errors import InputError, shown
from atras.networks import PAPER_CANDIDATES, Candidate, parse_stem

from .choices import ENGINES, EXECUTORS

MAX_MEMBERS = 100_000
"""Most members accepted: past it a typing error in a range is likelier than a wish."""

VERSION = 2
"""Raised when the same fields come to mean another experiment; part of the hash."""

Activation = Literal["relu", "sigmoid", "tanh", "gelu"]
Initialisation = Literal["glorot", "he"]
LabelSource = Literal["predicted", "true"]
OptimizerName = Literal["adam", "sgd"]
Precision = Literal["auto", "fp32", "fp64", "tf32", "bf16"]
Size = int | Literal["default", "all"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One experiment: data, candidates, training, attack. The defaults are the preset `paper`.

    Args:
        dataset: a named data set, a folder of IDX files, or an `.npz` file (see `atras.data.datasets`).
        train_size, test_size: how many images from the start of each part; `default` is 5,000 as in the paper, or
            all where the part has fewer; `all` is all.
        candidates: the architectures, in the order of the result table.
        seeds: each (candidate, seed) pair is one member of the population.
        stem: layers in front of the hidden ones: `none`, `conv2`, `conv4`, or spelled, such as `c32p2-c64p2`; `auto`
            goes by image shape (see `networks.choose_stem`).
        activation: of every hidden unit, the stem's included.
        initialisation: of all weights; biases start at zero.
        head_dropout: share of each hidden layer's units dropped in training, rounded to 1/256.
        epochs, adversarial_epochs: passes over the training set, then over the doubled set; at least 1 and 0.
        batch_size: images a step; the last, smaller batch of an epoch is kept.
        optimizer, learning_rate, momentum: `adam` has decay rates 0.9 and 0.999 and a denominator term of 1e-8;
            momentum belongs to `sgd`.
        epsilon: attack strength, the largest change of a pixel, in pixels of [0, 1].
        label_source: whose label the attack moves away from: the attacked model's own prediction, or the true one.
        target: `none` for the untargeted attack; `random`, `least-likely` or `class:3` for a targeted one, which
            moves towards that class and makes `label_source` irrelevant to the direction.
        attacks: what both models are also attacked with, made on each; FGSM at the true label always is. An attack
            without an epsilon of its own takes the run's. Texts such as `pgd(steps=40)` are read.
        epsilons: further strengths at which FGSM at the true label is evaluated.
        defence: how the second training makes the networks robust; a text such as `batch(pgd(steps=7))` is read.
        transfer: whether each candidate is evaluated on the adversarial test images of every other one of its seed.
        precision: arithmetic of training. `bf16` (and `tf32`, on a GPU) is for matrix products in training alone:
            weights, attacks and evaluation stay fp32. `fp64` is for engines loop and stack, and for all they do. `auto`
            is bf16 where the engine and the processor have it, otherwise fp32: what can be done decides, never a
            measured time.
        evaluate_every: epochs between evaluations on the test set during training; 0 for none.

    Raises:
        InputError: if a value is out of its range.

    Source: what the paper states, and what was read out of its tables, is in docs/protocol.md.
    """

    dataset: str = "digits"
    train_size: Size = "default"
    test_size: Size = "default"
    candidates: tuple[Candidate, ...] = PAPER_CANDIDATES
    seeds: tuple[int, ...] = (0,)
    stem: str = "auto"
    activation: Activation = "relu"
    initialisation: Initialisation = "glorot"
    head_dropout: float = 0.0
    epochs: int = 20
    adversarial_epochs: int = 20
    batch_size: int = 128
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    epsilon: float = 0.05
    label_source: LabelSource = "predicted"
    target: str = "none"
    attacks: tuple[Attack, ...] = (FGSM(),)
    epsilons: tuple[float, ...] = ()
    defence: Defence = Copies()
    transfer: bool = False
    precision: Precision = "auto"
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        text("dataset", self.dataset)
        text("target", self.target)
        text("stem", self.stem)
        if self.stem != "auto":
            parse_stem(self.stem)
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name in ("train_size", "test_size"):
            if getattr(self, name) not in ("default", "all"):
                whole(name, getattr(self, name), 1, 10**9)
        whole("epochs", self.epochs, 1, 10**6)
        whole("adversarial_epochs", self.adversarial_epochs, 0, 10**6)
        whole("batch_size", self.batch_size, 1, 10**6)
        whole("evaluate_every", self.evaluate_every, 0, 10**6)
        number("epsilon", self.epsilon, 0.0, 1.0)
        number("learning_rate", self.learning_rate, 0.0, 1e9)
        number("momentum", self.momentum, 0.0, 1.0)
        number("head_dropout", self.head_dropout, 0.0, 0.99)
        if self.momentum and self.optimizer != "sgd":
            raise InputError(
                f"momentum (={self.momentum}): only optimizer sgd has one; add --optimizer sgd or leave it out"
            )
        if not re.fullmatch(r"none|random|least-likely|class:\d{1,6}", self.target):
            raise InputError(
                f"target (={shown(self.target)}): expected none, random, least-likely or class:N, such as class:3"
            )
        distinct("candidates", self.candidates, _candidate)
        distinct("seeds", self.seeds, lambda seed: whole("seed", seed, 0, 2**63 - 1))
        members = len(self.candidates) * len(self.seeds)
        if members > MAX_MEMBERS:
            raise InputError(
                f"candidates and seeds (={members} members): expected at most {MAX_MEMBERS}; split them over runs"
            )
        self._check_attacks()

    def _check_attacks(self) -> None:
        if isinstance(self.attacks, tuple | list):
            read = tuple(ATTACKS.parse(each) if isinstance(each, str) else each for each in self.attacks)
            object.__setattr__(self, "attacks", read)
        distinct("attack", self.attacks, _attack)
        if self.epsilons != ():
            distinct("epsilons", self.epsilons, lambda epsilon: number("epsilons", epsilon, 0.0, 1.0))
        truth("transfer", self.transfer)
        if isinstance(self.defence, str):
            object.__setattr__(self, "defence", DEFENCES.parse(self.defence))
        if not isinstance(self.defence, Defence):
            raise InputError(f"defence (={shown(self.defence)}): expected one of {', '.join(DEFENCES)}")

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
        """The attacks besides that one."""
        resolved = (attack.at(self.epsilon) for attack in self.attacks)
        return tuple(attack for attack in resolved if attack != self.true_label_attack)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change when any field does."""
        text = json.dumps({"version": VERSION, **self.to_dict()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; candidates by their names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        names = {"candidates": [c.name for c in self.candidates], "attacks": [str(attack) for attack in self.attacks]}
        return values | lists | names | {"defence": str(self.defence)}

    def check_classes(self, classes: int) -> None:
        """Refuse a target class that the data set does not have.

        Raises:
            InputError: if `target` is `class:N` with N past the last class.
        """
        if self.target.startswith("class:") and int(self.target.removeprefix("class:")) >= classes:
            raise InputError(f"target (={shown(self.target)}): expected a class from 0 to {classes - 1}")

    def replace(self, **changes: Any) -> Protocol:
        """A copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)


PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
"""Field values by preset name. `paper` is our reconstruction of what the paper leaves open: the defaults."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a protocol is computed. Nothing here changes what a figure means.

    Args:
        engine: `loop` trains one member at a time in plain torch, `stack` a whole group under vmap, `fused` a whole
            group in C++ on the CPU, or in Triton on a GPU; `auto` takes the fastest that can do it.
        executor: who computes the groups of the plan; `local` is this process.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory_bytes: most memory a group may be predicted to need; None for what the device has free.
        data_dir: folder to look in for data sets before the user's cache; None for `ATRAS_DATA`, then the cache.
        download: whether a missing data set may be downloaded.
        recalibrate: measure this machine's speed anew instead of taking the cached figures.
        checkpoint_every: seconds between checkpoints of a group in training, if writing them takes no more than 2 % of
            that; less often otherwise. 0 for as often as can be.

    Raises:
        InputError: if a value is out of its range.
    """

    engine: str = "auto"
    executor: str = "local"
    device: str = "auto"
    memory_bytes: int | None = None
    data_dir: str | None = field(default_factory=lambda: os.environ.get("ATRAS_DATA") or None)
    download: bool = True
    recalibrate: bool = False
    checkpoint_every: float = 30.0

    def __post_init__(self) -> None:
        one_of("engine", self.engine, ("auto", *ENGINES))
        one_of("executor", self.executor, EXECUTORS)
        text("device", self.device)
        if self.data_dir is not None:
            text("data_dir", self.data_dir)
        for name in ("download", "recalibrate"):
            truth(name, getattr(self, name))
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise InputError(f"device (={shown(self.device)}): expected auto, cpu, cuda or cuda:N")
        if self.memory_bytes is not None:
            whole("memory", self.memory_bytes, 2**20, 2**50)
        number("checkpoint_every", self.checkpoint_every, 0, 1e6)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


_CHOICES: dict[str, tuple[str, ...]] = {
    "activation": get_args(Activation),
    "initialisation": get_args(Initialisation),
    "optimizer": get_args(OptimizerName),
    "label_source": get_args(LabelSource),
    "precision": get_args(Precision),
}


def _attack(value: object) -> None:
    if not isinstance(value, Attack):
        raise InputError(f"attack (={shown(value)}): expected an attack, such as PGD(steps=40) or 'pgd(steps=40)'")


def _candidate(value: object) -> None:
    if not isinstance(value, Candidate):
        raise InputError(f"candidates (={shown(value)}): expected a tuple of Candidate, such as Candidate((24, 192))")
