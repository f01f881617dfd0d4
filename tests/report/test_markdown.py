"""The report as Markdown."""

from __future__ import annotations

import re

from atras.report.contents import contents
from atras.report.markdown import markdown
from atras.results.results import Results


def test_markdown_tables_are_rectangular(full: Results) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", markdown(contents([full, full])), flags=re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_sections_of_several_runs_stand_below_the_name_of_the_run(full: Results) -> None:
    headings = re.findall(r"^#+ .*$", markdown(contents([full, full])), flags=re.MULTILINE)
    assert headings[:3] == ["# atras: 1. digits, 2. digits", "## Runs compared", "## 1. digits"]
    assert headings[3].startswith("### Most robust: ")
    assert headings[4] == "### What was run"
    assert headings[-1] == "### Provenance"
    assert "## What was run" in markdown(contents([full]))
