"""The report as Markdown: sentences and tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from atras.report.charts import Table
from atras.report.contents import Contents
from atras.report.section import Section

LONGEST = 60
"""Most rows of a chart's data that are written out; longer data are left to the other formats."""


def markdown(report: Contents) -> str:
    """The report as text, with a table for every table and for every chart that is not too long for one.

    Args:
        report: the sections of the runs.

    Returns:
        The text of the Markdown file.
    """
    several = report.comparison is not None
    lines = [f"# atras: {text(', '.join(report.names))}", ""]
    if report.comparison is not None:
        lines += _section(report.comparison, "##")
    for name, notices, sections in zip(report.names, report.notices, report.runs, strict=True):
        lines += [f"## {text(name)}", ""] if several else []
        for notice in notices:
            lines += [f"**{text(notice)}**", ""]
        for section in sections:
            lines += _section(section, "###" if several else "##")
    return "\n".join(lines).rstrip() + "\n"


def text(value: str) -> str:
    """A text in which nothing is taken for markup.

    Args:
        value: any text.

    Returns:
        The same, escaped, on one line.
    """
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
