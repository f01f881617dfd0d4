"""The reader's documents agree with the code. `python -m tests.test_docs` rewrites what is generated."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from functools import cache
from pathlib import Path

import pytest
import typer
from torch import nn

from atras.cli import run_app
from atras.cli.describe import describe_options
from atras.data import load
from atras.experiment import Loaded, combine, load_config
from atras.results.schemas import describe_schemas
from atras.version import __version__

ROOT = Path(__file__).resolve().parents[1]
BENCHES = ("peers", "attacks", "auto_attack", "scale", "executors", "gpu_first_run", "gpu_launches", "robust_training")
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GENERATED = {
    "results.md": ("from atras.results.schemas. -->\n", describe_schemas),
    "options.md": ("from the table of options. -->\n", describe_options),
}
"""Documents in docs/ whose end is generated: the end of the line above that part, and what makes it."""
EXAMPLE = "darken"
"""An attack that docs/architecture.md adds step by step; tests/test_architecture.py takes the steps."""

FOLDERS = ("atras", "kernels", "bench", "tests", "docs", ".ci", ".github")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(document), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every line of a shell block that runs atras, without its set-up."""
    lines = [line for document in DOCUMENTS for block in blocks(document, "sh") for line in block.splitlines()]
    return [line.partition("python -m atras.batched")[2].strip() for line in lines if runs_atras(line)]


def runs_atras(line: str) -> bool:
    """Whether a line of a shell block calls atras as it is."""
    return "-m atras.batched" in line and EXAMPLE not in line


def renewed(document: str) -> str:
    """A page of docs/ with the part below its mark generated anew."""
    mark, describe = GENERATED[document]
    head, found, _ = text_of(f"docs/{document}").partition(mark)
    assert found, f"docs/{document}: no line that ends in {mark!r}"
    return f"{head}{mark}\n{describe()}"


def anchor(heading: str) -> str:
    """The name GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def help_text() -> str:
    wide = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
    others = (
        ["-m", "atras", *command]
        for command in ([], ["attack"], ["claims"], ["compare"], ["export"], ["list"], ["merge"], ["report"], ["show"])
    )
    benches = ([f"bench/{name}.py"] for name in BENCHES)
    programs = (["-m", "atras.batched"], *benches, *others)
    commands = [[sys.executable, *program, "--help"] for program in programs]
    options = {"cwd": ROOT, "env": wide, "capture_output": True, "text": True, "check": True}
    return "".join(subprocess.run(command, **options).stdout for command in commands)  # type: ignore[call-overload]


@pytest.mark.parametrize("document", GENERATED)
def test_frames_and_options_are_described_as_they_are(document: str) -> None:
    page = text_of(f"docs/{document}")
    assert page == renewed(document), f"docs/{document} is out of date: run `python -m tests.test_docs`"


def test_every_option_of_every_attack_and_defence_is_explained() -> None:
    rows = [line for line in text_of("docs/options.md").splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_named_in_a_document_exist(document: str) -> None:
    # Lines that call other programs have options of theirs (those of bench/validation: tests/bench).
    other = re.compile(
        r"\b(pip|asv|ruff|pytest|SBATCH|ray start|ray get-auth-token|tensorboard --logdir|validation/\w+\.py)\b"
    )
    lines = [line for line in text_of(document).splitlines() if not other.search(line)]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", "\n".join(lines)))
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", help_text()))
    assert named <= known


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_documents_are_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (configuration,) = blocks("README.md", "toml")
    Path("run.toml").write_text(configuration)
    Path("mine.py").write_text(blocks("docs/own_networks.md", "python")[0])
    settings = typer.main.get_command(run_app).make_context("atras", shlex.split(line)).params
    file = settings.pop("config")
    combine(load_config(file) if file else Loaded(), {name: value for name, value in settings.items() if value})


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, example = blocks("README.md", "python")
    test = load("digits", test_size=4).test
    names: dict[str, object] = {
        "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "images": test.images,
        "labels": test.labels,
    }
    exec(compile(first, "README.md", "exec"), names)  # noqa: S102
    assert names["found"].frame["attack"].to_list()[:2] == ["none", "fgsm"]  # type: ignore[attr-defined]
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    assert (tmp_path / "runs" / "small" / "table.csv").is_file()
    assert names["again"].table.equals(names["results"].table)  # type: ignore[attr-defined]


def test_the_examples_of_own_networks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", types.ModuleType("mine"))  # which is put back afterwards
    del sys.modules["mine"]
    file, *examples = blocks("docs/own_networks.md", "python")
    Path("mine.py").write_text(file)
    names: dict[str, object] = {}
    for example in (file, *examples):
        exec(compile(example, "own_networks.md", "exec"), names)  # noqa: S102
    assert names["again"].table.equals(names["results"].table)  # type: ignore[attr-defined]


def test_extras_named_in_a_document_exist() -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    asked = [
        set(found.split(",")) for document in DOCUMENTS for found in re.findall(r"'\.\[(.+?)\]'", text_of(document))
    ]
    assert asked
    assert set().union(*asked) <= set(extras)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_headings_that_a_document_points_to_exist(document: str) -> None:
    page = text_of(document)
    paths = re.findall(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)`", page)
    missing = [path for path in paths if not (ROOT / path).exists() and EXAMPLE not in path]
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page):
        path, _, heading = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        headings = (
            re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if target.suffix == ".md" and target.is_file()
            else []
        )
        if not target.exists() or (heading and heading not in map(anchor, headings)):
            missing.append(link)
    assert missing == []


def test_citation_and_changes_name_the_version_that_this_is() -> None:
    assert re.findall(r"^version: (.+)$", text_of("CITATION.cff"), flags=re.MULTILINE) == [__version__]
    newest = re.findall(r"^## (\S+)", text_of("CHANGELOG.md"), flags=re.MULTILINE)[0]
    assert newest == __version__


def test_every_document_has_a_place_in_the_site() -> None:
    pages = set(re.findall(r"^  - .+: (\S+\.md)$", text_of("mkdocs.yml"), flags=re.MULTILINE))
    assert pages == {Path(document).name for document in DOCUMENTS if document.startswith("docs/")} | {
        "index.md", "contributing.md", "changelog.md",
    }  # fmt: skip


if __name__ == "__main__":
    for name in GENERATED:
        (ROOT / "docs" / name).write_text(renewed(name), encoding="utf-8")
