"""The contents of a report, and the charts of a run by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from atras import InputError, report
from atras.report.contents import contents, run_names
from atras.report.registry import fresh_sections, register_section, section_keys
from atras.report.section import Section
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_a_notebook_shows_a_chart_by_itself(full: Results) -> None:
    assert report.figures(full)["recovery"]._repr_svg_().startswith("<svg xmlns=")


def test_one_run_is_not_compared(full: Results) -> None:
    alone, two = contents([full]), contents([full, full])
    assert alone.comparison is None
    assert two.comparison is not None
    assert [section.key for section in alone.runs[0]] == [key for key in section_keys() if key != "networks"]
    assert len(two.runs) == 2


def test_runs_have_the_names_of_their_folders(full: Results, tmp_path: Path) -> None:
    stored = make_run(tmp_path / "first")
    assert run_names([stored]) == ["first"]
    assert run_names([full]) == ["digits"]
    assert run_names([stored, full, full]) == ["1. first", "2. digits", "3. digits"]


def test_two_figures_of_one_name_are_refused(full: Results) -> None:
    chart = report.figures(full)["recovery"]
    with fresh_sections():
        register_section("again", lambda results: Section("again", "Again", figures=(chart,)), before="recovery")
        with pytest.raises(InputError, match=r"^section 'recovery': expected a name of its own .* 'recovery' again$"):
            report.figures(full)
