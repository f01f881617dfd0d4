"""The rounds of successive halving: what a budget buys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, k_complete
from atras.search.halving import plan_rounds, round_lines


def test_a_large_budget_trains_all_in_full() -> None:
    # 40 candidates, 20 clean epochs and 20 on the doubled set: 60 candidate-epochs each.
    assert plan_rounds(Protocol(), 2400) == ((40, 20, 20, 2400),)
    assert len(plan_rounds(Protocol(), 2399)) > 1


def test_rounds_halve_and_share_the_budget_by_hand() -> None:
    # Two rounds would need 2 * 20 * 60 = 2,400, three 3 * 10 * 60 = 1,800; so 600 a round: 5, 10 and 20 epochs.
    assert plan_rounds(Protocol(), 1800) == ((40, 5, 5, 600), (20, 10, 10, 600), (10, 20, 20, 600))


def test_seeds_and_the_proportion_of_epochs_count() -> None:
    protocol = Protocol(seeds=(0, 1), adversarial_epochs=10)
    # 2 * 40 * (e + 2 * e / 2) a round, 40 in full.
    assert plan_rounds(protocol, 3200)[0] == (40, 20, 10, 3200)
    assert plan_rounds(protocol.replace(adversarial_epochs=0), 1600)[0] == (40, 20, 0, 1600)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 10_000))
def test_rounds_stay_within_the_budget_and_end_in_full(n: int, epochs: int, more: int, seeds: int, budget: int) -> None:
    candidates = tuple(Candidate((width,)) for width in range(1, n + 1))
    protocol = Protocol(candidates=candidates, seeds=tuple(range(seeds)), epochs=epochs, adversarial_epochs=more)
    try:
        rounds = plan_rounds(protocol, budget)
    except InputError as error:
        least = int(str(error).partition("at least ")[2].partition(" ")[0])
        assert least > budget
        assert plan_rounds(protocol, least)
        return
    assert sum(part.cost for part in rounds) <= budget
    assert (rounds[0].candidates, rounds[-1].epochs, rounds[-1].adversarial_epochs) == (n, epochs, more)
    for before, after in pairwise(rounds):
        assert after.candidates == -(-before.candidates // 2)
        assert 1 <= before.epochs <= after.epochs


def test_a_budget_that_does_not_reach_names_the_least() -> None:
    with pytest.raises(InputError, match=r"budget \(=100\): 40 candidates need at least 720 candidate-epochs"):
        plan_rounds(Protocol(), 100)
    with pytest.raises(InputError, match=r"budget \(=0\): expected a whole number from 1"):
        plan_rounds(Protocol(), 0)


def test_the_schedule_fits_the_terminal() -> None:
    space = k_complete(range(1, 500), range(2, 30))
    lines = round_lines(Protocol(candidates=space), 10**5)
    assert max(map(len, lines)) <= 80
    assert lines[-2].endswith("test images, in full")
    assert lines[1].endswith("held-out training images")
    narrow = round_lines(Protocol(candidates=space), 10**5, 60)
    assert max(map(len, narrow)) <= 60
    text = "The last round is ranked on test images, in full, those before on held-out training images."
    assert text in " ".join(map(str.strip, narrow))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attacks": ("pgd(surrogate=undefended:24-192)",)}, "attack .*name independent or undefended"),
        ({"defence": "copies(source=smallest)"}, "defence .*: a search drops .*; name one, such as copies"),
        ({"transfer": True, "transfer_sources": (Candidate((40,)),)}, "transfer_sources: a search drops candidates"),
        ({"axes": ("epsilon=0.1,0.2",)}, "axis .=epsilon.: a search ranks all under attacks of one strength"),
        ({"axes": ("epochs=1,2",)}, "axis .=epochs.: a search trains each round for epochs of its own"),
    ],
)
def test_candidates_by_name_are_refused_as_they_may_be_dropped(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_rounds(Protocol(**fields), 10_000)
    assert plan_rounds(Protocol(attacks=("pgd(surrogate=undefended)",), defence="copies(source=24-192)"), 10_000)
