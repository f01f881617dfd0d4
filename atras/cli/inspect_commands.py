"""The commands that show what runs there are and what stands in one, and make one run of its parts. Like `cli`, this
imports torch and polars late."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from atras.errors import InputError, printable

from .commands import Folder, Json, OneVariant
from .output import print_lines, print_text, read_results


def list_runs(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="where runs lie", show_default=False)] = "runs",
    as_json: Json = False,
) -> None:
    """Show the runs in a folder, the latest first."""
    from atras.analysis import json_text, recorded_runs

    found = recorded_runs(folder)
    if as_json:
        print_text(json_text(found))
    else:
        print_lines(list_lines(found) or [f"no runs in {folder}"])


def show(
    run: Folder,
    frame: Annotated[
        str | None,
        typer.Option("--csv", metavar="FRAME", help="one of its frames as CSV, such as metrics", show_default=False),
    ] = None,
    variant: OneVariant = None,
    as_json: Json = False,
) -> None:
    """Show a run's table and cautions, as at its end."""
    from atras.analysis import caution_lines, frame_csv, json_text, run_data, summary_lines
    from atras.search import is_search, rank_by_of

    if as_json and frame is not None:
        raise InputError("json and csv exclude each other: a run as JSON, or one of its frames as CSV")
    results = read_results(run, variant)
    if frame is not None:
        print_text(frame_csv(results, frame))
    elif as_json:
        print_text(json_text(run_data(results)))
    else:
        width = shutil.get_terminal_size().columns
        rank_by = rank_by_of(run) if is_search(run) else "accuracy"
        print_lines([*summary_lines(results, width, rank_by=rank_by), *caution_lines(results, width)])


def merge(
    parts: Annotated[
        list[str], typer.Argument(metavar="PART...", help="folders of a run's shards", show_default=False)
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="folder of the whole run", show_default=False)],
    partial: Annotated[
        bool, typer.Option("--partial", help="also with shards missing or not done", show_default=False)
    ] = False,
) -> None:
    """Make one run of the parts that --shard computed."""
    from atras.running import merge as join

    results = join(parts, out, partial=partial)
    left = results.missing()
    more = [f"{left}; go on with --resume {out}"] if left else []
    print_lines([f"{len(results.table)} members of {len(parts)} parts are in {out}", *more])


def list_lines(found: list[dict[str, Any]]) -> list[str]:
    """Runs as plain text: a line each, and one more for what is wrong with it."""
    lines = []
    for each in found:
        name = printable(each["folder"])
        if each["trouble"]:
            lines += [f"{name}", f"  {printable(each['trouble'])}"]
            continue
        counts = [each["candidates"], each["seeds"], *([each["variants"]] if each["variants"] > 1 else [])]
        size = " x ".join(map(str, counts))
        began = (each["began"] or "")[:16].replace("T", " ")
        lines.append(f"{began:<16} {each['status']:<11} {size:>8} {printable(each['dataset'])[-20:]:<20} {name}")
    return [f"{'began (UTC)':<16} {'status':<11} {'networks':>8} {'data':<20} folder", *lines] if lines else []
