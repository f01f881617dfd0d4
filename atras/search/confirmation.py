"""The winner of a run on fresh seeds: the best of many is best also by luck, and seeds that chose nothing tell what it
is worth. It is an ordinary run in the folder `confirm` below the run's; run.json of the run has its figures too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atras import running
from atras.analysis import confirmed_record, to_confirm
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.results import Results, read, read_run, run_json
from atras.rounding import counted
from atras.running import Reporter
from atras.storage import Lock, write_file

FOLDER = "confirm"


def confirm(
    results: Results,
    seeds: Sequence[int] | None = None,
    execution: Execution | None = None,
    *,
    rank_by: str = "accuracy",
    reporter: Reporter | None = None,
    stop: running.Stop | None = None,
    place: running.DataPlace | None = None,
    executor: running.Executor | None = None,
) -> Results:
    """Measure the first network of a run, and those not told apart from it, on fresh seeds.

    At most five networks are measured, as the run measured them (without a transfer). One that was interrupted goes on.
    Of a run with axes a network is a candidate in a variant; the fresh run has these alone.

    Args:
        results: a finished run in a folder.
        seeds: none of the run's; None for those that the run was begun with (`confirm_seeds`).
        execution: where and how; None for the recorded one.
        rank_by: what the first one is first by: `accuracy`, or `balanced` for its mean over classes.
        reporter, stop, place, executor: as `running.run`.

    Returns:
        The run, with what the fresh seeds say under `confirmed` in its record; as it was where no network trained.

    Raises:
        InputError: if the run is not finished, the seeds are not fresh or others than before, and as `running.run`.
        Interrupted: as `running.run`; called again, it goes on.
    """
    folder, protocol, before = _recorded(results)
    asked = tuple(results.run.get("confirm_seeds", ()) if seeds is None else seeds)
    if not asked:
        raise InputError("confirm_seeds: expected fresh seeds, got none; write for example 5-9")
    running.check_fresh(protocol, asked, folder, results.run.get("shard"))
    _check_same_seeds(folder, asked)
    if results.run.get("confirmed"):
        return results
    names = to_confirm(results, rank_by)
    if not names:
        return results
    if results.run.get("confirm_seeds") != list(asked):
        results = _note(folder, {"confirm_seeds": list(asked)})
    reporter = reporter or Reporter()
    reporter.note(f"confirming on {counted(len(asked), 'fresh seed')}: {', '.join(names)}")
    there = folder / FOLDER
    arguments: Any = {"reporter": reporter, "stop": stop, "place": place, "executor": executor}
    if (there / "run.json").exists():
        fresh = running.resume(there, None, execution or before, **arguments)
    else:
        plan = running.confirming(protocol, names, asked)
        fresh = running.run(plan, execution or before, out=there, **arguments)
    return _note(folder, {"confirmed": {"folder": FOLDER, **confirmed_record(results, fresh, rank_by)}})


def seeds_to_confirm(results: Results) -> tuple[int, ...]:
    """The fresh seeds that a run was begun with and has not been measured on yet."""
    return () if results.run.get("confirmed") else tuple(results.run.get("confirm_seeds", ()))


def _recorded(results: Results) -> tuple[Path, Protocol, Execution]:
    """A finished run's folder, protocol and execution."""
    if results.directory is None:
        raise InputError("results: expected a run in a folder, got one in memory; run with out")
    if results.missing():
        raise InputError(f"{results.directory}: expected a finished run, {results.missing()}; go on with --resume")
    loaded = running.recorded(results.directory)
    return results.directory, Protocol(**loaded.protocol_fields), Execution(**loaded.execution_fields)


def _check_same_seeds(folder: Path, asked: Sequence[int]) -> None:
    """Refuse to draw fresh seeds a second time: the better of two draws is luck again."""
    path = folder / FOLDER
    if (path / "run.json").exists():
        drawn = read_run(path)["protocol"]["seeds"]
        if list(drawn) != list(asked):
            shown = ",".join(map(str, drawn))
            raise InputError(
                f"confirm_seeds (={','.join(map(str, asked))}): the run is being confirmed on {shown}, and the better "
                f"of two draws is luck again; say --confirm-seeds {shown}, or nothing"
            )


def _note(folder: Path, values: dict[str, object]) -> Results:
    """Put values into a finished run's record."""
    lock = Lock(folder)
    try:
        run = read_run(folder) | values
        write_file(folder / "run.json", [run_json(run)])
    finally:
        lock.release()
    return read(folder)
