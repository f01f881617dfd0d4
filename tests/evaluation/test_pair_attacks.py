"""Attacks by lists of pairs as a run measures them: rows, distances, the worst case, transfer and plans."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
import pytest

from atras import cli
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.results import Results
from atras.running import plan_lines, run

CPU = Execution(engine="stack", device="cpu")
ATTACKS = (
    "apgd(steps=8)", "apgd-t(steps=4, targets=20)", "fab-t(steps=4, targets=20)", "square(queries=20)",
    "apgd(norm=l2, epsilon=1.0, steps=8)", "square(norm=l2, epsilon=1.0, queries=20)",
)  # fmt: skip
PROTOCOL = Protocol(
    candidates=(Candidate((16,)), Candidate((24,))), epochs=30, adversarial_epochs=2, test_size=60, precision="fp32",
    learning_rate=0.005, seeds=(0,), attacks=ATTACKS, transfer=True,
)  # fmt: skip


@cache
def results() -> Results:
    return run(PROTOCOL, CPU)


def rows(mode: str, phase: str = "trained") -> pl.DataFrame:
    last = pl.col("epoch").is_null() & (pl.col("split") == "test") & (pl.col("label_source") == "true")
    return results().metrics.filter(last & (pl.col("mode") == mode) & (pl.col("phase") == phase))


@pytest.mark.parametrize("phase", ["trained", "defended"])
@pytest.mark.parametrize("member", ["16", "24"])
def test_every_attack_has_its_row_with_distances_within_its_epsilon(phase: str, member: str) -> None:
    found = {row["attack"]: row for row in rows("white-box", phase).filter(hidden_layers=member).to_dicts()}
    names = {"apgd(steps=8)": 0.05, "square(queries=20)": 0.05, "fab-t(steps=4, targets=20)": 0.05}
    for name, epsilon in names.items():
        assert found[name]["epsilon"] == epsilon
        assert found[name]["mean_linf"] <= epsilon * (1 + 1e-5)
        right = found["fgsm"]["attacked"]
        # What fab-t finds nothing for stays as it is.
        moved = right - found[name]["correct"] if name.startswith("fab") else right
        assert found[name]["attacked"] == moved
    l2 = found["apgd(norm=l2, steps=8)"]
    assert l2["epsilon"] == 1.0
    assert 0.5 < l2["mean_l2"] <= 1.0 + 1e-5
    assert found["apgd(steps=8)"]["correct"] <= found["fgsm"]["correct"] + 1


def test_the_worst_case_counts_what_is_within_the_runs_epsilon() -> None:
    for _, own in rows("white-box").group_by("hidden_layers"):
        count = {row["attack"].partition("(")[0] + str(row["epsilon"]): row["correct"] for row in own.to_dicts()}
        linf = [correct for name, correct in count.items() if name.endswith("0.05") and not name.startswith("worst")]
        assert len(linf) == 5
        assert count["worst0.05"] <= min(linf)
        assert count["apgd1.0"] < count["worst0.05"]  # its changes are larger


def test_more_than_the_paper_asks_in_another_norm_needs_an_epsilon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="expected an epsilon"):
        Protocol(attacks=("square(norm=l2)",))
    for option in ("--attack", "--defence"):
        text = "apgd(norm=l2)" if option == "--attack" else "batch(apgd(norm=l2))"
        assert cli.execute(cli.app, ["run", option, text, "--out", "there"], "atras") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("atras: apgd(norm=l2): expected an epsilon")
        assert ("--epsilons" in line) == (option == "--attack")
    assert not Path("there").exists()


def test_a_plan_says_that_nothing_is_taken_to_be_fooled() -> None:
    text = "as if no image were fooled by apgd, square:"
    protocol = PROTOCOL.replace(attacks=("apgd", "square", "apgd(loss=dlr)", "pgd"), transfer=False)
    assert any(line.startswith(text) for line in plan_lines(protocol, CPU))
    defended = protocol.replace(attacks=("pgd",), defence="batch(fab-t)")
    assert any("fooled by fab-t:" in line for line in plan_lines(defended, CPU))
    assert not any("as if" in line for line in plan_lines(protocol.replace(attacks=("pgd",)), CPU))


def test_a_defence_trains_on_them() -> None:
    found = run(PROTOCOL.replace(defence="batch(apgd(steps=2))", attacks=("fgsm",), transfer=False), CPU).table
    assert set(found["status"]) == {"trained"}
    assert (found["attacked_accuracy_after_white_box"] > found["attacked_accuracy_before_true"]).all()


def test_cheaper_and_dearer_attacks_are_priced() -> None:
    dear, cheap = (Protocol(attacks=(name,)).attacks[0].cost(10) for name in ("autoattack", "square(queries=7)"))
    assert cheap == (8, 0)
    assert dear.forward == 5000 + 1  # of Square, and one of what they made; no objective takes its own
    assert dear.gradient == 101 + 9 * 101 + 9 * 101
