"""The contents of a report of one or several runs, before they are written in a format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atras.analysis import notices
from atras.errors import InputError
from atras.report.headline import Headline, headline
from atras.report.registry import make_sections
from atras.report.section import Figure, Section
from atras.report.sections.comparison import comparison
from atras.results import Results


@dataclass(frozen=True)
class Contents:
    """The sections of a report.

    Args:
        names: of the runs.
        runs: the sections of each run.
        notices: of each run, what its reader must know first.
        headlines: the first block of each run.
        comparison: the section that compares the runs; None where there is but one.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Section, ...], ...]
    notices: tuple[tuple[str, ...], ...]
    headlines: tuple[Headline, ...]
    comparison: Section | None


def contents(runs: Sequence[Results]) -> Contents:
    """Make the sections of a report.

    Args:
        runs: one or several.

    Returns:
        The sections of each, and their comparison where there are several.

    Raises:
        InputError: if a section cannot be made.
    """
    names = run_names(runs)
    compared = comparison(runs, names) if len(runs) > 1 else None
    sections = tuple(make_sections(run) for run in runs)
    told, first = tuple(tuple(notices(run)) for run in runs), tuple(headline(run) for run in runs)
    return Contents(tuple(names), sections, told, first, compared)


def figures(results: Results) -> dict[str, Figure]:
    """The charts of a run by name; a notebook shows one that stands at the end of a cell.

    Args:
        results: the run.

    Returns:
        The charts in the order of the report.

    Raises:
        InputError: if a section cannot be made, or two figures have the same name.
    """
    return named_figures(make_sections(results))


def named_figures(sections: Iterable[Section]) -> dict[str, Figure]:
    """The figures of sections by name.

    Args:
        sections: those of one run.

    Returns:
        Their figures, in order.

    Raises:
        InputError: if two have the same name, and so the same file.
    """
    named: dict[str, Figure] = {}
    for section in sections:
        for figure in section.figures:
            if figure.name in named:
                raise InputError(
                    f"section {section.key!r}: expected a name of its own for each figure, got {figure.name!r} again"
                )
            named[figure.name] = figure
    return named


def run_names(runs: Sequence[Results]) -> list[str]:
    """The names of runs: their folder's, else their data set's; numbered where there are several.

    Args:
        runs: at least one.

    Returns:
        A name for each.
    """
    names = [run.directory.resolve().name if run.directory else run.dataset for run in runs]
    return names if len(names) == 1 else [f"{index}. {name}" for index, name in enumerate(names, 1)]
