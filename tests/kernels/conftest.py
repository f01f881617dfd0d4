"""The backends an op is tested on: plain torch, C++, and Triton on a GPU or, in a child process, interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from atras.kernels import Step, backends
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


def other_instructions() -> list[str]:
    """Instruction sets this CPU has beside its best, for the ops made of op step's C++."""
    if backends.missing("cpu", torch.device("cpu")):
        return []
    found = []
    for name in ("amx", "avx512_bf16", "avx512", "avx2", "portable"):
        try:
            found.append(Step((1, 2, 2), 2, [[1]], instructions=name).instructions)
        except ValueError:
            continue
    return [name for name in found if name != Step.best_instructions()]


@pytest.fixture(params=other_instructions())
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set but the best in turn, under backend cpu."""
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    monkeypatch.setattr(backends, "INSTRUCTIONS", request.param)
    return str(request.param)


@pytest.fixture(params=_under_test())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Each backend in turn, chosen by ATRAS_BACKEND, with poisoned memory; of the module's BACKENDS, if it has any."""
    if request.param.name not in ("reference", *getattr(request.module, "BACKENDS", ("cpu", "triton"))):
        pytest.skip(f"the op has no backend {request.param.name}")
    monkeypatch.setenv("ATRAS_BACKEND", request.param.name)
    with poisoned():
        yield request.param
