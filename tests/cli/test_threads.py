"""How long OpenMP's threads may spin: the command says so before torch is loaded, unless the user did."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from atras.cli import app, execute
execute(app, ["--version"], "atras")
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(own: dict[str, str], expected: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", CODE], env=kept | own, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{expected} False"
