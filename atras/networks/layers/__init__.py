"""Layers as data: each says how it is spelled, what shape it makes of its input, which parameters it has, how it
computes, and what that costs. One file a layer; nothing else in atras knows a layer by its name. They know torch and
nothing of atras but its errors, and import torch only when they compute."""

from .conv import Conv
from .dense import Dense
from .layer import LAYERS, Activate, Layer, Shape, parse_layer, parse_layers, register_layer, spell_layers
from .own import Own

__all__ = [
    "LAYERS",
    "Activate",
    "Conv",
    "Dense",
    "Layer",
    "Own",
    "Shape",
    "parse_layer",
    "parse_layers",
    "register_layer",
    "spell_layers",
]
