"""Inputs, assertions, damage and fake runs for tests and benchmarks alone; nothing else in atras imports this
package, and it may import any other."""

from .inputs import (
    SMALL,
    assert_close,
    damage,
    make_ascent_inputs,
    make_dropout_inputs,
    make_fgsm_inputs,
    make_projection_inputs,
    make_square_inputs,
    make_step_inputs,
    make_step_parameters,
    poisoned,
    tables_of,
)
from .waits import Waits

__all__ = [
    "SMALL",
    "Waits",
    "assert_close",
    "damage",
    "make_ascent_inputs",
    "make_dropout_inputs",
    "make_fgsm_inputs",
    "make_projection_inputs",
    "make_square_inputs",
    "make_step_inputs",
    "make_step_parameters",
    "poisoned",
    "tables_of",
]
