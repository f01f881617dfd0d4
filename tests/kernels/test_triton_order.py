"""Programs of a launch in any order, and every address that they touch, in Triton's interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from atras.kernels import ConvLayer, backends
from atras.testing import assert_close
from populations import RECIPES, Case, all_values, assert_same, make, plan, recipe_of, work
from watched import Watch, watching

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from atras.kernels.step import gpu_convolution, gpu_dense, gpu_gather, gpu_layout  # noqa: E402 (it needs Triton)

CHILD = backends.interpreting()
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")]
interpreted = pytest.mark.skipif(not CHILD, reason="the child process computes")
CPU = torch.device("cpu")


@pytest.mark.skipif(CHILD, reason="the child process itself")
@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_programs_may_run_in_any_order(marks):
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "ATRAS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= (3 if marks == "slow" else 10), run.stdout


# A network of two convolutions, the second on the first one's pool, beside one of another and one of none; whole and
# partial batches; more than one tile of columns.
CHAIN = Case("none", (1, 4, 4), "relu", [[5], [], [70]], 2, 3, 64, data=4, convolutions=[
    [ConvLayer(5, padding=1, pool=2, rate256=64), ConvLayer(18, padding=1)], [ConvLayer(3)], [],
])  # fmt: skip
STEM = Case("conv2", (1, 14, 10), "gelu", [[9], [7, 18]], 2, 3, 64, data=4)
WIDE = Case("none", (3, 6, 5), "sigmoid", [[9], []], 2, 3, data=4, convolutions=[
    [ConvLayer(70, padding=1), ConvLayer(33, padding=1, pool=2)], [ConvLayer(5, padding=1, pool=2)],
])  # fmt: skip


def everything(case, order, monkeypatch, *, poisoned=False):
    """Losses, parameters, moments, logits and gradients of a training and an evaluation, and what was launched."""
    for name in ("PROGRAMS", "LARGE_PROGRAMS"):  # few, which take several turns
        monkeypatch.setattr(gpu_layout, name, 4)
    options, decays, rates = recipe_of(case, RECIPES["everything"])
    step = make(case, device=CPU, **options)
    images, labels, indices = work(case)
    watch, found = Watch(order, step._step.memory), []
    with watching(watch):
        for i, index in enumerate(indices.split(case.batch)):
            watch.forget()
            if poisoned:
                step.poison()
            given = plan(case) | {"first_step": i, "learning_rates": rates[:, i].contiguous(), "weight_decays": decays}
            found += step.train(images, labels, index, **given)
        watch.forget()
        if poisoned:
            step.poison()
        found += step.input_gradient(images[:3].float() / 255, labels[:3])
    found += [array for slot in range(step.slots) for m in range(len(case.hidden))
              for array in step.get_parameters(m, slot)]  # fmt: skip
    return [*found, *(array for member in all_values(step, case) for array in member)], watch


@interpreted
@pytest.mark.parametrize(
    ("case", "orders"),
    [
        (CHAIN._replace(images=2), ["shuffled"]),
        *(pytest.param(c, ["reversed"], marks=pytest.mark.slow) for c in (CHAIN, STEM, WIDE)),
    ],
    ids=str,
)
def test_programs_may_run_in_any_order_and_leave_the_others_numbers_alone(case, orders, monkeypatch):
    expected, watch = everything(case, "forward", monkeypatch)
    assert {"gather_kernel", "weight_gradient_kernel", "reduce_kernel", "adam_kernel", "scales_kernel"} <= {
        *watch.launches
    }
    assert watch.programs > 3 * len(watch.launches)
    for order in orders:
        found, other = everything(case, order, monkeypatch, poisoned=True)
        assert other.launches == watch.launches
        assert_same(found, expected)


@triton.jit
def careless_kernel(p_x, p_y, count, SHIFT: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i_at = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    tl.store(p_y + i_at, tl.load(p_x + i_at + SHIFT, mask=i_at < count), mask=i_at < count)


@interpreted
@pytest.mark.parametrize(
    ("shift", "step", "own", "told"),
    [
        (0, 4, False, ""),
        (4, 4, False, "reads 4 numbers outside"),
        (0, 3, False, "3 numbers are written by two programs"),
        (0, 4, True, "12 numbers are read that another program writes"),
    ],
)
def test_what_is_careless_is_found(shift, step, own, told):
    memory = torch.arange(40.0)
    x, y = memory[:16], memory[4:20] if own else memory[24:]
    with watching(Watch("reversed")):
        if not told:
            careless_kernel[(4,)](x, y, 16, shift, step, 4)
            assert_same(y, x)
            return
        with pytest.raises(Exception, match=told):  # the interpreter's own, or this one's
            careless_kernel[(4,)](x, y, 16, shift, step, 4)


@interpreted
def test_scratch_memory_is_read_where_it_was_written_before():
    memory = torch.empty(128, dtype=torch.uint8)
    x, y = memory[:64].view(torch.float32), memory[64:].view(torch.float32)
    with watching(Watch("forward", memory)), pytest.raises(Exception, match="reads 4 numbers of scratch memory that"):
        careless_kernel[(4,)](x, y, 16, 0, 4, 4)


def assert_last_of_many(launch, source, expected):
    """Where a source has more numbers than 32 bits count, the last programs take the last of them.

    Memory that nobody touches is not there either: all but a few of these gigabytes.
    """
    assert source.numel() > 2**31
    with watching(Watch("forward")):
        found = launch()
    assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)  # float16


@interpreted
def test_images_past_what_32_bits_count_are_convolved():
    images = 2**31 // 256 + 1
    convolution = gpu_layout.Convolution(4, 4, 16, 16, 0, True, 0, 1, 1, 16, 16, 0, 0)
    site = gpu_convolution.Site(convolution, 0, 0, 0, 256, 0, 1)
    options = {"activation": "relu", "slopes": False, "precision": "bf16", "device": CPU, "shared": True}
    work_of = gpu_convolution.work([site], members=1, images=images, **options)
    last = work_of._replace(forward=work_of.forward[-1:], input_gradient=work_of.input_gradient[-1:])
    x, dx, y, dy = (torch.empty(images * size, dtype=torch.float16) for size in (256, 256, 16, 16))
    saved, draw = torch.empty(images * 16, dtype=torch.uint8), torch.Generator().manual_seed(0)
    x[-256:], dy[-16:] = torch.randn(256, generator=draw), torch.randn(16, generator=draw)
    weight, bias = torch.randn(144, 16, generator=draw).half() / 12, torch.zeros(16)
    image = x[-256:].double().view(1, 4, 4, 16).permute(0, 3, 1, 2).requires_grad_()
    defined = F.max_pool2d(torch.relu(F.conv2d(image, weight.double().view(3, 3, 16, 16).permute(3, 2, 0, 1))), 2)
    (gradient,) = torch.autograd.grad(defined, image, dy[-16:].double().view(1, 16, 1, 1))

    def launch():
        gpu_convolution.forward(last, x, weight, bias, y, saved, None)
        gpu_convolution.input_gradient(last, dy, saved, None, weight, dx, dropped=False)
        return torch.cat([y[-16:], dx[-256:]])

    assert_last_of_many(launch, x, torch.cat([defined.detach().flatten(), gradient.permute(0, 2, 3, 1).flatten()]))


@interpreted
def test_rows_past_what_32_bits_count_are_multiplied():
    rows = 2**31 // 64 + 1
    layer = dict.fromkeys(gpu_dense.Layer._fields, 0)
    layer |= {"x_stride": 64, "weight_stride": 64, "y_stride": 16, "inputs": 64, "outputs": 16, "stored": 16}
    layers = [gpu_dense.Layer(**layer)]
    x, dx, y, dz = (torch.empty(rows * size, dtype=torch.float16) for size in (64, 64, 16, 16))
    draw = torch.Generator().manual_seed(0)
    x[-64:], dz[-16:] = torch.randn(64, generator=draw), torch.randn(16, generator=draw)
    weight = torch.randn(16, 64, generator=draw).half() / 8
    forward, backward = gpu_dense.output_tiles(layers, rows)[-1:], gpu_dense.input_tiles(layers, rows)[-1:]

    def launch():
        gpu_dense.launch_forward(gpu_dense.tables(layers, forward, CPU), x, weight, torch.zeros(16), y, rows)
        gpu_dense.launch_input_gradient(gpu_dense.tables(layers, backward, CPU), dz, weight, dx, rows)
        return torch.cat([y[-16:], dx[-64:]])

    expected = [weight.double() @ x[-64:].double(), dz[-16:].double() @ weight.double()]
    assert_last_of_many(launch, x, torch.cat(expected))


@interpreted
@pytest.mark.parametrize("signed", [False, True])
def test_images_past_what_32_bits_count_are_gathered(signed):
    count = 2**31 // 64 + 1
    images = torch.empty(count, 1, 8, 8, dtype=torch.uint8)
    images[-1] = torch.arange(64).view(8, 8)
    signs = torch.empty(1, count, 1, 8, 8, dtype=torch.int8) if signed else None
    if signs is not None:
        signs[0, -1] = 1
    order = gpu_gather.Order(torch.tensor([(1 + signed) * count - 1]), torch.zeros(1, dtype=torch.int64),
                             torch.tensor([0, 0, 1]))  # fmt: skip
    values, labels = torch.empty(64), torch.empty(1, 1, dtype=torch.int64)
    source = gpu_gather.Source(
        images, signs, torch.tensor([0.5], dtype=torch.float64), torch.empty(count, dtype=torch.int64)
    )

    def launch():
        shape = {"image_shape": (1, 8, 8), "planar": True, "stored": 64}
        gpu_gather.launch_gather(source, values, labels, order=order, batch=1, **shape)
        return values

    assert_last_of_many(launch, images, torch.arange(64).double() / 255 + 0.5 * signed)
