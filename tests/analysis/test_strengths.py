"""Figures at different strengths of attack are never ranked together: the weakest attack would win."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from atras.analysis import (
    chosen_elsewhere,
    lacks,
    ordered,
    pareto,
    pareto_lines,
    ranking,
    run_data,
    summary_lines,
    to_confirm,
    winner,
    winners,
)
from atras.analysis.statistics.outcomes import kept_of_column
from atras.errors import InputError
from atras.experiment import Protocol
from atras.results import STRENGTH, Results, measured_at
from atras.running import check_fresh
from atras.testing.fake_run import make_run, with_axis

STRENGTHS = ["epsilon=0.05", "epsilon=0.1"]
NAMES = ("24-192", "64-512", "40")


@pytest.fixture(scope="module")
def run() -> Results:
    """Two strengths, at the second of which every network keeps half as much."""
    varied = with_axis(make_run(names=NAMES, seeds=range(3)), "epsilon", (0.05, 0.1))
    half = pl.when(epsilon=0.1).then(0.5).otherwise(1.0)
    return replace(varied, table=varied.table.with_columns(pl.col("worst_case_accuracy_after") * half))


def test_each_strength_has_ranks_of_its_own(run: Results) -> None:
    ranked = ranking(run)
    for at in STRENGTHS:
        own, alone = ranked.filter(measured_at=at), ranking(run.of_variant(at))
        assert own["hidden_layers"].to_list() == [f"{name} {at}" for name in alone["hidden_layers"]]
        for column in ("mean", "low", "high", "rank_low", "rank_high"):
            assert own[column].to_list() == alone[column].to_list()
        assert all(name.endswith(at) for names in own["tied"] for name in names)
    assert ranked["measured_at"].to_list() == [at for at in STRENGTHS for _ in NAMES]
    assert ranking(run.flattened).equals(ranked)
    front = pareto(run)
    assert set(front["measured_at"]) == set(STRENGTHS)
    assert [line for line in pareto_lines(run) if line.startswith("at ")] == [f"at {at}" for at in STRENGTHS]
    # Clean accuracy is the same under any attack.
    assert set(ordered(run, "adversarial_test_accuracy")["measured_at"]) == {""}


def test_no_network_is_first_of_all_strengths(run: Results) -> None:
    firsts = winners(run)
    assert list(firsts) == STRENGTHS
    for at, first in firsts.items():
        alone = winner(run.of_variant(at))
        assert alone is not None
        assert first._replace(tied=None) == alone._replace(name=f"{alone.name} {at}", tied=None)
    for ask in (winner, chosen_elsewhere, to_confirm):
        with pytest.raises(InputError, match=r"expected figures at one strength of attack, got epsilon=0\.05, epsilon"):
            ask(run)
    told = run_data(run)
    assert (told["winner"], list(told["winners"])) == (None, STRENGTHS)
    assert "winners" not in run_data(run.of_variant(STRENGTHS[0]))


def test_the_terminal_says_that_they_are_not_compared(run: Results) -> None:
    lines = summary_lines(run, 80)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "several strengths (epsilon=0.05, epsilon=0.1): figures at different ones are not compared" in text
    assert [line for line in lines if line.startswith("at epsilon")] == [f"at {at}" for at in STRENGTHS]
    assert "At epsilon=0.1, first by worst-case robust accuracy: " in text
    assert "First by" not in text
    shares = replace(run, table=run.table.with_columns(majority_share=pl.lit(0.4)))
    assert any(line.startswith("epsilon=0.1: At chance level under attack") for line in lacks(shares))
    assert run._repr_html_().index("epsilon=0.1") > run._repr_html_().rindex("epsilon=0.05")


def test_fresh_seeds_are_refused_before_the_run() -> None:
    protocol = Protocol(axes={"epsilon": ("0.05", "0.1"), "defence": ("copies", "fast")})
    with pytest.raises(InputError, match=r"confirm_seeds \(=7\): expected one strength of attack, got epsilon=0\.05, "):
        check_fresh(protocol, (7,), "runs/a")
    check_fresh(protocol.narrowed(["24 epsilon=0.1 defence=fast", "40 epsilon=0.1 defence=copies"]), (7,), "runs/a")


def test_what_the_paper_attack_moves_away_from_decides_no_worst_case() -> None:
    settings = {"a": {"label_source": "true", "epsilon": 0.1}, "b": {"label_source": "predicted", "epsilon": 0.1}}
    assert set(measured_at(settings).values()) == {""}
    static = measured_at(settings, "attacked_accuracy_after_static")
    assert static == {"a": "label_source=true", "b": "label_source=predicted"}
    assert "epsilon" in STRENGTH


def test_image_by_image_each_network_has_its_own_epsilon() -> None:
    run = with_axis(make_run(names=NAMES, seeds=(0,), outcomes=True), "epsilon", (0.05, 0.1))
    stronger = pl.when(attack="fgsm", variant="epsilon=0.1").then(0.1).otherwise("epsilon")
    run = replace(run, outcomes=run.outcomes.with_columns(epsilon=stronger)).flattened
    kept = kept_of_column(run, "attacked_accuracy_after_white_box")
    assert kept is not None
    assert {name for name, _ in kept} == {f"{name} {at}" for name in NAMES[1:] for at in STRENGTHS}
