"""The report as Markdown: sentences and tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from atras.report.charts.plots import Table
from atras.report.sections.comparison import comparison, labels
from atras.report.sections.contents import sections
from atras.report.sections.section import Section
from atras.results.results import Results

LONGEST = 60
"""Rows of a chart's data that are still worth reading; longer ones are left to the other formats."""


def markdown(runs: Sequence[Results]) -> str:
    """The text, with a table for every table and for every chart that is not too long for one."""
    names = labels(runs)
    lines = [f"# atras: {text(', '.join(names))}", ""]
    if len(runs) > 1:
        lines += _section(comparison(runs, names), "##")
    for run, name in zip(runs, names, strict=True):
        lines += [f"## {text(name)}", ""] if len(runs) > 1 else []
        for section in sections(run):
            lines += _section(section, "###" if len(runs) > 1 else "##")
    return "\n".join(lines).rstrip() + "\n"


def text(value: str) -> str:
    """A text in which nothing is taken for markup."""
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", html.escape(" ".join(value.split()), quote=False))


def _section(section: Section, heading: str) -> Iterable[str]:
    yield from (f"{heading} {text(section.title)}", "")
    for paragraph in section.text:
        yield from (text(paragraph), "")
    for figure in section.figures:
        yield from (f"**{text(figure.title)}.** {text(figure.summary)}", "")
        if len(figure.table.rows) <= LONGEST and len(figure.table.columns) <= 8:
            yield from _table(figure.table)
    for table in section.tables:
        yield from (f"**{text(table.title)}**", "")
        yield from _table(table)


def _table(table: Table) -> Iterable[str]:
    yield f"| {' | '.join(map(text, table.columns))} |"
    yield "|" + "---|" * len(table.columns)
    for row in table.rows:
        yield f"| {' | '.join(map(text, row))} |"
    yield ""
