"""The backends an op is tested on: plain torch, C++, and Triton on a GPU or, in a child process, interpreted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from atras.kernels import backends
from atras.testing import poisoned
from quick_interpreter import hasten

if backends.interpreting():
    hasten()


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


POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@pytest.fixture
def compile_ahead() -> Callable[..., Any]:
    """compile_ahead(kernel, arguments, capability, options): a kernel compiled for a card that need not be here.

    Arguments are what a launcher would pass: tensors (meta ones too; aligned, as torch's are), numbers, or None.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compiled(kernel: Any, arguments: Sequence[Any], capability: int, options: dict[str, Any]) -> Any:
        signature, constants, aligned = {}, {}, {}
        for i, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[(i,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name], aligned[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    return compiled


@pytest.fixture
def assembled(tmp_path: Path) -> Callable[[str], str]:
    """assembled(ptx): what Triton's own assembler says about registers and spills."""
    import triton

    # It ships two, for older and newer cards.
    tools = sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*"))

    def report(ptx: str) -> str:
        (tmp_path / "kernel.ptx").write_text(ptx)
        arch = re.search(r"\.target (\w+)", ptx)[1]
        for tool in tools:
            command = [tool, "-v", f"-arch={arch}", tmp_path / "kernel.ptx", "-o", os.devnull]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode == 0:
                return run.stderr
        raise AssertionError(f"none of {tools} takes {arch}")

    return report


@pytest.fixture
def spilled(assembled: Callable[[str], str], record_property: Callable[[str, object], None]) -> Callable[..., int]:
    """spilled(kernel): bytes that it spills to or from memory; all figures are printed, and not empty code's."""

    def figures(kernel: Any) -> int:
        ptx = kernel.asm["ptx"]
        # An LLVM that finds a kernel's behaviour undefined leaves this of it, and that is no error anywhere.
        assert "trap;" not in ptx, f"{kernel.metadata.name} is compiled into a trap"
        report = assembled(ptx)
        spills = [int(size) for size in re.findall(r"(\d+) bytes spill (?:stores|loads)", report)]
        registers = int(re.search(r"Used (\d+) registers", report)[1])  # type: ignore[index]
        text = f"{registers} registers, {max(spills)} bytes spilled, {kernel.metadata.shared} bytes shared"
        record_property(kernel.metadata.name, text)
        print(f"{kernel.metadata.name}: {text}")  # noqa: T201 (read with -rP)
        return max(spills)

    return figures
