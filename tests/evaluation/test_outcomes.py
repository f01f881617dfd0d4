"""Outcomes image by image: they say what the metrics say, and their file is as large as the plan predicts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import pytest

from atras.analysis import worst_case
from atras.errors import InputError
from atras.evaluation import outcome_bytes, outcome_rows
from atras.evaluation.outcomes import MOST_ROWS
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.results import Results, read
from atras.running import plan_lines, run

CPU = Execution(engine="stack", device="cpu")
PROTOCOL = Protocol(
    candidates=(Candidate((16,)), Candidate((24,))), epochs=20, adversarial_epochs=2, test_size=400, precision="fp32",
    learning_rate=0.005, seeds=(0,), epsilons=(0.0, 0.02, 0.5),
    attacks=("apgd(steps=3)", "square(queries=20)", "apgd(norm=l2, steps=8)", "deepfool", "pgd(steps=3)"),
)  # fmt: skip
FIGURE = ["hidden_layers", "seed", "phase", "mode", "attack", "norm", "epsilon", "label_source", "target", "source"]


@cache
def results() -> Results:
    return run(PROTOCOL, CPU, out=Path(mkdtemp()) / "run")


def metrics() -> pl.DataFrame:
    return results().metrics.filter(pl.col("epoch").is_null(), split="test")


def test_every_figure_of_the_test_images_is_the_sum_of_its_outcomes() -> None:
    sums = (
        results()
        .outcomes.group_by(FIGURE, maintain_order=True)
        .agg(pl.col("correct").sum().cast(pl.Int64), n=pl.len().cast(pl.Int64))
    )
    worst = pl.col("attack").str.starts_with("worst(")
    assert sums.equals(metrics().filter(~worst).select(*FIGURE, "correct", "n"))
    images = results().outcomes.group_by(FIGURE).agg(pl.col("image"))["image"]
    assert all(own.to_list() == list(range(400)) for own in images)


def test_the_worst_case_follows_from_them() -> None:
    worst = metrics().filter(pl.col("attack").str.starts_with("worst("))
    assert len(worst) == 4
    fewer = []
    for row in worst.to_dicts():
        kept = worst_case(results(), row["phase"]).filter(hidden_layers=row["hidden_layers"])
        assert (kept["correct"].sum(), len(kept)) == (row["correct"], row["n"])
        own = results().outcomes.filter(pl.col("counts"), phase=row["phase"], hidden_layers=row["hidden_layers"])
        under = own.group_by("attack", "epsilon").agg(pl.col("correct").sum(), pl.len()).filter(len=400)["correct"]
        fewer.append(row["correct"] - under.min())
    assert max(fewer) <= 0
    assert min(fewer) < 0  # images differ in what turns them
    aside = results().outcomes.filter((pl.col("label_source") == "predicted") | (pl.col("mode") != "white-box"))
    assert len(aside)
    assert not aside["counts"].any()


def test_changes_are_in_the_attacks_norm_and_within_its_epsilon() -> None:
    outcomes = results().outcomes
    assert (outcomes["change"] <= outcomes["epsilon"].fill_null(np.inf) * (1 + 1e-5)).all()  # float32 in the l2 norm
    clean = outcomes.filter(mode="clean").select("hidden_layers", "phase", "image", right="correct")
    fresh = outcomes.filter(mode="white-box").join(clean, on=["hidden_layers", "phase", "image"])
    moved = fresh.filter(pl.col("right"), pl.col("change") > 0)
    means = moved.group_by(FIGURE, maintain_order=True).agg(pl.col("change").cast(pl.Float64).mean())
    expected = pl.when(pl.col("norm") == "l2").then("mean_l2").otherwise("mean_linf").alias("mean")
    both = means.join(metrics().select(*FIGURE, expected), on=FIGURE, nulls_equal=True)
    assert len(both) == len(means)
    assert np.allclose(both["change"], both["mean"], rtol=1e-6)


def test_an_attack_spends_nothing_on_what_is_lost_before_it() -> None:
    outcomes = results().outcomes
    assert outcomes.filter(pl.col("mode") != "white-box").select(pl.col("queries", "gradients").sum()).row(0) == (0, 0)
    lost = outcomes.filter(mode="clean", correct=False).select("hidden_layers", "phase", "image")
    dropping = outcomes.filter(pl.col("attack").str.contains("apgd|square|deepfool"))
    spent = (pl.col("queries") + pl.col("gradients")).alias("spent")
    assert dropping.join(lost, on=lost.columns).select(spent.sum()).item() == 0
    own = (pl.col("made_at") == pl.col("epsilon")) | pl.col("epsilon").is_null()
    costing = dropping.join(lost, on=lost.columns, how="anti").select(own.alias("own"), spent > 0)
    assert costing["own"].equals(costing["spent"], check_names=False)
    assert outcomes.filter(attack="pgd(steps=3)").select("queries", "gradients").unique().rows() == [(1, 3)]
    square = outcomes.filter(attack="square(queries=20)", correct=True)
    assert square["queries"].unique().to_list() == [20]


@pytest.mark.parametrize(("attack", "epsilons"), [
    ("apgd(steps=3)", [0.02, 0.05, 0.5]), ("square(queries=20)", [0.02, 0.05, 0.5]),
    ("pgd(steps=3)", [0.02, 0.05, 0.5]), ("apgd(norm=l2, steps=8)", [0.02, 0.5]),
])  # fmt: skip
def test_what_fools_at_a_smaller_epsilon_is_carried_up(attack: str, epsilons: list[float]) -> None:
    member = ["hidden_layers", "phase"]
    curves = metrics().filter(attack=attack).group_by(member, maintain_order=True).agg("epsilon", "correct")
    for row in curves.to_dicts():
        assert row["epsilon"] == epsilons
        assert row["correct"] == sorted(row["correct"], reverse=True)
        assert row["correct"][0] > row["correct"][-1]
    own = results().outcomes.filter(attack=attack)
    before = own.filter(correct=False).select(*member, "image", "prediction", "change", made="epsilon")
    first = before.group_by(*member, "image").agg(pl.all().sort_by("made").first())
    later = own.join(first, on=[*member, "image"], how="left").filter(pl.col("made") <= pl.col("epsilon"))
    assert not later["correct"].any()
    assert (later["made_at"] == later["made"]).all()
    assert (later["change"] == later["change_right"]).all()
    assert (later["prediction"] == later["prediction_right"]).all()
    assert (
        own.join(later, on=[*member, "image", "epsilon"], how="anti")
        .select((pl.col("made_at") == pl.col("epsilon")).all())
        .item()
    )


def test_the_smallest_epsilon_is_measured_as_by_itself() -> None:
    alone = PROTOCOL.replace(epsilon=0.02, epsilons=(), attacks=("apgd(steps=3)", "pgd(steps=3)"), adversarial_epochs=0)
    both = [run(PROTOCOL.replace(adversarial_epochs=0, attacks=alone.attacks), CPU), run(alone, CPU)]
    found = [
        each.outcomes.filter(pl.col("attack") != "fgsm", epsilon=0.02, phase="trained").drop("counts") for each in both
    ]
    assert len(found[0]) == 2 * 2 * 400
    assert found[0].equals(found[1])


def test_rows_and_bytes_are_as_predicted() -> None:
    outcomes, folder = results().outcomes, results().directory
    assert folder is not None
    assert len(outcomes) == outcome_rows(PROTOCOL, 400)
    size = (folder / "outcomes.parquet").stat().st_size
    assert 0.5 < size / outcome_bytes(PROTOCOL, 10, 400) < 2  # how well a file is packed depends on what is in it
    assert size < 4 * len(outcomes)
    again = read(folder).outcomes
    assert again.equals(outcomes)
    one = pl.scan_parquet(folder / "outcomes.parquet").filter(hidden_layers="24").collect()
    assert one.equals(outcomes.filter(hidden_layers="24"))


@pytest.mark.parametrize(("asked", "many", "line"), [
    ("auto", False, "outcomes image by image: "), ("auto", True, "outcomes image by image are left out: "),
    ("all", True, "outcomes image by image: "), ("none", False, "outcomes image by image are left out, as was asked"),
])  # fmt: skip
def test_a_plan_says_what_becomes_of_them(asked: str, many: bool, line: str) -> None:
    candidates = tuple(Candidate((width,)) for width in range(8, 8 + (100 if many else 1)))
    protocol = PROTOCOL.replace(
        outcomes=asked, candidates=candidates, epochs=1, seeds=tuple(range(4)) if many else (0,)
    )
    assert (outcome_rows(protocol, 400) > MOST_ROWS) == many
    assert any(each.startswith(line) for each in plan_lines(protocol, CPU))


def test_a_run_that_leaves_them_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.evaluation.outcomes.MOST_ROWS", 100)
    short = PROTOCOL.replace(epochs=1, adversarial_epochs=0, attacks=("fgsm",), test_size=50)
    left_out = run(short, CPU)
    assert left_out.outcomes.is_empty()
    assert any("--outcomes all" in line for line in left_out.run["warnings"])
    assert not any("outcomes" in line for line in run(short.replace(outcomes="none"), CPU).run["warnings"])


def test_more_than_can_be_read_back_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.results.frames.MAX_ROWS", 10_000)
    with pytest.raises(InputError, match="outcomes: expected at most 10000 rows"):
        run(PROTOCOL.replace(outcomes="all"), CPU)
