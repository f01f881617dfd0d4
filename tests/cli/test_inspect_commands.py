"""What is printed of runs that lie in folders: for people, and as JSON and CSV for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import atras
from atras import cli
from atras.results import SCHEMAS
from atras.results.writer import Writer
from made_rows import Rows, metrics_row, run_info, table_row


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a finished run of two networks, one of them without a figure, and one that cannot be read."""
    writer = Writer(tmp_path / "one", run_info(("8", "12"), (0,)) | {"warnings": ["the images are dark"]})
    rows = [table_row("8", adversarial_test_accuracy=0.5), table_row("12", accuracy=None, status="diverged")]
    writer.append(Rows(table=rows, metrics=[metrics_row("8"), metrics_row("12")]))
    writer.finish({})
    writer.close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text('{"schema": 1}')
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert cli.execute(cli.app, [str(each) for each in args], "atras") == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert cli.execute(cli.app, [str(each) for each in args], "atras") == 2
    return capsys.readouterr().err


def test_runs_of_a_folder_are_listed_with_what_is_wrong_with_them(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "list", runs).splitlines()
    (place,) = [place for place, line in enumerate(lines) if "finished" in line]
    assert " ".join(lines[place : place + 2]).split() == ["finished", "2", "x", "1", "digits", str(runs / "one")]
    assert lines[lines.index(str(runs / "broken")) + 1].startswith("  schema: expected")
    told = {Path(each["folder"]).name: each for each in json.loads(printed(capsys, "list", runs, "--json"))}
    assert (told["one"]["candidates"], told["one"]["trouble"]) == (2, "")
    assert told["broken"]["trouble"].startswith("schema: expected")
    assert printed(capsys, "list", runs / "broken" / "..").count("finished") == 1


def test_a_folder_without_runs_and_one_that_is_not_there_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "list", tmp_path) == f"no runs in {tmp_path}\n"
    assert "expected a folder of runs" in refusal(capsys, "list", tmp_path / "nowhere")


def test_a_run_is_shown_as_at_its_end_and_as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", runs / "one")
    assert "the images are dark" in text
    assert "diverged" in text
    told: dict[str, Any] = json.loads(printed(capsys, "show", runs / "one", "--json"))
    assert told["cautions"] == ["the images are dark"]
    table = atras.read(runs / "one").table
    assert told["table"] == table.to_dicts()
    assert {row["hidden_layers"]: row["adversarial_test_accuracy"] for row in told["candidates"]} == {
        "8": 0.5, "12": None,
    }  # fmt: skip


@pytest.mark.parametrize("frame", SCHEMAS)
def test_every_frame_can_be_had_as_csv(frame: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = getattr(atras.read(runs / "one"), frame)
    text = printed(capsys, "show", runs / "one", "--csv", frame)
    back = pl.read_csv(io.StringIO(text), infer_schema=False)
    assert (back.columns, len(back)) == (expected.columns, len(expected))
    if frame == "table":
        assert back["adversarial_test_accuracy"].to_list() == ["0.5", None]


def test_a_frame_that_there_is_not_and_two_forms_at_once_are_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected one of table, metrics" in refusal(capsys, "show", runs / "one", "--csv", "tabel")
    assert "json and csv exclude each other" in refusal(capsys, "show", runs / "one", "--csv", "table", "--json")


def test_claims_and_comparisons_are_told_as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, "claims", runs / "one", "--json"))
    assert {"claims", "table_claims", "stated", "tables", "rows"} <= told.keys()
    assert told["claims"][0]["verdict"] == "unresolved"
    differences = json.loads(printed(capsys, "compare", runs / "one", runs / "one", "--json"))["differences"]
    assert {row["difference"] for row in differences} == {0.0}
    assert "adversarial_test_accuracy" in [row["column"] for row in differences]


def test_public_names_are_listed() -> None:
    assert dir(atras) == sorted(atras.__all__)


def test_printed_settings_repeat_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(
        capsys, "run", "--print-config", "--hidden", "8", "--hidden", "c4p2-12", "--attack", "pgd(steps=5)",
        "--epsilon", "8/255", "--seeds", "0-2", "--memory", "1GiB", "--data-dir", 'a "b"\\c', "--epsilons", "0,0.1",
    )  # fmt: skip
    (tmp_path / "again.toml").write_text(text)
    assert printed(capsys, "run", "--config", tmp_path / "again.toml", "--print-config") == text
    loaded = atras.experiment.load_config(tmp_path / "again.toml")
    assert (loaded.protocol_fields["epsilon"], loaded.execution_fields["memory_bytes"]) == (8 / 255, 2**30)
    assert loaded.execution_fields["data_dir"] == 'a "b"\\c'
    assert loaded.protocol_fields["seeds"] == (0, 1, 2)


def test_a_search_is_listed_with_the_time_at_which_it_began(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs / "search"
    record = json.loads((runs / "one" / "run.json").read_text())
    (folder / "round-1").mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(record | {"status": "finished"}))
    sessions = [{"began": "2026-01-02T03:04:05+00:00"}]
    (folder / "round-1" / "run.json").write_text(json.dumps(record | {"sessions": sessions}))
    told = {Path(each["folder"]).name: each for each in json.loads(printed(capsys, "list", runs, "--json"))}
    assert told["search"]["began"] == "2026-01-02T03:04:05+00:00"
