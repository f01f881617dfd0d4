"""Networks as data and as one program: layers, candidates and families of them; a network's shapes, initial
parameters and forward pass, written once for one network; keyed random draws; the type `Classifier`; log-odds and other
objectives. Knows
kernels and errors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .candidates import Candidate, Member, members_of, seeds_of, widest, with_depth
from .families import PAPER_BASE_WIDTHS, PAPER_CANDIDATES, PAPER_FACTORS, PAPER_MAX_WIDTH, k_complete
from .layers import LAYERS, Activate, Conv, Dense, Layer, Shape, parse_layers, register_layer, spell_layers
from .stems import STEMS, choose_stem, parse_stem

if TYPE_CHECKING:
    from .classifier import Classifier, Cotangent, StepResult, Trainable
    from .network import (
        ACTIVATIONS,
        Dropout,
        Network,
        Parameters,
        Place,
        Spec,
    )
    from .objective import Objective
    from .odds import log_odds, log_odds_gradient
    from .randomness import (
        batch_starts,
        draw_order,
        dropout_key,
        image_bits,
        permutation,
        random_starts,
        random_targets,
        stable_key,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        classifier="Classifier Cotangent StepResult Trainable",
        network="ACTIVATIONS Dropout Network Parameters Place Spec",
        objective="Objective",
        odds="log_odds log_odds_gradient",
        randomness=(
            "batch_starts draw_order dropout_key image_bits permutation random_starts random_targets stable_key"
        ),
    )

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "PAPER_BASE_WIDTHS",
    "PAPER_CANDIDATES",
    "PAPER_FACTORS",
    "PAPER_MAX_WIDTH",
    "STEMS",
    "Activate",
    "Candidate",
    "Classifier",
    "Conv",
    "Cotangent",
    "Dense",
    "Dropout",
    "Layer",
    "Member",
    "Network",
    "Objective",
    "Parameters",
    "Place",
    "Shape",
    "Spec",
    "StepResult",
    "Trainable",
    "batch_starts",
    "choose_stem",
    "draw_order",
    "dropout_key",
    "image_bits",
    "k_complete",
    "log_odds",
    "log_odds_gradient",
    "members_of",
    "parse_layers",
    "parse_stem",
    "permutation",
    "random_starts",
    "random_targets",
    "register_layer",
    "seeds_of",
    "spell_layers",
    "stable_key",
    "widest",
    "with_depth",
]
