"""Groups of a large run as files of their own: written alone, read with the rest, gone when the run is whole."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from atras.errors import InputError
from atras.networks import Candidate, Member
from atras.results import finished, read, read_run, writer
from atras.results.schemas import SCHEMAS
from atras.results.writer import Writer
from atras.storage import Lock
from made_rows import FILES, NAMES, Rows, rows_of, run_info, table_row

MEMBERS = [(name, seed) for name in NAMES for seed in (0, 1)]
FRAMES = ("table.parquet", "table.csv", "metrics.parquet", "history.parquet")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is a large one."""
    monkeypatch.setattr(writer, "MOST_ROWS", 0)


def info() -> dict[str, Any]:
    return run_info() | {"finished_groups": [], "warnings": []}


def written(folder: Path, groups: list[int]) -> Writer:
    made = Writer(folder, info())
    for group in groups:
        made.append_group(group, rows_of(MEMBERS[group]), [f"caution {group}"], {"run_seconds": 1.0 + group})
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def whole(folder: Path) -> dict[str, bytes]:
    """Files of a run whose groups are never apart."""
    written(folder, [0, 1, 2, 3]).finish({})
    return {name: (folder / name).read_bytes() for name in FRAMES}


def test_a_group_of_a_large_run_is_one_file_and_nothing_else_is_touched(large: None, tmp_path: Path) -> None:
    made = written(tmp_path, [0, 1])
    before, sizes = contents(tmp_path), []
    for group in (2, 3):
        made.append_group(group, rows_of(MEMBERS[group]))
        new = tmp_path / finished.FOLDER / f"{group:07d}.zip"
        sizes.append(new.stat().st_size)
    assert contents(tmp_path) == before  # of the folder itself: frames and run.json are as they were
    assert len(list((tmp_path / finished.FOLDER).iterdir())) == 4
    assert max(sizes) - min(sizes) < 100


def test_a_small_run_has_its_frames_up_to_date_after_each_group(tmp_path: Path) -> None:
    written(tmp_path, [0, 1])
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == FILES
    assert (len(read(tmp_path).table), read_run(tmp_path)["finished_groups"]) == (2, [0, 1])


def test_what_is_apart_is_read_with_the_rest_in_order(large: None, tmp_path: Path) -> None:
    made = written(tmp_path / "apart", [3, 0, 2])
    found = read(tmp_path / "apart")
    assert found.table.select("hidden_layers", "seed").rows() == [MEMBERS[group] for group in (0, 2, 3)]
    assert found.run["finished_groups"] == made.run["finished_groups"] == [0, 2, 3]
    assert found.run["warnings"] == ["caution 0", "caution 2", "caution 3"]
    assert found.run["timings"] == {"run_seconds": 4.0}
    assert len(made.rows("metrics")) == len(found.metrics)
    assert not (tmp_path / "apart" / finished.FOLDER).exists()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_files_at_the_end_are_those_of_a_run_without_such_groups(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(tmp_path / "whole")
    # One before the limit, the others behind it.
    monkeypatch.setattr(writer, "MOST_ROWS", sum(len(rows) for rows in vars(rows_of(MEMBERS[0])).values()))
    made = written(tmp_path / "apart", list(order))
    assert len(list((tmp_path / "apart" / finished.FOLDER).iterdir())) == 3
    results = made.finish({})
    assert {name: (tmp_path / "apart" / name).read_bytes() for name in FRAMES} == expected
    assert {path.name for path in (tmp_path / "apart").iterdir()} == FILES
    assert results.table.equals(read(tmp_path / "apart").table)


def test_killed_at_any_file_of_the_end_nothing_is_lost_or_twice(
    large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writer, "MOST_ROWS", 10**6)
        expected = whole(tmp_path / "whole")
    write_file, remove_file = writer.write_file, finished.remove_file
    for moment in itertools.count():
        folder, left = tmp_path / str(moment), itertools.count()

        def last(call: Any, left: Any = left, moment: int = moment) -> Any:
            def until(*arguments: Any) -> None:
                if next(left) == moment:
                    raise KeyboardInterrupt
                call(*arguments)

            return until

        made = written(folder, [0, 1, 2, 3])
        with monkeypatch.context() as patch:
            patch.setattr(writer, "write_file", last(write_file))
            patch.setattr(finished, "remove_file", last(remove_file))
            try:
                made.finish({})
                break
            except KeyboardInterrupt:
                made.close()
        found = read(folder)
        assert [len(getattr(found, name)) for name in ("table", "metrics", "history", "timings")] == [4, 4, 4, 4]
        assert found.run["finished_groups"] == [0, 1, 2, 3]
        again = Writer.reopen(
            folder,
            Lock(folder),
            [Member(Candidate.parse(name), seed) for name, seed in MEMBERS[:4]],
            {group: group for group in range(4)},
        )
        again.finish({})
        assert {name: (folder / name).read_bytes() for name in FRAMES} == expected
    assert moment > 8


def test_a_damaged_file_of_a_group_is_refused_in_a_line(large: None, tmp_path: Path) -> None:
    written(tmp_path, [0]).close()
    path = next((tmp_path / finished.FOLDER).iterdir())
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"PAR1", b"PAR2"), content[:100] + b"?" * 40, b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"0000000\.zip: expected .*damaged") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_rows_that_do_not_fit_leave_no_file(large: None, tmp_path: Path) -> None:
    made = written(tmp_path, [0])
    with pytest.raises(InputError, match="expected one of the protocol's"):
        made.append_group(1, Rows(table=[table_row("41")]))
    assert made.run["finished_groups"] == [0]
    assert len(list((tmp_path / finished.FOLDER).iterdir())) == 1


def test_a_folder_with_groups_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / finished.FOLDER).mkdir()
    with pytest.raises(InputError, match="expected a folder without a run, found finished"):
        Writer(tmp_path, info())


def test_rows_of_a_run_in_memory_are_put_in_order_once(large: None) -> None:
    made = Writer(None, info())
    for group in (3, 0):
        made.append_group(group, rows_of(MEMBERS[group]))
    results = made.finish({})
    assert results.table.select("hidden_layers", "seed").rows() == [MEMBERS[0], MEMBERS[3]]
    assert set(SCHEMAS) <= set(vars(results))


def test_the_last_group_of_a_run_is_written_once(large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only one, as of a whole population on a GPU: its rows are many, and nobody waits for those of another."""
    files: list[str] = []
    write_file = writer.write_file
    monkeypatch.setattr(writer, "write_file", lambda path, parts: (files.append(path.name), write_file(path, parts)))
    monkeypatch.setattr(writer, "read", lambda folder: pytest.fail("what was just written is read again"))
    made = Writer(tmp_path, info() | {"plan": {"groups": [{}]}})
    files.clear()
    made.append_group(0, rows_of(MEMBERS[0]), ["caution"], {"run_seconds": 1.0})
    made.finish({})
    assert not (tmp_path / finished.FOLDER).exists()
    assert [files.count(f"{name}.parquet") for name in ("table", "metrics", "history")] == [1, 1, 1]
    found = read(tmp_path)
    assert (len(found.table), found.run["finished_groups"], found.run["warnings"]) == (1, [0], ["caution"])


def test_a_last_group_behind_others_that_are_apart_is_apart(large: None, tmp_path: Path) -> None:
    made = Writer(tmp_path, info() | {"plan": {"groups": [{}, {}]}})
    for group in (1, 0):
        made.append_group(group, rows_of(MEMBERS[group]))
    assert len(list((tmp_path / finished.FOLDER).iterdir())) == 2
    assert made.finish({}).table["seed"].to_list() == [0, 1]
