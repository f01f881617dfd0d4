"""Which backend is chosen, what is said when one is missing, and what a run records about them."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from atras.kernels import backends, fgsm

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOTH = ("cpu", "triton")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("ATRAS_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backends._log_once.cache_clear()


def choose(device=CPU, dtype=torch.float32, there=BOTH):
    return backends.choose("fgsm", there, device, dtype)


def test_automatic_choice_goes_by_device(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda backend, device: "")
    assert choose(CPU) == "cpu"
    assert choose(CUDA) == "triton"
    assert choose(CPU, there=("triton",)) == "reference"


def test_automatic_choice_falls_back_and_says_why_once(monkeypatch, caplog):
    monkeypatch.setattr(backends, "_cpu", None)
    monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built; install a C++ compiler")
    with caplog.at_level(logging.WARNING, logger="atras.kernels"):
        assert choose() == choose() == "reference"
    assert [record.message for record in caplog.records] == [
        "fgsm: plain torch is used: the C++ extension is not built; install a C++ compiler"
    ]


def test_a_dtype_the_backend_lacks_falls_back(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda backend, device: "")
    assert choose(dtype=torch.float16) == "reference"
    assert choose(CUDA, torch.float16) == "triton"


def test_an_op_that_knows_float32_alone_computes_the_others_in_plain_torch(monkeypatch, caplog):
    monkeypatch.setattr(backends, "missing", lambda backend, device: "")
    assert backends.choose("dense", BOTH, CUDA, torch.float32, wide=False) == "triton"
    with caplog.at_level(logging.WARNING, logger="atras.kernels"):
        for dtype in (torch.float64, torch.bfloat16, torch.float64):
            assert backends.choose("dense", BOTH, CUDA, dtype, wide=False) == "reference"
    assert [record.message for record in caplog.records] == [
        f"dense: plain torch is used: backend triton computes in float32, got {name}; convert first"
        for name in ("float64", "bfloat16")
    ]


def test_asking_for_a_missing_backend_is_an_error_that_names_the_remedy(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built; install a C++ compiler")
    with pytest.raises(ValueError, match=r"^fgsm: ATRAS_BACKEND=cpu: the C\+\+ extension is not built; install a C"):
        choose()
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^fgsm: ATRAS_BACKEND=triton: triton is not installed; run pip install"):
        choose(CUDA)


def test_asking_for_a_backend_of_another_device_is_an_error(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    text = r"^fgsm: ATRAS_BACKEND=triton: it takes tensors on a CUDA device, got cpu; move them or set ATRAS_BACKEND"
    with pytest.raises(ValueError, match=text):
        fgsm(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 0.1)
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    with pytest.raises(ValueError, match=r"^fgsm: ATRAS_BACKEND=cpu: it takes tensors on the CPU, got cuda"):
        choose(CUDA)


def test_an_unknown_backend_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r"^ATRAS_BACKEND \(='cuda'\): expected one of auto, reference, cpu, triton$"):
        choose()


def test_reference_is_taken_when_asked_for(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "reference")
    assert choose() == choose(CUDA) == "reference"


def test_the_extension_is_an_error_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(backends, "_cpu", None)
    monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built")
    with pytest.raises(ValueError, match=r"^backend cpu: the C"):
        backends.cpu_extension()


def test_the_report_is_json_and_gives_reasons(monkeypatch):
    there = json.loads(json.dumps(backends.report()))
    assert there["asked"] == "auto"
    if there["cpu"]["available"]:
        assert there["cpu"]["instructions"] in ("portable", "avx2", "avx512")
        assert there["cpu"]["threads"] == torch.get_num_threads()
    monkeypatch.setattr(backends, "_cpu", None)
    monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built")
    monkeypatch.setattr(backends, "_triton_version", lambda: None)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    gone = backends.report()
    assert gone["cpu"] == {"available": False, "reason": "the C++ extension is not built"}
    assert gone["triton"] == {
        "available": False,
        "version": None,
        "reason": "triton is not installed; run pip install triton (Linux)",
    }
