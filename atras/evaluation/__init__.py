"""Evaluating and attacking a population: scores, the rows that record them, transfer between members, and cautions
about figures that need a second look. Knows a Classifier, attacks, data and a Protocol; nothing of engines or of
training."""

from .attack_work import Attacking, AttackWork
from .cautions import NO_GRADIENT, NOISE, cautions, transfer_cautions
from .counters import Counter, Score, Survivors
from .evaluator import GAP_IMAGES, GAP_STEPS, VALIDATION_STEPS, Evaluator, Figures, OnExamples
from .evaluators import AtEpsilon, Evaluators, epsilons_apart, gap_by_name
from .measurement import Measurement, Source, Sources
from .outcomes import figures_kept, keeps_outcomes, outcome_bytes, outcome_memory, outcome_rows, outcomes_line
from .parts import Held, OriginPart, Part, whole_parts
from .progress import PREFIX, Steps
from .recorder import BALANCED, COMPARED, DISTANCES, EXAMPLES, Recorder, Row, Rows, examples_kept, shown_attacks
from .stored_signs import AllSigns, StoredSigns, joined
from .transfer import Transfer
from .trials import PHASES, Origin, Trained, Trial, phases_of, trials_of

__all__ = [
    "BALANCED",
    "COMPARED",
    "DISTANCES",
    "EXAMPLES",
    "GAP_IMAGES",
    "GAP_STEPS",
    "NOISE",
    "NO_GRADIENT",
    "PHASES",
    "PREFIX",
    "VALIDATION_STEPS",
    "AllSigns",
    "AtEpsilon",
    "AttackWork",
    "Attacking",
    "Counter",
    "Evaluator",
    "Evaluators",
    "Figures",
    "Held",
    "Measurement",
    "OnExamples",
    "Origin",
    "OriginPart",
    "Part",
    "Recorder",
    "Row",
    "Rows",
    "Score",
    "Source",
    "Sources",
    "Steps",
    "StoredSigns",
    "Survivors",
    "Trained",
    "Transfer",
    "Trial",
    "cautions",
    "epsilons_apart",
    "examples_kept",
    "figures_kept",
    "gap_by_name",
    "joined",
    "keeps_outcomes",
    "outcome_bytes",
    "outcome_memory",
    "outcome_rows",
    "outcomes_line",
    "phases_of",
    "shown_attacks",
    "transfer_cautions",
    "trials_of",
    "whole_parts",
]
