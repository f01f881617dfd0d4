"""Op step's Triton kernels but the convolutions', compiled ahead of time for cards that need not be here."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from atras.kernels import backends
from budgets import SPILLED

triton = pytest.importorskip("triton")

pytestmark = [
    pytest.mark.skipif(backends.interpreting(), reason="not about values"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux"),
]

BLOCKS = {"BLOCK_M": 64, "BLOCK_N": 64}
DENSE_TYPES = {
    "p_layers": "*i64",
    "p_tiles": "*i32",
    "p_keys": "*i64",
    "p_step": "*i64",
    "p_biases": "*fp32",
    "rows": "i32",
}
FORWARD = {"ACTIVATION": "relu", "DROPS": False, "SLOPES": False, "BLOCK_K": 64}
DROPPING = FORWARD | {"ACTIVATION": "gelu", "DROPS": True, "SLOPES": True}
ADAM = {"p_average": "*fp32", "p_counter": "*i64", "p_decays": "*fp64", "p_scales": "*fp32", "share": "fp64"}
ADAM |= {"p_copy": "*bf16", "p_tiles": "*i64", "p_steps": "*i64", "p_rates": "*fp64"}
ADAM |= dict.fromkeys(("beta1", "beta2", "log1", "log2", "epsilon", "momentum", "longest"), "fp64")
UPDATE = {
    "ALIGNED": True,
    "COPY": True,
    "COUNTED": True,
    "DECAY": "none",
    "CLIP": False,
    "AVERAGE": False,
    "BLOCK": 1024,
}
WHOLE = {"CLIP": True, "AVERAGE": True}
LOSS = {"p_labels": "*i64", "p_losses": "*fp64", "p_correct": "*i64", "p_gradients": "*bf16", "p_counter": "*i64"}
LOSS |= {"smoothing": "fp64"}
GATHER = {"p_images": "*u8", "p_signs": "*i8", "p_values": "*bf16", "p_epsilons": "*fp64"}
KERNELS = {
    "forward": ("dense", "forward_kernel", DENSE_TYPES, FORWARD, "OPTIONS"),
    "forward-dropping": ("dense", "forward_kernel", DENSE_TYPES, DROPPING, "OPTIONS"),
    "forward-slopes": ("dense", "forward_kernel", DENSE_TYPES, DROPPING | {"DROPS": False}, "OPTIONS"),
    "input-gradient": ("dense", "input_gradient_kernel", DENSE_TYPES, {"SLOPE": "relu", "DROPPED": True}, "OPTIONS"),
    "input-gradient-slopes": (
        "dense",
        "input_gradient_kernel",
        DENSE_TYPES,
        {"SLOPE": "stored", "DROPPED": False},
        "OPTIONS",
    ),
    "weight-gradient": ("dense", "weight_gradient_kernel", DENSE_TYPES | {"p_weights": "*fp32"}, {}, "BATCH_OPTIONS"),
    "adam": ("optimizer", "adam_kernel", ADAM, UPDATE, "OPTIONS"),
    "adam-whole": ("optimizer", "adam_kernel", ADAM, UPDATE | WHOLE | {"DECAY": "decoupled"}, "OPTIONS"),
    "sgd": ("optimizer", "sgd_kernel", ADAM, UPDATE, "OPTIONS"),
    "sgd-whole": ("optimizer", "sgd_kernel", ADAM, UPDATE | WHOLE | {"DECAY": "coupled"}, "OPTIONS"),
    "squares": ("optimizer", "squares_kernel", ADAM, {"ALIGNED": True, "BLOCK": 1024}, "OPTIONS"),
    "scales": ("optimizer", "scales_kernel", ADAM | {"p_ends": "*i64"}, {"BLOCK": 1024}, "OPTIONS"),
    "cross-entropy": (
        "loss",
        "cross_entropy_kernel",
        LOSS,
        {"COUNTED": True, "PREDICTED": False, "ODDS": False, "SMOOTHED": True, "BLOCK_B": 128, "BLOCK_Y": 16},
        "OPTIONS",
    ),
    "log-odds": (
        "loss",
        "cross_entropy_kernel",
        LOSS,
        {"COUNTED": False, "PREDICTED": True, "ODDS": True, "SMOOTHED": False, "BLOCK_B": 128, "BLOCK_Y": 16},
        "OPTIONS",
    ),
    "objective": (
        "loss",
        "objective_kernel",
        LOSS | {"p_targets": "*i64"},
        {"PREDICTED": False, "TARGETED": False, "DIVIDED": True, "MEAN": False, "BLOCK_B": 64, "BLOCK_Y": 16},
        "OBJECTIVE_OPTIONS",
    ),
    "objective-targeted": (
        "loss",
        "objective_kernel",
        LOSS | {"p_targets": "*i64"},
        {"PREDICTED": False, "TARGETED": True, "DIVIDED": True, "MEAN": True, "BLOCK_B": 64, "BLOCK_Y": 16},
        "OBJECTIVE_OPTIONS",
    ),
    "gather": (
        "gather",
        "gather_kernel",
        GATHER,
        {"ORDERED": True, "OWN": False, "SIGNS": True, "LABELS": True, "BLOCK": 1024},
        "OPTIONS",
    ),
    "bump": ("gather", "bump_kernel", {}, {"BLOCK": 1024}, "OPTIONS"),
}
SIZES = {"rows", "stride", "gradient_stride", "label_stride", "pixels", "stored"}  # multiples of 16


def compiled(name, capability, precision="bf16"):
    """A kernel compiled for a card that need not be here, with what the launcher would find aligned."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    op, kernel, types, constants, options = KERNELS[name]
    module = importlib.import_module(f"atras.kernels.step.gpu_{op}")
    function = getattr(module, kernel)
    names = function.arg_names
    if op == "dense":
        depths = module.BATCH_DEPTHS if options == "BATCH_OPTIONS" else module.DEPTHS
        constants = {"ALIGNED": True, "FIELDS": len(module.Layer._fields), **BLOCKS, **constants}
        constants |= {"PRECISION": module.INPUT_PRECISION[precision], "BLOCK_K": depths[precision]}
        operand = "*bf16" if precision == "bf16" else "*fp32"
    else:
        operand = "*fp32" if op in ("optimizer", "loss") else "*i64"
    default = {n: operand if n.startswith("p_") else "i32" for n in names}
    signature = {n: "constexpr" if n in constants else {**default, **types}[n] for n in names}
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*" or n in SIZES},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=getattr(module, options))


TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma", 100: "tcgen05.mma"}
PRODUCTS = ["forward", "forward-dropping", "forward-slopes", "input-gradient", "input-gradient-slopes"]
PRODUCTS += ["weight-gradient"]
# Every kernel in bf16 for every card; the other precisions where they differ, and slow beyond one card.
COMPILED = [(name, capability, "bf16") for name in KERNELS if "-slopes" not in name for capability in TENSOR_CORES]
COMPILED += [(name, 90, precision) for name in PRODUCTS if "-slopes" not in name for precision in ("tf32", "fp32")]
EVALUATED = ["forward", "forward-slopes", "input-gradient", "input-gradient-slopes"]
COMPILED += [(name, 90, "tf32x3") for name in EVALUATED]
COMPILED += [
    pytest.param(name, capability, "tf32x3", marks=pytest.mark.slow) for name in EVALUATED for capability in (80, 100)
]
COMPILED += [
    pytest.param(name, capability, precision, marks=pytest.mark.slow)
    for name in PRODUCTS
    if "-slopes" not in name
    for capability in (80, 100)
    for precision in ("tf32", "fp32")
]


@pytest.mark.parametrize(("name", "capability", "precision"), COMPILED)
def test_kernels_compile_into_registers(name, capability, precision, spilled):
    kernel = compiled(name, capability, precision)
    assert spilled(kernel) <= SPILLED
    assert kernel.metadata.shared <= 99 * 1024
    ptx = kernel.asm["ptx"]
    if name in PRODUCTS:
        assert (TENSOR_CORES[capability] in ptx) == (precision != "fp32")
        # Operands come 16 bytes at a time, but for tf32, whose transposed operands go 4 by 4.
        narrow = re.search(r"cp\.async\.c[ag]\.shared\.global [^;]*, 0x[48],", ptx)
        assert narrow is None or precision.startswith("tf32")
