"""What a run writes, into which folders, and what a disk that fails leaves."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.errors import InputError
from atras.experiment import Protocol
from atras.results import frames, results
from atras.results.frames import wilson
from atras.results.results import read
from atras.results.schemas import OPTIONAL, SCHEMAS
from atras.results.writer import Writer
from atras.version import SCHEMA
from made_rows import FILES, NAMES, Rows, contents, metrics_row, rows_of, run_info, table_row


def test_a_started_run_can_be_read(tmp_path: Path) -> None:
    Writer(tmp_path / "a" / "b", run_info())
    found = read(tmp_path / "a" / "b")
    assert found.run["status"] == "running"
    assert len(found.table) == 0


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    writer = Writer(tmp_path, run_info())
    writer.append(rows_of(("40", 0), ("40", 1)))
    written = writer.finish({"timings": {"run_seconds": 2.5, "epochs": (1, 2)}})
    found = read(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert (
        found.run
        == written.run
        == {**run_info(), "schema": SCHEMA, "status": "finished", "timings": {"run_seconds": 2.5, "epochs": [1, 2]}}
    )
    assert found.directory == written.directory == tmp_path
    for name in SCHEMAS:
        frame = getattr(found, name)
        assert frame.equals(getattr(written, name))
        assert len(frame) >= 1 or name in OPTIONAL
        assert dict(frame.schema) == {column: SCHEMAS[name][column].dtype for column in SCHEMAS[name]}


def test_a_run_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = Writer(None, run_info())
    writer.append(rows_of(("40", 0)))
    assert len(writer.finish({}).table) == 1
    assert not list(tmp_path.iterdir())


def test_rows_stand_in_the_order_of_candidates_then_seeds(tmp_path: Path) -> None:
    writer = Writer(tmp_path, run_info(seeds=(7, 3)))
    writer.append(rows_of(("40", 3), ("24-192", 3), ("24-192", 7)))
    writer.append(rows_of((NAMES[0], 3), ("40", 7), (NAMES[0], 7)))
    expected = [(name, seed) for name in NAMES for seed in (7, 3)]
    found = read(tmp_path)
    for frame in (found.table, found.metrics, found.history):
        assert list(frame.select("hidden_layers", "seed").iter_rows()) == expected


def test_metrics_of_one_member_keep_their_order() -> None:
    writer = Writer(None, run_info())
    epochs: list[dict[str, object]] = [metrics_row("40") | {"epoch": epoch} for epoch in (3, 1, 2)]
    writer.append(Rows(metrics=epochs))
    assert writer.finish({}).metrics["epoch"].to_list() == [3, 1, 2]


def test_equal_runs_give_equal_bytes_whatever_the_order_of_groups(tmp_path: Path) -> None:
    members = [(name, seed) for name in NAMES for seed in (0, 1)]
    rows = {member: rows_of(member) for member in members}
    for folder, order in (("a", members), ("b", members[::-1])):
        writer = Writer(tmp_path / folder, run_info())
        for member in order:
            writer.append(rows[member])
        writer.finish({})
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    for name in ("table.parquet", "table.csv", "metrics.parquet", "history.parquet"):
        assert a[name] == b[name]


def test_metrics_get_accuracy_and_interval_from_their_counts() -> None:
    writer = Writer(None, run_info())
    counts = [(100, 90), (0, 0), (100, None)]
    writer.append(Rows(metrics=[metrics_row("40", n=n, correct=correct) for n, correct in counts]))
    found = writer.finish({}).metrics.select("accuracy", "ci_low", "ci_high").rows()
    assert found == [(0.9, *wilson(90, 100)), (None, None, None), (None, None, None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (table_row("40") | {"colour": "red"}, "missing or unknown: colour"),
        ({k: v for k, v in table_row("40").items() if k != "depth"}, "missing or unknown: depth"),
        (table_row("40", depth=1.5), "depth .=1.5.: expected Int64"),
        (table_row("40", depth=True), "depth .=True.: expected Int64"),
        (table_row("40", test_accuracy="0.5"), "test_accuracy .='0.5'.: expected Float64"),
        (table_row("41"), "hidden_layers .='41'.: expected one of the protocol's"),
        (table_row("40", seed=9), "seed .=9.: expected one of the protocol's"),
    ],
)
def test_a_row_that_does_not_fit_changes_nothing(tmp_path: Path, row: dict[str, object], message: str) -> None:
    writer = Writer(tmp_path, run_info())
    writer.append(rows_of(("24-192", 0)))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        writer.append(Rows(table=[row]))
    assert contents(tmp_path) == before


def test_csv_cells_of_text_are_no_formulas_and_numbers_stay(tmp_path: Path) -> None:
    for index, dataset in enumerate(("=1+2.npz", "+a", "-a", "@a", "\ta")):
        writer = Writer(tmp_path / str(index), run_info(dataset=dataset))
        writer.append(Rows(table=[table_row("40", dataset=dataset)]))
        text = (tmp_path / str(index) / "table.csv").read_text()
        assert text.splitlines()[1].startswith(f"'{dataset},40,1,")
        assert text.endswith(",-0.25,0.0\n")
        assert read(tmp_path / str(index)).table["dataset"].to_list() == [dataset]


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    writer = Writer(tmp_path, run_info())
    writer.append(Rows(table=[table_row("40", accuracy=563 / 4999, recovery_static=0.3 - 0.1)]))
    cells = pl.read_csv(tmp_path / "table.csv")
    assert cells["test_accuracy"].item() == 563 / 4999
    assert cells["recovery_static"].item() == 0.3 - 0.1


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_folder_that_holds_a_run_is_refused_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=f"found {name}; name another folder"):
        Writer(tmp_path, run_info())
    assert contents(tmp_path) == {name: b"precious"}


def test_a_folder_with_other_files_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    Writer(tmp_path, run_info())
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    for out in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(InputError, match=r"^out \(=.*expected a folder to write to") as caught:
            Writer(out, run_info())
        assert "\n" not in str(caught.value)


def test_a_folder_whose_name_is_no_text_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^out \(=.*udcff.*expected a name in UTF-8; name another folder"):
        Writer(tmp_path / "\udcff", run_info())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk() -> Any:
    """Gives a context that limits the size of files, as a full disk would."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        former = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
        try:
            yield
        finally:  # before pytest writes its own output, which may go to a file
            resource.setrlimit(resource.RLIMIT_FSIZE, former)

    return limited


def test_a_full_disk_leaves_the_former_files_whole(tmp_path: Path, small_disk: Any) -> None:
    writer = Writer(tmp_path, run_info())
    writer.append(rows_of(("40", 0)))
    before = contents(tmp_path)
    with small_disk(100), pytest.raises(InputError, match=r"table.parquet: .* write it: .*; make room") as caught:
        writer.append(rows_of(("40", 1)))
    with small_disk(100), pytest.raises(InputError, match=r"run.json: expected to write it"):
        writer.finish({})
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_start_on_a_full_disk_leaves_the_folder_free(tmp_path: Path, small_disk: Any) -> None:
    size = len(json.dumps(run_info(), indent=2)) + 100
    with small_disk(size), pytest.raises(InputError, match="expected to write it"):
        Writer(tmp_path, run_info())
    assert not list(tmp_path.iterdir())


def test_a_crash_between_writing_and_renaming_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, run_info())
    writer.append(rows_of(("40", 0)))
    before = contents(tmp_path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        writer.append(rows_of(("40", 1)))
    assert contents(tmp_path) == before


def test_content_reaches_the_disk_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, run_info())
    fsync, replace, done = os.fsync, Path.replace, []

    def noted_fsync(descriptor: int) -> None:
        done.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    writer.finish({})
    assert done == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": None}, "expected protocol.dataset, protocol.candidates, protocol.seeds as a run writes it"),
        ({"version": 3}, "expected version as"),
        ({"timings": math.nan}, "expected JSON values"),
        ({"plan": {1, 2}}, "expected JSON values"),
        ({"protocol": run_info(dataset="\udcff.npz")["protocol"]}, "expected a name in UTF-8"),
    ],
)
def test_unusable_run_info_is_refused_before_anything_stays(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for out in (tmp_path / "out", None):
        with pytest.raises(InputError, match=message):
            Writer(out, {**run_info(), **change})
    assert not list(tmp_path.iterdir())


def test_a_protocol_fits_into_run_info(tmp_path: Path) -> None:
    protocol = Protocol(seeds=(0, 2))
    Writer(tmp_path, run_info() | {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash})
    assert read(tmp_path).run["protocol"] == protocol.to_dict()


def test_a_file_of_a_run_that_could_not_be_read_back_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, run_info())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix}
    rows = Rows(table=[table_row(name) for name in NAMES])
    for module, limit in ((frames, "MAX_ROWS"), (frames, "MAX_PARQUET_BYTES"), (results, "MAX_JSON_BYTES")):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 2)
            with pytest.raises(InputError, match=r"expected at most 2 (rows|bytes), which can be read back"):
                writer.update({}) if module is results else writer.append(rows)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix} == before
    writer.close()


@pytest.mark.parametrize(("changes", "frame"), [({"epochs": 10**7}, "history"), ({"transfer": True}, "transfer")])
def test_a_run_whose_frames_could_not_be_read_back_is_refused_at_its_start(
    changes: dict[str, Any], frame: str, tmp_path: Path
) -> None:
    info = run_info(names=tuple(map(str, range(1, 2001))), seeds=(0, 1))
    info["protocol"] |= changes
    with pytest.raises(InputError, match=rf"{frame}: expected at most 10000000 rows.*split the candidates or seeds"):
        Writer(tmp_path / "run", info)
    assert not (tmp_path / "run").exists()
