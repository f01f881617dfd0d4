"""Evaluating and attacking a population: scores, the rows that record them, transfer between members, and cautions
about figures that need a second look. Knows a Classifier, attacks, data and a Protocol; nothing of engines or of
training."""

from .cautions import cautions
from .counters import Counter, Score, Survivors
from .evaluator import GAP_IMAGES, GAP_STEPS, Evaluator, Figures, OnExamples
from .measurement import Measurement, Source
from .outcomes import keeps_outcomes, outcome_bytes, outcome_memory, outcome_rows, outcomes_line
from .progress import PREFIX
from .recorder import BALANCED, DISTANCES, EXAMPLES, Recorder, Row, Rows, examples_kept
from .transfer import PHASES, Part, Transfer

__all__ = [
    "BALANCED",
    "DISTANCES",
    "EXAMPLES",
    "GAP_IMAGES",
    "GAP_STEPS",
    "PHASES",
    "PREFIX",
    "Counter",
    "Evaluator",
    "Figures",
    "Measurement",
    "OnExamples",
    "Part",
    "Recorder",
    "Row",
    "Rows",
    "Score",
    "Source",
    "Survivors",
    "Transfer",
    "cautions",
    "examples_kept",
    "keeps_outcomes",
    "outcome_bytes",
    "outcome_memory",
    "outcome_rows",
    "outcomes_line",
]
