"""docs/architecture.md: its table names every package, and its recipe for an attack works word for word."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def test_the_table_of_rooms_names_them_all() -> None:
    rows = [line.split("|") for line in PAGE.partition("## Rooms")[2].partition("\n## ")[0].splitlines()]
    named = set(re.findall(r"`(\w+)`", "".join(row[1] for row in rows if len(row) > 3)))
    paths = (ROOT / "atras").iterdir()
    there = {path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__", "batched"} <= named


def run_in(folder: Path, *arguments: str) -> str:
    """What a Python program prints that sees the copy of atras in a folder before any other."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_recipe_add_an_attack_works_word_for_word(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "atras", tmp_path / "atras", ignore=shutil.ignore_patterns("__pycache__"))
    if str(tmp_path) not in run_in(tmp_path, "-c", "import atras; print(atras.__file__)"):
        pytest.skip("an editable install hides every copy of atras; .ci/run installs it as users do")
    code, line = blocks("Add an attack", "python")
    (tmp_path / "atras" / "attacks" / "darken.py").write_text(code)
    registry = tmp_path / "atras" / "attacks" / "registry.py"
    before = registry.read_text()
    registry.write_text(before.replace("    },\n    base=Attack", f"{line}    }},\n    base=Attack"))
    assert registry.read_text() != before
    (commands,) = blocks("Add an attack", "sh")
    for command in map(shlex.split, commands.strip().splitlines()):
        run_in(tmp_path, *(command[1:] if command[0] == "python" else ["-m", *command]))
    assert "darken(times=2.0)" in (tmp_path / "dark.html").read_text()
    assert "darken" in run_in(tmp_path, "-m", "atras.batched", "--help")


def test_the_margin_of_the_page_is_the_gradient_it_says() -> None:
    (code,) = blocks("The cotangent", "python")
    namespace: dict[str, object] = {}
    exec(code, namespace)  # noqa: S102 (our own page)
    logits = torch.randn(2, 5, 4, requires_grad=True, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = logits.topk(2).values
    (expected,) = torch.autograd.grad((top[..., 1] - top[..., 0]).sum(), logits)
    torch.testing.assert_close(namespace["margin"](logits.detach()), expected)  # type: ignore[operator]
