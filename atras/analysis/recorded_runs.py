"""What runs and searches a folder holds, from their records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atras.checks import schema
from atras.errors import InputError
from atras.experiment import MAX_BYTES, recorded_axes
from atras.storage import SEARCH, expanded, read_regular

KINDS = {"run.json": "run", SEARCH: "search"}
"""What the file with its record makes of a folder."""


def recorded_runs(folder: str | Path) -> list[dict[str, Any]]:
    """The runs directly inside a folder, or that it is itself, the latest first.

    Args:
        folder: such as `runs`.

    Returns:
        Of each `folder`, `kind` (run or search), `status`, `dataset`, `candidates` and `seeds` (how many), `attacks`,
        `began` (UTC), `version` and `trouble`: why it cannot be read, empty where it can.

    Raises:
        InputError: if the folder cannot be read.
    """
    folder = expanded(folder)
    try:
        inside = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    except OSError as error:
        raise InputError(f"{folder}: expected a folder of runs: {error.strerror or error}; name another") from None
    found = [_record(path, name) for path in inside for name in KINDS if (path / name).exists()]
    return sorted(found, key=lambda each: each["began"] or "", reverse=True)


def _first_round(folder: Path) -> dict[str, Any]:
    """The record of a search's first round; empty where that has not begun."""
    path = folder / "round-1" / "run.json"
    return json.loads(read_regular(path, MAX_BYTES)) if path.exists() else {}


def _record(folder: Path, name: str) -> dict[str, Any]:
    """What a record says of its run; of one that cannot be read, why."""
    row: dict[str, Any] = dict.fromkeys(
        ("status", "dataset", "candidates", "seeds", "variants", "attacks", "began", "version")
    )
    row = {"folder": str(folder), "kind": KINDS[name], **row, "trouble": ""}
    try:
        content = json.loads(read_regular(folder / name, MAX_BYTES))
        schema(content)
        protocol = content["protocol"]
        # A search began with its first round.
        sessions = content if KINDS[name] == "run" else _first_round(folder)
        began = [str(session["began"]) for session in sessions.get("sessions", ())[:1]]
        return {
            **row,
            "status": str(content["status"]),
            "dataset": str(protocol["dataset"]),
            "candidates": len(protocol["candidates"]),
            "seeds": len(protocol["seeds"]),
            "variants": len(recorded_axes(protocol)),
            "attacks": [str(attack) for attack in protocol.get("attacks", ())],
            "began": began[0] if began else None,
            "version": str(content["version"]),
        }
    except InputError as error:
        return {**row, "trouble": str(error)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {**row, "trouble": f"damaged: {type(error).__name__}"}
