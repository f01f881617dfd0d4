"""What two runs do not share is said before their figures; no winner is declared from a part of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import atras
from atras.analysis import (
    best_robust,
    claims,
    compare,
    compare_depths,
    compare_lines,
    difference_lines,
    export_pareto,
    notices,
    summary_lines,
)
from atras.cli import app, execute
from atras.errors import InputError
from atras.report.contents import contents
from atras.report.markdown import markdown
from atras.report.page import page
from atras.results import Results, Writer
from atras.storage import json_with_checksum
from atras.testing.fake_run import make_run
from made_rows import Rows, metrics_row, run_info, table_row

DATA = {
    "train_size": 100, "test_size": 100, "classes": 10, "image_shape": [1, 8, 8], "name": "m", "source": "here",
    "sha256": {"x_train": "a", "y_train": "b", "x_test": "c", "y_test": "d"},
}  # fmt: skip
SEEDS = range(8)


def made(shift: float = 0.0, *, run: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Results:
    writer = Writer(None, run_info(("8",), tuple(SEEDS)) | {"data": DATA | (data or {})} | (run or {}))
    writer.append(
        Rows(
            table=[table_row("8", seed, 0.5 + 0.01 * seed + shift) for seed in SEEDS],
            metrics=[metrics_row("8", seed) for seed in SEEDS],
        )
    )
    return writer.finish({})


def interrupted(folder: Path) -> Results:
    """A run of 40 members in 8 groups of which 5 are there."""
    make_run(folder, names=("24-192", "40", "64"))
    path = folder / "run.json"
    content = json.loads(path.read_text())
    content["protocol"]["candidates"] += ["8", "16"]
    plan = {"groups": [{}] * 8}
    path.write_bytes(
        json_with_checksum({**content, "status": "interrupted", "plan": plan, "finished_groups": [0, 1, 2, 5, 6]})
    )
    return atras.read(folder)


MISSING = "3 of 8 groups are missing (4 of 10 members)"


@pytest.mark.parametrize(
    "sums",
    [{"x_test": "z"}, {"y_test": "z"}, {"x_test": "z", "x_train": "y"}],
    ids=["images", "labels", "test and training"],
)
def test_runs_on_different_test_images_are_refused(sums: dict[str, str]) -> None:
    other = made(0.02, data={"sha256": DATA["sha256"] | sums})  # type: ignore[operator]
    for ask in (compare, compare_lines):
        with pytest.raises(InputError, match=r"expected runs on the same test images, got others .*: other checksums"):
            ask(made(), other)
    lines = difference_lines(made(), other)  # of a report, which shows them side by side
    assert lines[0] == "THE DATA DIFFER:"
    assert lines[1] == f"  test images: other checksums ({', '.join(name for name in sums if 'test' in name)})"
    assert "THE TEST IMAGES DIFFER: nothing is tested, as they alone may make a difference" in lines


def test_fewer_of_the_same_test_images_are_other_images() -> None:
    with pytest.raises(InputError, match=r"got others \(test_size: 100 and 50\)"):
        compare_lines(made(), made(data={"test_size": 50}))


@pytest.mark.parametrize("train_available", [100, 200])
def test_a_test_set_taken_whole_is_the_same_however_it_was_taken(train_available: int) -> None:
    data = {"train_available": train_available, "test_available": 100}
    drawn = made(0.02, data=data | {"subset": "stratified"})
    drawn.run["protocol"]["subset"] = "stratified"
    lines = difference_lines(made(data=data | {"subset": "first"}), drawn)
    told = ["THE DATA DIFFER:", "  subset: first and stratified"]
    assert lines[:2] == told if train_available == 200 else "THE DATA DIFFER:" not in lines
    assert not any("TEST IMAGES" in line for line in lines)
    assert len(compare(made(data=data), drawn))


def test_other_training_images_are_told_and_compared() -> None:
    other = made(0.02, data={"sha256": DATA["sha256"] | {"x_train": "z"}})  # type: ignore[operator]
    lines = compare_lines(made(), other)
    assert lines[:2] == ["THE DATA DIFFER:", "  training images: other checksums (x_train)"]
    assert not any("TEST IMAGES" in line for line in lines)
    assert compare(made(), other)["difference"][0] == pytest.approx(0.02)


def test_the_same_images_under_other_names_are_the_same() -> None:
    renamed = {"train-images": "a", "train-labels": "b", "t10k-images": "c", "t10k-labels": "d"}
    other = made(data={"sha256": renamed, "name": "n", "source": "there"})
    assert compare_lines(made(), other)[0].startswith("8 members in common")


def test_both_commits_are_seen() -> None:
    runs = [made(run={"environment": {"commit": "0123456789abcdef" * 2 + "01234567" + end}}) for end in ("", "-dirty")]
    assert "  commit: 0123456789ab and 0123456789ab-dirty" in compare_lines(*runs)


def test_versions_precision_and_engine_are_told_before_the_protocol() -> None:
    def environment(torch: str, instructions: str) -> dict[str, Any]:
        return {"versions": {"torch": torch}, "kernels": {"cpu": {"instructions": instructions}}}

    old = made(run={"version": "0.1.0", "environment": environment("2.9.0", "avx2"), "plan": {"engine": "loop"}})
    new = made(run={"version": "0.3.0", "environment": environment("2.14.1", "amx"), "plan": {"engine": "loop"}})
    assert compare_lines(old, new)[:4] == [
        "they were computed differently:",
        "  version of atras: 0.1.0 and 0.3.0",
        "  instructions: avx2 and amx",
        "  torch: 2.9.0 and 2.14.1",
    ]
    bf16 = Results(**{**vars(old), "metrics": old.metrics.with_columns(precision=pl.lit("bf16"))})
    assert "  precision: fp32 and bf16" in compare_lines(old, bf16)


def test_mixed_precisions_and_engines_are_a_notice_everywhere() -> None:
    whole = made()
    assert notices(whole) == []
    first = pl.col("seed") < 3
    mixed = whole.metrics.with_columns(
        precision=pl.when(first).then(pl.lit("bf16")).otherwise("precision"),
        backend=pl.when(first).then(pl.lit("fused/cpu")).otherwise("backend"),
    )
    results = Results(**{**vars(whole), "metrics": mixed})
    precision, engine = notices(results)
    assert precision.startswith("Networks were trained in several precisions: bf16 (3 members), fp32 (5 members).")
    assert engine.startswith("Networks were computed by several engines: fused/cpu (3 members), loop/reference (5")
    assert "several precisions" in summary_lines(results)[0]
    assert precision in page(contents([results]))


@pytest.mark.parametrize(
    "ask",
    [
        lambda results, **partial: best_robust(results, **partial),
        lambda results, **partial: claims(results, **partial),
        lambda results, **partial: compare(results, results, **partial),
        lambda results, **partial: export_pareto(results, "nowhere", file_format="safetensors", **partial),
    ],
    ids=["best", "claims", "compare", "pareto"],
)
def test_a_part_of_a_run_has_no_winner_unless_it_is_asked_for(ask: Callable[..., object], tmp_path: Path) -> None:
    results = interrupted(tmp_path)
    with pytest.raises(InputError, match=r"expected a finished run, 3 of 8 groups are missing .* add --partial"):
        ask(results)
    try:
        assert ask(results, partial=True) is not None
    except InputError as error:  # the fake run has no networks to export
        assert "partial" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("command", ["claims RUN", "compare RUN RUN", "export RUN --best robust -o x.safetensors"])
def test_commands_that_conclude_ask_for_partial(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path)
    line = command.replace("RUN", str(tmp_path)).split()
    assert execute(app, line, "atras") == 2
    assert MISSING in capsys.readouterr().err
    execute(app, [*line, "--partial"], "atras")
    shown = capsys.readouterr()
    assert "--partial" not in shown.err
    if "export" not in command:
        assert MISSING in " ".join(shown.out.split())


def test_what_shows_a_part_of_a_run_says_so_first(tmp_path: Path) -> None:
    results = interrupted(tmp_path)
    assert MISSING in repr(results)
    assert MISSING in " ".join(summary_lines(results)[:3])
    told = f"This run is not finished: {MISSING}. All that follows is of the others alone."
    assert f'<p class="notice" role="note">{told}</p>' in page(contents([results]))
    assert told in markdown(contents([results])).replace("\\", "")
    assert 'class="notice"' not in page(contents([make_run()]))


def test_the_report_says_that_runs_have_other_test_images(tmp_path: Path) -> None:
    other = make_run(tmp_path)
    other.run["data"]["sha256"] = {"x_test": "00"}
    section = contents([make_run(), other]).comparison
    assert section is not None
    assert section.text[0].startswith("Measured on other test images than 1. digits: 2. ")
    assert any("THE DATA DIFFER" in row[1] for row in section.tables[-1].rows)
    same = contents([make_run(), make_run()]).comparison
    assert same is not None
    assert len(same.tables) == 1


def test_depths_of_a_part_of_a_run_are_compared_by_candidates_that_have_every_seed() -> None:
    names = ("8", "16", "8-8", "8-16")
    rows = [table_row(name, seed, 0.5 + 0.1 * seed) for name in names for seed in range(3)]
    writer = Writer(None, run_info(names, (0, 1, 2)))
    writer.append(Rows(table=[row for row in rows if (row["hidden_layers"], row["seed"]) != ("8-16", 2)]))
    found = compare_depths(writer.finish({}))
    assert found.select("depth_a", "depth_b", "seeds").rows() == [(1, 2, 3)]
    only = Writer(None, run_info(names, (0, 1, 2)))
    only.append(Rows(table=[row for row in rows if row["depth"] == 1 or row["seed"] == 0]))
    assert len(compare_depths(only.finish({}))) == 0
