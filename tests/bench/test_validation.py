"""The scripts of validation in small: without polars, within a budget; what they measure, and the claims' tests."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import claims_tables
import depths
import ensemble
import fast_mnist
import harness
import readings
import widths
from atras.attacks import KL
from atras.networks import Candidate
from atras.training import run_group

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import sys; sys.modules.update(dict.fromkeys(('polars', 'rich', 'typer', 'pydantic')));"
SMALL = ["--device", "cpu", "--train-size", "120", "--test-size", "100", "--seeds", "2", "--epochs", "1"]
SCRIPTS: dict[ModuleType, list[str]] = {
    fast_mnist: ["--light", "--pgd-40"],
    widths: ["--widths", "8,16", "--betas", "1,6", "--steps", "2"],
    depths: ["--depths", "2", "--initialisations", "lecun,he"],
    ensemble: ["--adversarial-epochs", "1"],
}


def images(path: Path) -> str:
    """Ten kinds of noise, as a file."""
    draws = np.random.default_rng(0)
    labels = np.arange(120) % 10
    kinds = draws.integers(0, 256, (10, 8, 8))
    noisy = np.clip(kinds[labels] + draws.normal(0, 40, (120, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=noisy, y_train=labels, x_test=noisy[:100], y_test=labels[:100])
    return str(path)


def test_all_scripts_run_without_polars_and_make_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images(tmp_path / "some.npz")
    words = {
        script.__name__: [*SMALL, *own, "--data", data, "--out", str(tmp_path / f"{script.__name__}.json")]
        for script, own in SCRIPTS.items()
    }
    code = f"{WITHOUT} sys.path.insert(0, 'bench/validation')\nfor name, words in {words}.items():\n"
    code += "    assert __import__(name).main(words) == 0, name"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [tmp_path / f"{name}.json" for name in words]
    found = {path.stem: json.loads(path.read_text()) for path in files}
    assert all(document["complete"] and document["environment"] for document in found.values())
    counted = {"fast_mnist": "pgd-10", "widths": "stability", "depths": "sensitivity", "ensemble": "transferred"}
    counts = {name: sum(row["attack"] == figure for row in found[name]["rows"]) for name, figure in counted.items()}
    # Seeds times: defences; widths and betas; depths and initial weights; candidates and defences.
    assert counts == {"fast_mnist": 2 * 2, "widths": 2 * 4, "depths": 2 * 4, "ensemble": 2 * 4}
    assert claims_tables.main([str(path) for path in files]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {name}" for name in words]
    assert "| from beta 1 to 6 wider networks gain more, or lose less, under PGD |" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_spent_budget_ends_a_script_cleanly(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = [*SMALL, *SCRIPTS[script], "--data", "digits", "--seconds", "0", "--out", str(out)]
    assert script.main(words) == 0
    assert not json.loads(out.read_text())["complete"]
    assert "the budget of 0 s is spent; 0 rows are written" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert widths.main(["--data", str(tmp_path / "none.npz"), "--out", str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_transferred_images_of_oneself_are_the_direct_attack(tmp_path: Path) -> None:
    words = [*SMALL, "--data", "digits", "--seeds", "1", "--out", str(tmp_path / "out.json")]
    asked = ensemble.parse(words)
    protocol = ensemble.protocol_of(asked, ("8", "16"), "none")
    setting = harness.Setting(protocol, harness.execution_of(asked))
    (engine,) = ensemble.finished(asked, setting, harness.Clock(None), ("8", "16"))
    rows = harness.figures_of(run_group(engine, setting.data, engine.protocol.replace(attacks=("fgsm",))))
    direct = {row["hidden_layers"]: row["correct"] for row in rows if row["attack"] == "fgsm"}
    signs = ensemble.signs_of(asked, setting, [engine], "test")
    for name, own in signs.items():
        moved = ensemble.transferred(asked, setting, engine, {name: own}, "none")
        assert {row["hidden_layers"]: row["correct"] for row in moved}[name] == direct[name]


def test_predictions_that_stay_are_counted(tmp_path: Path) -> None:
    asked = widths.parse([*SMALL, "--data", "digits", "--widths", "8", "--out", str(tmp_path / "out.json")])
    protocol = widths.protocol_of(asked, 1)
    setting = harness.Setting(protocol, harness.execution_of(asked))
    (engine,) = setting.engines(protocol)
    run_group(engine, setting.data, protocol)
    assert harness.stay(engine, setting, protocol, KL(epsilon=1e-6, steps=2), 30) == [(100, 100)] * 2
    counts = harness.stay(engine, setting, protocol, KL(epsilon=0.3, steps=5), 100)
    assert all(0 <= count < 100 for count, _ in counts)


def test_sensitivity_of_a_linear_network_is_that_of_its_weights(tmp_path: Path) -> None:
    asked = depths.parse([*SMALL, "--data", "digits", "--depths", "1", "--out", str(tmp_path / "out.json")])
    protocol = depths.protocol_of(asked, "he").replace(candidates=(Candidate([1]),))
    setting = harness.Setting(protocol, harness.execution_of(asked))
    (engine,) = setting.engines(protocol)
    for index in range(2):  # the hidden unit is the first pixel plus 10, which is positive, and so is the first logit
        zeros = {name: torch.zeros_like(values) for name, values in engine.get_parameters(index).items()}
        first, bias, last, _ = zeros.values()
        first[0, 0], bias[0], last[0, 0] = 1, 10, 3
        engine.set_parameters(index, zeros)
    sums = depths.sensitivity(engine, setting, protocol, 0.5, 50)
    # 3 |d| over the length of a direction of 64 pixels: 3 sqrt(2 / pi / 64), and nearly all of the ball's radius; a
    # mean over 100 images is within four standard errors.
    assert [value / 100 for value in sums] == pytest.approx([0.3] * 2, rel=0.3)


def test_commands_in_the_documents_are_accepted() -> None:
    text = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("validation", "protocol"))
    commands = re.findall(r"^python bench/validation/(\w+)\.py (.*)$", text, flags=re.MULTILINE)
    scripts = {script.__name__: script for script in (*SCRIPTS, readings)}
    measuring = [(name, words) for name, words in commands if not name.endswith("_tables")]
    assert {name for name, _ in measuring} == set(scripts)
    for name, words in measuring:
        scripts[name].parse(shlex.split(words))
    assert all((ROOT / "bench" / "validation" / f"{name}.py").exists() for name, _ in commands)


def rows_of(values: dict[int, float], **where: Any) -> list[dict[str, Any]]:
    """A figure of a candidate by seed."""
    return [
        {"hidden_layers": "8-128", "seed": seed, "phase": "defended", "mode": "own", "attack": "fgsm", "n": 100,
         "correct": 100 * value, **where}
        for seed, value in values.items()
    ]  # fmt: skip


def test_claims_are_counted_by_seed() -> None:
    text, mean, share, p = claims_tables.Claim("a claim", [0.1, 0.2, 0.3, 0.2, 0.1]).cells
    assert (text, share, p) == ("a claim", "5 of 5", "0.031")
    assert mean.startswith("0.1800 ± ")
    assert claims_tables.Claim("none", [0.1, -0.1, 0.0]).cells[2:] == ["1 of 3", "0.75"]


def test_slopes_and_means_are_of_each_seed() -> None:
    narrow, wide = {0: 0.5, 1: 0.6}, {0: 0.7, 1: 0.5}
    found = claims_tables.figures([*rows_of(narrow), *rows_of(wide, hidden_layers="16-256")], "fgsm")
    assert claims_tables.slopes(found, claims_tables.first_width) == pytest.approx([0.2, -0.1])
    assert claims_tables.means(found) == pytest.approx([0.6, 0.55])


def test_other_modes_and_label_sources_are_no_figures() -> None:
    rows = [*rows_of({0: 0.5}), *rows_of({1: 0.1}, mode="static"), *rows_of({2: 0.1}, label_source="predicted")]
    assert claims_tables.figures(rows, "fgsm") == {("8-128", 0): 0.5}


def test_images_of_several_networks_count_alike() -> None:
    rows = [*rows_of({0: 0.1}, source="48"), *rows_of({0: 0.9}, source="96")]
    assert claims_tables.figures(rows, "fgsm") == {("8-128", 0): 0.5}
