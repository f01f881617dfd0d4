"""`python -m atras.batched`: the command `atras run` under the name of the project's main job."""

from __future__ import annotations

import sys

from atras.cli import execute, run_app

if __name__ == "__main__":
    sys.exit(execute(run_app, sys.argv[1:], "python -m atras.batched"))
