"""What a shell offers while a command is typed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from atras.attacks import ATTACKS
from atras.experiment import ENGINES


def offered(line: str) -> list[str]:
    """What is offered at the end of a command line, as bash asks for it."""
    words = line.split(" ")
    result = subprocess.run(
        [sys.executable, "-m", "atras"],
        env={"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
             "_ATRAS_COMPLETE": "complete_bash"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("atras c", ["claims", "compare"]),
        ("atras run --optim", ["--optimizer"]),
        ("atras run --optimizer ", ["adam", "adamw", "sgd"]),
        ("atras run --engine ", ["auto", *ENGINES]),
        ("atras run --attack apg", [name for name in ATTACKS if name.startswith("apg")]),
        ("atras run --epsilon ", []),
    ],
)
def test_commands_options_and_their_names_are_offered(line: str, words: list[str]) -> None:
    assert offered(line) == words
