"""The section of the paper's claims."""

from __future__ import annotations

from types import SimpleNamespace

from atras.report.sections.claims import claims_section

CLAIM = SimpleNamespace(
    name="smallest recover most",
    stated="2.5 %",
    paper_figure=0.034,
    ours=0.1,
    low=0.05,
    high=0.15,
    verdict="fails",
    text="<b>not here</b>",
)


def test_claims_are_shown_with_their_verdicts() -> None:
    section = claims_section([CLAIM])
    assert section.tables[0].rows == (
        ("smallest recover most", "fails", "2.5 %", "0.0340", "0.1000", "0.0500 to 0.1500", "<b>not here</b>"),
    )
