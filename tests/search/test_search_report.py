"""The report of a search tells all its rounds, who was dropped where and why, and calls the hold-out by its name."""

from __future__ import annotations

from pathlib import Path

import atras
from atras import report
from atras.cli import program
from atras.report.searches import search_contents
from atras.search import finished_rounds


def test_every_round_and_every_candidate_has_a_row(found: tuple[atras.Results, Path]) -> None:
    _, folder = found
    rounds, told = finished_rounds(folder)
    assert len(rounds) == told["rounds"]
    contents = search_contents(folder)
    section = contents.runs[0][0]
    overview, candidates = section.tables
    assert [row[0] for row in overview.rows] == [str(each.number) for each in rounds]
    assert [row[5] for row in overview.rows] == ["hold-out"] * (len(rounds) - 1) + ["test images"]
    assert sorted(row[0] for row in candidates.rows) == sorted(rounds[0].ranking)
    by_name = {row[0]: row for row in candidates.rows}
    for each in rounds[:-1]:
        for rank, name in enumerate(each.ranking[each.kept :], start=each.kept + 1):
            row = by_name[name]
            assert row[1:3] == (str(each.number), f"{rank} of {len(each.ranking)}")
            assert row[4] == "hold-out"
            assert row[5].startswith((f"below the first {each.kept}, ", "no better than", "no seed"))
    assert all(by_name[name][1] == "-" for name in rounds[-1].ranking)
    # Then the last round, as any run.
    assert [part.key for part in contents.runs[0][1:3]] == ["experiment", "candidates"]
    assert contents.headlines[0].title.endswith(rounds[-1].ranking[0])
    assert "hold-out" not in contents.headlines[0].title


def test_an_unfinished_search_says_that_its_figures_are_of_the_hold_out(stopped: Path) -> None:
    contents = search_contents(stopped)
    assert "(on the hold-out)" in contents.headlines[0].title
    assert contents.headlines[0].missing[0].startswith("The search is not finished: ")
    assert contents.notices[0][0].startswith("This search is not finished: all figures are of the hold-out")


def test_the_command_writes_it(found: tuple[atras.Results, Path], tmp_path: Path) -> None:
    _, folder = found
    for name in ("search.html", "search.md"):
        assert program.execute(program.app, ["report", str(folder), "-o", str(tmp_path / name)], "atras") == 0
        assert "The search, round by round" in (tmp_path / name).read_text()
    folders = [str(folder), str(folder / "round-1")]
    assert program.execute(program.app, ["report", *folders, "-o", str(tmp_path / "both.html")], "atras") == 0
    assert "Runs compared" in (tmp_path / "both.html").read_text()
    assert report.write_search(folder, tmp_path / "again.html").is_file()
