"""The register of sections: its order, what it refuses, and that whatever stands in it is in every format."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from textwrap import dedent

import pytest

from atras import InputError, report
from atras.report import registry
from atras.report.charts import Chart, Point, Series, Table, linear
from atras.report.registry import (
    BUILT_IN,
    fresh_sections,
    make_section,
    make_sections,
    register_section,
    section_keys,
    unregister_section,
)
from atras.report.section import Section
from atras.results.results import Results


@pytest.fixture(autouse=True)
def _fresh():
    """Whatever a test registers ends with it."""
    with fresh_sections():
        yield


def toy(results: Results) -> Section:
    marks = tuple(Point(row, accuracy) for row, accuracy in enumerate(results.table["test_accuracy"]))
    axes = linear("row", [0, len(marks)]), linear("clean accuracy", [0.0, 1.0])
    chart = Chart("toy-chart", "Toy chart", "It has a toy's summary.", *axes, (Series("members", 0, marks),))
    table = Table("Toy table", ("name", "toys"), (("a", "1"),), sortable=True)
    return Section("toy", "Toys of the run", ("A toy's sentence.",), (chart,), (table,))


def test_built_in_sections_are_the_report_and_provenance_is_last(full: Results) -> None:
    assert section_keys() == tuple(BUILT_IN)
    assert section_keys()[-1] == registry.LAST
    assert [section.key for section in make_sections(full)] == [key for key in BUILT_IN if key != "networks"]


def test_a_registered_section_is_on_the_page_in_markdown_and_an_image(full: Results, tmp_path: Path, read_page) -> None:
    register_section("toy", toy, after="candidates")
    text = report.write(full, tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = read_page(text)
    assert "run1-toy" in parsed.ids()
    assert {"Toys of the run", "A toy's sentence.", "Toy chart"} <= set(parsed.texts)
    assert text.index('id="run1-candidates"') < text.index('id="run1-toy"') < text.index('id="run1-clean_and_robust"')
    lines = report.write(full, tmp_path / "report.md", "md").read_text(encoding="utf-8").splitlines()
    assert {"## Toys of the run", "A toy's sentence.", "| name | toys |"} <= set(lines)
    for file_format, runs, name in (("svg", full, "toy-chart"), ("svg", [full, full], "2-toy-chart")):
        image = report.write(runs, tmp_path / name, file_format) / f"{name}.svg"
        title = ET.fromstring(image.read_text(encoding="utf-8")).attrib["aria-label"]  # noqa: S314 (our own file)
        assert title == "Toy chart. It has a toy's summary."
    image = report.write(full, tmp_path / "png", "png") / "toy-chart.png"
    assert image.read_bytes().startswith(b"\x89PNG\r\n")
    assert "toy-chart" in report.figures(full)


def test_a_section_stands_where_it_asks_to() -> None:
    register_section("end", toy)
    register_section("second_end", toy)
    register_section("first", toy, before="experiment")
    register_section("middle", toy, after="recovery")
    keys = section_keys()
    assert keys[0] == "first"
    assert keys[keys.index("recovery") + 1] == "middle"
    assert keys[-3:] == ("end", "second_end", "provenance")
    register_section("last", toy, after="provenance")
    assert section_keys()[-1] == "last"
    unregister_section("provenance")
    register_section("after_all", toy)
    assert section_keys()[-2:] == ("last", "after_all")


def test_a_section_can_be_removed_and_replaced(full: Results) -> None:
    unregister_section("claims")
    assert "claims" not in [section.key for section in make_sections(full)]
    register_section("claims", lambda results: Section("claims", "Claims of ours"), after="training")
    assert section_keys() == tuple(BUILT_IN)
    assert make_section("claims", full).title == "Claims of ours"


def test_a_fresh_register_ends_with_its_block() -> None:
    register_section("outer", toy)
    with fresh_sections():
        register_section("inner", toy)
        assert "outer" not in section_keys()
    assert "outer" in section_keys()
    assert "inner" not in section_keys()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("claims", toy), {}, r"key \(='claims'\): expected a new one, there are experiment, candidates, .*provenance"),
        (("toy", toy), {"after": "nothing"}, r"after \(='nothing'\): expected one of experiment, .*, provenance$"),
        (("toy", toy), {"before": "nothing"}, r"before \(='nothing'\): expected one of experiment, .*, provenance$"),
        (("toy", toy), {"after": "claims", "before": "claims"}, "expected one of the two"),
        (("a b", toy), {}, r"key \(='a b'\): expected small letters"),
        (("toy", "no_function"), {}, r"make \(='no_function'\): expected a function or its place"),
        (("toy", 3), {}, r"make \(=3\): expected a function or its place"),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        register_section(*arguments, **options)
    assert section_keys() == tuple(BUILT_IN)


def test_an_unknown_section_is_refused_with_those_there_are(full: Results) -> None:
    expected = r"^key \(='toy'\): expected one of experiment, candidates, .*, provenance$"
    with pytest.raises(InputError, match=expected):
        make_section("toy", full)
    with pytest.raises(InputError, match=expected):
        unregister_section("toy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("no.such_module:make", "expected the function no.such_module:make to import, got: No module named 'no'"),
        ("atras.report.section:make", "expected the function atras.report.section:make to import"),
        ("atras.report.registry:LAST", "expected a function at atras.report.registry:LAST, got 'provenance'"),
        (lambda results: "text", "expected its function to return a Section with this key, got 'text'"),
        (lambda results: Section("other", "Other"), "got one with the key 'other'"),
    ],
)
def test_a_function_that_makes_no_section_is_named(full: Results, make, message: str) -> None:
    register_section("toy", make)
    with pytest.raises(InputError) as caught:
        make_sections(full)
    assert str(caught.value).startswith("section 'toy': expected")
    assert message in str(caught.value)


def install(folder: Path, package: str, entry_points: str) -> None:
    """Lay down a package as pip does: a module, and its metadata with entry points."""
    (folder / f"{package}.py").write_text(
        dedent("""
        from atras.report import Section

        def weight_norms(results):
            return Section("weight_norms", "Norms of the weights", (results.dataset,))
        """)
    )
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[atras.report_sections]\n{entry_points}\n")


def test_an_installed_package_adds_sections(full: Results, tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, "norms_of_weights", "weight_norms = norms_of_weights:weight_norms")
    monkeypatch.syspath_prepend(tmp_path)
    assert section_keys()[-2:] == ("weight_norms", "provenance")
    assert "norms_of_weights" not in sys.modules
    assert make_section("weight_norms", full).text == ("digits",)
    assert "## Norms of the weights" in report.write(full, tmp_path / "r.md", "md").read_text(encoding="utf-8")
    monkeypatch.delitem(sys.modules, "norms_of_weights")


def test_an_installed_package_whose_section_is_there_already_is_named(tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, "second_claims", "claims = second_claims:weight_norms")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match=r"^installed package second_claims: key \(='claims'\): expected a new"):
            section_keys()


def test_no_section_is_imported_before_it_is_made() -> None:
    program = """
        import sys
        from atras import report
        keys = report.section_keys()
        print([key for key in keys if f"atras.report.sections.{key}" in sys.modules])
    """
    command = [sys.executable, "-c", dedent(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
