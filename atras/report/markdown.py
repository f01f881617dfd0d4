"""The report as Markdown: sentences and tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from atras.report.charts import Table
from atras.report.contents import Contents
from atras.report.headline import Headline
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
    lines = [f"# atras: {text(report.title or ', '.join(report.names))}", ""]
    if report.overall is not None:
        lines += _headline(report.overall, "##")
    if report.search is not None:
        lines += _section(report.search, "##")
    if report.comparison is not None:
        lines += _section(report.comparison, "##")
    parts = zip(report.names, report.notices, report.headlines, report.runs, strict=True)
    for name, notices, first, sections in parts:
        lines += [f"## {text(name)}", ""] if several else []
        for notice in notices:
            lines += [f"**{text(notice)}**", ""]
        lines += _headline(first, "###" if several else "##")
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


def _headline(first: Headline, heading: str) -> Iterable[str]:
    yield from (f"{heading} {text(first.title)}", "")
    for fact in first.facts:
        yield f"- {text(fact.label)}: {text(fact.value)}" + (f" ({text(fact.note)})" if fact.note else "")
    for sentence in ("", *first.text):
        yield from (text(sentence), *([""] if sentence else []))
    if first.missing:
        yield from ("**What is missing**", "", *(f"- {text(line)}" for line in first.missing), "")


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


def _cell(value: str) -> str:
    """A cell on one line, what stands below its figure in brackets."""
    figure, *below = value.split("\n", 1)
    return text(f"{figure} ({below[0]})" if below else figure)


def _table(table: Table) -> Iterable[str]:
    yield f"| {' | '.join(map(text, table.columns))} |"
    yield "|" + "---|" * len(table.columns)
    for row in table.rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""
