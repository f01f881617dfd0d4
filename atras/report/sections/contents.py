"""The parts of a run's report, in their order."""

from __future__ import annotations

from atras.results.results import Results

from .attacks import attacks, epsilons, transfer
from .candidates import candidates, recovery, scatter
from .population import entries
from .record import claims, experiment, pictures, provenance, training
from .section import Section


def sections(results: Results) -> tuple[Section, ...]:
    """Every part, those too for which the run recorded nothing: they say which option would have."""
    rows = entries(results)
    return (
        experiment(results, rows),
        candidates(results, rows),
        scatter(rows),
        recovery(results),
        attacks(results),
        epsilons(results),
        transfer(results, rows),
        pictures(results),
        training(results),
        claims(results),
        provenance(results),
    )
