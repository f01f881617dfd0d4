"""Runs whose images are streamed from a file give bitwise what runs with resident images give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running import run
from atras.testing import assert_same_tables
