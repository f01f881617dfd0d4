"""Helpers of tests and benchmarks: comparison, poisoned memory and inputs that reach an op's corners."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.experiment import Protocol
from atras.networks import Candidate

CUBLAS, REPEATABLE = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""What cuBLAS reads before its first product, and its values with which torch lets it be deterministic."""
SMALL = Protocol(
    candidates=(Candidate((8,)), Candidate((12,)), Candidate((6, 8))),
    train_size=60,
    test_size=30,
    epochs=2,
    adversarial_epochs=1,
    batch_size=16,
    head_dropout=0.25,
)
"""A run of a fraction of a second, in engines stack and loop of two groups."""


def tables_of(folder: Path) -> dict[str, bytes]:
    """The files of a run that must be equal, bit for bit, however it came to its end."""
    names = ["table.parquet", "table.csv", "metrics.parquet", "history.parquet"]
    names += ["outcomes.parquet"] if (folder / "outcomes.parquet").exists() else []
    return {name: (folder / name).read_bytes() for name in names}


def assert_close(actual: Tensor, expected: Tensor, *, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Fail unless two tensors agree in shape, dtype and values; exactly, unless a tolerance is given. NaN equals NaN.

    Args:
        actual: the tensor under test.
        expected: the tensor that it should equal.
        atol, rtol: absolute and relative tolerance.
    """
    torch.testing.assert_close(actual.cpu(), expected.cpu(), atol=atol, rtol=rtol, equal_nan=True)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that torch hands out uninitialised with NaN, or the largest integer, so that no gap goes unseen.

    Raises:
        RuntimeError: if there is a GPU whose cuBLAS refuses to compute in it.
    """
    if torch.cuda.is_available() and os.environ.get(CUBLAS) not in REPEATABLE:
        raise RuntimeError(
            f"{CUBLAS}: expected {REPEATABLE[0]} where torch is to be deterministic on a GPU; set it at the start"
        )
    setting: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), setting.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    setting.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        setting.fill_uninitialized_memory = fill


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


class SquareInputs(NamedTuple):
    """What op square takes: images [P, C, H, W], drawn [P, 5 + C], values [P], logits [P, Y], labels [P]."""

    clean: Tensor
    best: Tensor
    drawn: Tensor
    values: Tensor
    logits: Tensor
    labels: Tensor


def make_square_inputs(
    pairs: int,
    shape: tuple[int, int, int],
    *,
    epsilon: float = 0.3,
    classes: int = 10,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> SquareInputs:
    """Images, random numbers and logits for op square.

    Args:
        pairs: P.
        shape: (C, H, W).
        epsilon: norm of the changes of the best images, in l2, before they are clipped.
        classes: Y.
        dtype: of all but the labels.
        device: of all.
        seed: of the generator they are drawn from.

    Returns:
        Clean images with many black and white pixels, and best ones near them; the values have a NaN, and are above 0
        for some pairs, and among the logits are NaN and both infinities.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * torch.rand(pairs, 5 + shape[0], dtype=torch.float64, generator=generator) - 1
    clean = (1.6 * torch.rand(pairs, *shape, dtype=torch.float64, generator=generator) - 0.3).clamp(0, 1)
    change = torch.randn(pairs, *shape, dtype=torch.float64, generator=generator)
    best = clean + epsilon * change / change.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    logits = torch.randn(pairs, classes, dtype=torch.float64, generator=generator)
    values = torch.randn(pairs, dtype=torch.float64, generator=generator) - 1
    for value, row in zip((torch.nan, torch.inf, -torch.inf), range(1, pairs, 3), strict=False):
        if classes > 1:
            logits[row, row % classes] = value
    values[pairs // 2 : pairs // 2 + 1] = torch.nan
    labels = torch.randint(0, classes, (pairs,), generator=generator)
    tensors = (clean, best.clamp(0, 1), drawn.clamp(-1, 1 - 2**-24), values, logits)
    clean, best, drawn, values, logits = (each.to(dtype).to(device) for each in tensors)
    return SquareInputs(clean, best, drawn, values, logits, labels.to(device))


def make_projection_inputs(
    pairs: int, shape: tuple[int, int, int], *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, clean images, normals and values for op projection.

    Args:
        pairs: P.
        shape: (C, H, W).
        dtype: of all four.
        device: of all four.
        seed: of the generator they are drawn from.

    Returns:
        Points and clean images [P, C, H, W], a third of whose pixels lie on the bounds 0 and 1; normals likewise, with
        zeros and equal numbers, every fifth pair's nothing but zeros; values [P], of which some are beyond what any
        image reaches, and some 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*axes: int) -> Tensor:
        return torch.randn(*axes, dtype=torch.float64, generator=generator)

    points, clean = (0.75 * torch.erf(drawn(2, pairs, *shape)) + 0.5).clamp(0, 1)
    normals = drawn(pairs, *shape)
    normals = torch.where(drawn(pairs, *shape) > 0.8, normals.round(), normals)
    normals[4::5] = 0.0
    values = drawn(pairs) * 0.2 * normals[0].numel() ** 0.5 if pairs else drawn(0)
    values[3::7] *= 100
    values[5::7] = 0.0
    a, b, c, d = (each.to(dtype).to(device).contiguous() for each in (points, clean, normals, values))
    return a, b, c, d


def make_ascent_inputs(
    pairs: int,
    shape: tuple[int, int, int],
    epsilon: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points, those before them, gradients, clean images and step sizes for op ascent.

    Args:
        pairs: P.
        shape: (C, H, W).
        epsilon: radius of the balls that the points are in.
        dtype: of all five.
        device: of all five.
        seed: of the generator they are drawn from.

    Returns:
        Images [P, C, H, W] in [0, 1], of which a third of the pixels lie on the bounds; gradients with NaN, zeros and
        infinities; sizes [P], up to twice epsilon.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = (1.5 * torch.rand(pairs, *shape, generator=generator) - 0.25).clamp(0, 1)
    moved = epsilon * (2 * torch.rand(2, pairs, *shape, generator=generator) - 1)
    points, before = (clean + moved).clamp(0, 1)
    gradients = torch.randn(pairs, *shape, generator=generator)
    odd = torch.tensor([torch.nan, 0.0, -0.0, torch.inf, -torch.inf, 1e-45])
    drawn = torch.randint(0, 8 * len(odd), gradients.shape, generator=generator)
    gradients = torch.where(drawn < len(odd), odd[drawn % len(odd)], gradients)
    sizes = 2 * epsilon * torch.rand(pairs, generator=generator)
    a, b, c, d, e = (each.to(dtype).to(device).contiguous() for each in (points, before, gradients, clean, sizes))
    return a, b, c, d, e


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
