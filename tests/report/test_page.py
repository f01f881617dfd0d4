"""The page: one well-formed document that points nowhere outside, escapes what is foreign, and stays small."""

from __future__ import annotations

import re

import polars as pl
import pytest

import atras
from atras import report
from atras.report.charts import HeatMap
from atras.report.contents import contents
from atras.report.markdown import markdown
from atras.report.page import page
from atras.report.registry import make_sections
from atras.results.results import Results
from atras.testing.fake_run import make_run

EVIL = "<script>alert(1)</script>|`x`"


def test_the_page_is_one_well_formed_document_with_every_part(full: Results, full_page: str, read_page) -> None:
    assert full_page.startswith("<!DOCTYPE html>")
    parsed = read_page(full_page)
    ids = parsed.ids()
    assert len(set(ids)) == len(ids)
    assert {f"run1-{section.key}" for section in make_sections(full)} <= set(ids)
    links = {str(attributes["href"]) for attributes in parsed.all("a")}
    assert links <= {f"#{name}" for name in ids}


def test_nothing_on_the_page_points_outside(full_page: str, read_page) -> None:
    assert re.findall(r"https?://|//[a-z]", re.sub(r"data:image/png;base64,[\w+/=]+", "", full_page)) == []
    assert {str(image["src"])[:22] for image in read_page(full_page).all("img")} == {"data:image/png;base64,"}
    (policy,) = [meta["content"] for meta in read_page(full_page).all("meta") if "http-equiv" in meta]
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_every_chart_has_a_text_alternative_and_its_data(full: Results, full_page: str, read_page) -> None:
    drawn = [figure for section in make_sections(full) for figure in section.figures]
    svgs = read_page(full_page).all("svg")
    # A heat map is scaled; any other chart is there for a wide and for a narrow window, one of which is shown.
    there = [figure for figure in drawn for _ in range(1 if isinstance(figure, HeatMap) else 2)]
    assert [svg["aria-label"] for svg in svgs] == [f"{figure.title}. {figure.summary}" for figure in there]
    for figure in drawn:
        assert f"<summary>Data of “{figure.title}”</summary>" in full_page
        assert len(figure.table.rows) > 0
        assert {len(row) for row in figure.table.rows} == {len(figure.table.columns)}


def test_a_hostile_name_stays_text(read_page) -> None:
    evil = make_run(dataset=EVIL)
    for runs in ([evil], [evil, evil]):
        text = page(contents(runs))
        assert "<script>alert" not in text
        assert any(EVIL in part for part in read_page(text).texts)
    assert "<script>" not in markdown(contents([evil]))
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\`x\`" in markdown(contents([evil]))
    assert "<script>" not in evil._repr_html_()
    for svg in (figure.svg(standalone=True) for figure in report.figures(evil).values()):
        assert "<script>" not in svg


@pytest.mark.parametrize("rows", [0, 1])
def test_a_run_without_a_trained_member_is_still_a_page(full: Results, rows: int, read_page) -> None:
    dead = full.table.head(rows).with_columns(pl.lit("dead").alias("status"))
    empty = Results(dead, full.metrics.clear(), full.history.clear(), full.timings, full.run)
    parsed = read_page(page(contents([empty])))
    assert parsed.all("svg") == []
    assert any("No candidate trained" in text for text in parsed.texts)
    assert markdown(contents([empty]))


def test_forty_candidates_with_five_seeds_stay_below_a_megabyte() -> None:
    names = tuple(candidate.name for candidate in atras.Protocol().candidates)
    assert len(page(contents([make_run(names=names, seeds=range(5))])).encode()) < 2**20


def test_several_runs_are_compared_and_each_keeps_its_own_part(full: Results, read_page) -> None:
    other = make_run(dataset="mnist", seeds=(0,))
    parsed = read_page(page(contents([full, other])))
    assert [article["id"] for article in parsed.all("article")] == ["run1", "run2"]
    assert any("White-box robust accuracy by depth" in text for text in parsed.texts)
    ids = parsed.ids()
    assert len(set(ids)) == len(ids)


def test_a_notebook_shows_results_as_a_table(full: Results, read_page) -> None:
    parsed = read_page(re.sub(r"<style>.*?</style>", "", full._repr_html_(), flags=re.DOTALL))
    assert parsed.texts[0] == repr(full)
    cells = [text.strip('"') for text in parsed.texts]
    assert set(full.run["protocol"]["candidates"]) <= set(cells)
