"""Comparing runs: pairs by candidate and seed, intervals, corrected p values, and what differs said first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from atras.analysis.compare import COLUMNS, compare, protocol_differences
from atras.analysis.compare_text import compare_lines
from atras.cli import program
from atras.errors import InputError
from atras.evaluation import Rows
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.results.results import Results
from atras.results.schemas import SCHEMAS, dtypes
from atras.results.writer import Writer


def run_of(rows: list[dict[str, Any]], **protocol: Any) -> Results:
    frames = {name: pl.DataFrame(schema=dtypes(name)) for name in SCHEMAS}
    frames["table"] = pl.DataFrame(rows, schema=dtypes("table"))
    return Results(**frames, run={"protocol": Protocol(**protocol).to_dict()})


def rows(
    shift: float = 0.0, names: tuple[str, ...] = ("8", "16", "24"), seeds: range = range(4)
) -> list[dict[str, Any]]:
    common = {"dataset": "digits", "depth": 1, "parameters": 100, "status": "trained", "recovery_static": 0.1}
    return [
        {**common, "hidden_layers": name, "variant": "", "seed": seed, "test_accuracy": 0.5 + 0.1 * seed + shift}
        for name in names
        for seed in seeds
    ]


def varied(table: list[dict[str, Any]], spread: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose accuracy varies by seed, for all candidates alike, and a little by member."""
    generator = np.random.default_rng(seed)
    of_seeds = {number: spread * generator.normal() for number in sorted({row["seed"] for row in table})}
    changes = [of_seeds[row["seed"]] + 1e-4 * generator.normal() for row in table]
    return [row | {"test_accuracy": row["test_accuracy"] + change} for row, change in zip(table, changes, strict=True)]


def test_a_shift_is_found_with_its_sign_and_certainty() -> None:
    table = varied(rows(0.02), 0.001)
    found = compare(run_of(rows()), run_of(table))
    assert found["column"].to_list() == ["test_accuracy", "recovery_static"]
    first, second = found.iter_rows(named=True)
    assert first["members"] == 12
    # Four seeds, whatever the number of candidates: Student's t over their means.
    means = [np.mean([a["test_accuracy"] - b["test_accuracy"] for a, b in zip(table, rows(), strict=True)
                      if a["seed"] == seed]) for seed in range(4)]  # fmt: skip
    exact = stats.ttest_1samp(means, 0)
    assert first["difference"] == pytest.approx(np.mean(means))
    assert (first["low"], first["high"]) == pytest.approx(tuple(exact.confidence_interval()), rel=1e-6)
    assert first["p"] == pytest.approx(exact.pvalue, rel=1e-5)
    assert first["p_holm"] == pytest.approx(2 * exact.pvalue, rel=1e-5)
    assert (second["difference"], second["p_holm"]) == (0.0, 1.0)


def test_seeds_of_one_protocol_are_told_apart_in_one_of_twenty_comparisons_at_most() -> None:
    """All candidates of a seed move together: counted as so many pairs they nearly always differ."""
    table, runs = rows(names=tuple(str(8 * n) for n in range(1, 21))), 60
    made = [run_of(varied(table, 0.01, number)) for number in range(2 * runs)]
    found = [compare(a, b)["p"][0] for a, b in zip(made[::2], made[1::2], strict=True)]
    assert np.mean([p < 0.05 for p in found]) <= 0.06 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_one_seed_has_no_p_however_many_candidates() -> None:
    names = tuple(str(8 * n) for n in range(1, 21))
    alone, other = (run_of(varied(rows(shift, names, range(1)), 0.01, k)) for k, shift in enumerate((0.0, 0.1)))
    found = compare(alone, other).row(0, named=True)
    assert found["difference"] == pytest.approx(0.1, abs=0.03)
    assert (found["low"], found["high"], found["p"], found["p_holm"]) == (None, None, None, None)
    assert any(line.startswith("One seed in common") for line in compare_lines(alone, other))


def test_columns_that_mean_other_things_are_blank_and_say_why() -> None:
    both = [row | {"worst_case_accuracy_after": 0.3, "attacked_accuracy_before": 0.2} for row in rows()]
    a, b = run_of(both, attacks=("fgsm",)), run_of(both, attacks=("fgsm", "pgd(steps=40)"))
    found = {row["column"]: row for row in compare(a, b).iter_rows(named=True)}
    worst = found["worst_case_accuracy_after"]
    assert worst["note"] == "not compared: other attacks"
    assert [worst[name] for name in ("mean_a", "mean_b", "difference", "low", "high", "p", "p_holm")] == [None] * 7
    assert found["attacked_accuracy_before"]["difference"] == 0.0
    (line,) = [line for line in compare_lines(a, b) if line.startswith("worst_case_accuracy_after ")]
    assert line.endswith(" not compared: other attacks")
    stronger = compare(run_of(both), run_of(both, epsilon=0.1))
    assert stronger.filter(column="attacked_accuracy_before")["note"].item() == "not compared: other epsilon"
    assert stronger.filter(column="test_accuracy")["difference"].item() == 0.0


def test_pairs_are_the_common_candidates_and_seeds_in_any_order() -> None:
    other = [{**row, "test_accuracy": row["test_accuracy"] + 0.1} for row in reversed(rows(names=("24", "8")))]
    other += [{"hidden_layers": "99", "seed": 0, "test_accuracy": 0.0}]
    found = compare(run_of(rows(seeds=range(2, 6))), run_of(other)).row(0, named=True)
    assert found["members"] == 4  # two candidates, seeds 2 and 3
    assert found["difference"] == pytest.approx(0.1)


def test_a_figure_that_one_run_lacks_makes_no_pair() -> None:
    left = rows()
    left[0]["test_accuracy"] = None
    found = compare(run_of(left), run_of(rows()))
    assert dict(found.select("column", "members").iter_rows()) == {"test_accuracy": 11, "recovery_static": 12}


def test_runs_without_common_members_are_refused() -> None:
    with pytest.raises(InputError, match="expected runs with a candidate and seed in common, found none"):
        compare(run_of(rows(names=("8",))), run_of(rows(names=("16",))))


def test_protocols_that_differ_are_told_field_by_field() -> None:
    a, b = run_of(rows()), run_of(rows(0.01), epsilon=0.1, epochs=3, seeds=(0, 1), adversarial_epochs=3)
    assert protocol_differences(a, a) == {}
    assert protocol_differences(a, b)["epsilon"] == (0.05, 0.1)
    lines = compare_lines(a, b)
    assert lines[0] == "the protocols differ:"
    assert "  epsilon: 0.05 and 0.1" in lines
    assert "  seeds: 1 and 2, 1 in common" in lines
    assert compare_lines(a, a)[0] == "12 members in common; differences are B - A, intervals 95 %"


@pytest.mark.parametrize("width", [60, 80])
def test_lines_fit_the_terminal_and_nothing_is_cut(width: int) -> None:
    full = [row | dict.fromkeys(COLUMNS, 0.123456) for row in rows()]
    path = "a/" + "long/" * 30 + "name.npz"
    a, b = run_of(full), run_of(full, dataset=path, attacks=("fgsm", "pgd(steps=40)"))
    lines = compare_lines(a, b, width=width)
    assert max(map(len, lines)) <= width
    assert path in "".join(line.strip() for line in lines)
    at = {name: place for name in COLUMNS for place, line in enumerate(lines) if line.split()[:1] == [name]}
    figures = ["0.123", "0.123", "+0.0000", "-", "-", "1.0000"]
    found = [" ".join(lines[place : place + 2]).split()[1:7] for name, place in at.items() if "worst" not in name]
    assert found == [figures] * (len(COLUMNS) - 3)
    assert lines[at["worst_case_accuracy_after"]].endswith(" not compared: other attacks")


def test_the_command_compares_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = Protocol(candidates=(Candidate((8,)),), seeds=(0, 1, 2, 3))
    for name, shift in (("a", 0.0), ("b", 0.02)):
        info = {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": "0"}
        writer = Writer(tmp_path / name, info)
        writer.append(Rows(table=run_of(varied(rows(shift, ("8",)), shift / 20)).table.to_dicts()))
        writer.finish({})
    assert program.execute(program.app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")], "atras") == 0
    out = capsys.readouterr().out
    assert out.startswith("4 members in common")
    assert "test_accuracy    0.650  0.670 +0.0202 +0.0197 +0.0207 <0.0001" in out
    assert program.execute(program.app, ["compare", str(tmp_path / "a")], "atras") == 2
    assert capsys.readouterr().err == (
        "atras: compare: expected two runs, or two variants of runs by --variant twice; name both\n"
    )
