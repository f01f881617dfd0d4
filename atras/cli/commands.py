"""The commands that ask something of finished runs. Like `cli`, this imports torch and polars late."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atras.errors import InputError, wrapped
from atras.experiment import parse_whole
from atras.running import choose_reporter

from .claims_text import claims_lines
from .output import print_lines, print_text, read_results, terminal_width

if TYPE_CHECKING:
    from atras.analysis import Format

Partial = Annotated[
    bool, typer.Option("--partial", help="also of a run with groups missing, of what is there", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="as JSON, for scripts", show_default=False)]
OneVariant = Annotated[
    str | None,
    typer.Option("--variant", metavar="SETTINGS", help="one variant of a run with axes alone", show_default=False),
]
Folder = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder", show_default=False)]


def claims(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="a run's folder; without, the tables alone", show_default=False),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="time a training step of each candidate first", show_default=False)
    ] = False,
    variant: OneVariant = None,
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Hold the paper's claims against its own tables and against a run."""
    from atras.analysis import claims_data, json_text, measure_steps, require_whole, why_no_claims

    none = ""
    if run is None:
        if measure or partial:
            raise InputError("claims: expected a run beside --measure and --partial; name its folder")
        results = None
    else:
        results = read_results(run, variant)
        results.require_single("claims")
        require_whole(results, partial)
        none = why_no_claims(results)
        if measure and not none:
            with contextlib.closing(choose_reporter()) as reporter:
                measure_steps(results, told=lambda share: reporter.part("measuring steps", share))
    if as_json:
        print_text(json_text(claims_data(results)))
    elif none:
        print_lines(wrapped([none], terminal_width()))
    else:
        print_lines(claims_lines(results, terminal_width()))


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="a run's folder", show_default=False)],
    run_b: Annotated[
        str | None, typer.Argument(metavar="RUN_B", help="another one; or --variant twice", show_default=False)
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="SETTINGS", help="of each run, or two of one run", show_default=False),
    ] = None,
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Show what the members that two runs share gained or lost from one to the other."""
    from atras.analysis import compare_lines, comparison_data, json_text

    chosen: list[str | None] = [None, None] if not variant else [*variant]
    if len(chosen) != 2 or (run_b is None and None in chosen):
        raise InputError("compare: expected two runs, or two variants of runs by --variant twice; name both")
    a, b = read_results(run_a, chosen[0]), read_results(run_b or run_a, chosen[1])
    if as_json:
        print_text(json_text(comparison_data(a, b, partial=partial)))
    else:
        print_lines(compare_lines(a, b, partial=partial, width=terminal_width()))


def export(
    run: Folder,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="file, or folder for --pareto", show_default=False)
    ],
    hidden: Annotated[
        str | None, typer.Option(metavar="24,192", help="the network with these layers", show_default=False)
    ] = None,
    best: Annotated[
        str | None, typer.Option(metavar="robust", help="the most robust on average over seeds", show_default=False)
    ] = None,
    rank_by: Annotated[
        str | None,
        typer.Option(metavar="accuracy|balanced", help="what --best and --pareto go by", show_default=False),
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="all that nothing smaller beats, into a folder", show_default=False)
    ] = False,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="of the member; default: first that trained", show_default=False)
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="trained|defended", help="before or after the defence; default: as the run ends", show_default=False
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", metavar="safetensors|pt2|onnx", help="default: by FILE's ending", show_default=False),
    ] = None,
    variant: OneVariant = None,
    partial: Partial = False,
) -> None:
    """Write a trained network as a file of its own."""
    if [hidden is not None, best is not None, pareto].count(True) != 1:
        raise InputError("export: expected one of --hidden, --best and --pareto; name the network in one way")
    if best not in (None, "robust"):
        raise InputError(f"best (={best!r}): expected robust")
    if rank_by is not None and hidden is not None:
        raise InputError("rank_by: expected with --best or --pareto, which rank; leave it out beside --hidden")
    ranked: dict[str, Any] = {"rank_by": rank_by or "accuracy", "partial": partial}
    from atras.analysis import best_robust, export_pareto, notices, source_note, winner_lines
    from atras.analysis import export as write

    results = read_results(run, variant)
    chosen: Format | None = file_format
    member: dict[str, Any] = {"seed": None if seed is None else parse_whole(seed, "seed"), "phase": phase}
    if pareto:
        written = export_pareto(results, out, file_format=chosen or "safetensors", **ranked, **member)
    else:
        candidate = best_robust(results, **ranked) if hidden is None else results.candidate(hidden)
        written = [write(results, candidate, out, file_format=chosen, rank_by=ranked["rank_by"], **member)]
    changed = [] if pareto else list(filter(None, [source_note(candidate)]))
    width = terminal_width()
    winner = [] if hidden is not None else winner_lines(results, rank_by=ranked["rank_by"], width=width)
    first, more = (wrapped(told, width) for told in (notices(results), changed))
    print_lines([*first, *winner, *more, *(f"wrote {path}" for path in written)])


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="folders of runs or of a search; several are compared", show_default=False),
    ],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="PATH", help="file (html, md) or folder (png, svg)", show_default=False),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="html|png|svg|md",
            help="page, images of the charts or Markdown; default: by PATH's ending, else html",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of a run, or of several side by side.

    The page is one file that needs no network; missing parts say which option of the run records them.
    """
    from atras.report import write, write_search
    from atras.search import is_search

    chosen = file_format or _report_format(out)
    if len(runs) == 1 and is_search(runs[0]):
        written = write_search(runs[0], out, chosen)
    else:
        written = write([read_results(run) for run in runs], out, chosen)
    print_lines([f"the report is in {written}"])


def _report_format(out: str | None) -> str:
    """The format that a file's ending asks for."""
    formats = {"": "html", ".html": "html", ".htm": "html", ".md": "md"}
    ending = Path(out or "").suffix.lower()
    if ending not in formats:
        raise InputError(f"out (={out!r}): expected a file that ends in .html or .md; or say --format")
    return formats[ending]
