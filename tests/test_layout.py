"""The layout holds: imports go one way, an op's files agree, and a tree without its kernels says so."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module imports only modules above it. `testing` and `made_up` may import any of them, and none imports these.
ORDER = """
errors reading files seal space protocol options config env formats download data randomness model engine optimizer
stack loop fused attack gradient_attacks deepfool suite tally evaluate measure train tensor_file weights checkpoint
schemas frames results writer cost machine plan grouping price calibrate progress cautions groups transfer across
prepare schedule statistics halving held_out search paper solo claims compare summary report export commands signals cli
batched __main__ testing made_up
""".split()  # noqa: SIM905 (a paragraph reads better than forty quoted words)
FILES = {path.stem: [path] for path in (ROOT / "atras").glob("*.py") if path.stem != "__init__"}
FILES |= {path.parent.name: sorted(path.parent.glob("*.py")) for path in (ROOT / "atras").glob("*/__init__.py")}
MODULES = sorted(FILES)
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
            names = [node.module] if node.module and node.module != "atras" else [alias.name for alias in node.names]
            found += [(node.level + (node.module == "atras"), name) for name in names]
    return found


def siblings(path: Path) -> set[str]:
    """The modules of atras that a file imports; those of its own package are its own affair."""
    own = {file.stem for file in path.parent.glob("*.py")} if path.parent.name in FILES else set()
    names = {name.removeprefix("atras.") for level, name in imported(path) if level == 1 or name.startswith("atras.")}
    return {name.split(".")[0] for name in names} & set(MODULES) - own


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert module in ORDER, f"give atras/{module}.py its place in ORDER"
    above = set(ORDER[: ORDER.index(module)])
    assert set().union(*map(siblings, FILES[module])) <= above | {module}


def test_contributors_find_every_module_at_its_place():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = [line.partition(":")[0] for line in text.partition("## Where things live")[2].split("\n- ")[1:]]
    assert re.findall(r"`(\w+)`", " ".join(names)) == ORDER[: ORDER.index("__main__")]


def test_an_import_the_wrong_way_is_seen(tmp_path):
    file = tmp_path / "errors.py"
    for line in ("from .space import x", "from atras.space import x", "from . import space", "import atras.space"):
        file.write_text(f"def f():\n    {line}\n")
        assert siblings(file) == {"space"}, line
    file.write_text("from . import __version__\nimport space\nfrom atras.kernels import fgsm\n")
    assert siblings(file) == set()


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
        "import atras.model": "atras.model",
        "from atras import model": "model",
        "from atras.kernels import fgsm": "atras.kernels",
        "from population import Atras": "population",
        "from .contest import PEERS": "contest",
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


FACTORIES = {"empty", "zeros", "ones", "full", "tensor", "arange", "linspace", "eye", "rand", "randn", "randint"}


def unnamed(path: Path) -> list[str]:
    """Calls of torch's factories that leave dtype or device to what torch is set to."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = {"torch." + name for name in FACTORIES}
    made = [call for call in calls if ast.unparse(call.func) in named]
    return [ast.unparse(call) for call in made if not {"dtype", "device"} <= {word.arg for word in call.keywords}]


def test_kernels_take_no_defaults_of_torch(tmp_path):
    for path in (ROOT / "kernels").rglob("*.py"):
        assert unnamed(path) == [], path
    file = tmp_path / "file.py"
    file.write_text("import torch\ntorch.zeros(3, dtype=torch.int64)\ntorch.zeros_like(x)\ntorch.full((), 1)\n")
    assert unnamed(file) == ["torch.zeros(3, dtype=torch.int64)", "torch.full((), 1)"]


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
torch.load numpy.load np.load eval exec os.system os.popen tempfile.mktemp pandas.read_pickle
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
    # The one exception is restricted to plain values and arrays, and sees only files of an official checksum.
    allowed = {ROOT / "atras" / "formats.py": {"pickle.Unpickler"}}
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
