"""Weights of finished networks, in the file formats of this field: a format a file. What is read is never run as code
but for programs (`.pt2`, ONNX), which are made of known operations alone."""

from .fit import fitted
from .read import WEIGHT_FORMATS, read_weights
from .weights import Weights, weights_of

__all__ = ["WEIGHT_FORMATS", "Weights", "fitted", "read_weights", "weights_of"]
