"""Which assembler Triton's kernels come from, and where what it makes is refused; cards are substituted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from atras import gpu
from atras.engines import why_not
from atras.kernels import Step, assembler, backends

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(backends.interpreting(), reason="nothing here computes")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """card(capability, usual, newer): a card, and releases of Triton's two assemblers."""

    def make(capability, usual="12.9.86", newer="13.3.33"):
        tools = {"ptxas": usual, "ptxas-blackwell": newer}
        for tool, version in tools.items():
            path = tmp_path / tool
            path.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {version[:4]}, V{version}\n")
            path.chmod(0o755)
        monkeypatch.setattr(assembler, "_tools", lambda: tuple(str(tmp_path / tool) for tool in tools))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return str(tmp_path / "ptxas-blackwell")

    monkeypatch.delenv(assembler.PATH, raising=False)
    assembler.release.cache_clear()
    yield make
    os.environ.pop(assembler.PATH, None)
    assembler._refused.clear()
    assembler.release.cache_clear()


def test_the_newer_assembler_is_taken_where_the_usual_one_has_the_fault(card):
    newer = card((9, 0))
    assert assembler.name(CUDA) == "ptxas 12.9.86"
    assert assembler.take_newer(CUDA)
    assert os.environ[assembler.PATH] == newer
    assert assembler.name(CUDA) == "ptxas-blackwell 13.3.33"
    assert not assembler.take_newer(CUDA)  # it is taken already
    assembler.take_usual()
    assert assembler.name(CUDA) == "ptxas 12.9.86"
    assert not assembler.take_newer(CUDA)  # which failed here


@pytest.mark.parametrize(
    "kind",
    [
        {"capability": (8, 0)},
        {"capability": (10, 0)},
        {"usual": "13.3.10"},
        {"newer": "12.9.86"},
        {"newer": "13.2.99"},
    ],
    ids=str,
)
def test_elsewhere_it_is_tritons_choice(card, kind):
    card(**{"capability": (9, 0)} | kind)
    assert not assembler.take_newer(CUDA)
    assert assembler.PATH not in os.environ


def test_an_assembler_that_was_asked_for_is_left(card, monkeypatch):
    card((9, 0))
    monkeypatch.setenv(assembler.PATH, "/usr/bin/true")
    assert not assembler.take_newer(CUDA)
    assert os.environ[assembler.PATH] == "/usr/bin/true"


def test_what_the_newer_one_makes_and_cannot_be_loaded_is_made_by_the_usual_one(card, monkeypatch):
    card((9, 0))
    tried = []

    def launch(device):
        tried.append(os.environ.get(assembler.PATH, ""))
        if tried[-1]:
            raise RuntimeError("device kernel image is invalid")

    monkeypatch.setattr(gpu, "_launch", launch)
    gpu.try_triton(CUDA)
    assert [bool(path) for path in tried] == [True, False]
    monkeypatch.setattr(gpu, "_launch", lambda device: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gpu.try_triton(CUDA)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux")
def test_the_assemblers_that_came_with_triton_tell_their_release():
    usual, newer = assembler._tools()
    assert Path(usual).name == "ptxas"
    assert (12, 0) <= assembler.release(usual) <= assembler.release(newer)
    assert assembler.name(torch.device("cpu")) == ""


@pytest.mark.parametrize(
    ("version", "refused"), [("3.6.0", True), ("3.8.0", True), ("3.9.0", False), ("3.10.1", False)]
)
def test_a_card_that_triton_multiplies_wrongly_on_is_refused(card, monkeypatch, version, refused):
    monkeypatch.setattr(backends, "_triton_version", lambda: version)
    monkeypatch.setattr(gpu, "kernel_trouble", lambda device: "")
    card((10, 0))
    assert why_not(CUDA) == ""
    card((10, 3))
    expected = f"Triton {version} multiplies wrongly on GPUs of capability 10.3"
    assert why_not(CUDA).startswith(expected) == refused
    if refused:
        with pytest.raises(ValueError, match=f"step: {expected}"):
            Step((1, 2, 2), 2, [[1]], device=CUDA)
