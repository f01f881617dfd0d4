"""Files that are a whole network, not its weights alone: torch.export's and ONNX."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from atras.errors import InputError

from .program_archive import check_archive
from .weights import Weights


class Program(nn.Module):
    """A network that was written out as a program, with torch's interface of modules.

    Args:
        inner: the program; it has one mode, that in which it was written.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        result: Any = self.inner(images)
        return result[0] if isinstance(result, tuple | list) and len(result) == 1 else result

    def train(self, mode: bool = True) -> Program:
        """Stay as it is: exported programs refuse to change their mode."""
        self.training = mode
        return self


def read_program(path: str, content: bytes, network: str | None) -> Weights:  # noqa: ARG001 (it holds one)
    """The network in a file of torch.export.

    Raises:
        InputError: if it is damaged or something else.
    """

    def make() -> nn.Module:
        check_archive(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Program(torch.export.load(io.BytesIO(content)).module())

    return Weights("pt2", "", _tensors(path, make, "a program of torch.export.save"), path, program=make)


def read_onnx(path: str, content: bytes, network: str | None) -> Weights:  # noqa: ARG001 (it holds one)
    """The network in an ONNX file, through onnx2torch.

    Raises:
        InputError: if it is damaged or something else, uses what onnx2torch does not know, or that is not installed.
    """
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise InputError(f"{path}: an ONNX file needs package {error.name}; pip install '.[onnx]'") from None

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Program(onnx2torch.convert(onnx.load_from_string(content)))

    return Weights("onnx", "", _tensors(path, make, "an ONNX file that onnx2torch knows"), path, program=make)


def _tensors(path: str, make: Any, expected: str) -> dict[str, Tensor]:
    """The tensors of a program, which is made once to see that it can be."""
    try:
        module = make()
    except NotImplementedError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: expected {expected}, found operations that it does not ({reason[:120]}); write it by "
            "torch.onnx.export(..., dynamo=False, opset_version=13), or by torch.export as .pt2"
        ) from None
    except Exception as error:  # the libraries raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: expected {expected}, found a damaged or foreign file ({reason[:120]}); write it anew"
        ) from None
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
