"""The recipe for a section in docs/report.md works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atras import read, report
from atras.report.registry import fresh_sections, section_keys
from atras.testing.fake_run import make_run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def test_the_example_adds_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_page) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    make_run("runs/digits")
    with fresh_sections():
        names: dict[str, object] = {}
        exec(compile(example, DOCUMENT.name, "exec"), names)  # noqa: S102
        keys = section_keys()
        assert keys[keys.index("recovery") + 1] == "seeds"
        parsed = read_page(Path("digits.html").read_text(encoding="utf-8"))
        assert "run1-seeds" in parsed.ids()
        assert "Robust accuracy by seed" in parsed.texts
        folder = report.write(read("runs/digits"), "charts", "svg")
        assert (folder / "seeds.svg").is_file()
        assert "--seeds" in names["seeds"](make_run(seeds=(0,))).text[0]  # type: ignore[operator]


def test_every_section_has_a_row_in_the_document() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("|---|---|---|\n")[1].split("\n\n")[0]
    titles = [line.split("|")[1].strip() for line in table.splitlines()]
    assert titles == [section.title for section in report.registry.make_sections(make_run(complete=False))]
