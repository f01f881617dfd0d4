"""Networks without a defence, one by one: in the terminal, in the report, for scripts, and in comparisons."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from atras import Candidate, Execution, report
from atras.analysis import (
    best_robust,
    compare,
    network_lines,
    network_table,
    ranking,
    run_data,
    summary_lines,
    transfer_table,
    why_no_claims,
    worst_case,
)
from atras.errors import InputError
from atras.results import Results, wilson
from atras.running import run
from atras.testing import SMALL

ATTACKS = ("autoattack", "pgd(steps=3)", "deepfool(steps=3)")


@pytest.fixture(scope="module")
def undefended(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two trained networks without a defence, under AutoAttack and others, on a dozen images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        protocol = SMALL.replace(
            candidates=(Candidate([6]), Candidate([12])), seeds=(0,), defence="none", precision="fp32", attacks=ATTACKS,
            test_size=12, epsilons=(0.01,), transfer=True,
        )  # fmt: skip
        return run(protocol, Execution(device="cpu"), out=tmp_path_factory.mktemp("runs") / "run")


def test_every_figure_has_its_row_and_interval(undefended: Results) -> None:
    table = network_table(undefended)
    assert table.filter(hidden_layers="6")["label"].to_list()[0] == "clean"
    assert table["label"].to_list().count("worst case") == 2
    for row in table.filter(pl.col("attack") == "pgd(steps=3)", label="pgd(steps=3)").to_dicts():
        (own,) = undefended.metrics.filter(
            attack="pgd(steps=3)", hidden_layers=row["hidden_layers"], epsilon=undefended.run["protocol"]["epsilon"]
        ).to_dicts()
        assert (row["accuracy"], row["n"]) == (own["accuracy"], own["n"])
        assert (row["low"], row["high"]) == wilson(own["correct"], own["n"])


def test_the_last_part_of_an_attack_leaves_what_the_attack_leaves(undefended: Results) -> None:
    rows = network_table(undefended).filter(pl.col("parts") != "").to_dicts()
    assert {row["attack"] for row in rows} == {"autoattack"}
    for row in rows:
        left = [float(part.split()[-1]) for part in row["parts"].split(", ")]
        assert left == sorted(left, reverse=True)
        assert left[-1] == pytest.approx(row["accuracy"], abs=5e-5)  # four digits are shown


def test_the_terminal_ranks_networks_and_has_a_block_for_each_and_nothing_of_a_defence(undefended: Results) -> None:
    lines = summary_lines(undefended)
    ranked = ranking(undefended)["hidden_layers"].to_list()
    assert [line.split()[0] for line in lines[2:4]] == ranked
    at = lines.index(network_lines(undefended)[0])
    assert lines[at : at + len(network_lines(undefended))] == network_lines(undefended)
    assert [line.partition(":")[0] for line in lines[at:] if line.endswith(" parameters")] == ranked
    text = "\n".join(lines)
    for word in (
        "6: 460 parameters",
        "clean",
        "left after apgd",
        "worst case",
        "smallest changes found",
        "No ranks: one",
    ):
        assert word in text
    for word in ("white-box before", "attack before", "paper"):
        assert word not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_networks_without_a_defence_fit_the_terminal(undefended: Results, width: int) -> None:
    assert max(map(len, summary_lines(undefended, width))) <= width


def test_the_epsilon_of_the_run_is_named_and_those_of_an_attack_are_in_their_order(undefended: Results) -> None:
    assert "within linf 0.05 of the image" in " ".join(network_lines(undefended))
    own = network_table(undefended).filter(hidden_layers="6")["label"].to_list()
    assert [label for label in own if label.startswith("fgsm")] == ["fgsm, predicted label", "fgsm, linf 0.01", "fgsm"]
    assert own[0] == "clean"
    assert own[-1] == "worst case"


def test_transfer_between_networks_without_a_defence_is_shown(undefended: Results) -> None:
    table = transfer_table(undefended).filter(attack="fgsm").to_dicts()
    assert {row["hidden_layers"] for row in table} == {"6", "12"}
    frame = undefended.transfer.filter(attack="fgsm")
    for row in table:
        own = frame.filter(target_hidden_layers=row["hidden_layers"])
        figures = {each["source_hidden_layers"]: each["accuracy"] for each in own.to_dicts()}
        other = "12" if row["hidden_layers"] == "6" else "6"
        assert (row["own"], row["others"], row["lowest"], row["made_on"]) == (
            figures[row["hidden_layers"]], figures[other], figures[other], other,
        )  # fmt: skip
    lines = summary_lines(undefended)
    at = lines.index("transfer: accuracy on adversarial images made on other networks of the run")
    assert {line.split()[0] for line in lines[at + 4 : at + 6]} == {"6", "12"}


def test_the_report_leaves_out_what_needs_a_defence_and_labels_the_rest(undefended: Results, tmp_path: Path) -> None:
    text = report.write(undefended, tmp_path / "report.md", "md").read_text(encoding="utf-8")
    for heading in ("## Networks", "## Transfer of attacks", "## Gradient masking by depth", "## Training"):
        assert heading in text
    for heading in ("## Recovery by depth", "## The paper's claims", "## Candidates", "## Black-box attacks"):
        assert heading not in text
    assert "before the defence" not in text
    assert "after the defence" not in text
    assert re.search(r"\bdefended networks|Adversarial training", text) is None


def test_rankings_comparisons_and_scripts_go_by_the_networks_as_they_are(undefended: Results) -> None:
    worst = undefended.table["worst_case_accuracy_before"].to_list()
    assert ranking(undefended)["mean"].to_list() == sorted(worst, reverse=True)
    assert best_robust(undefended).name == undefended.table["hidden_layers"][worst.index(max(worst))]
    with pytest.raises(InputError, match=r"rank_by \(=balanced\): expected a run with a defence"):
        ranking(undefended, rank_by="balanced")
    differences = compare(undefended, undefended)
    assert {"train_accuracy", "test_accuracy", "worst_case_accuracy_before"} <= set(differences["column"])
    assert not differences["column"].str.contains("after|recovery|adversarial").any()
    assert len(run_data(undefended)["networks"]) == len(network_table(undefended))
    kept = worst_case(undefended).group_by("hidden_layers", maintain_order=True).agg(pl.col("correct").mean())
    assert kept["correct"].to_list() == worst
    assert why_no_claims(undefended).startswith("a run without a defence has none")
    assert "worst_case_accuracy_before" in undefended._repr_html_()


def test_transfer_is_between_the_networks_as_they_are(undefended: Results) -> None:
    assert set(undefended.transfer["phase"]) == {"trained"}
    assert len(undefended.transfer) == 4  # every pair of two networks


def test_the_networks_are_there_once(undefended: Results) -> None:
    directory = undefended.directory
    assert directory is not None
    names = sorted(path.name.partition("-")[0] for path in Path(directory / "weights").iterdir())
    assert set(names) == {"trained"}
