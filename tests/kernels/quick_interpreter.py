"""Triton's interpreter without the half of its work that decides nothing."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any


def hasten() -> None:
    """What it computes stays as it is, bit for bit; for the whole process, which then does nothing else with Triton.

    It replaces the language's functions at every call of a function, although they are replaced; and it computes sums
    and products of integers again, in 64 bits, to find overflows, but looks at that in debug mode alone.
    """
    from triton.runtime import interpreter

    replace = interpreter._patch_lang

    @functools.cache
    def replaced(function: Any) -> Any:
        replace(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = replaced
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
