"""Attacks on modules that are trained already, with images in memory: what takes no run and no folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atras.attacks import ATTACKS, Attack, Attacked, Start, starts
from atras.checks import whole
from atras.data import pixels
from atras.engines import Engine, finished_engines
from atras.errors import InputError
from atras.evaluation import NO_GRADIENT, NOISE, AttackWork
from atras.networks import Candidate, Factory, Member, Own, inspect_factory, random_targets, untouched
from atras.results import wilson
from atras.rounding import counted
from atras.torch_state import fixed_state

from .attack_progress import AttackProgress
from .module_inputs import Array, Modules, checked_images, checked_labels, chosen_attacks, named_modules

COLUMNS = {
    "member": pl.String, "attack": pl.String, "norm": pl.String, "epsilon": pl.Float64, "n": pl.Int64,
    "correct": pl.Int64, "accuracy": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64,
    "median_distance": pl.Float64,
}  # fmt: skip
"""Of the frame. `attack` is `none` for the images as they are, and `worst(...)` for all bounded attacks together, image
by image; `ci_low` and `ci_high` are the ends of the Wilson 95 % interval; `median_distance` is that of the images that
the attack turned, in its norm, in pixels of [0, 1]."""


@dataclass(frozen=True)
class Robustness:
    """The figures of finished modules.

    Args:
        frame: a row a member and attack, with the columns of `COLUMNS`.
        cautions: what makes figures say less than they seem to, a line each.
        images: by member, attack and epsilon, as the frame has them, the adversarial images, float [N, C, H, W], where
            they were asked for. `images[...]` finds an attack by any spelling.
    """

    frame: pl.DataFrame
    cautions: tuple[str, ...] = ()
    images: dict[tuple[str, str, float | None], np.ndarray] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        with pl.Config(
            tbl_rows=-1, tbl_cols=-1, tbl_width_chars=120, float_precision=4, tbl_hide_column_data_types=True
        ):
            return "\n".join([str(self.frame), *self.cautions])

    def accuracy(self, attack: str | Attack = "none", *, member: str | None = None) -> float:
        """The share of the images that a module classifies correctly under an attack.

        Args:
            attack: in any spelling of it (the frame has the briefest), with its epsilon where it was made at several;
                `none` for the images as they are.
            member: the module's name; may be left out where there is one.

        Raises:
            InputError: if the attack is not among those that were made, or is not the only one so named.
        """
        name, epsilon = _spelled(attack)
        wanted = {"attack": name, "epsilon": epsilon, "member": member}
        rows = self.frame.filter(**{key: value for key, value in wanted.items() if value is not None})
        if len(rows) != 1:
            told = ", ".join(_told(row) for row in self.frame.iter_rows(named=True))
            raise InputError(f"accuracy: expected one figure for {_told(wanted)}, found {len(rows)}; there are {told}")
        return float(rows["accuracy"][0])


class _Images(dict[tuple[str, str, float | None], np.ndarray]):
    """Adversarial images by member, attack and epsilon, where an attack is found by any spelling of it."""

    def __missing__(self, key: tuple[str, str, float | None]) -> np.ndarray:
        member, attack, epsilon = key
        try:
            spelled, own = _spelled(attack)
        except InputError as error:
            raise KeyError(key) from error
        if spelled == attack or own not in (None, epsilon):
            raise KeyError(key)
        return self[member, spelled, epsilon]


def evaluate(modules: Modules, images: Array, labels: Array | Sequence[int], *, batch_size: int = 250) -> Robustness:
    """Count the images that modules classify correctly.

    The arguments are those of `attack`.
    """
    return attack(modules, images, labels, (), batch_size=batch_size)


def attack(
    modules: Modules,
    images: Array,
    labels: Array | Sequence[int],
    attacks: str | Attack | Sequence[str | Attack] = ("fgsm", "pgd(steps=40)"),
    *,
    epsilon: float | str | None = None,
    batch_size: int = 250,
    seed: int = 0,
    keep_images: bool = False,
    progress: bool | None = True,
) -> Robustness:
    """Attack finished modules, each in evaluation mode and where it is; afterwards they are as they were.

    Args:
        modules: one, several, or several by name; each takes images [B, C, H, W] with pixels in [0, 1] and returns
            logits [B, Y]. Normalisation belongs inside the module.
        images: [N, C, H, W], uint8, or floating point in [0, 1].
        labels: [N], whole numbers from 0 to Y - 1.
        attacks: objects such as `PGD(steps=40)`, or texts that spell them: `"autoattack"`.
        epsilon: largest change of a pixel, for attacks in `linf` that have none of their own; a number, or a fraction
            in text such as "8/255".
        batch_size: images of a pass.
        seed: of random starts.
        keep_images: whether the result has the adversarial images.
        progress: whether to show what is attacked and the time left, on the standard error stream; nothing is shown
            where that is no terminal.

    Returns:
        Accuracies without an attack, under each, and under all bounded ones together.

    Raises:
        InputError: if a module is none, fails, or returns no logits; if images, labels or attacks cannot be used; if an
            attack of the caller's own left its ball.
    """
    named = named_modules(modules)
    whole("batch_size", batch_size, 1, 10**6)
    whole("seed", seed, 0, 2**63 - 1)
    x, y, chosen = checked_images(images), checked_labels(labels), chosen_attacks(attacks, epsilon)
    if len(x) != len(y):
        raise InputError(f"labels: expected one for each image ({len(x)}), got {len(y)}")
    rows: dict[str, list[dict[str, Any]]] = {}
    made = _Images()
    cautions: dict[str, None] = {}
    shown = AttackProgress(progress, tuple(named))
    with untouched(*named.values()), closing(shown):
        members = [Member(Candidate([Own(Factory.holding(name, module))]), seed) for name, module in named.items()]
        for engine in finished_engines(members, (x.shape[1], x.shape[2], x.shape[3])):
            _check_labels(engine, y)
            cautions |= dict.fromkeys(_cautions(engine, chosen))
            with fixed_state(engine.device):
                work = _Work(engine, x, y, batch_size, chosen, keep_images)
                work.run(shown)
            for member, own in zip(engine.members, work.rows(), strict=True):
                rows[member.candidate.name] = own
            made.update(work.images())
            cautions |= dict.fromkeys(work.cautions())
    ordered = [row for name in named for row in rows[name]]
    return Robustness(pl.DataFrame(ordered, schema=COLUMNS), tuple(cautions), made)


class _Count:
    """What became of the images under one attack, or under none.

    Args:
        attack: None for none.
        members, images: how many there are.
    """

    def __init__(self, attack: Attack | None, members: int, images: int) -> None:
        self.attack = attack
        self.name = "none" if attack is None else _name(attack)
        self.epsilon = None if attack is None else attack.spec.epsilon
        self.correct = torch.zeros(members, images, dtype=torch.bool)
        self.distances = torch.full((members, images), torch.nan, dtype=torch.float64)
        self.blind, self.unfinished = torch.zeros(2, members, dtype=torch.int64)
        self.made: list[Tensor] = []

    def row(self, index: int, member: str) -> dict[str, Any]:
        """The row of a member."""
        distances = self.distances[index][~self.distances[index].isnan()]
        median = float(np.median(distances.numpy())) if len(distances) else None
        norm = None if self.attack is None else self.attack.norm
        return _row(member, self.name, self.correct[index], norm, self.epsilon, median)


class _Work:
    """The attacks on the members of one engine, chunk by chunk."""

    def __init__(
        self, engine: Engine, x: Tensor, y: Tensor, batch_size: int, attacks: Sequence[Attack], keep: bool
    ) -> None:
        self.engine, self.x, self.y, self.size, self.keep = engine, x, y, batch_size, keep
        members = len(engine.members)
        self.clean, *self.counts = [_Count(attack, members, len(x)) for attack in (None, *attacks)]
        self.finite = torch.ones(members, dtype=torch.bool)

    def run(self, shown: AttackProgress) -> None:
        """All images."""
        members = len(self.engine.members)
        attacks = [count.attack for count in self.counts if count.attack is not None]
        work = AttackWork(attacks, self.engine.classes, members, len(self.x))
        seed, classes = self.engine.members[0].seed, torch.arange(self.engine.classes)
        aimed = any(count.attack is not None and count.attack.target == "random" for count in self.counts)
        targets = random_targets(seed, "test", self.y, classes).to(self.engine.device) if aimed else None
        for first in range(0, len(self.x), self.size):
            chunk = slice(first, first + self.size)
            images = pixels(self.x[chunk].to(self.engine.device), self.engine.dtype)
            labels = self.y[chunk].to(self.engine.device)
            clean = self.engine.logits(images)
            self.finite &= clean.isfinite().flatten(1).all(1).cpu()
            self.clean.correct[:, chunk] = (clean.argmax(-1) == labels).cpu()
            for at, (attack, count) in enumerate(zip(attacks, self.counts, strict=True)):
                draw = starts(self.engine, images, attack.name, "test", first)
                standing = torch.stack([each.correct[:, chunk] for each in (self.clean, *self.counts[:at])]).all(0)
                now = partial(work.now, at, first, len(labels), standing=standing)
                steps = shown.steps(members, now)
                start = Start(clean, draw, None if targets is None else targets[chunk], progress=steps)
                attacked = attack(self.engine, images, labels, start=start)
                work.made(at, attacked, members * len(labels))
                self._add(count, attack, attacked, labels, chunk)
        shown.done(members)

    def _add(self, count: _Count, attack: Attack, attacked: Attacked, labels: Tensor, chunk: slice) -> None:
        far = attacked.distances(attack.norm)
        attack.check_inside(float(far.max()))
        survived = ~attacked.success(self.engine, labels).cpu()
        count.correct[:, chunk] = survived
        turned = self.clean.correct[:, chunk] & ~survived
        count.distances[:, chunk] = far.double().cpu().where(turned, torch.nan)
        if attacked.no_gradient is not None:
            count.blind += attacked.no_gradient.sum(1).cpu()
        if attacked.unfinished is not None:
            count.unfinished += attacked.unfinished.sum(1).cpu()
        if self.keep:
            count.made.append(attacked.clipped.cpu())

    def rows(self) -> list[list[dict[str, Any]]]:
        """Of each member, the rows of its attacks, and of the bounded ones together."""
        bounded = [count for count in self.counts if count.attack is not None and count.attack.bounded]
        names = [f"{count.name} at {count.epsilon:g}" for count in bounded]
        found = []
        for index, member in enumerate(self.engine.members):
            name = member.candidate.name
            own = [count.row(index, name) for count in (self.clean, *self.counts)]
            if len(bounded) > 1:
                survived = torch.stack([count.correct[index] for count in (self.clean, *bounded)]).all(0)
                own.append(_row(name, f"worst({', '.join(names)})", survived, None, None, None))
            found.append(own)
        return found

    def images(self) -> dict[tuple[str, str, float | None], np.ndarray]:
        """The adversarial images that were asked for."""
        return {
            (member.candidate.name, count.name, count.epsilon): torch.cat(count.made, 1)[index].numpy()
            for count in self.counts
            if count.made
            for index, member in enumerate(self.engine.members)
        }

    def cautions(self) -> list[str]:
        """What was seen in the attacks."""
        lines, n = [], len(self.x)
        for index, member in enumerate(self.engine.members):
            own = member.candidate.name
            if not self.finite[index]:
                lines.append(
                    f"{own}: some of its logits are NaN or infinite, which no attack can follow; see its weights"
                )
            for count in self.counts:
                if (blind := int(count.blind[index])) > NO_GRADIENT * n:
                    lines.append(
                        f"{own}: {count.name} found no gradient at all for {blind} of {counted(n, 'image')}, which "
                        "count as they are: masked gradients? Attack it with square too"
                    )
                if (unfinished := int(count.unfinished[index])) > NOISE * n:
                    lines.append(
                        f"{own}: {count.name} had not finished with {unfinished} of {counted(n, 'image')}; give it "
                        "more steps"
                    )
        return lines


def _name(attack: Attack) -> str:
    """An attack's spelling without its epsilon, which has a column; with its target, which has none."""
    return attack.spec.attack if attack.target == "none" else str(dataclasses.replace(attack, epsilon=None))


def _spelled(attack: str | Attack) -> tuple[str, float | None]:
    """The name of an attack in the frame, of any spelling, and its epsilon where that says one; of what is none, the
    text itself."""
    if isinstance(attack, str):
        if attack == "none" or attack.startswith("worst("):
            return attack, None
        attack = ATTACKS.parse(attack)
    return _name(attack if attack.epsilon is not None or not attack.bounded else attack.at(1.0)), attack.epsilon


def _told(row: Mapping[str, Any]) -> str:
    """A figure by its attack, epsilon and member, as far as they are known."""
    at = "" if row["epsilon"] is None else f" at {row['epsilon']:g}"
    return f"{row['attack']}{at}" + ("" if row["member"] is None else f" on {row['member']}")


def _row(
    member: str, attack: str, correct: Tensor, norm: str | None, epsilon: float | None, median: float | None
) -> dict[str, Any]:
    right, n = int(correct.sum()), len(correct)
    low, high = wilson(right, n)
    return {
        "member": member, "attack": attack, "norm": norm, "epsilon": epsilon, "n": n, "correct": right,
        "accuracy": right / n, "ci_low": low, "ci_high": high, "median_distance": median,
    }  # fmt: skip


def _cautions(engine: Engine, attacks: Sequence[Attack]) -> list[str]:
    """What is known of the modules, and of the attacks on so many classes."""
    own = [line for network in engine.networks if network.own is not None
           for line in inspect_factory(network.own.factory, engine.spec.image_shape).cautions]  # fmt: skip
    return [*own, *(line for attack in attacks for line in attack.cautions(engine.classes))]


def _check_labels(engine: Engine, labels: Tensor) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= engine.classes:
        name = engine.members[0].candidate.name
        raise InputError(
            f"labels: expected classes from 0 to {engine.classes - 1}, of which {name} has logits, got {low} to {high}"
        )
