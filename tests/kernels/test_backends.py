"""Which backend is chosen, what is said when one is missing, and what a run records about them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from atras.kernels import Step, backends, fgsm

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOTH = ("cpu", "triton")
MISSING = backends.missing("cpu", CPU)
extension = pytest.mark.skipif(bool(MISSING), reason=MISSING)


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


def test_an_op_without_plain_torch_goes_by_device(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda backend, device: "")
    for asked in ("", "auto", "reference", "cpu"):
        monkeypatch.setenv("ATRAS_BACKEND", asked)
        assert (backends.compiled(CPU), backends.compiled(CUDA)) == ("cpu", "triton")
        assert backends.require("step", CPU) == "cpu"
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    assert backends.compiled(CPU) == backends.require("step", CPU) == "triton"


def test_an_op_without_plain_torch_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(backends, "_cpu_missing", "the C++ extension is not built; install a C++ compiler")
    with pytest.raises(ValueError, match=r"^step: the C\+\+ extension is not built; install a C\+\+ compiler$"):
        backends.require("step", CPU)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^step: triton is not installed; run pip install triton \(Linux\)$"):
        backends.require("step", CUDA)


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
        assert there["cpu"]["instructions"] == backends.instruction_sets()[0]
        assert there["cpu"]["threads"] == torch.get_num_threads()
    monkeypatch.setattr(backends, "_cpu", None)
    assert backends.instruction_sets() == []
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


@extension
def test_the_instruction_sets_are_those_that_a_step_takes():
    sets = backends.instruction_sets()
    assert sets[-2:] == ["portable", "amx_emulated"]
    for name in sets:
        assert Step((1, 2, 2), 2, [[1]], instructions=name).instructions == name
    for name in {"amx", "avx512_bf16", "avx512", "avx2"} - set(sets):
        with pytest.raises(ValueError, match=rf"^step: instructions \(={name}\): expected"):
            Step((1, 2, 2), 2, [[1]], instructions=name)
    assert Step.best_instructions() == Step((1, 2, 2), 2, [[1]]).instructions == sets[0]
    assert ("bf16" in Step.precisions()) == (sets[0] in ("amx", "avx512_bf16"))


@pytest.mark.parametrize(
    ("instructions", "maker", "there", "faster", "words"),
    [
        ("amx", "GenuineIntel", True, True, "AMX"),
        ("avx512_bf16", "AuthenticAMD", True, True, "an AMD processor"),
        ("avx512_bf16", "GenuineIntel", True, False, "half its fp32 rate"),
        ("avx512_bf16", "CentaurHauls", True, False, "CentaurHauls"),
        ("avx512", "AuthenticAMD", False, False, "neither AVX512-BF16 nor AMX"),
        ("portable", "", False, False, "neither AVX512-BF16 nor AMX"),
    ],
)
def test_bf16_is_the_faster_one_where_the_processor_is_good_at_it(instructions, maker, there, faster, words):
    found = backends.bf16_on_cpu(instructions, maker)
    assert (found.there, found.faster) == (there, faster)
    assert words in found.reason


def test_bf16_of_a_device_goes_by_its_kernels(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda backend, device: "")
    monkeypatch.setattr(backends, "instruction_sets", lambda: ["avx512_bf16", "portable", "amx_emulated"])
    monkeypatch.setattr(backends, "vendor", lambda: "GenuineIntel")
    assert backends.bf16(CPU) == backends.bf16_on_cpu("avx512_bf16", "GenuineIntel")
    assert Step.precisions(CPU) == ("fp32", "bf16")  # it can be asked for
    for capability, there in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, given=capability: given)
        assert backends.bf16(CUDA)[:2] == (there, there)
    monkeypatch.setattr(backends, "missing", lambda backend, device: "not built")
    assert backends.bf16(CPU) == backends.Bf16(False, False, "not built")


@extension
def test_the_vendor_is_the_one_that_the_kernel_knows():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = {line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")}
    if not known:
        pytest.skip("needs /proc/cpuinfo of an x86 processor")
    assert {backends.vendor()} == known
    assert backends.report()["cpu"]["vendor"] == backends.vendor()


@extension
@pytest.mark.parametrize("maker", ["GenuineIntel", "AuthenticAMD"])
def test_a_run_takes_and_explains_the_precision_that_the_processor_is_good_at(monkeypatch, tmp_path, maker):
    from atras.experiment import Execution
    from atras.running import run
    from atras.testing import SMALL

    if backends.instruction_sets()[0] != "avx512_bf16":
        pytest.skip("needs a processor with AVX512-BF16 and no AMX")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backends, "vendor", lambda: maker)
    run(SMALL.replace(epochs=1, precision="auto"), Execution(device="cpu"), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    reason = backends.bf16_on_cpu("avx512_bf16", maker).reason
    precision = "fp32" if maker == "GenuineIntel" else "bf16"
    assert (record["plan"]["precision"], record["sessions"][0]["precision"]) == (precision, precision)
    assert record["plan"]["precision_reason"] == f"{precision}: {reason}"
    assert record["environment"]["kernels"]["cpu"]["bf16"] == {"there": True, "faster": precision == "bf16"}


@extension
def test_a_run_records_the_instructions_that_its_steps_use(monkeypatch, tmp_path):
    from atras.experiment import Execution
    from atras.running import run
    from atras.testing import SMALL

    used = set()

    class Watched(Step):
        def train(self, *arguments, **options):
            used.add(self.instructions)
            return super().train(*arguments, **options)

    monkeypatch.setattr("atras.engines.fused.Step", Watched)
    run(SMALL.replace(epochs=1), Execution(engine="fused", device="cpu"), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["kernels"]
    assert used == {record["cpu"]["instructions"]}
