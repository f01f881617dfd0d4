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
from atras.report.sections.variants import short_names, variants
from atras.results import Results


@dataclass(frozen=True)
class Contents:
    """The sections of a report.

    Args:
        names: of the runs.
        runs: the sections of each run.
        notices: of each run, what its reader must know first.
        headlines: the first block of each run.
        comparison: the section that compares the runs, or the variants of one; None where there is but one.
        overall: the first block over all variants of a run; None where there are none.
        title: of the whole; empty for the names.
        search: the section of a search's rounds, where its last one has several variants; else it is the run's first.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Section, ...], ...]
    notices: tuple[tuple[str, ...], ...]
    headlines: tuple[Headline, ...]
    comparison: Section | None
    overall: Headline | None = None
    title: str = ""
    search: Section | None = None


def contents(runs: Sequence[Results]) -> Contents:
    """Make the sections of a report.

    Args:
        runs: one or several.

    Returns:
        The sections of each, and their comparison where there are several.

    Raises:
        InputError: if a section cannot be made.
    """
    names, overall, compared = run_names(runs), None, None
    title = ", ".join(names)
    if len(runs) == 1 and runs[0].run["protocol"].get("axes"):
        run, parts = runs[0], by_variant(runs[0])
        overall, compared, names = headline(run), variants(run, parts), short_names(run)
        runs = list(parts.values())
    elif len(runs) > 1:
        names, runs = _all_variants(names, runs)
        compared = comparison(runs, names)
    sections = tuple(make_sections(run) for run in runs)
    told, first = tuple(tuple(notices(run)) for run in runs), tuple(headline(run) for run in runs)
    return Contents(tuple(names), sections, told, first, compared, overall, title)


def by_variant(run: Results) -> dict[str, Results]:
    """The results of each variant of a run with axes, by its name."""
    return {name: run.of_variant(name) for name in run.variants["variant"]}


def _all_variants(names: Sequence[str], runs: Sequence[Results]) -> tuple[list[str], list[Results]]:
    """Runs beside each other, those with axes variant by variant."""
    found: list[tuple[str, Results]] = []
    for name, run in zip(names, runs, strict=True):
        if run.run["protocol"].get("axes"):
            parts = zip(short_names(run), by_variant(run).values(), strict=True)
            found += [(f"{name}: {short}", part) for short, part in parts]
        else:
            found.append((name, run))
    return [name for name, _ in found], [run for _, run in found]


def figures(results: Results) -> dict[str, Figure]:
    """The charts of a run by name; a notebook shows one that stands at the end of a cell.

    Args:
        results: the run.

    Returns:
        The charts in the order of the report.

    Raises:
        InputError: if a section cannot be made, two figures have the same name, or the run has several variants.
    """
    results.require_single("figures")
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
