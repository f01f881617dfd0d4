"""The section of the paper's claims: each with the paper's figure, this run's, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from atras.analysis import Claim
from atras.analysis import claims as check_claims
from atras.report.charts import Table, interval, number
from atras.report.section import Section
from atras.results import Results


def claims(results: Results) -> Section:
    """The paper's claims, checked on a run.

    Args:
        results: the run.

    Returns:
        The section.
    """
    return claims_section(check_claims(results, partial=True))


def claims_section(checked: Iterable[Claim]) -> Section:
    """The paper's claims with their verdicts.

    Args:
        checked: the claims after they were checked.

    Returns:
        The section.
    """
    columns = ("claim", "verdict", "stated", "paper's table", "this run", "95 % interval", "meaning")
    rows = tuple(
        (c.name, c.verdict, _cell(c.stated), _cell(c.paper_figure), _cell(c.ours), interval(c.low, c.high), c.text)
        for c in checked
    )
    return Section("claims", "The paper's claims", tables=(Table("Claims", columns, rows),), detail=True)


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) or value is None else str(value)
