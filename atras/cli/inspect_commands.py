"""The commands that show what runs there are and what stands in one, and make one run of its parts. Like `cli`, this
imports torch and polars late."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atras.errors import InputError, printable, wrapped
from atras.rounding import counted

from .commands import Folder, Json, OneVariant
from .output import print_lines, print_text, read_results, terminal_width


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
        print_lines(list_lines(found, terminal_width()) or [f"no runs in {folder}"])


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
        width = terminal_width()
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
    told = [f"{counted(len(results.table), 'member')} of {counted(len(parts), 'part')} in {out}", *more]
    print_lines(told)


def list_lines(found: list[dict[str, Any]], width: int = 80) -> list[str]:
    """Runs as plain text: a line each, two where their folders find no room, and one more for what is wrong with one.

    Args:
        found: as `recorded_runs` has them.
        width: columns of the terminal, at least 60.
    """
    if not found:
        return []
    rows = [("began (UTC)", "status", "networks", "data"), *(_cells(each) for each in found if not each["trouble"])]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heads = [f"{row[0]:<{sizes[0]}} {row[1]:<{sizes[1]}} {row[2]:>{sizes[2]}} {row[3]:<{sizes[3]}}" for row in rows]
    names = {printable(each["folder"]) for each in found if not each["trouble"]}
    beside = len(heads[0]) + 1 + max(map(len, names), default=0) <= width
    lines, rest = [f"{heads[0]} folder" if beside else f"{heads[0].rstrip()}, folder"], iter(heads[1:])
    for each in found:
        name = printable(each["folder"])
        if each["trouble"]:
            lines += [name, *wrapped([f"  {printable(each['trouble'])}"], width)]
        else:
            lines += [f"{next(rest)} {name}"] if beside else [next(rest).rstrip(), f"  {name}"]
    return lines


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    """When a run began, its status, how many networks it has, and on which data."""
    counts = [each["candidates"], each["seeds"], *([each["variants"]] if each["variants"] > 1 else [])]
    data = printable(each["dataset"])
    shown = data if len(data) <= 20 else f"...{data[-17:]}"
    return (each["began"] or "")[:16].replace("T", " "), each["status"], " x ".join(map(str, counts)), shown
