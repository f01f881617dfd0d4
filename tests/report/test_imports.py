"""What the parts of the report know of one another."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import atras.report

ROOT = Path(atras.report.__file__).parent


def imported(file: Path) -> set[str]:
    """Modules that a file imports, inside functions too; relative ones by their full name."""
    package = ["atras", "report", *file.parent.relative_to(ROOT).parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, node.module] if node.module else base))
    return {name for name in names if name.startswith("atras.report")}


def test_charts_know_only_charts() -> None:
    for file in (ROOT / "charts").glob("*.py"):
        assert all(name.startswith("atras.report.charts") for name in imported(file)), file


def test_sections_know_charts_helpers_and_the_value_of_a_section() -> None:
    helpers = {"attack_names", "attack_rows", "bounds", "depth_charts", "population"}
    allowed = {"atras.report.section", "atras.report.charts", *(f"atras.report.sections.{name}" for name in helpers)}
    for file in (ROOT / "sections").glob("*.py"):
        assert imported(file) <= allowed, file


@pytest.mark.parametrize("file", ["page.py", "markdown.py", "files.py"])
def test_formats_know_no_section_by_name(file: str) -> None:
    assert not {name for name in imported(ROOT / file) if name.startswith("atras.report.sections")}


@pytest.mark.parametrize("package", ["atras.report", "atras.report.charts", "atras.report.sections"])
def test_packages_have_what_they_export(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
