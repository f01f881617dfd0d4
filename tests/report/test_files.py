"""The files of a report: what is written where, and what is refused."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import atras
from atras import InputError, report
from atras.cli import program
from atras.results.results import Results
from atras.storage import atomic_write
from atras.testing.fake_run import make_run


def test_svg_files_are_whole_documents_of_their_own(full: Results, tmp_path: Path) -> None:
    folder = report.write(full, tmp_path / "charts", "svg")
    assert {path.stem for path in folder.iterdir()} == set(report.figures(full))
    for path in folder.iterdir():
        root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 (our own file)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "data-grid" not in root.attrib


def test_png_files_are_pictures(full: Results, tmp_path: Path) -> None:
    folder = report.write([full, full], tmp_path / "charts", "png")
    names = {path.name for path in folder.iterdir()}
    assert {"comparison.png", "1-recovery.png", "2-recovery.png"} <= names
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_png_without_its_library_says_what_to_install(
    full: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"pip install 'atras\[png\]' or take svg"):
        report.write(full, tmp_path / "charts", "png")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_clear_error(full: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^runs: expected at least one"):
        report.write([], tmp_path / "x.html")
    with pytest.raises(InputError, match=r"^format \(='pdf'\): expected one of html, png, svg, md$"):
        report.write(full, tmp_path / "x.pdf", "pdf")
    (tmp_path / "file").write_text("keep")
    for path, kind in ((tmp_path / "file" / "x.html", "html"), (tmp_path / "file", "svg"), (tmp_path, "html")):
        with pytest.raises(InputError, match=r"^out \(=.*\): expected a f"):
            report.write(full, path, kind)
    assert (tmp_path / "file").read_text() == "keep"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_writes_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("a")
    make_run("b", dataset="mnist")
    assert program.execute(program.app, ["report", "a", "b", "-o", "two.html"], "atras") == 0
    assert capsys.readouterr().out == "the report is in two.html\n"
    assert "2. b" in Path("two.html").read_text(encoding="utf-8")
    assert program.execute(program.app, ["report", "a", "--format", "md"], "atras") == 0
    assert program.execute(program.app, ["report", "a", "-o", "one.md"], "atras") == 0
    assert Path("one.md").read_text().startswith("#")
    capsys.readouterr()
    assert program.execute(program.app, ["report", "a", "-o", "one.pdf"], "atras") == 2
    assert "expected a file that ends in .html or .md" in capsys.readouterr().err
    assert Path("report.md").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("report none", "none/run.json: expected a file of a run"),
        ("report", "missing argument 'RUN'"),
        ("report a --format pdf", "format (='pdf'): expected one of html, png, svg, md"),
    ],
)
def test_a_bad_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("a", complete=False)
    assert program.execute(program.app, line.split(), "atras") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("file_format", ["html", "md", "svg", "png"])
def test_a_folder_whose_name_is_no_text_has_a_report(file_format: str, tmp_path: Path) -> None:
    runs = []
    for name in ("\udcff", "\udcfe"):
        make_run(tmp_path / "run")
        runs.append(atras.read((tmp_path / "run").rename(tmp_path / name)))
    assert report.write(runs, tmp_path / "there", file_format).exists()


def test_nothing_but_a_file_is_replaced(full: Results, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="expected a file to write to: it is no regular file"):
        report.write(full, pipe)
    with pytest.raises(InputError, match="expected to write it: it is no regular file"):
        atomic_write.write_file(pipe, [b"x"])
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert pipe.is_fifo()
