"""The report: what it says, what it leaves out, what it escapes, and what it writes where."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import atras
from atras import InputError, report
from atras.analysis import paper_tables
from atras.cli import run_command
from atras.report.charts import heatmap, intervals, pictures, plots, scales
from atras.report.markdown import markdown
from atras.report.page import page
from atras.report.sections.contents import sections
from atras.report.sections.record import claim_section
from atras.results.frames import wilson
from atras.results.results import Results
from atras.results.schemas import STATUSES
from atras.storage import atomic_write
from atras.testing.fake_run import make_run

VOID = {"meta", "input", "br", "img", "link", "hr"}
EVIL = "<script>alert(1)</script>|`x`"
CLAIM = SimpleNamespace(
    name="smallest recover most",
    stated="2.5 %",
    paper_figure=0.034,
    ours=0.1,
    low=0.05,
    high=0.15,
    verdict="fails",
    text="<b>not here</b>",
)


class Page(HTMLParser):
    """A page read strictly: every element closed by its own tag, and no address twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def full() -> Results:
    return make_run()


@pytest.fixture(scope="module")
def full_page(full: Results) -> str:
    return page([full])


def text_of(results: Results, key: str) -> str:
    (found,) = [section for section in sections(results) if section.key == key]
    return " ".join(found.text)


def test_the_page_is_one_well_formed_document_with_every_part(full: Results, full_page: str) -> None:
    assert full_page.startswith("<!DOCTYPE html>")
    parsed = Page(full_page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {f"run1-{section.key}" for section in sections(full)} <= set(ids)
    links = {str(attributes["href"]) for attributes in parsed.all("a")}
    assert links <= {f"#{name}" for name in ids}


def test_nothing_on_the_page_points_outside(full_page: str) -> None:
    assert re.findall(r"https?://|//[a-z]", re.sub(r"data:image/png;base64,[\w+/=]+", "", full_page)) == []
    assert {str(image["src"])[:22] for image in Page(full_page).all("img")} == {"data:image/png;base64,"}
    (policy,) = [meta["content"] for meta in Page(full_page).all("meta") if "http-equiv" in meta]
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_every_chart_has_a_text_alternative_and_its_data(full: Results, full_page: str) -> None:
    drawn = [figure for section in sections(full) for figure in section.figures]
    svgs = Page(full_page).all("svg")
    assert [svg["aria-label"] for svg in svgs] == [f"{figure.title}. {figure.summary}" for figure in drawn]
    for figure in drawn:
        assert f"<summary>Data of “{figure.title}”</summary>" in full_page
        assert len(figure.table.rows) > 0
        assert {len(row) for row in figure.table.rows} == {len(figure.table.columns)}


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    evil = make_run(dataset=EVIL)
    for text in (page([evil]), page([evil, evil])):
        assert "<script>alert" not in text
        assert any(EVIL in part for part in Page(text).texts)
    assert "<script>" not in markdown([evil])
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\`x\`" in markdown([evil])
    assert "<script>" not in evil._repr_html_()
    for svg in (figure.svg(standalone=True) for figure in report.figures(evil).values()):
        assert "<script>" not in svg


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("attacks", "--attack fgsm --attack pgd"),
        ("epsilons", "--epsilons"),
        ("transfer", "--transfer"),
        ("pictures", "no network of the first seed"),
        ("recovery", "--dataset mnist"),
    ],
)
def test_what_was_not_recorded_is_named_with_its_option(key: str, option: str) -> None:
    assert option in text_of(make_run(complete=False), key)


def test_a_complete_run_misses_nothing(full: Results) -> None:
    texts = [text_of(full, key) for key in ("attacks", "epsilons", "transfer", "pictures")]
    assert not [text for text in texts if "--" in text]
    names = set(report.figures(full))
    assert {"epsilons-fgsm-trained", "epsilons-pgd-defended", "attacks", "transfer-fgsm-before"} <= names


@pytest.mark.parametrize("rows", [0, 1])
def test_a_run_without_a_trained_member_is_still_a_page(full: Results, rows: int) -> None:
    dead = full.table.head(rows).with_columns(pl.lit("dead").alias("status"))
    empty = Results(dead, full.metrics.clear(), full.history.clear(), full.timings, full.run)
    parsed = Page(page([empty]))
    assert parsed.all("svg") == []
    assert any("No candidate trained" in text for text in parsed.texts)
    assert markdown([empty])


def test_a_run_that_has_not_finished_says_so(full: Results) -> None:
    begun = Results(full.table, full.metrics, full.history, full.timings, {**full.run, "status": "running"})
    assert "has not finished" in text_of(begun, "experiment")
    assert "has not finished" not in text_of(full, "experiment")


def test_the_headline_is_the_white_box_figure_and_the_table_agrees_with_the_run(full: Results) -> None:
    means = full.candidate_means(trained_only=True)
    column = "attacked_accuracy_after_white_box"
    best = means.sort(column, descending=True).row(0, named=True)
    headline = f"Highest white-box robust accuracy: {best['hidden_layers']} with {best[column]:.4f} ("
    assert text_of(full, "candidates").startswith(headline)
    (candidates,) = [section for section in sections(full) if section.key == "candidates"]
    table = candidates.tables[0]
    assert table.columns[:5] == ("hidden layers", "robust, white-box", "depth", "parameters", "robust, static")
    shown = {row[0]: row[1].split(" ")[0] for row in table.rows}
    expected = {row["hidden_layers"]: f"{row[column]:.4f}" for row in means.iter_rows(named=True)}
    assert {name: figure for name, figure in shown.items() if figure != "-"} == expected
    assert set(shown) - set(expected) == {full.run["protocol"]["candidates"][0]}


@pytest.mark.parametrize("complete", [True, False])
def test_the_worst_case_has_a_column_only_where_there_are_several_attacks(complete: bool) -> None:
    (candidates,) = [section for section in sections(make_run(complete=complete)) if section.key == "candidates"]
    assert ("worst case" in candidates.tables[0].columns) == complete


def test_every_member_has_a_row_where_there_are_several_seeds(full: Results) -> None:
    (candidates,) = [section for section in sections(full) if section.key == "candidates"]
    assert [len(table.rows) for table in candidates.tables] == [5, 10]
    (single,) = [section for section in sections(make_run(seeds=(3,))) if section.key == "candidates"]
    assert [len(table.rows) for table in single.tables] == [5]


def test_recovery_stands_beside_the_papers() -> None:
    chart = report.figures(make_run(dataset="mnist"))["recovery"]
    assert isinstance(chart, plots.Chart)
    assert [series.label for series in chart.series] == ["white-box", "static", "paper (static)"]
    rows = paper_tables.trained_rows("mnist").filter(~pl.col("hidden_layers").str.contains("-"))
    expected = rows.select(pl.col("attacked_accuracy_after") - pl.col("attacked_accuracy_before")).to_series().mean()
    # The mean of four figures in another order of summation.
    assert chart.series[2].points[0].y == pytest.approx(expected, abs=1e-12)


def test_transfer_maps_hold_every_pair(full: Results) -> None:
    drawn = report.figures(full)["transfer-fgsm-after"]
    assert isinstance(drawn, heatmap.HeatMap)
    assert list(drawn.layers) == ["after the defence", "before the defence"]
    source, target = drawn.names[1], drawn.names[3]
    same = pl.col("source_hidden_layers").eq(source) & pl.col("target_hidden_layers").eq(target)
    frame = full.transfer.filter(same & (pl.col("phase") == "defended"))
    # Two seeds, summed in either order.
    assert drawn.layers["after the defence"][1][3] == pytest.approx(frame["accuracy"].mean(), abs=1e-12)
    sizes = dict(full.table.select("hidden_layers", "parameters").iter_rows())
    assert [sizes[name] for name in drawn.names] == sorted(sizes.values())


def test_a_large_population_shows_a_part_of_its_transfer_map() -> None:
    names = tuple(str(width) for width in range(8, 8 + 66))
    many = make_run(names=names, seeds=(0,))
    assert "64 of 66 candidates" in text_of(many, "transfer")
    assert len(report.figures(many)["transfer-fgsm-before"].table.rows) == 64


def test_forty_candidates_with_five_seeds_stay_below_a_megabyte() -> None:
    names = tuple(candidate.name for candidate in atras.Protocol().candidates)
    assert len(page([make_run(names=names, seeds=range(5))]).encode()) < 2**20


def test_claims_are_shown_with_their_verdicts() -> None:
    section = claim_section([CLAIM])
    assert section.tables[0].rows == (
        ("smallest recover most", "fails", "2.5 %", "0.0340", "0.1000", "0.0500 to 0.1500", "<b>not here</b>"),
    )


def test_several_runs_are_compared_and_each_keeps_its_own_part(full: Results) -> None:
    other = make_run(dataset="mnist", seeds=(0,))
    parsed = Page(page([full, other]))
    assert [article["id"] for article in parsed.all("article")] == ["run1", "run2"]
    assert any("White-box robust accuracy by depth" in text for text in parsed.texts)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_markdown_tables_are_rectangular(full: Results) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", markdown([full, full]), flags=re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


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


def test_a_notebook_shows_a_chart_by_itself(full: Results) -> None:
    assert report.figures(full)["recovery"]._repr_svg_().startswith("<svg xmlns=")


def test_a_notebook_shows_results_as_a_table(full: Results) -> None:
    parsed = Page(re.sub(r"<style>.*?</style>", "", full._repr_html_(), flags=re.DOTALL))
    assert parsed.texts[0] == repr(full)
    cells = [text.strip('"') for text in parsed.texts]
    assert set(full.run["protocol"]["candidates"]) <= set(cells)


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
    assert run_command.execute(run_command.app, ["report", "a", "b", "-o", "two.html"], "atras") == 0
    assert capsys.readouterr().out == "the report is in two.html\n"
    assert "2. b" in Path("two.html").read_text(encoding="utf-8")
    assert run_command.execute(run_command.app, ["report", "a", "--format", "md"], "atras") == 0
    assert Path("report.md").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("report none", "none/run.json: expected a file of a run"),
        ("report", "missing argument 'RUN...'"),
        ("report a --format pdf", "format (='pdf'): expected one of html, png, svg, md"),
    ],
)
def test_a_bad_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("a", complete=False)
    assert run_command.execute(run_command.app, line.split(), "atras") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(pictures.png(image))))
    assert np.array_equal(read, image[0] if channels == 1 else np.moveaxis(image, 0, -1))


def test_pictures_show_image_direction_and_sum(full: Results) -> None:
    from PIL import Image

    gallery = pictures.galleries(full)[0]
    name = gallery.title.split(",")[0]
    row = full.examples.filter(pl.col("hidden_layers") == name).row(0, named=True)
    content = base64.b64decode(gallery.pictures[0].attacked.partition(",")[2])
    clean = np.frombuffer(row["pixels"], np.uint8).reshape(8, 8)
    signs = np.frombuffer(row["signs"], np.int8).reshape(8, 8)
    expected = np.rint(np.clip(clean / 255 + 0.05 * signs, 0, 1) * 255)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


@pytest.mark.parametrize("values", [[0.2, 0.9], [0.5], [], [-0.03, 0.0], [0, 1000], [0.7101, 0.7102], [-5.0, None]])
def test_linear_ticks_are_few_round_and_around_the_values(values: list[float | None]) -> None:
    axis = scales.linear("x", values)
    known = [value for value in values if value is not None]
    # Ends are multiples of the step up to rounding.
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in known)
    assert 2 <= len(axis.ticks) <= scales.MAX_TICKS + 1
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize("values", [[3000], [100, 10**6], [8290, 9000], [1, 10**9]])
def test_logarithmic_ticks_are_few_and_around_the_values(values: list[float]) -> None:
    axis = scales.logarithmic("x", values)
    assert all(0 < axis.share(value) < 1 for value in values)
    assert 1 <= len(axis.ticks) <= scales.MAX_TICKS


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5"), (999, "999"), (1000, "1k"), (8170, "8170"), (50_000, "50k"), (1_400_000, "1.4M")]
)
def test_counts_are_short(count: float, text: str) -> None:
    assert scales.short(count) == text


def test_one_seed_has_wilsons_interval_and_several_the_bootstraps() -> None:
    assert intervals.estimate([0.5, None], 100) == (0.5, *wilson(50, 100))
    several = intervals.estimate([0.5, 0.7, 0.6], 100)
    assert several == intervals.bootstrap_mean([0.5, 0.7, 0.6])
    assert several.low is not None
    assert several.high is not None
    assert 0.5 <= several.low < 0.6 < several.high <= 0.7
    assert intervals.estimate([None], 100) == (None, None, None)
    assert intervals.estimate([0.5], None) == (0.5, None, None)


def test_each_status_ranks() -> None:
    from atras.report.sections.population import RANK

    assert set(RANK) == set(STATUSES)


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
        atomic_write.write(pipe, [b"x"])
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert pipe.is_fifo()
