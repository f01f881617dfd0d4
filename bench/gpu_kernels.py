"""Every kernel that runs launch on a GPU, compiled on a machine without one.

    TRITON_CACHE_DIR=cache python bench/gpu_kernels.py --capability 90 --jobs 2 --json kernels.json

Whole runs are gone through on the CPU, with kernels that do nothing: what a launcher is called with decides, by
Triton's own rules, what is compiled. The same version of Triton finds it all in its cache on the machine with the GPU.
Nothing that a run computes here means anything. The exit status is 1 where a kernel does not compile, spills more than
a few registers, or asks for more than a card has. A call that ran out of `--seconds` is gone on with by the next.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from atras.attacks import Attack
from atras.engines import FusedEngine
from atras.experiment import Execution, Protocol
from atras.kernels import backends
from atras.networks import Candidate, members_of
from atras.running.prepare import load_data
from atras.training import run_group
from peers import Parser


class Specialization(NamedTuple):
    """What Triton compiles once: a kernel for some types, constants and alignments.

    Args:
        module, name: of the kernel.
        signature: type of each argument by name; `constexpr` for constants.
        constants, attributes: by place among the arguments, as `triton.compiler.ASTSource` takes them.
        options: as `triton.compile` takes them.
        label: what recorded it first.
    """

    module: str
    name: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    label: str

    @property
    def function(self) -> Any:
        """The kernel."""
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def multiplies(self) -> bool:
        """Whether tensor cores must have something to do: products in a precision, of other operands than whole
        float32."""
        precision = self.constant.get("PRECISION")
        return precision is not None and (precision != "ieee" or "*bf16" in self.signature.values())

    @property
    def constant(self) -> dict[str, Any]:
        """Constants by name."""
        names = list(self.signature)
        return {names[at]: value for (at, *_), value in self.constants.items()}

    def compiled(self, capability: int) -> Any:
        """Triton's compiled kernel; from its cache where it is there."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        source = ASTSource(self.function, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


class Recorder:
    """Takes the place of Triton's launches.

    Args:
        capability: of the card, such as 90.
    """

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import make_backend

        self.backend = make_backend(GPUTarget("cuda", capability, 32))
        self.capability, self.label = capability, ""
        self.found: dict[str, Specialization] = {}
        self.launches: list[str] = []
        self._binders: dict[Any, Any] = {}

    def launch(self, function: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
        """As `triton.runtime.jit.JITFunction.run`, up to where it compiles."""
        from triton import knobs
        from triton.runtime import jit

        options["debug"] = options.get("debug", function.debug) or knobs.runtime.debug
        options["instrumentation_mode"] = knobs.compilation.instrumentation_mode
        if function not in self._binders:
            made = jit.create_function_from_signature(function.signature, function.params, self.backend)
            self._binders[function] = made
        bound, specialization, more = self._binders[function](*args, **options)
        name = function.fn.__name__
        # With its source, and that of what it calls: figures of another are not taken for its own.
        made_for = f"{self.capability} {function.cache_key}"
        key = f"{function.fn.__module__}.{name} {made_for} {specialization} {sorted(more.items())}"
        self.launches.append(key)
        if key not in self.found:
            parsed, *what = function._pack_args(self.backend, options, bound, specialization, more)
            place = function.fn.__module__, name
            self.found[key] = Specialization(*place, *what, dict(parsed.__dict__), self.label)


@contextlib.contextmanager
def recording(capability: int) -> Iterator[Recorder]:
    """A context in which engine fused launches Triton's kernels on the CPU, which does nothing but record them."""
    from triton.runtime.jit import JITFunction

    tiles = importlib.import_module("atras.kernels.step.gpu_convolution_tiles")
    recorder = Recorder(capability)
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (JITFunction, "run", lambda function, *args, **options: recorder.launch(function, *args, **options)),
            (backends, "interpreting", lambda: True),  # else Triton is refused on a CPU
            (backends, "bf16", lambda _: backends.Bf16(True, True, "")),
            (tiles, "_capability", lambda _: capability // 10),
            (Attack, "check_inside", lambda *_: None),  # nothing is computed: images are what memory had
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(mock.patch.dict("os.environ", {"ATRAS_BACKEND": "triton"}))
        yield recorder


class Run(NamedTuple):
    """A run whose kernels are recorded.

    Args:
        shape: of an image as it lies in a file, [H, W] or [H, W, C].
        precision: of training.
        changes: of the protocol.
        train, test: images: two whole batches and one that is no multiple of 16; more and less than are evaluated at
            once.
    """

    shape: tuple[int, ...]
    precision: str
    changes: Mapping[str, Any] = MappingProxyType({})
    train: int = 264
    test: int = 372

    def go(self) -> None:
        """Both trainings, the attack, evaluation."""
        draw, counts = np.random.default_rng(0), {"train": self.train, "test": self.test}
        with tempfile.TemporaryDirectory() as folder:
            x = {f"x_{part}": draw.integers(0, 256, (n, *self.shape), dtype=np.uint8) for part, n in counts.items()}
            np.savez(Path(folder) / "data.npz", **x, **{f"y_{part}": np.arange(n) % 10 for part, n in counts.items()})
            protocol = Protocol(dataset=str(Path(folder) / "data.npz"), epochs=1, adversarial_epochs=1)
            protocol = protocol.replace(precision=self.precision, **self.changes)
            device, data, spec = load_data(protocol, Execution(device="cpu"))
        engine = FusedEngine(spec, members_of(protocol.candidates, protocol.seeds), protocol, device)
        run_group(engine, data, protocol)


OWN = {"stem": "none", "candidates": tuple(map(Candidate.parse, ("c8-c16", "c40", "c20-c5-64")))}
RECIPE = {"activation": "gelu", "head_dropout": 0.25, "optimizer": "adamw", "weight_decay": 0.01, "average": 0.9}
RECIPE |= {"clip_gradient": 1.0, "label_smoothing": 0.1, "attacks": ("pgd(steps=2)", "deepfool(steps=2)")}
RUNS = {
    f"{name} {precision}": Run(shape, precision)
    for name, shape in {"mnist": (28, 28), "cifar10": (32, 32, 3), "digits": (8, 8)}.items()
    for precision in ("bf16", "tf32", "fp32")
}
RUNS |= {"convolutions of their own": Run((28, 28), "bf16", OWN), "recipe": Run((28, 28), "bf16", RECIPE)}
"""All candidates of the paper on its data sets, in every precision; convolutional candidates, whose sizes are read from
tables; another activation, with dropout, and everything that an update and an attack may do besides."""


def record(recorder: Recorder, names: Iterable[str] = RUNS) -> None:
    """Go through runs."""
    for name in names:
        recorder.label = name
        RUNS[name].go()


def figures(specialization: Specialization, capability: int) -> dict[str, Any]:
    """A kernel's name and constants, and what it takes of a multiprocessor, of its machine code."""
    kernel = specialization.compiled(capability)
    threads = 32 * kernel.metadata.num_warps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage = _told("cuobjdump", "-res-usage", path)
        code = _told("cuobjdump", "-sass", path)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    shared = int(kernel.metadata.shared)
    return {
        "label": specialization.label, "name": specialization.name, "module": specialization.module.rpartition(".")[2],
        "constants": {name: str(value) for name, value in specialization.constant.items()},
        "threads": threads, "registers": registers, "spilled": stack, "shared": shared,
        "programs": programs(threads, registers, shared, capability),
        "products": len(re.findall(TENSOR, code)), "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/ +[@A-Z]", code)),
    }  # fmt: skip


TENSOR = r"\b(?:HGMMA|HMMA|UTCHMMA|UTCQMMA)\b"
SHARED = {8: 164 * 1024, 9: 228 * 1024, 10: 228 * 1024}
"""Bytes of shared memory of a multiprocessor; a program takes a thousand besides its own."""
SPILLED = 64
"""Bytes of registers that a thread may spill: a few scalars, which stay in the first cache.

The same as `budgets.SPILLED` of the kernels' tests, which says why.
"""


def over(told: Mapping[str, Any], capability: int) -> list[str]:
    """What a kernel takes too much of, by its figures."""
    if "error" in told:
        return [f"does not compile: {told['error']}"]
    limits = {"spilled": SPILLED, "shared": SHARED[capability // 10] - 1024}
    return [f"{name} {told[name]}, at most {most}" for name, most in limits.items() if told[name] > most]


def programs(threads: int, registers: int, shared: int, capability: int) -> int:
    """How many programs share a multiprocessor."""
    taken = -(-registers // 8) * 8 * threads
    return min(2048 // threads, 65536 // taken, SHARED[capability // 10] // (shared + 1024), 32)


def _told(tool: str, *arguments: object) -> str:
    """The output of one of the tools that come with Triton."""
    from triton import knobs

    command = [getattr(knobs.nvidia, tool).path, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def line(told: Mapping[str, Any]) -> str:
    """Figures as a line."""
    if "error" in told:
        return f"{told['module'] + '.' + told['name']:<56} does not compile: {told['error']}  ({told['label']})"
    return (
        f"{told['module'] + '.' + told['name']:<56} {told['registers']:>4} registers {told['spilled']:>5} bytes "
        f"spilled {told['shared']:>7} shared {told['programs']:>3} programs {told['products']:>4} products "
        f"{told['instructions']:>6} instructions  ({told['label']})"
    )


def tried(specialization: Specialization, capability: int) -> dict[str, Any]:
    """The figures of a kernel, or why it does not compile."""
    try:
        return figures(specialization, capability)
    except Exception as error:  # compilers fail in many ways, and one that does is one of the answers
        return {
            "label": specialization.label, "name": specialization.name,
            "module": specialization.module.rpartition(".")[2], "error": " ".join(str(error).split())[:200],
        }  # fmt: skip


def compile_all(
    found: Sequence[Specialization], capability: int, jobs: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The figures of all kernels, compiled by so many processes at once, as they come."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for number, each in enumerate(pool.map(tried, found, [capability] * len(found)), 1):
                say(f"{number:>4} of {len(found)} {line(each)}")
                yield each
        finally:
            pool.shutdown(cancel_futures=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile what the named runs launch.

    Returns:
        0; 1 where a kernel does not compile or takes too much, or time ran out; 2 for bad input.
    """
    until = time.perf_counter()
    parser = Parser("gpu_kernels.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)}; default: all")
    parser.add_argument(
        "--capability", type=int, choices=(80, 90, 100, 103), default=90, help="of the card; default: 90"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile; default: 1")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write figures here; kernels that it has figures of are left out"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="end behind so many")
    options = parser.parse_args(argv)
    until += options.seconds
    if unknown := [name for name in options.runs if name not in RUNS]:
        parser.error(f"RUN (={unknown[0]!r}): expected some of {', '.join(RUNS)}")
    with recording(options.capability) as recorder:
        record(recorder, options.runs or RUNS)
    print(f"{len(recorder.found)} kernels in {len(recorder.launches)} launches", flush=True)
    there = options.json is not None and options.json.exists()
    told: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if there else {}
    if not isinstance(told, dict):
        parser.error(f"--json (={options.json}): expected figures by kernel, found something else; name another file")
    left = [key for key in recorder.found if "error" in told.get(key, {"error": "not compiled"})]
    made = compile_all([recorder.found[key] for key in left], options.capability, options.jobs, print)
    for key, each in zip(left, made, strict=False):
        told[key] = each
        if options.json:
            options.json.write_text(json.dumps(told, indent=1))
        if time.perf_counter() > until:
            break
    made.close()
    done = [told[key] for key in recorder.found if key in told]
    wrong = [f"{line(each)}: {text}" for each in done for text in over(each, options.capability)]
    late = len(recorder.found) - len(done)
    print("\n".join([*wrong, *([f"{late} kernels are left"] if late else [])]))
    return int(bool(wrong or late))


if __name__ == "__main__":
    sys.exit(main())
