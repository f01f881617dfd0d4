"""Counted randomness: the same on every machine, independent where it must be."""

from __future__ import annotations

import torch

from atras.networks import Candidate, dropout_key, permutation, random_targets, stable_key
from atras.networks.randomness import initial_weights

A, B = Candidate((24, 192)).name, Candidate((24,)).name


def test_keys_are_the_same_on_every_machine() -> None:
    assert stable_key(0, "24-192", "init") == 8712935660562432431


def test_keys_tell_numbers_from_text_and_parts_from_their_joins() -> None:
    assert len({stable_key(1, 2), stable_key("1", 2), stable_key(12), stable_key(1, "2")}) == 4


def test_global_state_plays_no_part() -> None:
    torch.manual_seed(1)
    first = permutation(0, "train", 1, 50), torch.rand(3, generator=initial_weights(0, A))
    torch.manual_seed(2)
    second = permutation(0, "train", 1, 50), torch.rand(3, generator=initial_weights(0, A))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_order_is_a_permutation_and_changes_with_seed_phase_and_epoch() -> None:
    keys = [(0, "train", 1), (1, "train", 1), (0, "adversarial", 1), (0, "train", 2)]
    orders = [permutation(*key, 100) for key in keys]
    assert all(torch.equal(order.sort().values, torch.arange(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_members_draw_masks_of_their_own_in_each_phase() -> None:
    assert len({dropout_key(s, c, p) for s in (0, 1) for c in (A, B) for p in ("train", "adversarial")}) == 8


def test_random_targets_are_never_the_true_class_and_reach_all_others() -> None:
    labels = torch.arange(4).repeat(200)
    targets = random_targets(0, "test", labels, torch.arange(4))
    assert not (targets == labels).any()
    assert {(a, b) for a, b in zip(labels.tolist(), targets.tolist(), strict=True)} == {
        (a, b) for a in range(4) for b in range(4) if a != b
    }
