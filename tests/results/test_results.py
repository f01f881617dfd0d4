"""Frames, files and text of a run's results."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.analysis import paper_tables, summary_table
from atras.analysis.summary_table import summary_lines
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import PAPER_CANDIDATES
from atras.results import frames, results, schemas
from atras.results.frames import wilson
from atras.results.results import Results, read
from atras.results.schemas import ACCURACIES, OPTIONAL, PAPER_COLUMNS, SCHEMAS
from atras.results.writer import Writer

NAMES = ("8-16-32-64-128-256-512-1024", "24-192", "40")
FILES = {"run.json", "table.csv", "table.parquet", "metrics.parquet", "history.parquet", "timings.parquet"}


@dataclass
class Rows:
    table: list[dict[str, object]] = field(default_factory=list)
    metrics: list[dict[str, object]] = field(default_factory=list)
    history: list[dict[str, object]] = field(default_factory=list)
    timings: list[dict[str, object]] = field(default_factory=list)
    transfer: list[dict[str, object]] = field(default_factory=list)
    examples: list[dict[str, object]] = field(default_factory=list)


def run_info(
    names: tuple[str, ...] = NAMES, seeds: tuple[int, ...] = (0, 1), dataset: str = "digits"
) -> dict[str, Any]:
    protocol = {"dataset": dataset, "candidates": list(names), "seeds": list(seeds), "epsilon": 0.05}
    return {"protocol": protocol, "protocol_hash": "0123456789abcdef", "version": "0.1.0", "plan": {"groups": []}}


def table_row(name: str, seed: int = 0, accuracy: float | None = 0.9, **changes: Any) -> dict[str, object]:
    row: dict[str, object] = {
        "dataset": "digits",
        "hidden_layers": name,
        "depth": name.count("-") + 1,
        "parameters": 1000,
        "seed": seed,
        "defence": "copies",
        "status": "trained",
        **dict.fromkeys(ACCURACIES, accuracy),
        "recovery_static": -0.25,
        "recovery_white_box": 0.0,
    }
    return row | changes


def metrics_row(name: str, seed: int = 0, n: int = 100, correct: int | None = 90) -> dict[str, object]:
    return {
        "dataset": "digits",
        "hidden_layers": name,
        "seed": seed,
        "phase": "trained",
        "epoch": None,
        "split": "test",
        "attack": "none",
        "epsilon": 0,
        "label_source": None,
        "target": None,
        "mode": "clean",
        "n": n,
        "correct": correct,
        "zero_gradient_fraction": None,
        "nan_gradients": None,
        "mean_linf": None,
        "mean_l2": None,
        "source": None,
        "defence": "copies",
        "backend": "loop/reference",
        "precision": "fp32",
        "version": "0.1.0",
        "protocol_hash": "0123456789abcdef",
    }


def history_row(name: str, seed: int = 0) -> dict[str, object]:
    where: dict[str, object] = {"dataset": "digits", "hidden_layers": name, "seed": seed, "phase": "train"}
    return where | {"epoch": 1, "steps": 7, "mean_loss": 0.5, "running_accuracy": 0.8}


def rows_of(*members: tuple[str, int]) -> Rows:
    return Rows(
        [table_row(*member, accuracy=0.5 + 0.01 * index) for index, member in enumerate(sorted(members))],
        [metrics_row(*member) for member in members],
        [history_row(*member) for member in members],
        [{"group": 0, "phase": "train", "members": len(members), "seconds": 1.5, "steps": 7}],
    )


def results_of(rows: list[dict[str, object]], dataset: str = "digits") -> Results:
    names = tuple(dict.fromkeys(str(row["hidden_layers"]) for row in rows))
    seeds = tuple(dict.fromkeys(int(str(row["seed"])) for row in rows))
    writer = Writer(None, run_info(names, seeds, dataset))
    writer.append(Rows(table=rows))
    return writer.finish({})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Wilson's interval


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # z^2 / (n + z^2) and its complement, by hand: 3.841459 / 13.841459.
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(correct: int, n: int, low: float, high: float) -> None:
    # Four decimals are printed in the source.
    assert wilson(correct, n) == pytest.approx((low, high), abs=5.1e-5)


@settings(deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_solves_its_equation_and_mirrors(counts: tuple[int, int]) -> None:
    correct, n = counts
    share, z = correct / n, 1.959963984540054
    low, high = wilson(correct, n)
    assert low is not None
    assert high is not None
    assert 0.0 <= low <= share <= high <= 1.0
    assert low < high
    for end in (low, high):
        # The score equation (share - p)^2 = z^2 p (1 - p) / n defines the ends.
        assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-6, abs=1e-12)
    mirrored = wilson(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_of_no_trials_is_unknown() -> None:
    assert wilson(0, 0) == (None, None)


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(InputError, match="expected a count from 0 to n"):
        wilson(correct, n)


# Schemas


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


# Writing


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
        == {**run_info(), "status": "finished", "timings": {"run_seconds": 2.5, "epochs": [1, 2]}}
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


# Folders that must not be overwritten, and disks that cannot be written


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


# Reading


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


# Views


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


def seeded() -> Results:
    """One candidate that always trained, one that died once, one that diverged once, one that never trained."""
    return results_of(
        [
            table_row("40", 0, 0.8),
            table_row("40", 1, 0.9),
            table_row("48", 0, 0.6),
            table_row("48", 1, 0.1, status="dead"),
            table_row("8-16", 0, None, status="diverged"),
            table_row("8-16", 1, 0.7),
            table_row("8-16-32", 0, None, status="diverged"),
            table_row("8-16-32", 1, 0.1, status="dead"),
        ]
    )


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
    assert repr(read(tmp_path)) == f"Results('digits', running: no members yet, directory={str(tmp_path)!r})"


# Text


def paper_sized(width: int = 80) -> list[str]:
    rows = [
        table_row(c.name, accuracy=0.1234, parameters=10 ** (index % 10), status=("trained", "diverged")[index % 2])
        for index, c in enumerate(PAPER_CANDIDATES)
    ]
    return summary_lines(results_of(rows), width)


@pytest.mark.parametrize("width", [20, 80, 100, 200])
def test_summary_fits_the_width_and_names_every_candidate(width: int) -> None:
    lines = paper_sized(width)
    assert max(map(len, lines)) <= max(width, 80)
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {candidate.name for candidate in PAPER_CANDIDATES} <= first_words


def test_figures_stand_under_their_headings_white_box_before_static() -> None:
    figures: dict[str, Any] = {name: 0.1 * (index + 1) for index, name in enumerate(ACCURACIES)}
    lines = summary_lines(results_of([table_row("16-64-256-1024", parameters=1_401_234, **figures)]))
    assert lines[:3] == [
        "hidden layers params  train   test attack    adv    adv    after  after status",
        "                                   before  train   test whitebox static",
        "16-64-256-1024 1.40M 0.1000 0.2000 0.3000 0.5000 0.6000   0.8000 0.7000 trained",
    ]
    assert lines[4:] == [
        "means by depth, over the members that trained",
        "depth        trained  train   test attack    adv    adv    after  after",
        "                                   before  train   test whitebox static",
        "4                1/1 0.1000 0.2000 0.3000 0.5000 0.6000   0.8000 0.7000",
    ]


def test_a_long_name_stands_above_its_figures() -> None:
    lines = summary_lines(results_of([table_row(NAMES[0]), table_row("1-" * 99 + "1")]))
    assert lines[2] == NAMES[0]
    assert lines[3].startswith(" " * 16 + "1000 0.9000")
    assert "".join(lines[4:7]) == "1-" * 99 + "1"


def test_missing_accuracies_are_dashes() -> None:
    lines = summary_lines(results_of([table_row("40", accuracy=None, status="diverged")]))
    assert lines[2].split() == ["40", "1000", *"-------", "diverged"]
    assert lines[-1].split() == ["1", "0/1", *"-------"]


def test_several_seeds_are_said_to_be_means() -> None:
    assert "means over 2 seeds; the status is that of the worst seed" in summary_lines(seeded())
    assert not any("seeds" in line for line in paper_sized())


def test_a_run_without_rows_has_a_summary() -> None:
    assert summary_lines(Writer(None, run_info()).finish({}))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (999_500, "1.00M"),
        (12_345_678, "12.3M"),
        (4_294_967_296, "4.29G"),
    ],
)
def test_counts_are_shortened_to_three_digits(count: int, text: str) -> None:
    assert summary_table._short(count) == text


def test_names_in_foreign_results_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    writer = Writer(tmp_path, run_info(("\x1b[2J",), dataset="\x1b[2J"))
    writer.append(Rows(table=[table_row("\x1b[2J", 0), table_row("\x1b[2J", 1)]))
    found = writer.finish({})
    found.run["status"] = "\x1b[2J"
    for text in (repr(found), *summary_lines(found)):
        assert text.isprintable()
    assert any(line.startswith(r"\x1b[2J") for line in summary_lines(found))


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
