"""The oldest versions that the package accepts, which CI runs the tests with."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def oldest(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / ".ci" / "oldest"], capture_output=True, text=True)


def test_everything_that_is_needed_has_an_oldest_version() -> None:
    run = oldest(ROOT)
    assert run.returncode == 0, run.stderr
    found = dict(line.partition(";")[0].strip().split("==") for line in run.stdout.splitlines())
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    needed = [*settings["build-system"]["requires"], *project["dependencies"]]
    needed += [text for texts in project["optional-dependencies"].values() for text in texts]
    assert found == dict(text.partition(";")[0].split(">=") for text in needed)


@pytest.mark.parametrize("text", ["numpy", "numpy<3", "numpy==2.0"])
def test_a_dependency_without_a_lower_bound_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "oldest").write_bytes((ROOT / ".ci" / "oldest").read_bytes())
    (tmp_path / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\n[project]\ndependencies = ["rich>=13.8", "{text}"]\n'
    )
    run = oldest(tmp_path)
    assert run.returncode == 1
    assert f"expected one lower bound (>=) in '{text}'" in run.stderr
