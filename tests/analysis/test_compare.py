"""Comparing runs: pairs by candidate and seed, intervals, corrected p values, and what differs said first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.analysis.compare import COLUMNS, compare, compare_lines, protocol_differences
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
        {**common, "hidden_layers": name, "seed": seed, "test_accuracy": 0.5 + 0.1 * seed + shift}
        for name in names
        for seed in seeds
    ]


def test_a_shift_is_found_with_its_sign_and_certainty() -> None:
    found = compare(run_of(rows()), run_of(rows(0.02)))
    assert found["column"].to_list() == ["test_accuracy", "recovery_static"]
    first, second = found.iter_rows(named=True)
    assert first["members"] == 12
    assert first["mean_b"] - first["mean_a"] == pytest.approx(0.02)
    assert (first["difference"], first["low"], first["high"]) == pytest.approx((0.02, 0.02, 0.02))
    # Twelve differences of one sign: 2 of 4,096 patterns; two columns.
    assert first["p"] == pytest.approx(2 / 4096)
    assert first["p_holm"] == pytest.approx(4 / 4096)
    assert (second["difference"], second["p_holm"]) == (0.0, 1.0)


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


def test_lines_fit_80_columns() -> None:
    full = [row | dict.fromkeys(COLUMNS, 0.123456) for row in rows()]
    lines = compare_lines(run_of(full), run_of(full, dataset="a/" + "long/" * 30 + "name.npz"))
    assert len(lines) == len(COLUMNS) + 5
    assert max(map(len, lines)) <= 80


def test_the_command_compares_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = Protocol(candidates=(Candidate((8,)),), seeds=(0, 1, 2, 3))
    for name, shift in (("a", 0.0), ("b", 0.02)):
        info = {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": "0"}
        writer = Writer(tmp_path / name, info)
        writer.append(Rows(table=run_of(rows(shift, ("8",))).table.to_dicts()))
        writer.finish({})
    assert program.execute(program.app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")], "atras") == 0
    out = capsys.readouterr().out
    assert out.startswith("4 members in common")
    assert "test_accuracy                     0.650  0.670 +0.0200 +0.0200 +0.0200  0.2500" in out
    assert program.execute(program.app, ["compare", str(tmp_path / "a")], "atras") == 2
    assert capsys.readouterr().err == "atras: missing argument 'RUN_B'; see --help\n"
