"""The commands that ask something of finished runs. Like `cli`, this imports torch and polars late."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atras.errors import InputError
from atras.experiment import parse_whole

from .output import print_lines, print_text, read_results

if TYPE_CHECKING:
    from atras.analysis import Claim, PaperName
    from atras.results import Results

Partial = Annotated[
    bool, typer.Option("--partial", help="also of a run with groups missing, of what is there", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="as JSON, for scripts", show_default=False)]
Folder = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder", show_default=False)]


def claims(
    run: Folder,
    measure: Annotated[
        bool, typer.Option("--measure", help="time a training step of each candidate first", show_default=False)
    ] = False,
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Hold the paper's claims against its own tables and against a run."""
    from atras.analysis import claims_data, json_text, measure_steps, require_whole, why_no_claims

    results = read_results(run)
    require_whole(results, partial)
    none = why_no_claims(results)
    if measure and not none:
        measure_steps(results)
    if as_json:
        print_text(json_text(claims_data(results)))
    elif none:
        print_lines([none])
    else:
        print_lines(claims_lines(results))


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="a run's folder", show_default=False)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="another one", show_default=False)],
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Show what the members that two runs share gained or lost from one to the other."""
    from atras.analysis import compare_lines, comparison_data, json_text

    a, b = read_results(run_a), read_results(run_b)
    if as_json:
        print_text(json_text(comparison_data(a, b, partial=partial)))
    else:
        print_lines(compare_lines(a, b, partial=partial))


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
    from atras.analysis import Format, best_robust, export_pareto, notices
    from atras.analysis import export as write

    results = read_results(run)
    chosen: Format | None = file_format
    member: dict[str, Any] = {"seed": None if seed is None else parse_whole(seed, "seed"), "phase": phase}
    if pareto:
        written = export_pareto(results, out, file_format=chosen or "safetensors", **ranked, **member)
    else:
        candidate = best_robust(results, **ranked) if hidden is None else results.candidate(hidden)
        written = [write(results, candidate, out, file_format=chosen, **member)]
    print_lines([*notices(results), *(f"wrote {path}" for path in written)])


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="folders of runs; several are compared", show_default=False)
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
    from atras.report import write

    chosen = file_format or _report_format(out)
    print_lines([f"the report is in {write([read_results(run) for run in runs], out, chosen)}"])


def _report_format(out: str | None) -> str:
    """The format that a file's ending asks for."""
    formats = {"": "html", ".html": "html", ".htm": "html", ".md": "md"}
    ending = Path(out or "").suffix.lower()
    if ending not in formats:
        raise InputError(f"out (={out!r}): expected a file that ends in .html or .md; or say --format")
    return formats[ending]


def claims_lines(results: Results) -> list[str]:
    """The claims, the paper's text against its tables, and every row that contradicts it; within 80 columns."""
    from atras.analysis import PAPER_NAMES, notices, text_against_tables, timing_caution
    from atras.analysis import claims as evaluate

    tables = zip(*(evaluate(results, dataset, partial=True) for dataset in PAPER_NAMES), strict=True)
    lines = [f"the paper's claims on {_short(str(results.directory or results.dataset))}", ""]
    lines += [
        row
        for line in filter(None, [*notices(results), timing_caution(results)])
        for row in [*textwrap.wrap(line, 80), ""]
    ]
    for claim, of_tables in zip(evaluate(results, partial=True), tables, strict=True):
        lines += _claim_lines(claim, dict(zip(PAPER_NAMES, of_tables, strict=True)))
    lines += ["the paper's text against its own tables (accuracies in points)"]
    lines += [f"{'':<37} {'mnist':>20} {'cifar10':>20}", f"{'':<37}" + f" {'text':>10} {'tables':>9}" * 2]
    for (statement,), part in text_against_tables().group_by("statement", maintain_order=True):
        scale = 100.0 if "mean" in str(statement) else 1.0
        cells = [_number(value, scale) for row in part.select("stated", "tables").rows() for value in row]
        lines.append(f"{statement:<37} {cells[0]:>10} {cells[1]:>9} {cells[2]:>10} {cells[3]:>9}")
    return [*lines, "", *_row_lines(results)]


def _claim_lines(claim: Claim, of_tables: dict[PaperName, Claim]) -> list[str]:
    """A claim's verdict on the run, below it what the paper states and its own tables say."""
    ours = "-" if claim.ours is None else f"{claim.ours:+.4f}"
    if claim.low is not None and claim.high is not None:
        ours += f" [{claim.low:+.4f}, {claim.high:+.4f}]"
    lines = [f"{claim.name:<69} {claim.verdict:>10}"]
    for dataset, other in of_tables.items():
        if other.paper_figure is not None:
            lines.append(f"  {dataset}: {other.stated}; by its table: {other.paper_figure:+.4f}, {other.paper_verdict}")
    lines += [f"  paper: {claim.stated}"] if len(lines) == 1 else []
    text = textwrap.wrap(claim.text, 78, initial_indent="  ", subsequent_indent="  ")
    return [*lines, f"  ours: {ours}", *text, ""]


def _row_lines(results: Results) -> list[str]:
    from atras.analysis import row_by_row

    lines = [
        "row by row: recovery, in points; l lost accuracy, c one class (chance),",
        "a more accurate on the old adversarial images than on clean ones, d diverged",
        f"{'':<28} {'paper mnist':>12} {'paper cifar10':>13} {'here static':>13} {'white-box':>9}",
    ]
    for row in row_by_row(results).iter_rows(named=True):
        name = row["hidden_layers"]
        cells = [
            f"{_number(row[column], 100):>{width}} {_marks(row[flags]):<2}"
            for column, flags, width in (("mnist", "mnist_flags", 9), ("cifar10", "cifar10_flags", 10))
        ]
        here = f"{_number(row['recovery_static'], 100):>10} {_marks(row['flags']):<2}"
        lines += [name] if len(name) > 28 else []
        shown = name if len(name) <= 28 else ""
        lines.append(f"{shown:<28} {cells[0]} {cells[1]} {here} {_number(row['recovery_white_box'], 100):>9}".rstrip())
    return lines


def _number(value: float | None, scale: float) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if scale == 1 else f"{scale * value:+.2f}"


def _marks(flags: str | None) -> str:
    return "".join(flag[0] for flag in (flags or "").split())


def _short(name: str) -> str:
    return name if len(name) <= 50 else f"...{name[-47:]}"
