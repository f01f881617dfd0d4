"""Networks as data and as one program: layers, candidates and families of them; a network's shapes, initial
parameters and forward pass, written once for one network; keyed random draws; the type `Classifier`; log-odds and other
objectives. Knows
kernels and errors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .candidates import (
    Candidate,
    Member,
    distinct_names,
    member_name,
    members_of,
    seeds_of,
    told_member,
    widest,
    with_depth,
)
from .factories import Factory, SourceChangedError, called
from .families import KINDS as FAMILY_KINDS
from .families import PAPER_BASE_WIDTHS, PAPER_CANDIDATES, PAPER_FACTORS, PAPER_MAX_WIDTH, grid, k_complete
from .layers import (
    INITIALISATIONS,
    LAYERS,
    Activate,
    AveragePool,
    Conv,
    Dense,
    DropoutLayer,
    GlobalAveragePool,
    GroupNorm,
    InputNorm,
    Layer,
    LayerNorm,
    Own,
    Residual,
    Shape,
    begins_with_layer,
    parse_layers,
    register_layer,
    spell_layers,
)
from .named import NETWORK_TEXTS, NETWORKS
from .stems import STEMS, choose_stem, parse_stem
from .variants import Variant

if TYPE_CHECKING:
    from .classifier import Classifier, Cotangent, StepResult, Trainable
    from .inspection import Inspection, device_of, dtype_of, inspect_factory, untouched
    from .network import (
        ACTIVATIONS,
        Dropout,
        Network,
        Parameters,
        Place,
        Spec,
        fill,
        state_of,
    )
    from .objective import Objective
    from .odds import cross_entropy_gradient, log_odds, log_odds_gradient
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
    from .torch_generators import keyed
    from .weights import WEIGHT_FORMATS, Weights, fitted, read_weights, weights_of
else:
    __getattr__ = lazy_exports(
        __name__,
        classifier="Classifier Cotangent StepResult Trainable",
        inspection="Inspection device_of dtype_of inspect_factory untouched",
        network="ACTIVATIONS Dropout Network Parameters Place Spec fill state_of",
        objective="Objective",
        odds="cross_entropy_gradient log_odds log_odds_gradient",
        randomness=(
            "batch_starts draw_order dropout_key image_bits permutation random_starts random_targets stable_key"
        ),
        torch_generators="keyed",
        weights="WEIGHT_FORMATS Weights fitted read_weights weights_of",
    )

__all__ = [
    "ACTIVATIONS",
    "FAMILY_KINDS",
    "INITIALISATIONS",
    "LAYERS",
    "NETWORKS",
    "NETWORK_TEXTS",
    "PAPER_BASE_WIDTHS",
    "PAPER_CANDIDATES",
    "PAPER_FACTORS",
    "PAPER_MAX_WIDTH",
    "STEMS",
    "WEIGHT_FORMATS",
    "Activate",
    "AveragePool",
    "Candidate",
    "Classifier",
    "Conv",
    "Cotangent",
    "Dense",
    "Dropout",
    "DropoutLayer",
    "Factory",
    "GlobalAveragePool",
    "GroupNorm",
    "InputNorm",
    "Inspection",
    "Layer",
    "LayerNorm",
    "Member",
    "Network",
    "Objective",
    "Own",
    "Parameters",
    "Place",
    "Residual",
    "Shape",
    "SourceChangedError",
    "Spec",
    "StepResult",
    "Trainable",
    "Variant",
    "Weights",
    "batch_starts",
    "begins_with_layer",
    "called",
    "choose_stem",
    "cross_entropy_gradient",
    "device_of",
    "distinct_names",
    "draw_order",
    "dropout_key",
    "dtype_of",
    "fill",
    "fitted",
    "grid",
    "image_bits",
    "inspect_factory",
    "k_complete",
    "keyed",
    "log_odds",
    "log_odds_gradient",
    "member_name",
    "members_of",
    "parse_layers",
    "parse_stem",
    "permutation",
    "random_starts",
    "random_targets",
    "read_weights",
    "register_layer",
    "seeds_of",
    "spell_layers",
    "stable_key",
    "state_of",
    "told_member",
    "untouched",
    "weights_of",
    "widest",
    "with_depth",
]
