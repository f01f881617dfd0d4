"""The schemas of all frames."""

from __future__ import annotations

from atras.results import schemas
from atras.results.schemas import ACCURACIES, PAPER_COLUMNS, SCHEMAS


def test_the_paper_columns_are_columns_of_the_table() -> None:
    assert set(PAPER_COLUMNS.values()) < set(ACCURACIES) < set(SCHEMAS["table"])


def test_every_column_is_described() -> None:
    text = schemas.describe_schemas()
    for frame, columns in SCHEMAS.items():
        assert f"### {frame}.parquet" in text
        for name, column in columns.items():
            assert f"| `{name}` | {column.dtype.__name__} | {column.text} |" in text
            assert column.text
            assert "\n" not in column.text
            assert "|" not in column.text


def test_no_frame_but_timings_holds_a_time() -> None:
    for frame, columns in SCHEMAS.items():
        timed = [name for name in columns if "second" in name or "time" in name]
        assert timed == (["seconds"] if frame == "timings" else [])
