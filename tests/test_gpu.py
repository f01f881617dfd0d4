"""GPUs that are there and of no use: the run goes on without them and says why. Launches are substituted throughout."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atras import gpu
from atras.engines import why_not
from atras.environment import choose_device, total_memory, why_no_gpu
from atras.errors import InputError
from atras.experiment import Execution
from atras.running import make_plan, run
from atras.testing import SMALL

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
TROUBLES = {
    "compiler": (
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), "install a C compiler"
    ),
    "headers": (subprocess.CalledProcessError(1, ["cc", "main.c"]), "Python's headers"),
    "cache": (PermissionError(13, "Permission denied", "/root/.triton/cache"), "set TRITON_CACHE_DIR"),
    "full": (OSError(28, "No space left on device"), "set TRITON_CACHE_DIR"),
    "memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 MiB"), "taken by other programs"),
    "driver": (RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA"), "its driver"),
    "library": (AssertionError("libcuda.so cannot found!\nPlease make sure GPU is set up"), "its driver"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ATRAS_BACKEND", raising=False)
    cached = (gpu.found, gpu.trouble, gpu.kernel_trouble)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpu, "try_torch", lambda device: None)
    monkeypatch.setattr(gpu, "try_triton", lambda device: None)


def fail(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, torch_itself: bool, at: tuple[int, ...] = (0, 1)
) -> list:
    """Have the probe of some GPUs fail; the devices that were tried."""
    tried = []

    def attempt(device: torch.device) -> None:
        tried.append(device)
        if device.index in at:
            raise error

    monkeypatch.setattr(gpu, "try_torch" if torch_itself else "try_triton", attempt)
    return tried


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", TROUBLES)
def test_automatic_choice_goes_on_without_a_gpu_that_cannot_be_used_and_says_why(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, advice = TROUBLES[name]
    tried = fail(monkeypatch, error, torch_itself=name in ("memory", "driver"))
    assert choose_device("auto") == CPU
    reason = why_no_gpu()
    assert reason.startswith("the GPU is not taken: ")
    assert advice in reason
    assert "\n" not in reason
    with pytest.raises(
        InputError, match=r"^device \(='cuda'\): expected a GPU that can be used, but .*--device cpu"
    ) as no:
        choose_device("cuda")
    assert advice in str(no.value)
    assert "\n" not in str(no.value)
    assert choose_device("cpu") == CPU
    assert tried == [FIRST, SECOND]  # once each, whoever asks


@pytest.mark.usefixtures("two_gpus")
def test_the_reason_stands_in_the_plan_and_in_the_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail(monkeypatch, TROUBLES["compiler"][0], torch_itself=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    protocol = SMALL.replace(epochs=1, adversarial_epochs=1)
    plan = make_plan(protocol, Execution())
    assert "the GPU is not taken: Triton cannot compile its launchers" in plan.reason
    assert any(line.startswith("the GPU is not taken") for line in plan.lines())
    assert "GPU" not in make_plan(protocol, Execution(device="cpu")).reason  # which was asked for
    run(protocol, Execution(), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["plan"]["device"], record["plan"]["reason"]) == ("cpu", plan.reason)
    with pytest.raises(InputError, match="expected a GPU that can be used"):
        run(protocol, Execution(device="cuda:1"))


@pytest.mark.usefixtures("two_gpus")
def test_automatic_choice_takes_the_first_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == FIRST
    gpu.trouble.cache_clear()
    fail(monkeypatch, TROUBLES["memory"][0], torch_itself=True, at=(0,))
    assert choose_device("auto") == choose_device("cuda:1") == SECOND
    assert why_no_gpu() == ""
    with pytest.raises(InputError, match="found 2 CUDA device"):
        choose_device("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_plain_torch_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRAS_BACKEND", "reference")
    fail(monkeypatch, TROUBLES["compiler"][0], torch_itself=False)
    assert choose_device("auto") == FIRST
    pytest.importorskip("triton")
    assert "install a C compiler" in why_not(FIRST)  # engine fused has nothing else


def test_a_driver_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."

    def unavailable() -> bool:
        warnings.warn(words, UserWarning, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    assert choose_device("auto") == CPU
    assert why_no_gpu() == f"the GPU is not taken: {words}"
    with pytest.raises(InputError, match=r"found none that torch can use .*driver on your system is too old"):
        choose_device("cuda")


def test_no_gpu_needs_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    assert why_no_gpu() == ""


def test_the_launch_is_compiled_anew_inside_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    triton = pytest.importorskip("triton")
    from atras.kernels.fgsm import gpu_triton

    folders: list[Path] = []

    def launch(*_: object) -> None:
        folders.append(Path(triton.knobs.cache.dir))
        assert folders[-1].is_dir()

    class Driver:
        @property
        def active(self) -> None:
            launch()

    monkeypatch.setattr(triton.runtime, "driver", Driver())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(gpu_triton, "fgsm", launch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert gpu.kernel_trouble(CPU) == ""
    driver, folder = folders
    assert driver == folder.parent == tmp_path / "triton"
    assert list((tmp_path / "triton").iterdir()) == []
    assert triton.knobs.cache.dir == str(tmp_path / "triton")
    gpu.kernel_trouble.cache_clear()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert "set TRITON_CACHE_DIR to a folder that can" in gpu.kernel_trouble(CPU)
    assert len(folders) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux")
def test_triton_compiles_into_the_folder_that_the_probe_names(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from atras.kernels.fgsm.gpu_kernels import apply_signs_kernel

    types = dict.fromkeys(apply_signs_kernel.arg_names, "i32")
    types |= dict.fromkeys(("epsilon", "low", "high"), "fp32")
    types |= dict(zip(apply_signs_kernel.arg_names[:3], ("*fp32", "*i8", "*fp32"), strict=True))
    constants = dict(zip(apply_signs_kernel.arg_names[-4:], (False, False, 1, 64), strict=True))
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(apply_signs_kernel, signature=types, constexprs=constants)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert list(tmp_path.rglob("*.cubin"))


@pytest.mark.parametrize(("free", "own", "amount"), [(50, 0, 50), (50, 20, 100), (61, 0, 100), (5, 0, 5)])
def test_memory_that_others_have_taken_is_not_counted_on(
    free: int, own: int, amount: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: own)
    found = total_memory(FIRST)
    assert found.amount == amount
    assert found.source.startswith("free on the GPU" if amount < 100 else "the GPU")


@pytest.mark.gpu
def test_a_gpu_that_works_is_taken() -> None:
    assert gpu.try_torch(FIRST) is gpu.try_triton(FIRST) is None
    assert choose_device("auto") == FIRST
