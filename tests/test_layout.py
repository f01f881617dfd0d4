"""The layout holds: imports go one way, an op's files agree, and a tree without its kernels says so."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = """
version errors lazy checks registry limits torch_state gpu environment storage networks attacks defences schedules
loggers experiment data engines evaluation training planning results running analysis search report cli batched
__main__ testing
""".split()  # noqa: SIM905 (a paragraph reads better than quoted words)
"""Packages and modules of atras: each imports only those above it. `testing` may import any, and none imports it."""
MODULES = {
    ".".join(path.relative_to(ROOT / "atras").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "atras").rglob("*.py"))
    if path != ROOT / "atras" / "__init__.py"
}
"""Every module below `atras`, such as `networks.layers`, and its file."""
OPS = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/dispatch.py"))
BASELINES = ("textbook", "stacked")
"""Modules of bench/ that atras is compared with."""


def imported(path: Path) -> list[tuple[int, str]]:
    """(level, dotted name) of everything a file imports, inside functions too; names from a bare package one by one."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, f"{node.module or ''}.{alias.name}".strip(".")) for alias in node.names]
    return found


def names_of(module: str, path: Path) -> set[str]:
    """What a module imports of atras, seen from there: `networks.Candidate` or `networks.layers`."""
    package = module.split(".")
    base = package if path.stem == "__init__" else package[:-1]
    return {
        ".".join([*base[: len(base) - level + 1], name]) if level else name.removeprefix("atras.")
        for level, name in imported(path)
        if level or name.startswith("atras.")
    }


def taken(module: str, path: Path, modules: Collection[str] = tuple(MODULES)) -> set[str]:
    """The modules of atras that a module imports from, such as `networks` or `networks.layers`."""
    return {found for name in names_of(module, path) if (found := _longest(name, modules)) and found != module}


def _longest(name: str, modules: Collection[str]) -> str | None:
    """The module that an imported name is, or stands in."""
    parts = name.split(".")
    return next((head for end in range(len(parts), 0, -1) if (head := ".".join(parts[:end])) in modules), None)


def room(module: str) -> str:
    """The package or top-level module that a module belongs to."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert room(module) in ORDER, f"give {module} its place in ORDER"
    above = ORDER[: ORDER.index(room(module)) + 1]
    assert {other for other in taken(module, MODULES[module]) if room(other) not in above} == set()


@pytest.mark.parametrize("module", MODULES)
def test_other_packages_are_entered_by_their_front_door(module):
    """`from atras.networks import Candidate`, never `from atras.networks.candidates import Candidate`."""
    others = {name for name in names_of(module, MODULES[module]) if room(name) != room(module)}
    # A package may export one of its files, or a function of a file's name.
    others -= {name for name in others if name.rpartition(".")[2] in exported(name.rpartition(".")[0])}
    assert {other for other in others if "." in (_longest(other, MODULES) or "")} == set()


def exported(package: str) -> set[str]:
    """What stands in `__all__` of a package; nothing of a file that is none."""
    file = ROOT / "atras" / package / "__init__.py"
    if "." in package or not package or not file.exists():
        return set()
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return set(names)


def test_exports_are_seen():
    assert "checkpoint" in exported("training")
    assert "Candidate" in exported("networks")
    assert "candidates" not in exported("networks")
    assert exported("networks.layers") == exported("version") == exported("") == set()


def test_there_is_no_circle_of_imports():
    arrows = {module: taken(module, path) for module, path in MODULES.items()}
    # A package's front door imports its own rooms; they do not go back out through it.
    assert circle(arrows) == []


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import one another round and round; none where imports only go down."""
    left = dict(arrows)
    while left:
        free = [module for module, others in left.items() if not others & left.keys()]
        if not free:
            return sorted(left)
        for module in free:
            del left[module]
    return []


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_an_import_is_seen_however_it_is_written(tmp_path):
    file = tmp_path / "errors.py"
    modules = {"errors", "networks", "networks.layers", "networks.families"}
    cases = {
        "from .networks import x": "networks",
        "from atras.networks import x": "networks",
        "from . import networks": "networks",
        "import atras.networks": "networks",
        "from atras.networks import layers": "networks.layers",
        "from atras.networks.layers import x": "networks.layers",
    }
    for line, found in cases.items():
        file.write_text(f"def f():\n    {line}\n")
        assert taken("errors", file, modules) == {found}, line
    file.write_text("from . import layers\nfrom .layers import x\n")
    assert taken("networks.families", file, modules) == {"networks.layers"}
    file.write_text("from . import __version__\nimport networks\nfrom atras.kernels import fgsm\n")
    assert taken("errors", file, modules) == set()


def test_every_package_says_what_lives_there():
    for path in (ROOT / "atras").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert len(text.split()) >= 12 or path.parent.name == "atras", (
            f"{path}: say what lives here and what it may know"
        )


def test_kernels_import_nothing_of_atras():
    for path in (ROOT / "kernels").rglob("*.py"):
        foreign = {name.split(".")[0] for level, name in imported(path) if level == 0}
        assert not foreign & {"atras", "kernels"}, path


def test_kernels_stay_below_their_package():
    for path in (ROOT / "kernels").rglob("*.py"):
        depth = len(path.relative_to(ROOT / "kernels").parts)
        assert all(level <= depth for level, _ in imported(path)), path


def of_atras(path: Path) -> set[str]:
    """What a baseline imports that is of atras, or of the modules beside it that may be."""
    beside = {file.stem for file in (ROOT / "bench").glob("*.py")} - set(BASELINES)
    return {name for level, name in imported(path) if level or name.split(".")[0] in beside | {"atras", "kernels"}}


@pytest.mark.parametrize("module", BASELINES)
def test_baselines_import_nothing_of_atras(module):
    assert of_atras(ROOT / "bench" / f"{module}.py") == set()


def test_a_baseline_that_imports_of_atras_is_seen(tmp_path):
    file = tmp_path / "textbook.py"
    for line, name in {
        "import atras.networks": "atras.networks",
        "from atras import networks": "atras.networks",
        "from atras.kernels import fgsm": "atras.kernels.fgsm",
        "from population import Atras": "population.Atras",
        "from .contest import PEERS": "contest.PEERS",
    }.items():
        file.write_text(f"import torch\nfrom textbook import Task\ndef f():\n    {line}\n")
        assert of_atras(file) == {name}, line


ALWAYS = {"__init__.py", "reference.py", "dispatch.py"}
BY_BACKEND = {"cpu": {"cpu.py", "cpu.cpp"}, "triton": {"gpu_triton.py"}}


@pytest.mark.parametrize("op", OPS)
def test_an_ops_files_agree_with_its_backends(op):
    folder = ROOT / "kernels" / op
    files = {path.name for path in folder.glob("*.*")}
    there = set(importlib.import_module(f"atras.kernels.{op}.dispatch").BACKENDS)
    assert files >= ALWAYS
    for backend, own in BY_BACKEND.items():
        assert files & own == (own if backend in there else set()), backend
    assert bool([name for name in files if name.startswith("gpu_kernels")]) == ("triton" in there)
    assert (f"kernels/{op}/cpu.cpp" in (ROOT / "CMakeLists.txt").read_text()) == ("cpu" in there)


@pytest.mark.parametrize("op", OPS)
def test_an_ops_launchers_kernels_and_choice_are_files_of_their_own(op):
    for path in (ROOT / "kernels" / op).glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.stem != "triton", "it would hide the package"
        assert ("@triton.jit" in text) == path.stem.startswith("gpu_kernels"), path
        if path.stem in ("dispatch", "reference"):
            assert "data_ptr" not in text, path
        imports = {name for level, name in imported(path) if level == 1}
        assert path.stem == "dispatch" or "dispatch" not in imports, f"{path} would import what imports it"


def test_native_code_that_ops_share_is_in_one_folder():
    assert not [path for path in (ROOT / "kernels").glob("*.*") if path.suffix in (".h", ".cpp")]
    build = (ROOT / "CMakeLists.txt").read_text()
    for path in (ROOT / "kernels").rglob("*.cpp"):
        assert str(path.relative_to(ROOT)) in build, path
    own = [path for path in (ROOT / "kernels").rglob("*.cpp") if "__builtin_cpu_supports" in path.read_text()]
    own += [path for path in (ROOT / "kernels").rglob("*.h") if "__builtin_cpu_supports" in path.read_text()]
    assert own == [ROOT / "kernels" / "native" / "instructions.cpp"], "one query of what the CPU runs"


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_test_and_its_benchmark(op):
    assert (ROOT / "tests" / "kernels" / f"test_{op}.py").exists()
    assert (ROOT / "bench" / "benchmarks" / f"bench_{op}.py").exists()


UNSAFE = """
pickle.load pickle.loads pickle.Unpickler cPickle dill cloudpickle marshal shelve joblib.load yaml.load yaml.unsafe_load
torch.load torch.export.load numpy.load np.load eval exec os.system os.popen tempfile.mktemp pandas.read_pickle
""".split()  # noqa: SIM905
"""What turns bytes into code, or is open to whoever can write to the temporary folder. (`weights_only`, `allow_pickle`
and safe loaders would be exceptions; nothing here needs them.)"""


def unsafe(path: Path) -> set[str]:
    """Names from UNSAFE that a file uses, whatever they were imported as; and `shell=True`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    real: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            real |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            real |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.add(f"{real.get(first, first)}.{rest}" if rest else real.get(first, first))
        elif isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            found.add("shell=True")
    return {name for name in found if name in UNSAFE or name == "shell=True"}


def test_nothing_that_is_read_becomes_code():
    # One exception is restricted to plain values and arrays, and sees only files of an official checksum.
    # Networks that others published are read with weights_only=True, and programs after a look at all they name.
    allowed = {
        ROOT / "atras" / "data" / "cifar_file.py": {"pickle.Unpickler"},
        ROOT / "atras" / "networks" / "weights" / "pickled.py": {"torch.load"},
        ROOT / "atras" / "networks" / "weights" / "programs.py": {"torch.export.load"},
        ROOT / "bench" / "auto_attack.py": {"torch.load"},
    }
    for folder in ("atras", "kernels", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            assert unsafe(path) == allowed.get(path, set()), path


def test_what_would_make_code_of_data_is_seen(tmp_path):
    file = tmp_path / "file.py"
    for line, name in {
        "import pickle as p; p.loads(b'')": "pickle.loads",
        "from torch import load as l; l('')": "torch.load",
        "import numpy as np; np.load('')": "numpy.load",
        "import subprocess; subprocess.run('', shell=True)": "shell=True",
        "from os import system; system('')": "os.system",
        "eval('')": "eval",
    }.items():
        file.write_text(f"def f():\n    {line}\n")
        assert unsafe(file) == {name}
    file.write_text("import json\njson.loads('')\nmodel.eval()\n")
    assert unsafe(file) == set()


def test_every_folder_of_kernels_is_a_package():
    folders = {path.parent for path in (ROOT / "kernels").rglob("*.py")}
    assert not (ROOT / "atras" / "kernels").exists()
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_a_tree_without_its_kernels_says_so_in_one_line(tmp_path):
    shutil.copytree(ROOT / "atras", tmp_path / "atras", ignore=shutil.ignore_patterns("__pycache__"))
    # -S leaves out site-packages, and with it any installed atras.
    command = [sys.executable, "-S", "-c", "import atras.kernels"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].split(": ", 1)[1].startswith("atras.kernels is not installed; run")


def test_a_folder_that_has_the_package_s_name_is_no_part_of_it(tmp_path):
    (tmp_path / "atras" / "kernels").mkdir(parents=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import atras; print(*atras.__path__, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert str(tmp_path / "atras") not in found.stdout.splitlines()
    assert str(ROOT / "atras") in found.stdout.splitlines()
