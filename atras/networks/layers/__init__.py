"""Layers as data: each says how it is spelled, what shape it makes of its input, which parameters it has, how it
computes, and what that costs. One file a layer; nothing else in atras knows a layer by its name. They know torch and
nothing of atras but its errors, and import torch only when they compute."""

from .average_pool import AveragePool, GlobalAveragePool
from .conv import Conv
from .dense import Dense
from .dropout import DropoutLayer
from .initialisations import INITIALISATIONS
from .layer import (
    LAYERS,
    Activate,
    Layer,
    Shape,
    begins_with_layer,
    parse_layer,
    parse_layers,
    register_layer,
    spell_layers,
)
from .normalisation import GroupNorm, InputNorm, LayerNorm
from .own import Own
from .residual import Residual

__all__ = [
    "INITIALISATIONS",
    "LAYERS",
    "Activate",
    "AveragePool",
    "Conv",
    "Dense",
    "DropoutLayer",
    "GlobalAveragePool",
    "GroupNorm",
    "InputNorm",
    "Layer",
    "LayerNorm",
    "Own",
    "Residual",
    "Shape",
    "begins_with_layer",
    "parse_layer",
    "parse_layers",
    "register_layer",
    "spell_layers",
]
