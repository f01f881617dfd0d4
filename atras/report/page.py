"""The report as one HTML page that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from atras.report.charts import PAGE_CSS
from atras.report.contents import Contents


def page(report: Contents) -> str:
    """The page, with style and script in it; everything that comes from a run is escaped.

    Args:
        report: the sections of the runs.

    Returns:
        The text of the HTML file.
    """
    # Nothing is trusted: autoescape on, and a name that the template misspells is an error.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _asset("page.js")
    return environment.from_string(_asset("page.html")).render(
        title=report.title or ", ".join(report.names),
        css=Markup(_asset("page.css") + PAGE_CSS),  # noqa: S704 (our own files)
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        search=report.search,
        comparison=report.comparison,
        overall=report.overall,
        runs=list(zip(report.names, report.notices, report.headlines, report.runs, strict=True)),
    )


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
