"""The paper read every way: the figures of a run, a budget that is kept, readings chosen by their distance, tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import readings
import readings_tables
from atras.experiment import Protocol
from atras.networks import k_complete
from atras.running.prepare import make_spec
from atras.training import run_group
from harness import Setting, engines_for
from paper_rows import COLUMNS, distances, paper_rows

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import sys; sys.modules.update(dict.fromkeys(('polars', 'rich', 'typer', 'pydantic')));"
TINY = ["--data", "digits", "--device", "cpu", "--train-size", "200", "--test-size", "100", "--epochs", "2"]


def test_a_reading_has_the_figures_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "readings.json"
    asked = readings.parse([*TINY, "--every", "13", "--epsilons", "0.05,0.1", "--out", str(out)])
    bench = readings.Bench(asked)
    job = readings.Job("confirm", "units", "tanh", 0.5, (1e-2, 3e-3), (3,), (0.05, 0.1))
    rows = [row for some in bench.measured(job) for row in some]
    for rate, epsilon in ((1e-2, 0.05), (3e-3, 0.1)):
        protocol = bench.protocol.replace(
            candidates=k_complete()[::13], seeds=(3,), learning_rate=rate, epsilon=epsilon, activation="tanh",
            head_dropout=0.5,
        )  # fmt: skip
        spec = make_spec(protocol, bench.setting.data.image_shape, 10)
        (engine,) = engines_for(spec, protocol.members, protocol, bench.setting.device)
        table = run_group(engine, bench.setting.data, protocol).table
        own = [row for row in rows if (row["learning_rate"], row["epsilon"]) == (rate, epsilon)]
        names = [*COLUMNS[:-1], "attacked_accuracy_after_static"]
        expected = [[each[name] for name in ("hidden_layers", *names)] for each in table]
        assert [[row[name] for name in ("hidden_layers", *COLUMNS)] for row in own] == expected
        assert all(row["attacked_by_epsilon"][f"{epsilon:g}"] == row["attacked_accuracy_before"] for row in own)


def test_all_parts_run_without_polars_and_make_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "some.npz", tmp_path / "readings.json"
    images, labels = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8), np.arange(200) % 10
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = [*TINY, "--data", str(data), "--every", "13", "--rates", "1e-3,1e-2", "--epsilons", "0.04"]
    words += ["--activations", "relu,sigmoid", "--confirmed", "1", "--filters-cost", "3", "--out", str(out)]
    code = f"{WITHOUT} sys.path.insert(0, 'bench/validation'); import readings; sys.exit(readings.main({words}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["complete"]
    screened = [row for row in found["rows"] if row["part"] == "screen"]
    assert len(screened) == 4 * 2 * 2 * 2  # candidates, activations, rates, dropouts
    assert {row["nodes"] for row in found["rows"] if row["part"] == "filters"} == {"filters"}
    assert {row["seed"] for row in found["rows"] if row["part"] == "confirm"} == {1, 2}
    assert readings_tables.main([str(out)]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## screen", "## confirm", "## filters"]
    assert "| units | sigmoid | 0.01 | 0.5 | 0.04 |" in text


def test_a_spent_budget_begins_nothing_and_leaves_a_file(tmp_path: Path) -> None:
    out = tmp_path / "readings.json"
    assert readings.main([*TINY, "--every", "39", "--seconds", "0", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (found["rows"], found["complete"]) == ([], False)


def test_a_budget_that_ends_in_a_job_stops_it(tmp_path: Path) -> None:
    asked = readings.parse([*TINY, "--every", "39", "--seconds", "0", "--out", str(tmp_path / "readings.json")])
    bench = readings.Bench(asked)
    with pytest.raises(readings.StoppedError):
        next(bench.measured(readings.screen(asked)[0]))


def reading(activation: str, shift: float, alive: bool) -> list[dict[str, Any]]:
    """Rows that are the paper's but for a shift, and for dead rows that live."""
    common = {"part": "screen", "nodes": "units", "activation": activation, "dropout": 0.0, "learning_rate": 1e-3}
    rows = []
    for name, own in paper_rows("mnist").items():
        dead = own[0] < 0.2 and not alive
        values = [0.95 if own[0] < 0.2 and alive else value + shift for value in own]
        rows.append({**common, "hidden_layers": name, **dict(zip(COLUMNS, values, strict=True)),
                     "dead_before": dead, "dead_after": dead})  # fmt: skip
    return rows


def test_the_nearest_by_live_rows_and_by_all_rows_are_confirmed(tmp_path: Path) -> None:
    asked = readings.parse(["--confirmed", "1", "--out", str(tmp_path / "readings.json")])
    rows = [*reading("relu", 0.01, True), *reading("tanh", 0.02, False), *reading("sigmoid", 0.1, True)]
    assert distances(rows[:40], "mnist") == pytest.approx([0.01] * 6)
    assert distances(rows[40:80], "mnist", whole=True) == pytest.approx([0.02] * 6)
    jobs = readings.confirm(asked, rows)
    assert [(job.activation, job.seeds, job.epsilons) for job in jobs] == [
        ("relu", (1, 2), (0.03, 0.04, 0.05)), ("tanh", (1, 2), (0.03, 0.04, 0.05)),
    ]  # fmt: skip


def test_nothing_gets_nearer_by_diverging() -> None:
    near, far = reading("relu", 0.01, True), reading("tanh", 0.5, True)
    for row in far[5:]:
        row.update(dict.fromkeys(COLUMNS))
    ours, theirs = distances(near, "mnist"), distances(far, "mnist")
    assert ours is not None
    assert theirs is not None
    assert min(theirs) > max(ours)
    rows = [{**row, "learning_rate": 1e-3, "epsilon": 0.04, "seed": 0} for row in far]
    lines = readings_tables.dead_table(readings_tables.by_reading(rows, "screen"), "mnist").splitlines()
    assert lines[-1].endswith("| 35 |")


def test_a_column_of_one_value_has_no_rank_correlation() -> None:
    rows = [
        {**row, "learning_rate": 1e-3, "epsilon": 0.04, "seed": seed}
        for seed in (0, 1)
        for row in reading("relu", 0.01, True)
    ]
    for row in rows[40:]:
        row["adversarial_train_accuracy"] = 1.0
    lines = readings_tables.rank_table(readings_tables.by_reading(rows, "screen"), "mnist").splitlines()
    assert lines[2:] == [
        "| units | relu | 0.001 | 0 | 0.04 | 1.00, 1.00 | 1.00, 1.00 | 1.00, 1.00 | 1.00, - | 1.00, 1.00 | 1.00, 1.00 |"
    ]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert readings.main(["--data", str(tmp_path / "none.npz"), "--out", str(tmp_path / "readings.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_networks_that_fused_has_not_are_stacked_or_alone() -> None:
    protocol = Protocol(
        dataset="digits", train_size=50, test_size=50, candidates=("8", "16-d0.5", "8-8-d0.5"), seeds=(0, 1)
    )
    from atras.experiment import Execution

    setting = Setting(protocol, Execution(device="cpu"))
    spec = make_spec(protocol, setting.data.image_shape, 10)
    made = [
        (engine.name, len(engine.members)) for engine in engines_for(spec, protocol.members, protocol, setting.device)
    ]
    assert made == [("fused", 2), ("stack", 2), ("stack", 2)]
    made = list(engines_for(spec, protocol.members[2:3], protocol.replace(precision="fp32"), setting.device))
    assert [engine.name for engine in made] == ["loop"]


def test_a_job_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = readings.Course.train

    def failing(self: Any, *args: Any) -> None:
        if self.protocol.activation == "sigmoid":
            raise RuntimeError("no such kernel")
        made(self, *args)

    monkeypatch.setattr(readings.Course, "train", failing)
    out = tmp_path / "readings.json"
    words = [*TINY, "--every", "39", "--part", "screen", "--activations", "sigmoid,tanh", "--dropouts", "0"]
    assert readings.main([*words, "--rates", "1e-3", "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert {row["activation"] for row in found["rows"]} == {"tanh"}
    assert len(found["failed"]) == 1
    assert not found["complete"]
