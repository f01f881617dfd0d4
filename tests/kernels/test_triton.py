"""Triton without a GPU: its interpreter in a child process, and compilation ahead of time."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atras.kernels import backends
from budgets import SPILLED

pytestmark = [
    pytest.mark.skipif(backends.interpreting(), reason="the child process itself"),
]
triton = pytest.importorskip("triton")

HERE = Path(__file__).parent


def test_interpreted_kernels_agree_with_the_definitions():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton"]
    names = ("fgsm", "dropout", "ascent", "projection", "square", "ambient_state")
    files = [HERE / f"test_{name}.py" for name in names]
    run = subprocess.run([*command, *files], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 200, run.stdout


FGSM = {
    "p_images": "*u8",
    "p_gradients": "*fp32",
    "p_signs": "*i8",
    "p_values": "*fp32",
    "p_counts": "*i32",
    "p_totals": "*i64",
    "members": "i32",
    "tiles": "i32",
    "pixels": "i32",
    "epsilon": "fp64",
    "low": "fp64",
    "high": "fp64",
    "direction": "i32",
    "p_epsilons": "*fp64",
}
OWN = {"p_images": "*fp64", "p_gradients": "*fp64", "p_values": "*fp64"}
DROPOUT = {"p_x": "*fp32", "p_y": "*fp32", "p_keys": "*i64", "p_steps": "*i64", "p_widths": "*i64"}
DROPOUT |= {"rows": "i32", "spots": "i32", "channels": "i32", "scale": "fp64", "layer": "i32", "rate256": "i32"}
SQUARE = dict.fromkeys(("channels", "height", "width", "side", "classes", "numbers"), "i32")
SQUARE |= dict.fromkeys(("epsilon", "low", "high"), "fp64") | {
    "p_labels": "*i64",
    "p_spent": "*fp64",
    "p_after": "*fp64",
}
SQUARE |= {f"p_{name}": "*fp32" for name in ("tried", "best", "clean", "drawn", "bumps", "values", "logits")}
ASCENT = dict.fromkeys(("p_points", "p_before", "p_gradients", "p_clean", "p_sizes", "p_reached"), "*fp32")
ASCENT |= {"p_kept": "*fp32", "p_values": "*fp32", "p_chosen": "*u8", "pixels": "i32"}
ASCENT |= dict.fromkeys(("epsilon", "weight", "rest", "low", "high"), "fp64")
WIDE = {name: "*fp64" for name, kind in ASCENT.items() if kind == "*fp32"}
BOUNDARY = dict.fromkeys(("p_points", "p_clean", "p_normals", "p_values", "p_reached"), "*fp32") | {"pixels": "i32"}
BOUNDARY |= dict.fromkeys(("alpha", "eta", "low", "high"), "fp64")
SHARED = {"SHARED": True, "EACH": False, "GROUP": 4, "BLOCK": 1024, "num_warps": 8}
OWN_TILE = {"EACH": False, "GROUP": 1, "BLOCK": 2048, "num_warps": 8}
KERNELS = {
    "fgsm": ("fgsm", "fgsm_kernel", FGSM, SHARED | {"SIGNS": False}),
    "fgsm-own": (
        "fgsm",
        "fgsm_kernel",
        FGSM | OWN,
        OWN_TILE | {"SHARED": False, "SIGNS": False},
    ),
    "fgsm-totals": ("fgsm", "totals_kernel", FGSM, {"BLOCK": 256}),
    "fgsm-signs": ("fgsm", "fgsm_kernel", FGSM | {"p_values": "*i8"}, OWN_TILE | {"SHARED": True, "SIGNS": True}),
    "apply-signs": ("fgsm", "apply_signs_kernel", FGSM, SHARED),
    "apply-signs-each": ("fgsm", "apply_signs_kernel", FGSM, SHARED | {"EACH": True}),
    "ascent": ("ascent", "ascent_kernel", ASCENT, {"MOMENTUM": True, "BLOCK": 1024}),
    "ascent-double": ("ascent", "ascent_kernel", ASCENT | WIDE, {"MOMENTUM": True, "BLOCK": 1024}),
    "keep": ("ascent", "keep_kernel", ASCENT, {"BLOCK": 1024}),
    "boundary-linf": ("projection", "boundary_kernel", BOUNDARY, {"NORM": "linf", "BLOCK": 1024}),
    "boundary-l2": ("projection", "boundary_kernel", BOUNDARY, {"NORM": "l2", "BLOCK": 1024}),
    "boundary-l1": ("projection", "boundary_kernel", BOUNDARY, {"NORM": "l1", "BLOCK": 1024}),
    "dropout": ("dropout", "dropout_kernel", DROPOUT, {"PADDED": True, "PLANAR": False, "BLOCKS": 64}),
    "square-corners": ("square", "corners_kernel", SQUARE, {"BLOCK": 1024}),
    "square-bumps": ("square", "bumps_kernel", SQUARE, {"BLOCK": 1024}),
    "square-keep": ("square", "keep_kernel", SQUARE, {"TWO": False, "BLOCK_Y": 16, "BLOCK": 64}),
    "square-keep-two": ("square", "keep_kernel", SQUARE, {"TWO": True, "BLOCK_Y": 1024, "BLOCK": 1024}),
    "dropout-planar": ("dropout", "dropout_kernel", DROPOUT, {"PADDED": False, "PLANAR": True, "BLOCKS": 64}),
}


NUMBERS = {"epsilon", "weight", "rest", "alpha", "eta", "low", "high", "scale"}


@pytest.mark.parametrize("name", KERNELS)
def test_numbers_reach_the_kernel_as_doubles(name):
    """Triton passes a Python float as float32 unless its annotation says otherwise; float64 images would suffer."""
    op, kernel, *_ = KERNELS[name]
    doubles = {p.name for p in kernel_of(op, kernel).params if p.annotation_type == "fp64"}
    assert doubles == set(kernel_of(op, kernel).arg_names) & NUMBERS


def kernel_of(op, kernel):
    return getattr(importlib.import_module(f"atras.kernels.{op}.gpu_triton"), kernel)


def compiled(op, kernel, types, constants, capability):
    """A kernel compiled for a card that need not be here; pixels a multiple of 16, as the launcher would find."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, constants = kernel_of(op, kernel), {"num_warps": 4, **constants}
    warps = constants.pop("num_warps")
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name == "pixels"]
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "enable_fp_fusion": False}
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_into_registers(name, capability, spilled):
    kernel = compiled(*KERNELS[name], capability)
    assert spilled(kernel) <= SPILLED
    assert kernel.metadata.shared <= 99 * 1024


@pytest.mark.parametrize("name", ["fgsm", "fgsm-signs", "fgsm-own", "apply-signs"])
def test_all_pixels_of_a_program_are_on_their_way_before_it_waits_for_any(name):
    """A thread asks for 64 bytes at once, 16 at a time and next to its neighbours', and moves none to another."""
    op, kernel, types, constants = KERNELS[name]
    own = {"p_images": "*fp32", "p_gradients": "*fp32"} if name == "fgsm-own" else {}
    found = compiled(op, kernel, types | own | ({"p_values": "*fp32"} if own else {}), constants, 90)
    ptx = found.asm["ptx"]
    loads = ptx[: ptx.index("st.global")].count("ld.global.v4")
    # 1024 pixels of 4 members, or 2048 of one, with its images or without, among 256 threads; signs are bytes.
    assert loads == {"apply-signs": 0, "fgsm-signs": 2}.get(name, 4)
    assert ptx.count("ld.global.v4") == loads
    assert ptx.count("st.global.v4") == {"fgsm-own": 2, "fgsm-signs": 0}.get(name, 4)
    assert "convert_layout" not in found.asm["ttgir"]


@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("output", ["images", "signs"])
def test_fgsm_is_two_launches(members, output, monkeypatch):
    """Its counts are summed in one, and nothing is cleared before."""
    gpu = importlib.import_module("atras.kernels.fgsm.gpu_triton")
    launches, operations = [], set()

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operations.add(str(function))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, **__: launches.append(self.__name__))
    images, gradients = torch.rand(1, 2, 1, 5, 5), torch.rand(members, 2, 1, 5, 5)
    dtype = torch.float32 if output == "images" else None
    with Log():
        values, *counts = gpu.fgsm(images, gradients, 0.1, 0.0, 1.0, 1, dtype)
    assert launches == ["fgsm_kernel", "totals_kernel"]
    assert operations <= {"aten.empty.memory_format", "aten.empty_like.default", "aten.select.int"}
    assert values.dtype == (dtype or torch.int8)
    assert [(count.shape, count.dtype) for count in counts] == [((members,), torch.int64)] * 2
