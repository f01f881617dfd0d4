"""Times of single steps: candidates take turns, the best turn counts, and a busy machine is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import atras
from atras.analysis import measure_steps, measured_steps, step_timing, timing_caution
from atras.cli import commands
from atras.engines import LoopEngine
from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.results import Results, Writer
from made_rows import Rows, table_row

NAMES = ("8", "16", "24")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    protocol = Protocol(candidates=tuple(map(Candidate.parse, NAMES)))
    info = {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": "0"}
    writer = Writer(tmp_path, info | {"model": Spec((1, 8, 8), 10).to_dict()})
    writer.append(Rows(table=[table_row(name) for name in NAMES]))
    return writer.finish({})


def take(turns: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every candidate's turns take so long; the order of the turns."""
    order: list[str] = []

    def timed(engine: LoopEngine, *_: object) -> float:
        name = engine.members[0].candidate.name
        order.append(name)
        return turns[name][order.count(name) - 1]

    monkeypatch.setattr(step_timing, "_median_step", timed)
    return order


def test_candidates_take_turns_and_the_fastest_turn_counts(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    order = take({"8": [64, 2, 2, 2, 2], "16": [3, 3, 3.1, 3, 3], "24": [4, 4, 4, 4, 4]}, monkeypatch)
    assert measure_steps(results) == {"8": 2, "16": 3, "24": 4}
    assert order == [*NAMES] * 5
    assert measured_steps(results) == {"8": 2, "16": 3, "24": 4}
    assert timing_caution(results) == ""  # one candidate was disturbed once


def test_a_batch_has_no_more_images_than_were_trained_on(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(step_timing, "_median_step", lambda _, images, *__: sizes.append(len(images)) or 1.0)
    results.run["protocol"] |= {"batch_size": 10**6}
    results.run["data"] = {"train_size": 60}
    measure_steps(results)
    assert set(sizes) == {60}


def test_a_busy_machine_is_told_beside_the_claims(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    take({"8": [9, 2, 2, 2, 2], "16": [3, 3, 9, 3, 3], "24": [4, 4, 4, 4, 4]}, monkeypatch)
    measure_steps(results)
    told = timing_caution(results)
    assert told.startswith(
        "step times: the machine was busy: turns of one network differ by a factor of 3.0 (up to 4.5)"
    )
    assert "the machine was busy" in "\n".join(commands.claims_lines(atras.read(str(results.directory))))
