"""The images of an epoch, gathered chunk by chunk and augmented: bitwise what a textbook makes of them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from atras.data import Split, StoredImages
from atras.evaluation import StoredSigns
from atras.kernels import apply_signs
from atras.networks import permutation, stable_key
from atras.training import feed as feeds
from atras.training.feed import Feed, Pass
from atras.training.transfer import Transfer

N, SIZE, SHAPE, SEEDS = 37, 5, (3, 10, 12), (4, 9)
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (N, *SHAPE), np.uint8)
SIGNS = DRAW.integers(-1, 2, (3, N, *SHAPE)).astype(np.int8)
LABELS, MEMBERS = torch.arange(N), torch.tensor([0, 1, 0])


def made(streamed: bool, augment: str = "none", copies: bool = True) -> Pass:
    images: Any = torch.from_numpy(IMAGES)
    signs: Any = torch.from_numpy(SIGNS)
    if streamed:
        images, signs = StoredImages(IMAGES.transpose(0, 2, 3, 1)), StoredSigns(list(SIGNS), torch.device("cpu"))
    orders = torch.stack([permutation(seed, "adversarial", 2, N * (1 + copies)) for seed in SEEDS])
    kept = signs if copies else None
    return Pass(Split(images, LABELS), orders, MEMBERS, kept, 0.1, augment, SEEDS, "adversarial", 2)


def batches(work: Pass, chunk: int, steps: int = 2, transfer: Transfer | None = None) -> list[tuple[torch.Tensor, ...]]:
    """What an engine trains on: pixels [M, B, C, H, W], labels and which are copies, batch by batch."""
    found, first, last = [], 0, -(-work.orders.shape[1] // SIZE)
    with Feed(work, SIZE, chunk, transfer) as feed:
        while first < last:
            end = min(first + steps, feed.end(first))
            found += list(feed.part(first, end).batches(SIZE, torch.float32))
            first = end
    return found


def textbook(image: np.ndarray, augment: str, seed: int, number: int) -> np.ndarray:
    """Crop and flip as SplitMix64 says, in whole numbers of Python: 64 bits without the lowest."""
    mask = 2**64 - 1
    z = (stable_key(seed, "adversarial", 2, "augment") + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    bits = (z ^ z >> 31) >> 1
    if "crop" in augment:  # 10 rows and 12 columns: an eighth of them, rounded
        high, wide = 1, 2
        padded = np.pad(image, ((0, 0), (high, high), (wide, wide)))
        down, right = (bits % 2**24) * (2 * high + 1) >> 24, (bits >> 24) % 2**24 * (2 * wide + 1) >> 24
        image = padded[:, down : down + SHAPE[1], right : right + SHAPE[2]]
    return image[:, :, ::-1] if "flip" in augment and bits >> 48 & 1 else image


@pytest.mark.parametrize("augment", ["none", "crop", "flip", "crop,flip"])
def test_augmented_batches_are_those_of_a_textbook(augment: str) -> None:
    work = made(streamed=True, augment=augment)
    for number, (images, labels, copied) in enumerate(batches(work, chunk=3 * SIZE)):
        for member, row in enumerate(MEMBERS.tolist()):
            places = work.orders[row, number * SIZE : (number + 1) * SIZE].tolist()
            for at, place in enumerate(places):
                base, kept = place % N, place >= N
                image, signs = (
                    torch.from_numpy(textbook(each, augment, SEEDS[row], place).copy())
                    for each in (IMAGES[base], SIGNS[member, base] * kept)
                )
                expected = apply_signs(image[None], signs[None], 0.1, dtype=torch.float32)[0]
                assert torch.equal(images[member, at], expected)
                assert labels[member, at] == base
                assert copied[member, at] == kept


def test_flips_and_offsets_are_spread_as_they_should_be() -> None:
    bits = feeds.moves_of("crop,flip", 0, "train", 1, torch.arange(90_000), 32, 32)
    assert bits.pads == (4, 4)
    # 5 standard deviations of a binomial count.
    for found, share in ((bits._flipped == 1, 1 / 2), (bits._down == 0, 1 / 9), (bits._right == 8, 1 / 9)):
        assert abs(found.double().mean() - share) < 5 * (share * (1 - share) / 90_000) ** 0.5
    assert bits._down.min() == 0
    assert bits._down.max() == 8


@pytest.mark.parametrize("augment", ["none", "crop,flip"])
@pytest.mark.parametrize("copies", [True, False])
def test_chunks_are_parts_of_the_whole(augment: str, copies: bool) -> None:
    expected = batches(made(False, augment, copies), chunk=1000, steps=100)
    for streamed in (True, False):
        for chunk, steps in ((0, 3), (2 * SIZE, 1), (4 * SIZE + 1, 3), (1000, 4)):
            found = batches(made(streamed, augment, copies), chunk, steps)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_member_alone_is_given_what_it_is_given_among_others() -> None:
    work = made(True, "crop,flip")
    alone = work._replace(
        orders=work.orders[1:], order_of=torch.tensor([0]), seeds=SEEDS[1:],
        signs=StoredSigns([SIGNS[1]], torch.device("cpu")),
    )  # fmt: skip
    for among, own in zip(batches(work, 10), batches(alone, 15), strict=True):
        assert torch.equal(among[0][1], own[0][0])


class Slow(Transfer):
    """A way on which chunks are until they are asked for: another thread begins them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.threads: set[int] = set()
        self.second = threading.Event()

    def start(self, tensors: Any) -> Any:
        self.threads.add(threading.get_ident())
        self.begun.append(len(self.begun))
        if len(self.begun) == 2:
            self.second.set()
        return self.begun[-1], [each if each is None else each.clone() for each in tensors]

    def finish(self, under_way: Any) -> list[torch.Tensor | None]:
        number, tensors = under_way
        if number == 0:
            assert self.begun == [0]
        self.ended.append(number)
        return list(tensors)


def test_the_next_chunk_is_on_its_way_while_one_is_trained_on() -> None:
    work, way = made(True), Slow()
    with Feed(work, SIZE, 2 * SIZE, way) as feed:
        feed.part(0, 1)
        assert way.second.wait(10)
        assert way.ended == [0]
        feed.part(1, 2)
        assert way.ended == [0]
    assert len(way.threads) == 2
    expected = batches(made(False), 1000)
    found = batches(work, 2 * SIZE, transfer=Slow())
    assert all(torch.equal(one[0], other[0]) for one, other in zip(found, expected, strict=True))
