"""All that whole runs launch on a GPU, compiled ahead of time: how many kernels there are, and what each one takes."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

import gpu_kernels
from atras.kernels import backends
from budgets import SPILLED

triton = pytest.importorskip("triton")

from atras.kernels.step import gpu_gather, gpu_graph  # noqa: E402 (it needs Triton)

pytestmark = [
    pytest.mark.skipif(backends.interpreting(), reason="nothing here computes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux"),
    # What nobody computed may be infinite, or no number.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

MOST = 64
"""Kernels that a run may compile before it is done: a second or two each, on one core."""


class Card(triton.backends.driver.DriverBase):
    """As much of a GPU's driver as Triton asks before it launches."""

    def __init__(self):
        pass

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda", 0)

    def get_benchmarker(self):
        return None

    def map_python_to_cpp_type(self, kind):
        return kind


def test_a_launch_finds_in_the_cache_what_was_compiled_ahead(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    counters, steps = torch.zeros(3, dtype=torch.int64), torch.zeros(40, dtype=torch.int64)
    with gpu_kernels.recording(90) as recorder:
        gpu_gather.launch_bump(counters, steps)
    (found,) = recorder.found.values()
    found.compiled(90)
    before = {path.name for path in tmp_path.iterdir()}
    assert before
    monkeypatch.setattr(triton.runtime.driver, "_active", Card())
    found.function.device_caches.clear()
    found.function.run(counters, steps, 40, 1024, grid=(1,), warmup=True, **gpu_gather.OPTIONS)
    assert {path.name for path in tmp_path.iterdir()} == before
    found.function.run(counters, steps, 48, 1024, grid=(1,), warmup=True, **gpu_gather.OPTIONS)  # a multiple of 16
    assert {path.name for path in tmp_path.iterdir()} > before
    found.function.device_caches.clear()


def test_a_recording_knows_other_types_alignments_and_options():
    with gpu_kernels.recording(90) as recorder:
        for counters in (torch.zeros(3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)[1:]):
            for members in (32, 48, 40, 1):
                gpu_gather.launch_bump(counters, torch.zeros(members, dtype=torch.int64))
    # Multiples of 16, others, and one, which becomes a constant; counters at a multiple of 16 bytes and not.
    assert len(recorder.found) == 2 * 3
    assert len(recorder.launches) == 2 * 4


@pytest.mark.parametrize(
    ("figures", "capability", "expected"),
    [
        ({"spilled": SPILLED, "shared": 163 * 1024}, 80, []),
        ({"spilled": SPILLED + 4, "shared": 0}, 90, ["spilled 68, at most 64"]),
        ({"spilled": 0, "shared": 163 * 1024 + 1}, 80, ["shared 166913, at most 166912"]),
        ({"spilled": 0, "shared": 163 * 1024 + 1}, 100, []),
        ({"error": "no such instruction"}, 90, ["does not compile: no such instruction"]),
    ],
)
def test_a_kernel_that_takes_more_than_a_card_has_is_named(figures, capability, expected):
    assert gpu_kernels.over(figures, capability) == expected


def launch_some():
    for members in (32, 40):
        gpu_gather.launch_bump(torch.zeros(3, dtype=torch.int64), torch.zeros(members, dtype=torch.int64))


def test_the_command_goes_on_where_its_file_ended_and_fails_for_what_does_not_compile(tmp_path, monkeypatch, capsys):
    file, seen = tmp_path / "kernels.json", []

    def refused(found, *_):
        for each in found:
            seen.append(each.name)
            yield {"label": "", "name": each.name, "module": "", "error": "too bad"}

    monkeypatch.setattr(gpu_kernels, "compile_all", refused)
    monkeypatch.setitem(gpu_kernels.RUNS, "mnist bf16", SimpleNamespace(go=launch_some))
    command = ["mnist bf16", "--json", str(file)]
    assert gpu_kernels.main([*command, "--seconds", "0"]) == 1
    assert len(seen) == 1
    assert "1 kernels are left" in capsys.readouterr().out
    assert gpu_kernels.main(command) == 1
    assert len(seen) == 3  # what did not compile is tried again
    assert len(json.loads(file.read_text())) == 2
    assert capsys.readouterr().out.count(": does not compile: too bad\n") == 2


@pytest.fixture
def captures(monkeypatch):
    """A context for a recorder in which each sequence that graphs hold is launched as it comes; how often one came."""
    seen = {}

    def watch(recorder):
        def run(self, key, launch):
            before = len(recorder.launches)
            launch()
            seen.setdefault((id(self), key), []).append(set(recorder.launches[before:]))

        monkeypatch.setattr(gpu_graph.Graphs, "run", run)
        return seen

    return watch


RUNS = [
    pytest.param(name, marks=[] if name in ("mnist bf16", "convolutions of their own") else pytest.mark.slow)
    for name in gpu_kernels.RUNS
]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_compiles_few_kernels_and_none_while_a_graph_is_captured(name, captures, record_property):
    with gpu_kernels.recording(90) as recorder:
        seen = captures(recorder)
        gpu_kernels.record(recorder, [name])
    record_property("kernels", len(recorder.found))
    print(f"{name}: {len(recorder.found)} kernels")  # noqa: T201 (read with -rP)
    assert 20 < len(recorder.found) <= MOST
    # A capture is the second time that a sequence comes, and cannot compile.
    again = [each for each in seen.values() if len(each) > 1]
    assert again
    for first, *others in again:
        assert all(other == first for other in others)


def assert_within_budgets(found, capability, record_property):
    told = gpu_kernels.figures(found, capability)
    record_property(told["name"], gpu_kernels.line(told))
    print(gpu_kernels.line(told))  # noqa: T201 (read with -rP)
    assert not gpu_kernels.over(told, capability), told
    assert told["programs"] >= 1, told
    if found.multiplies or "*bf16" not in found.signature.values():  # the others choose
        assert (told["products"] > 0) == found.multiplies, told


def test_convolutions_of_a_step_fit_a_multiprocessor(record_property):
    with gpu_kernels.recording(90) as recorder:
        gpu_kernels.record(recorder, ["mnist bf16"])
    kernels = [
        each for each in recorder.found.values() if "_conv_" in each.module and "*bf16" in each.signature.values()
    ]
    assert len({each.name for each in kernels}) >= 3  # forward, and both gradients
    for each in kernels:
        assert_within_budgets(each, 90, record_property)


@pytest.mark.slow
def test_everything_that_runs_launch_fits_a_multiprocessor(record_property):
    with gpu_kernels.recording(90) as recorder:
        gpu_kernels.record(recorder)
    print(f"{len(recorder.found)} kernels")  # noqa: T201 (read with -rP)
    for each in recorder.found.values():
        assert_within_budgets(each, 90, record_property)
