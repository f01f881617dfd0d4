"""Machine code of the kernels for capability 9: no register that an asynchronous product has yet to read is written.

Assemblers before 13.3 can reuse the registers of a product's first operand too early (triton-lang/triton#9433).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gpu_kernels
from atras.kernels import backends
from machine_code import overwritten, parse

triton = pytest.importorskip("triton")

pytestmark = [
    pytest.mark.skipif(backends.interpreting(), reason="nothing here computes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # what nobody computed may be infinite, or no number
]

# Two products, each with its first operand in registers; the second may be under way where one is waited for.
CODE = """
        /*0000*/                   WARPGROUP.ARRIVE ;
.L_x_1:
        /*0010*/                   {first} ;
        /*0020*/                   HGMMA.64x32x16.F32.BF16 R72, R24, gdesc[UR48], RZ, !UPT, gsb0 ;
        /*0030*/                   HGMMA.64x32x16.F32.BF16 R72, R28, gdesc[UR4], R72, gsb0 ;
        /*0040*/                   {between} ;
        /*0050*/                   WARPGROUP.DEPBAR.LE gsb0, {left} ;
        /*0060*/                   {after} ;
        /*0070*/              @!P0 BRA `(.L_x_1) ;
        /*0080*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0090*/                   MOV R24, R0 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   MOV R28, R0 ;
"""
NOTHING = {"first": "NOP", "between": "NOP", "after": "NOP", "left": "0x0"}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"after": "PRMT R25, R40, 0x5410, R41", "first": "MOV R31, R1"}, []),
        ({"between": "STG.E.128 desc[UR6][R24.64], R28"}, []),
        ({"between": "ISETP.NE.U32.AND P1, PT, R25, 0x1, PT"}, []),
        ({"between": "PRMT R25, R40, 0x5410, R41"}, ["R25"]),
        ({"between": "LDS.128 R20, [R1]"}, []),
        ({"between": "LDS.128 R21, [R1]"}, ["R24"]),
        ({"between": "SHFL.BFLY PT, R31, R4, 0x1, 0x1f"}, ["R31"]),
        ({"after": "MOV R27, R1", "left": "0x1"}, []),
        ({"after": "MOV R28, R1", "left": "0x1"}, ["R28"]),
        ({"first": "MOV R28, R1", "left": "0x1"}, ["R28"]),  # by way of the jump
    ],
    ids=str,
)
def test_a_register_that_is_yet_to_be_read_and_written_is_found(changes, wrong):
    found = overwritten(CODE.format(**NOTHING | changes))
    assert len(found) == len(wrong)
    assert all(f"writes {register}," in line for register, line in zip(wrong, found, strict=True))


def machine_code(kernel, folder):
    from triton import knobs

    tool = knobs.nvidia.nvdisasm.path
    if not tool or not Path(tool).exists():
        pytest.skip("Triton came without nvdisasm")
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    command = [tool, "-c", folder / "kernel.cubin"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assert_registers_live(names, modules, tmp_path, record_property):
    with gpu_kernels.recording(90) as recorder:
        gpu_kernels.record(recorder, names)
    products = 0
    for each in recorder.found.values():
        if modules in each.module and (each.multiplies or "*bf16" in each.signature.values()):
            text = machine_code(each.compiled(90), tmp_path)
            asynchronous = [one for one in parse(text)[0] if one.name.startswith("HGMMA")]
            later = sum(bool(one.read_later) for one in asynchronous)
            told = f"{len(asynchronous)} asynchronous products, {later} of them with an operand in registers"
            record_property(each.name, told)
            print(f"{each.name}: {told}")  # noqa: T201 (read with -rP)
            assert not overwritten(text), each
            products += len(asynchronous)
    assert products


def test_convolutions_of_a_step_write_to_no_register_too_early(tmp_path, record_property):
    assert_registers_live(["mnist bf16"], "_conv_", tmp_path, record_property)


@pytest.mark.slow
def test_nothing_that_runs_launch_writes_to_a_register_too_early(tmp_path, record_property):
    assert_registers_live(gpu_kernels.RUNS, "", tmp_path, record_property)
