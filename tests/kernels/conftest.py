"""The backends an op is tested on: plain torch, C++, and Triton on a GPU or, in a child process, interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from atras.kernels import backends
from atras.testing import poisoned


@dataclass(frozen=True)
class Backend:
    """A backend under test and the device its tensors are on."""

    name: str
    device: str


def _under_test() -> list[object]:
    if backends.interpreting():
        return [pytest.param(Backend("triton", "cpu"), id="triton")]
    reason = backends.missing("cpu", torch.device("cpu"))
    return [
        pytest.param(Backend("reference", "cpu"), id="reference"),
        pytest.param(Backend("cpu", "cpu"), id="cpu", marks=pytest.mark.skipif(bool(reason), reason=reason)),
        pytest.param(Backend("triton", "cuda"), id="cuda", marks=pytest.mark.gpu),
    ]


@pytest.fixture(params=_under_test())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Each backend in turn, chosen by ATRAS_BACKEND, with poisoned memory."""
    monkeypatch.setenv("ATRAS_BACKEND", request.param.name)
    with poisoned():
        yield request.param
