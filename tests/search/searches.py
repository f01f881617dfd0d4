"""Searches that the tests of this folder share."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running.progress import Reporter
from atras.storage import checksum

SPACE = tuple(Candidate((width,)) for width in (4, 6, 8, 10, 12, 14))


PROTOCOL = Protocol(candidates=SPACE, epochs=8, adversarial_epochs=4, train_size=200, test_size=100)


CPU = Execution(device="cpu", engine="stack")


class Killed(BaseException):
    """Ends a process in the midst of its work."""


def told() -> tuple[list[str], type[Reporter]]:
    lines: list[str] = []

    class Teller(Reporter):
        def note(self, message: str) -> None:
            lines.append(message)

    return lines, Teller


def change(folder: Path, **values: Any) -> None:
    path = folder / "search.json"
    path.write_bytes(checksum.json_with_checksum(json.loads(path.read_text()) | values))


def replace_writes(patch: pytest.MonkeyPatch, write: Callable[..., None]) -> None:
    """Have another function write whatever a search and its runs write."""
    for module in ("search.search", "search.holdout", "search.halving", "results.writer", "training.weights"):
        patch.setattr(importlib.import_module(f"atras.{module}"), "write_file", write)
