"""The value of a report section, the same for the page, for Markdown and for the image files."""

from __future__ import annotations

from dataclasses import dataclass

from atras.report.charts import Bars, Chart, Gallery, HeatMap, Table

Figure = Bars | Chart | HeatMap


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Args:
        key: names it in the register and in addresses within the page.
        title: its heading.
        text: its paragraphs.
        figures, tables, galleries: what it shows, in this order. A figure's name is that of its image file, and no
            other section uses it.
        code: verbatim text with its heading, shown on demand.
        detail: whether it is on paper only where all is to be printed, such as what is about single candidates.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    code: tuple[tuple[str, str], ...] = ()
    detail: bool = False
