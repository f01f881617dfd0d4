"""The paper's claims: on its own tables, on runs made to confirm or refute them, and what is said in between."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import atras
from atras.analysis.claims import ENOUGH_SEEDS, Claim, claims, transfer_effects
from atras.analysis.paper_tables import (
    PAPER_NAMES,
    one_class,
    paper_members,
    paper_table,
    row_by_row,
    text_against_tables,
    trained_rows,
)
from atras.analysis.step_timing import STEP_TIMES, measure_steps, measured_steps
from atras.cli import program
from atras.cli.commands import claims_lines
from atras.errors import InputError
from atras.evaluation import Rows
from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.results.results import Results
from atras.results.schemas import ACCURACIES, SCHEMAS, dtypes
from atras.results.writer import Writer
from atras.storage import checksum

NAMES = ("40", "48", "56", "8-128", "8-256", "16-128", "8-32-128-512")
ORDER = [
    "two-hidden-layer networks lose accuracy",
    "networks of 4 and more hidden layers recover little",
    "recovery (static) is largest on small networks",
    "recovery (white-box) is largest on small networks",
    "small networks are most robust (static)",
    "small networks are most robust (white-box)",
    "post-defence accuracy is best on small",
    "smaller networks are faster",
    "attacks made on small networks transfer to larger ones",
]


def members(by_depth: dict[int, float], seeds: int, names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    """Table rows whose every figure is that of their depth, but for a little that differs by candidate and seed."""
    rows = []
    for index, name in enumerate(names):
        depth = name.count("-") + 1
        for seed in range(seeds):
            figure = by_depth.get(depth, 0.0) + 1e-4 * ((7 * index + 3 * seed) % 5 - 2)
            parameters = 100 * (index + 1)
            row = {"hidden_layers": name, "depth": depth, "seed": seed, "status": "trained", "parameters": parameters}
            figures = dict.fromkeys([*ACCURACIES, "recovery_static", "recovery_white_box"], figure)
            rows.append(row | figures)
    return rows


def run_of(rows: list[dict[str, Any]], dataset: str = "digits", transfer: Sequence[dict[str, Any]] = ()) -> Results:
    frames = {name: pl.DataFrame(schema=dtypes(name)) for name in SCHEMAS}
    frames["table"] = pl.DataFrame(rows, schema=dtypes("table"))
    frames["transfer"] = pl.DataFrame(list(transfer), schema=dtypes("transfer"))
    return Results(**frames, run={"protocol": {"dataset": dataset}})


def verdicts(found: list[Claim]) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in found}


# The paper against itself


def test_stated_figures_contradict_the_papers_tables() -> None:
    found = text_against_tables()
    recovery = found.filter(pl.col("statement").str.starts_with("mean recovery"))
    # Averages of the printed columns, worked out apart from this code.
    assert recovery.select("dataset", "stated").rows() == [
        ("mnist", -0.025), ("mnist", 0.0099), ("cifar10", -0.445), ("cifar10", 0.0728),
    ]  # fmt: skip
    assert recovery["tables"].to_list() == pytest.approx([0.0342444, 0.0642, 0.3353778, 0.10906], abs=1e-6)
    rest = {(row["dataset"], row["statement"]): row["tables"] for row in found.iter_rows(named=True)}
    for dataset, chance, above in (("mnist", 5, 15), ("cifar10", 8, 1)):
        assert rest[dataset, "two-layer rows that lost accuracy"] == 0
        assert rest[dataset, "most robust depth, of trained rows"] == 3
        assert rest[dataset, "rows at one class's share, defended"] == chance
        assert rest[dataset, "rows better attacked than clean"] == above


@pytest.mark.parametrize("dataset", PAPER_NAMES)
def test_the_papers_claims_fail_on_its_own_tables(dataset: Any) -> None:
    found = claims(run_of(members({1: 0.5, 2: 0.5, 4: 0.5}, 1)), dataset)
    assert [claim.name for claim in found] == ORDER
    judged = [claim for claim in found if claim.paper_figure is not None]
    assert len(judged) == 5
    assert {claim.paper_verdict for claim in judged} == {"fails"}
    depths = (
        paper_members(dataset).filter(pl.col("status") == "trained").group_by("depth").agg(pl.col(pl.Float64).mean())
    )
    means = dict(depths.select("depth", "attacked_accuracy_after_static").iter_rows())
    gap = means[1] - max(mean for depth, mean in means.items() if depth != 1)
    assert found[4].paper_figure == pytest.approx(gap)


@pytest.mark.parametrize("dataset", PAPER_NAMES)
def test_rows_that_did_not_train_are_those_of_one_class(dataset: Any) -> None:
    dead = one_class(dataset).filter(pl.any_horizontal("before", "after"))["hidden_layers"]
    alive = trained_rows(dataset)["hidden_layers"]
    assert sorted([*dead, *alive]) == sorted(paper_table(dataset)["hidden_layers"])
    assert set(paper_members(dataset).filter(pl.col("status") == "dead")["hidden_layers"]) == set(dead)


# A run


def test_a_run_that_agrees_with_the_paper_holds() -> None:
    by_depth = {1: 0.9, 2: -0.3, 4: 0.0099}
    found = verdicts(claims(run_of(members(by_depth, ENOUGH_SEEDS), "mnist")))
    assert found == dict.fromkeys(ORDER[:7], "holds") | dict.fromkeys(ORDER[7:], "unresolved")


def test_a_run_that_disagrees_fails() -> None:
    found = claims(run_of(members({1: 0.2, 2: 0.5, 4: 0.3}, ENOUGH_SEEDS), "mnist"))
    assert [claim.verdict for claim in found[:7]] == ["fails"] * 7
    assert found[4].ours == pytest.approx(-0.3, abs=1e-3)
    assert found[4].text.endswith("one hidden layer less the best other depth (2), over 5 seeds")


def test_a_difference_within_the_noise_is_unresolved() -> None:
    rows = members({1: 0.5, 2: 0.5, 4: 0.5}, ENOUGH_SEEDS)
    assert {claim.verdict for claim in claims(run_of(rows, "mnist"))[2:7]} == {"unresolved"}


def test_few_seeds_leave_the_spread_of_candidates_and_say_so() -> None:
    names = tuple(name for name in NAMES if name.count("-") < 2)
    found = claims(run_of(members({1: 0.9, 2: 0.2}, 1, names), "mnist"))
    assert found[4].verdict == "holds"
    assert found[4].text.endswith("over candidates (over seeds from 5 on)")
    assert found[0].verdict == "unresolved"  # three candidates of two layers are too few
    assert found[0].text.endswith("too few candidates; --seeds 0-4 tells")
    alone = claims(run_of(members({1: 0.9, 2: 0.2}, 1, ("40", "8-128")), "mnist"))
    assert (alone[4].verdict, alone[4].low) == ("unresolved", None)
    assert alone[4].ours == pytest.approx(0.7, abs=1e-3)


def test_the_lead_must_hold_against_every_other_depth_at_once() -> None:
    rows = members({1: 0.9, 2: 0.2}, 10, ("40", "8-128"))
    more = rows + members({3: 0.1, 4: 0.1, 5: 0.1}, 10, ("8-9-9", "8-9-9-9", "8-9-9-9-9"))
    few, many = (claims(run_of(part))[4] for part in (rows, more))
    assert few.ours == many.ours
    assert few.low is not None
    assert many.low is not None
    assert many.low < few.low


def test_an_unfinished_run_without_members_is_unresolved_throughout() -> None:
    assert {claim.verdict for claim in claims(run_of([]), "mnist")} == {"unresolved"}
    assert len(claims_lines(run_of([]))) > 40


def test_members_that_did_not_train_are_left_out_of_leads() -> None:
    rows = members({1: 0.9, 2: 0.2, 4: 0.3}, ENOUGH_SEEDS)
    dead = [{**row, "hidden_layers": "64", "attacked_accuracy_after_static": 0.1, "status": "dead"} for row in rows[:5]]
    assert claims(run_of(rows + dead))[4] == claims(run_of(rows))[4]


def test_without_other_depths_the_claim_names_what_is_missing() -> None:
    found = claims(run_of(members({1: 0.9}, ENOUGH_SEEDS, ("40", "48"))))
    assert found[4].verdict == "unresolved"
    assert found[4].text == "needs trained candidates of one hidden layer and of more; run without --depth"
    assert found[0].text.endswith("of which the run has none")


def test_another_data_set_has_no_stated_recovery() -> None:
    found = claims(run_of(members({1: 0.2, 2: 0.5, 4: 0.0099}, ENOUGH_SEEDS)))
    assert found[1].verdict == "unresolved"
    assert found[1].text.endswith("the paper states no figure for this data set")
    assert {claim.paper_figure for claim in found} == {None}


# Speed


def with_seconds(folder: Path, seconds: dict[str, float]) -> Results:
    (folder / STEP_TIMES).write_bytes(checksum.json_with_checksum({"seconds": seconds}))
    return dataclasses.replace(run_of(members({1: 0.5, 2: 0.5, 4: 0.5}, 1)), directory=folder)


def test_speed_is_judged_by_measured_steps(tmp_path: Path) -> None:
    growing = {name: 0.001 * (index + 1) for index, name in enumerate(NAMES)}
    found = claims(with_seconds(tmp_path, growing))[7]
    assert (found.verdict, found.ours) == ("holds", pytest.approx(1.0))
    assert "1.00 ms a step for 40, 7.00 ms for 8-32-128-512" in found.text
    falling = {name: 0.01 - value for name, value in growing.items()}
    assert claims(with_seconds(tmp_path, falling))[7].verdict == "fails"
    few = {name: growing[name] for name in NAMES[:3]}
    assert claims(with_seconds(tmp_path, few))[7].verdict == "unresolved"


def test_without_measured_steps_the_claim_says_how_to_get_them() -> None:
    found = claims(run_of(members({1: 0.5}, 1)))[7]
    assert (found.verdict, found.ours) == ("unresolved", None)
    assert "--measure" in found.text


def recorded(folder: Path, names: tuple[str, ...]) -> Results:
    """A run in a folder, as far as measuring and printing need one."""
    protocol = Protocol(candidates=tuple(map(Candidate.parse, names)), seeds=(0, 1))
    info = {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": "0"}
    writer = Writer(folder, info | {"model": dataclasses.asdict(Spec((1, 8, 8), 10))})
    rows = run_of([row | {"dataset": "digits"} for row in members({1: 0.5, 2: 0.4}, 2, names)]).table.to_dicts()
    writer.append(Rows(table=rows))
    return writer.finish({})


def test_steps_are_measured_once_for_each_candidate_and_kept(tmp_path: Path) -> None:
    measured = measure_steps(recorded(tmp_path, ("8", "512-512")), steps=5)
    assert list(measured) == ["8", "512-512"]
    assert 0 < measured["8"] < measured["512-512"]  # 610 against 300 thousand parameters
    assert measured_steps(atras.read(tmp_path)) == measured


def test_steps_need_a_folder_and_a_file_that_is_theirs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run in a folder, got one in memory"):
        measure_steps(run_of(members({1: 0.5}, 1)))
    (tmp_path / STEP_TIMES).write_text("[]")
    with pytest.raises(InputError, match="expected measured steps, found something else"):
        measured_steps(dataclasses.replace(run_of([]), directory=tmp_path))


def test_measured_steps_are_read_without_waiting_and_only_as_they_were_written(tmp_path: Path) -> None:
    measure_steps(recorded(tmp_path, ("8",)), steps=1)
    path, results = tmp_path / STEP_TIMES, atras.read(tmp_path)
    whole = path.read_text()
    for content in (whole.replace('"8": ', '"8": 1'), "[" * 100_000, ""):
        assert content != whole
        path.write_text(content)
        with pytest.raises(InputError, match="expected measured steps, found something else"):
            measured_steps(results)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="no regular file"):
        measured_steps(results)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(InputError, match="expected measured steps"):
        measured_steps(results)


# Transfer


def transfer_rows(up: float, down: float, seeds: int = 1, names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    """Clean accuracy is 0.9 for all; an attack costs its own network 0.4, a larger one `up`, a smaller one `down`."""
    return [
        {
            "phase": "trained", "source_phase": "trained", "source_hidden_layers": source, "source_seed": seed,
            "target_hidden_layers": target, "seed": seed, "attack": "fgsm", "surrogate": None, "epsilon": 0.05,
            "label_source": "true", "target": "none",
            "accuracy": 0.9 - (0.4 if i == j else up if j > i else down),
        }
        for i, source in enumerate(names) for j, target in enumerate(names) for seed in range(seeds)
    ]  # fmt: skip


def populated(seeds: int = 1) -> list[dict[str, Any]]:
    return [{**row, "test_accuracy": 0.9} for row in members({1: 0.5, 2: 0.5, 4: 0.5}, seeds)]


@pytest.mark.parametrize(("up", "verdict"), [(0.3, "holds"), (0.1, "fails")])
@pytest.mark.parametrize("seeds", [1, ENOUGH_SEEDS])
def test_transfer_is_the_share_of_the_white_box_loss_that_is_kept(up: float, verdict: str, seeds: int) -> None:
    found = claims(run_of(populated(seeds), transfer=transfer_rows(up, 0.2, seeds)))[8]
    assert found.verdict == verdict
    assert found.ours == pytest.approx(up / 0.4)
    assert "(from larger to smaller: 0.500)" in found.text
    assert ("5 seeds" if seeds == ENOUGH_SEEDS else "6 sources") in found.text


def test_other_phases_seeds_and_surrogates_and_equal_sizes_are_left_out() -> None:
    others = (
        {"phase": "defended", "source_phase": "defended"}, {"source_seed": 1}, {"surrogate": "40"},
        {"target": "random"},
    )  # fmt: skip
    rows = transfer_rows(0.3, 0.2) + [{**row, **each} for each in others for row in transfer_rows(0.0, 0.0)]
    found = transfer_effects(run_of(populated(), transfer=rows))
    assert len(found) == len(NAMES) * (len(NAMES) - 1)
    assert found.filter("larger")["loss"].to_list() == pytest.approx([0.3] * 21)


def test_dead_networks_are_neither_sources_nor_targets() -> None:
    alive, rows = populated(), transfer_rows(0.3, 0.2)
    dead = [{**alive[0], "status": "dead"}, *alive[1:]]
    found = transfer_effects(run_of(dead, transfer=rows))
    assert len(transfer_effects(run_of(alive, transfer=rows))) == len(NAMES) * (len(NAMES) - 1)
    assert len(found) == (len(NAMES) - 1) * (len(NAMES) - 2)
    assert alive[0]["hidden_layers"] not in {*found["source"], *found["target"]}


def test_without_the_frame_the_claim_names_the_option() -> None:
    found = claims(run_of(members({1: 0.5}, 1)))[8]
    assert (found.verdict, found.ours) == ("unresolved", None)
    assert "--transfer" in found.text


# Text


def test_row_by_row_has_the_papers_rows_then_the_runs_own() -> None:
    rows = members({1: 0.5}, 1, ("40", "7"))
    rows[1] |= {"recovery_static": -0.2, "status": "dead", "attacked_accuracy_after_static": 0.8}
    found = row_by_row(run_of(rows))
    assert len(found) == 41
    assert found["hidden_layers"].to_list() == [*paper_table("mnist")["hidden_layers"], "7"]
    first, last = found.row(0, named=True), found.row(40, named=True)
    assert (first["mnist_flags"], first["cifar10_flags"], first["recovery_static"]) == ("chance", "lost chance", None)
    assert (last["mnist"], last["mnist_flags"]) == (None, None)
    assert (last["recovery_static"], last["flags"]) == (-0.2, "lost chance above")
    assert found["mnist_flags"].str.contains("above").sum() == 15


def test_the_printed_page_fits_80_columns_and_shows_every_claim() -> None:
    wide = "8-" * 60 + "9"
    lines = claims_lines(run_of([*members({1: 0.5, 2: 0.2, 4: 0.1}, 2), *members({61: 0.1}, 2, (wide,))]))
    assert max(map(len, lines[:-2])) <= 80
    text = "\n".join(lines)
    assert all(name in text for name in ORDER)
    assert "mnist: -0.0250; by its table: +0.0342, fails" in text
    assert "cifar10: -0.4450; by its table: +0.3354, fails" in text
    assert "16-32-64-128-256-512-1024       +26.82         +0.00 c" in text


def test_the_command_measures_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "run", ("8", "16", "24", "32", "512-512"))
    assert program.execute(program.app, ["claims", str(tmp_path / "run")], "atras") == 0
    before = capsys.readouterr().out
    assert "`atras claims RUN --measure` takes them" in before
    assert program.execute(program.app, ["claims", str(tmp_path / "run"), "--measure"], "atras") == 0
    assert "single-network step seconds over 5 candidates" in " ".join(capsys.readouterr().out.split())
    assert program.execute(program.app, ["claims", str(tmp_path / "none")], "atras") == 2
    assert "run.json: expected a file of a run" in capsys.readouterr().err
