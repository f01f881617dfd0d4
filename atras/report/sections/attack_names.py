"""The name in an attack's spelling: a frame has `pgd(steps=40, restarts=5)`, whose name is `pgd`."""

from __future__ import annotations

import re

import polars as pl


def attack_name(column: str = "attack") -> pl.Expr:
    """The name of each attack of a column, without the options in parentheses.

    Args:
        column: holds spellings of attacks; a bare name is one as well.

    Returns:
        An expression of names, such as `none`, `pgd` or `worst`.
    """
    return pl.col(column).str.extract(r"^([^(]*)")


def file_part(spelling: str) -> str:
    """An attack in the name of a file: `pgd(steps=40, restarts=5)` becomes `pgd-steps=40-restarts=5`.

    Args:
        spelling: as a frame has it, perhaps a foreign one.

    Returns:
        Its letters, digits, `.` and `=`, joined by `-`.
    """
    return re.sub(r"[^\w.=]+", "-", spelling).strip("-")
