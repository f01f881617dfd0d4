"""Runs and exports of a user without name and home: no entry in the passwd file, and no environment that says more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NAMES = ("HOME", "LNAME", "LOGNAME", "USER", "USERNAME", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")

CHILD = """
import getpass, importlib.util, os, pwd, sys, tempfile

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
asked = []

def default_cache_dir():
    # As in torch before 2.13, whatever is installed.
    asked.append(getpass.getuser())
    return os.path.join(tempfile.gettempdir(), "torchinductor_" + asked[-1])

# Before torch imports it: much of torch calls it while it is imported.
file = importlib.util.find_spec("torch").submodule_search_locations[0] + "/_inductor/runtime/cache_dir_utils.py"
spec = importlib.util.spec_from_file_location("torch._inductor.runtime.cache_dir_utils", file)
utils = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
import torch
spec.loader.exec_module(utils)
utils.default_cache_dir = default_cache_dir

import atras
from atras.analysis import export

protocol = atras.Protocol(candidates=atras.k_complete([16], [2], 16), epochs=1, adversarial_epochs=1, test_size=50)
results = atras.run(protocol, atras.Execution(device="cpu"), out="run")
before = dict(os.environ)
for kind in ("safetensors", "pt2", "onnx"):
    export(results, protocol.candidates[0], f"network.{kind}")
assert asked, "torch no longer asks for a user's name: the test, and what it is about, can go"
assert dict(os.environ) == before
"""


def test_every_format_is_written_and_the_environment_is_left_alone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment["TMPDIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.glob("network.*")} == {"network.safetensors", "network.pt2", "network.onnx"}
    assert not (tmp_path / "~").exists()
