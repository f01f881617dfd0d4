"""A run's results as they are read, and their views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.analysis import paper_tables
from atras.errors import InputError
from atras.results import frames, results
from atras.results.results import read
from atras.results.schemas import ACCURACIES, SCHEMAS
from atras.results.writer import Writer
from made_rows import FILES, results_of, rows_of, run_info, seeded, table_row


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    writer = Writer(tmp_path / "k=v *[a]", run_info())
    writer.append(rows_of(("40", 0), ("24-192", 1)))
    writer.finish({})
    return tmp_path / "k=v *[a]"


def test_a_folder_name_is_no_pattern_and_no_column(finished: Path) -> None:
    assert read(str(finished)).table.columns == list(SCHEMAS["table"])


@pytest.mark.parametrize("name", sorted(FILES - {"table.csv"}))
def test_a_missing_or_damaged_file_is_named(finished: Path, name: str) -> None:
    whole = (finished / name).read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-9]):
        (finished / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: expected .*foreign file") as caught:
            read(finished)
        assert "\n" not in str(caught.value)
    (finished / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected a file of a run: No such file"):
        read(finished)


@pytest.mark.parametrize("name", ["table", "history"])
def test_a_frame_of_another_form_is_refused(finished: Path, name: str) -> None:
    frame = pl.read_parquet((finished / f"{name}.parquet").read_bytes())
    for other in (
        frame.drop("seed"),
        frame.with_columns(pl.col("seed").cast(pl.Int32)),
        frame.select(sorted(frame.columns)),
    ):
        (finished / f"{name}.parquet").write_bytes(frames.parquet(other))
        with pytest.raises(InputError, match=f"{name}.parquet: expected the columns of frame {name}"):
            read(finished)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{}", b"null", b'{"protocol": []}', b"\xff\xfe{", b"[" * 100_000, b'{"protocol": {"seeds": "0"}}'],
)
def test_a_foreign_run_json_is_refused(finished: Path, content: bytes) -> None:
    (finished / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json: expected") as caught:
        read(finished)
    assert "\n" not in str(caught.value)


def test_paper_table_has_the_papers_columns_and_the_white_box_one() -> None:
    figures: dict[str, Any] = {name: 0.1 * (index + 1) for index, name in enumerate(ACCURACIES)}
    found = results_of([table_row("24-192", **figures), table_row("40", status="dead")]).paper_table()
    paper = Path(paper_tables.__file__).with_name("tables") / "mnist.csv"
    header = paper.read_text().splitlines()[0].split(",")
    assert found.columns == [*header, "attacked_accuracy_after_white_box", "status"]
    first = found.row(0, named=True)
    assert first["attacked_accuracy_after"] == figures["attacked_accuracy_after_static"]
    assert first["attacked_accuracy_after_white_box"] == figures["attacked_accuracy_after_white_box"]
    assert first["test_accuracy"] == figures["test_accuracy"]
    assert found["hidden_layers"].to_list() == ["24-192", "40"]
    assert found["status"].to_list() == ["trained", "dead"]


def test_candidates_are_averaged_over_seeds_and_keep_the_worst_status() -> None:
    means = seeded().candidate_means()
    assert means["test_accuracy"].to_list() == pytest.approx([0.85, 0.35, 0.7, 0.1])
    assert means["status"].to_list() == ["trained", "dead", "diverged", "diverged"]


def test_means_of_trained_members_leave_the_others_out() -> None:
    means = seeded().candidate_means(trained_only=True)
    assert means["hidden_layers"].to_list() == ["40", "48", "8-16"]
    assert means["test_accuracy"].to_list() == pytest.approx([0.85, 0.6, 0.7])


def test_means_by_depth_are_over_members_that_trained_and_count_them() -> None:
    found = seeded().by_depth()
    assert found.select("depth", "members", "trained").rows() == [(1, 4, 3), (2, 2, 1), (3, 2, 0)]
    assert found["test_accuracy"].to_list() == [pytest.approx((0.8 + 0.9 + 0.6) / 3), 0.7, None]


def test_repr_is_one_short_line_with_the_counts() -> None:
    assert repr(seeded()) == "Results('digits', finished: 4 trained, 2 dead, 2 diverged)"
    assert repr(Writer(None, run_info()).finish({})) == "Results('digits', finished: no members yet)"


def test_repr_names_the_folder(tmp_path: Path) -> None:
    Writer(tmp_path, run_info())
    assert repr(read(tmp_path)) == (
        f"Results('digits', running: no members yet; 6 of 6 members are missing, directory={str(tmp_path)!r})"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit(None, pl.String).alias("hidden_layers"), "expected a value in every row of hidden_layers"),
        (pl.lit(None, pl.Int64).alias("parameters"), "expected a value in every row of parameters"),
        (pl.lit("splendid").alias("status"), "expected a status of trained, dead, diverged"),
    ],
)
def test_rows_with_holes_or_unknown_states_are_refused(finished: Path, change: pl.Expr, message: str) -> None:
    path = finished / "table.parquet"
    path.write_bytes(frames.parquet(pl.read_parquet(path.read_bytes()).with_columns(change)))
    with pytest.raises(InputError, match=rf"table\.parquet: {message}"):
        read(finished)


def test_files_past_their_limits_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, limit, name in (
        (frames, "MAX_PARQUET_BYTES", "table.parquet"),
        (results, "MAX_JSON_BYTES", "run.json"),
    ):
        monkeypatch.setattr(module, limit, 10)
        with pytest.raises(InputError, match=f"{name}: .* of which 10 are allowed"):
            read(finished)
