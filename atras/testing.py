"""What tests and benchmarks share: comparison, poisoned memory and inputs that reach an op's corners."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from .measure import Row, Rows
from .protocol import Protocol
from .results import Results, Writer
from .schemas import ACCURACIES, COMPUTED, SCHEMAS
from .space import Candidate


def assert_close(found: Tensor, expected: Tensor, *, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Fail unless two tensors agree in shape, dtype and values; exactly, unless a tolerance is given. NaN equals NaN.

    Args:
        found: what is tested.
        expected: what it should be.
        atol, rtol: absolute and relative tolerance.
    """
    torch.testing.assert_close(found.cpu(), expected.cpu(), atol=atol, rtol=rtol, equal_nan=True)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that torch hands out uninitialised with NaN, or the largest integer, so that no gap goes unseen."""
    setting: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), setting.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    setting.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        setting.fill_uninitialized_memory = fill


def damage(content: bytes, random: Random) -> bytes:
    """Content as accidents and enemies leave it: bytes changed, lost, repeated or slipped in, sizes out of all bounds.

    Args:
        content: what was whole.
        random: decides where and how; `hypothesis.strategies.randoms()` makes one whose choices shrink.
    """
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(damaged) + 1)
        length = random.choice((1, 2, 4, 8, 64))
        kind = random.randrange(6)
        if kind == 0:
            damaged[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            damaged[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            del damaged[at : at + length]
        elif kind == 3:
            damaged[at:at] = damaged[at : at + length]
        elif kind == 4:
            damaged[at:at] = random.randbytes(length)
        else:
            del damaged[at:]
    return bytes(damaged)


def make_fgsm_inputs(
    members: int,
    shape: tuple[int, int, int, int],
    *,
    dtype: torch.dtype = torch.float32,
    image_dtype: torch.dtype | None = None,
    shared: bool = True,
    corners: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Images and gradients for op fgsm.

    Args:
        members: M.
        shape: [B, C, H, W].
        dtype: of the gradients.
        image_dtype: uint8 or floating point; None for the gradients' dtype.
        shared: whether all members have the same images.
        corners: whether gradients have NaN, zeros of both signs, infinities and denormals, and float images a NaN.
        device: of both.
        seed: of the generator they are drawn from.

    Returns:
        Images [B, C, H, W] if shared, else [M, B, C, H, W], in [0, 1] or 0..255; gradients [M, B, C, H, W].
    """
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(members, *shape, dtype=torch.float64, generator=generator)
    if corners:
        values = torch.tensor([torch.nan, 0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45], dtype=torch.float64)
        drawn = torch.randint(0, 8 * len(values), gradients.shape, generator=generator)
        gradients = torch.where(drawn < len(values), values[drawn % len(values)], gradients)
    image_shape = shape if shared else (members, *shape)
    image_dtype = image_dtype or dtype
    if image_dtype == torch.uint8:
        images = torch.randint(0, 256, image_shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.rand(image_shape, dtype=torch.float64, generator=generator).to(image_dtype)
        if corners and images.numel():
            images.view(-1)[images.numel() // 2] = torch.nan
    return images.to(device), gradients.to(dtype).to(device)


def make_dropout_inputs(
    members: int,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Activations, keys and widths for op dropout under vmap.

    Args:
        members: M.
        shape: [B, F] or [B, C, H, W].
        dtype: of the activations.
        padded: whether members have widths of their own: all, half and none of F in turn.
        device: of all three.
        seed: of the generator they are drawn from.

    Returns:
        x [M, *shape]; key int64 [M], any 64 bits; width int64 [M], or None.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(members, *shape, dtype=torch.float64, generator=generator).to(dtype)
    key = torch.randint(-(2**63), 2**63 - 1, (members,), generator=generator)
    width = torch.tensor([(shape[1], shape[1] // 2, 0)[m % 3] for m in range(members)]) if padded else None
    return x.to(device), key.to(device), None if width is None else width.to(device)


def make_step_inputs(
    count: int, image_shape: tuple[int, int, int], *, classes: int = 10, dtype: torch.dtype = torch.uint8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images of op step that can be learned, and their labels: a pattern for each class, under noise.

    Args:
        count: N.
        image_shape: (C, H, W).
        classes: Y.
        dtype: of the images, uint8 or floating point.
        seed: of the generator they are drawn from.

    Returns:
        Images [N, C, H, W], 0..255 or in [0, 1]; labels int64 [N].
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    patterns = torch.rand(classes, *image_shape, generator=generator)
    images = 200 * patterns[labels] + 55 * torch.rand(count, *image_shape, generator=generator)
    return images.to(dtype) if dtype == torch.uint8 else (images / 255).to(dtype), labels


def make_step_parameters(shapes: list[tuple[int, ...]], *, seed: int = 0) -> list[Tensor]:
    """A network's parameters for op step: weights as Glorot draws them for dense layers, biases that are not zero.

    Args:
        shapes: weight and bias of each layer.
        seed: of the generator they are drawn from.

    Returns:
        float32 tensors of these shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    limits = [
        (6 / (shape[0] + shape[1:].numel())) ** 0.5 if len(shape) > 1 else 0.1 for shape in map(torch.Size, shapes)
    ]
    return [(2 * torch.rand(s, generator=generator) - 1) * limit for s, limit in zip(shapes, limits, strict=True)]


def make_run(
    directory: str | Path | None = None,
    *,
    names: Sequence[str] = ("8-16-32", "24-192", "64-512", "40", "64"),
    seeds: Sequence[int] = (0, 1),
    dataset: str = "digits",
    complete: bool = True,
) -> Results:
    """A run whose figures are made up, written the way a run writes its own.

    Args:
        directory: where; None to keep it in memory.
        names: candidates. The first never trains where there are more than two.
        seeds: of each.
        dataset: its name.
        complete: with what a run records only when asked: several attacks and epsilons, transfer, examples.
    """
    candidates = tuple(map(Candidate.parse, names))
    protocol = Protocol(candidates=candidates, seeds=tuple(seeds), epochs=3, adversarial_epochs=3)
    data = {"image_shape": [1, 8, 8], "test_size": 899, "train_size": 898, "sha256": {"x_test": "21edb88d"}}
    writer = Writer(
        directory,
        {
            "protocol": {**protocol.to_dict(), "dataset": dataset},
            "protocol_hash": protocol.hash,
            "version": "0.0",
            "environment": {"device": "cpu", "commit": "0" * 40, "versions": {"python": "3.13"}},
            "data": {"name": dataset, "source": "made up", "status": "unverified", **data},
        },
    )
    made = _MadeUp(dataset, protocol, names)
    for name in names:
        for seed in seeds:
            made.member(name, seed, complete)
    if complete:
        made.transfer(seeds)
    writer.append(made.rows)
    return writer.finish({})


class _MadeUp:
    """Rows that follow simple laws: larger networks are a little better, attacks grow with epsilon, defence helps."""

    def __init__(self, dataset: str, protocol: Protocol, names: Sequence[str]) -> None:
        self.rows, self.dataset, self.names, self.hash = Rows(), dataset, names, protocol.hash
        self.random = np.random.default_rng(0)
        self.epsilon = protocol.epsilon

    def robust(self, name: str, phase: str, epsilon: float, weakening: float = 0.0) -> float:
        """Accuracy of a candidate under an attack of that strength."""
        widths = [int(width) for width in name.split("-")]
        clean = min(0.80 + 0.02 * math.log2(sum(widths)) - 0.015 * len(widths), 0.97)
        slope = (7.0 if phase == "trained" else 3.0) + 0.6 * len(widths) + weakening
        return max(clean * math.exp(-slope * epsilon), 0.02) + float(self.random.normal(0, 0.008))

    def member(self, name: str, seed: int, complete: bool) -> None:
        dead = name == self.names[0] and len(self.names) > 2
        where = {"dataset": self.dataset, "hidden_layers": name, "seed": seed}
        found = {} if dead else self._metrics(where, name, complete)
        widths = [int(width) for width in name.split("-")]
        size = sum((a + 1) * b for a, b in itertools.pairwise([64, *widths, 10]))
        before, after = found.get(("fgsm", "trained")), found.get(("fgsm", "defended"))
        figures = dict.fromkeys(ACCURACIES, 0.1 if dead else None) | {
            "test_accuracy": found.get(("none", "trained"), 0.1),
            "attacked_accuracy_before": before,
            "attacked_accuracy_before_true": before,
            "adversarial_test_accuracy": found.get(("none", "defended"), 0.1),
            "attacked_accuracy_after_static": None if after is None else after + 0.08,
            "attacked_accuracy_after_adaptive": after,
            "worst_case_accuracy_after": found.get(("worst", "defended")),
        }
        gain = None if after is None or before is None else after - before
        self.rows.table.append(
            where
            | {"depth": len(widths), "parameters": size, "status": "dead" if dead else "trained"}
            | figures
            | {"recovery_static": None if gain is None else gain + 0.08, "recovery_adaptive": gain}
        )
        for phase, start in (("train", 2.0), ("adversarial", 1.0)):
            for epoch in (1, 2, 3):
                row = {"phase": phase, "epoch": epoch, "steps": 8, "mean_loss": start * (1 + len(widths) / 9) / epoch}
                self.rows.history.append(where | row | {"running_accuracy": 1 - 0.4 / epoch})
        if complete and seed == 0:
            self._examples(where)

    def _metrics(self, where: Row, name: str, complete: bool) -> dict[tuple[str, str], float]:
        attacks = {"fgsm": 0.0, "pgd": 2.5, "worst": 3.0} if complete else {"fgsm": 0.0}
        strengths = (0.01, 0.02, self.epsilon, 0.1, 0.2) if complete else (self.epsilon,)
        found = {}
        for phase in ("trained", "defended"):
            cases = [("none", 0.0, 0.0)] + [
                (attack, epsilon, weakening)
                for attack, weakening in attacks.items()
                for epsilon in (strengths if attack != "worst" else (self.epsilon,))
            ]
            for attack, epsilon, weakening in cases:
                accuracy = self.robust(name, phase, epsilon, weakening)
                correct = min(round(899 * accuracy), 899)
                if attack == "none" or epsilon == self.epsilon:
                    found[attack, phase] = correct / 899
                self.rows.metrics.append(self._metric(where, phase, attack, epsilon, correct))
        return found

    def _metric(self, where: Row, phase: str, attack: str, epsilon: float, correct: int) -> Row:
        clean = attack == "none"
        return {
            **where,
            **dict.fromkeys(SCHEMAS["metrics"].keys() - set(COMPUTED) - where.keys()),
            "phase": phase,
            "split": "test",
            "attack": attack,
            "epsilon": epsilon,
            "label_source": None if clean else "true",
            "target": None if clean else "none",
            "mode": "clean" if clean else "adaptive",
            "n": 899,
            "correct": correct,
            "protocol_hash": self.hash,
        }

    def _examples(self, where: Row) -> None:
        images = (load_digits().images[-6:, None] * (255 / 16)).astype(np.uint8)
        for phase in ("trained", "defended"):
            for index, pixels in enumerate(images):
                row = {"phase": phase, "image": index, "label": index, "clean_prediction": index}
                taken = index if phase == "defended" and index % 3 else (index + 3) % 10
                signs = self.random.choice([-1, 1], pixels.shape).astype(np.int8)
                picture = {"epsilon": self.epsilon, "pixels": pixels.tobytes(), "signs": signs.tobytes()}
                self.rows.examples.append(where | row | {"attacked_prediction": taken} | picture)

    def transfer(self, seeds: Sequence[int]) -> None:
        for phase, seed, source, target in itertools.product(("trained", "defended"), seeds, self.names, self.names):
            own = -4.0 if source != target else 0.0
            accuracy = self.robust(target, phase, self.epsilon, own)
            self.rows.transfer.append(
                {
                    "dataset": self.dataset,
                    "phase": phase,
                    "source_hidden_layers": source,
                    "target_hidden_layers": target,
                    "seed": seed,
                    "attack": "fgsm",
                    "epsilon": self.epsilon,
                    "label_source": "true",
                    "n": 899,
                    "correct": min(round(899 * accuracy), 899),
                    "protocol_hash": self.hash,
                }
            )
