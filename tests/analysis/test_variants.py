"""Runs with axes: each candidate in a variant is ranked by itself, and what is about a network is about one variant."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from atras.analysis import (
    claims,
    compare,
    depth_intervals,
    independent_images,
    ranking,
    run_data,
    summary_lines,
    winner,
)
from atras.analysis.export import export
from atras.cli.program import app
from atras.errors import InputError
from atras.experiment import Execution
from atras.networks import Candidate
from atras.results import Results, read
from atras.running import run
from atras.testing import SMALL

PROTOCOL = SMALL.replace(
    candidates=(Candidate((8,)), Candidate((6, 8))),
    seeds=(0, 1),
    precision="fp32",
    axes={"learning_rate": (0.001, 0.03), "defence": ("copies", "none")},
)
NAMES = [
    f"learning_rate={rate} defence={defence}" for rate, defence in
    [("0.001", "copies"), ("0.001", "none"), ("0.03", "copies"), ("0.03", "none")]
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(PROTOCOL, Execution(engine="stack", device="cpu"), out=tmp_path_factory.mktemp("run") / "run")


def folder_of(results: Results) -> str:
    return str(results.directory)


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


def test_each_candidate_is_ranked_in_each_variant(results: Results) -> None:
    ranked = ranking(results)
    assert sorted(ranked["hidden_layers"]) == sorted(f"{name} {variant}" for name in ("8", "6-8") for variant in NAMES)
    assert set(ranked["seeds"]) == {2}
    means = results.candidate_means()
    assert len(means) == 8
    for row in ranked.iter_rows(named=True):
        name, _, variant = row["hidden_layers"].partition(" ")
        own = results.table.filter(hidden_layers=name, variant=variant)
        # Networks without a defence end with their training.
        column = "worst_case_accuracy_before" if variant.endswith("none") else "worst_case_accuracy_after"
        figures = [row[column] if row["status"] == "trained" else 0.0 for row in own.iter_rows(named=True)]
        assert row["mean"] == pytest.approx(sum(figures) / 2)
    first = winner(results)
    assert first is not None
    assert first.name == ranked["hidden_layers"][0]
    assert first.candidates == 8


def test_the_summary_names_the_variants(results: Results) -> None:
    lines = summary_lines(results, 80)
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line in NAMES] == NAMES
    assert sum(line.startswith("8 learning_rate=") for line in lines) == 4
    own = summary_lines(results.of_variant(NAMES[0]), 80)
    assert not any("learning_rate" in line and line not in NAMES for line in own)


def test_json_has_intervals_by_depth_in_each_variant(results: Results) -> None:
    told = run_data(results)
    for name in results.variants["variant"]:
        one = results.of_variant(name)
        (row,) = (row for row in told["depths"] if (row["variant"], row["depth"]) == (name, 1))
        kept, column = one.table.filter(depth=1, status="trained"), "test_accuracy"
        mean, *ends = depth_intervals(kept, column, independent_images(one, column), one)[1]
        assert (row[column], row["intervals"][column]) == (pytest.approx(mean), ends)
    assert len(told["ranking"]) == len(ranking(results))
    assert told["winner"]["name"] == told["ranking"][0]["hidden_layers"]


def test_the_summary_tells_of_defences_that_did_not_train_equally_long(tmp_path: Path) -> None:
    protocol = SMALL.replace(candidates=(Candidate((8,)),), precision="fp32", axes={"defence": ("copies", "fast")})
    found = run(protocol, Execution(engine="stack", device="cpu"), out=tmp_path / "run")
    told = " ".join(summary_lines(found, 80))
    assert "goes on from trained weights in defence=copies, and begins with the initial ones in defence=fast" in told
    assert "equally long" not in " ".join(summary_lines(found.of_variant("defence=fast"), 80))
    assert "1 x 1 x 2" in CliRunner().invoke(app, ["list", str(tmp_path)]).output


def test_a_variant_is_named_by_what_tells_it_apart(results: Results) -> None:
    assert results.of_variant("defence=none learning_rate=0.03").variant.name == NAMES[3]
    for text in ("defence=none", "defence=batch", "none"):
        with pytest.raises(InputError, match=r"expected one of learning_rate=0\.001 defence=copies, "):
            results.of_variant(text)


def test_claims_and_files_are_of_one_variant(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"claims: expected one variant of the run, got learning_rate=0\.001 defence"):
        claims(results)
    with pytest.raises(InputError, match="export: expected one variant of the run"):
        export(results, Candidate((8,)), tmp_path / "a.safetensors")
    assert claims(results.of_variant(NAMES[0]))
    paths = [
        export(results.of_variant(name), Candidate((8,)), tmp_path / f"{number}.safetensors", phase="trained")
        for number, name in enumerate(NAMES)
    ]
    weights = [path.read_bytes()[-400:] for path in paths]
    assert weights[0] == weights[1]  # before the defence nothing tells them apart
    assert weights[0] != weights[2]


def test_runs_are_compared_variant_by_variant(results: Results) -> None:
    same = compare(results, read(folder_of(results)))
    assert set(same["difference"]) == {0.0}
    assert same.filter(column="test_accuracy")["members"].item() == 16
    two = compare(results.of_variant(NAMES[0]), results.of_variant(NAMES[2]))
    table = results.table.group_by("variant").agg(pl.col("test_accuracy").mean())
    means = dict(table.rows())
    row = two.filter(column="test_accuracy")
    assert row["difference"].item() == pytest.approx(means[NAMES[2]] - means[NAMES[0]])


def test_the_commands_take_a_variant(results: Results, tmp_path: Path) -> None:
    folder = folder_of(results)
    assert command("show", folder, "--variant", NAMES[0])[0] == 0
    code, told = command("claims", folder)
    assert (code, "name one by --variant" in told) == (1, True) or "name one by --variant" in told
    assert command("claims", folder, "--variant", NAMES[0])[0] == 0
    code, told = command("compare", folder, "--variant", NAMES[0], "--variant", NAMES[2])
    assert code == 0
    assert "learning_rate: 0.001 and 0.03" in told
    assert "expected two runs, or two variants" in command("compare", folder)[1]
    out = tmp_path / "best.safetensors"
    assert command("export", folder, "--best", "robust", "--variant", NAMES[2], "-o", str(out))[0] == 0
    assert out.exists()


def test_networks_without_a_defence_are_not_ranked_as_0_by_a_figure_that_they_do_not_have(results: Results) -> None:
    with pytest.raises(InputError, match=r"rank_by \(=balanced\): expected a defence in every variant of the run"):
        ranking(results, rank_by="balanced")
    assert len(ranking(results.of_variant("learning_rate=0.03 defence=copies"), rank_by="balanced")) == 2


def test_a_wrong_name_or_seed_is_told_before_the_missing_variant(results: Results, tmp_path: Path) -> None:
    for words, told in ((("99",), "no such candidate"), (("8", "--seed", "7"), r"expected one of 0, 1")):
        code, output = command("export", folder_of(results), "-o", str(tmp_path / "w.safetensors"), "--hidden", *words)
        assert code != 0
        assert told in output
        assert "--variant" not in output
