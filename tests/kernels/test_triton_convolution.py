"""The convolution block's Triton kernels: interpreted, compiled ahead of time, and on a GPU where there is one."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atras.kernels import backends
from atras.kernels.dropout import reference as dropout
from atras.testing import assert_close, poisoned
from budgets import SPILLED

triton = pytest.importorskip("triton")

from atras.kernels.step import gpu_convolution, gpu_convolution_tiles, gpu_layout  # noqa: E402 (it needs Triton)

INTERPRETING = backends.interpreting()
ON = pytest.param("cpu", id="interpreted") if INTERPRETING else pytest.param("cuda", marks=pytest.mark.gpu)
ahead = pytest.mark.skipif(INTERPRETING, reason="not about values; the parent process runs it")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux")

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu}
# The interpreter multiplies exactly, whatever the precision; bf16 has the largest tiles, so the fewest programs.
EXACT = "bf16" if INTERPRETING else "fp32"
SUMS = 2e-6  # share of the largest result that float32 sums of up to 650 products may be off


class Kind(NamedTuple):
    """Dtype and precision, and by how much of itself a factor and a stored number are rounded: 2**-bits."""

    dtype: torch.dtype
    precision: str
    factor: float = 0.0
    stored: float = 0.0


# Triton cannot interpret bf16 products.
KINDS = {"fp32": Kind(torch.float32, EXACT), "fp16": Kind(torch.float16, "bf16", 2**-11, 2**-11)}
KINDS |= {"tf32x3": Kind(torch.float32, "tf32x3")}
if not INTERPRETING:
    KINDS |= {"bf16": Kind(torch.bfloat16, "bf16", 2**-8, 2**-8), "tf32": Kind(torch.float32, "tf32", 2**-11)}


class Layer(NamedTuple):
    """A convolution of every member; images have their channels as they are, other inputs rounded up to 16."""

    height: int
    width: int
    channels: int
    filters: int
    padding: int
    pool: bool
    activation: str
    rate256: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    image: bool = False

    @property
    def out_sides(self):
        sides = [side + 2 * self.padding - 2 for side in (self.height, self.width)]
        return [side // 2 for side in sides] if self.pool else sides

    @property
    def stored_channels(self):
        natural = self.image or self.channels <= gpu_layout.FEW
        return self.channels if natural else gpu_layout.rounded(self.channels)

    @property
    def stored_filters(self):
        return gpu_layout.rounded(self.filters)


# Odd sides, both ways to read channels, blocks that are not full, more than one block of channels and filters, masks
# whose filters are no multiple of 16 bytes, more rows than a tile has, channels of images that are no multiple of 16.
LAYERS = {
    "few, pool, odd filters": Layer(9, 8, 1, 5, 0, True, "relu", 64, 2),
    "few, padding": Layer(5, 6, 3, 32, 1, False, "gelu", 0, 0),
    "pool, dropout": Layer(9, 11, 32, 16, 0, True, "relu", 64, 3),
    "padding, pool, odd widths": Layer(6, 7, 20, 24, 1, True, "sigmoid", 64, 1, True),
    "wide, odd without a pool": Layer(4, 5, 72, 80, 1, False, "tanh", 85, 1),
}
NAMES = {(name, "fp32") for name in LAYERS} | {(name, kind) for name in list(LAYERS)[1:3] for kind in KINDS}


@pytest.fixture(params=[ON])
def device(request, monkeypatch):
    """A few programs share the weight gradient's images, so that each takes several turns; memory is poisoned."""
    monkeypatch.setattr(gpu_layout, "PROGRAMS", 4)
    monkeypatch.setattr(gpu_layout, "LARGE_PROGRAMS", 18)
    with poisoned():
        yield request.param


class Saved(NamedTuple):
    """What `backward` needs of `forward`: the work and the buffers that the kernels read and write."""

    layer: Layer
    work: gpu_convolution.Work
    members: int
    images: int
    far: int
    x: Tensor
    weight: Tensor
    saved: Tensor
    slopes: Tensor | None
    scratch: int
    dropped: bool


def forward(
    layer: Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    masks: tuple[Tensor, Tensor] | None = None,
    precision: str = "fp32",
    constant: bool = True,
    far: int = 0,
) -> tuple[Tensor, Saved]:
    """The forward launch over tensors in torch's layout, which are copied into the kernels' own.

    Args:
        layer: that all members have.
        x: [M, B, C, H, W], or [B, C, H, W] for all members.
        weight: [M, O, C, 3, 3].
        bias: [M, O].
        masks, precision: see `gpu_convolution.forward` and `Launch`.
        constant: whether sizes are compiled in, instead of read from the table.
        far: numbers that lie in front of x, y and dx.

    Returns:
        [M, B, O, H', W'], channels innermost in memory, and what the backward pass needs.
    """
    members, images, sides = len(weight), x.shape[-4], layer.out_sides
    channels, filters = layer.stored_channels, layer.stored_filters
    padded = F.pad(x.movedim(-3, -1), (0, channels - layer.channels))
    taps = weight.to(x.dtype).permute(0, 3, 4, 2, 1)
    taps = F.pad(taps, (0, filters - layer.filters, 0, channels - layer.channels)).contiguous()
    biases = F.pad(bias.float(), (0, filters - layer.filters)).contiguous()
    stride, of_y = layer.height * layer.width * channels, images * sides[0] * sides[1] * filters
    sites = []
    for m in range(members):
        offsets = m * taps[0].numel(), m * filters
        sizes = (layer.height, layer.width, layer.channels, layer.filters, layer.padding, layer.pool, layer.rate256)
        convolution = gpu_layout.Convolution(*sizes, *sides, channels, filters, *offsets)
        seen = m * images * stride
        of_x = seen if x.ndim == 5 else 0
        sites.append(gpu_convolution.Site(convolution, far + of_x, far + m * of_y, far + seen, stride, m, layer.index))
    options = {"activation": layer.activation, "slopes": layer.activation != "relu", "precision": precision}
    work = gpu_convolution.work(sites, members=members, images=images, device=x.device, shared=constant, **options)
    y = x.new_empty(far + members * of_y)
    saved = torch.empty_like(y, dtype=torch.uint8)
    slopes = torch.empty_like(y) if options["slopes"] else None
    flat = torch.cat([x.new_empty(far), padded.flatten()])
    gpu_convolution.forward(work, flat, taps, biases, y, saved, slopes, masks=masks)
    y = y[far:].view(members, images, *sides, filters)
    if y.device.type != "meta":
        assert not y[..., layer.filters :].any()
    scratch = members * convolution.splits(members, images) * convolution.slab
    found = Saved(layer, work, members, images, far, flat, taps, saved, slopes, scratch, masks is not None)
    return y[..., : layer.filters].movedim(-1, -3), found


def backward(dy: Tensor, saved: Saved) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of each member, also where members share x.

    Args:
        dy: gradient of y, [M, B, O, H', W']; what the kernels see where filters are filled up is NaN.
        saved: from `forward`.

    Returns:
        dx [M, B, C, H, W] of x's dtype; fp32 dweight [M, O, C, 3, 3] and dbias [M, O].
    """
    layer, work, members, images, far, x, taps, routes, slopes, scratch, dropped = saved
    dy = F.pad(dy.movedim(-3, -1), (0, layer.stored_filters - layer.filters), value=torch.nan)
    dy = torch.cat([x.new_empty(far), dy.flatten()])
    dx = x.new_empty(far + members * images * layer.height * layer.width * layer.stored_channels)
    dweight, dbias = torch.empty_like(taps, dtype=torch.float32), dy.new_empty(members, layer.stored_filters).float()
    gpu_convolution.input_gradient(work, dy, routes, slopes, taps, dx, dropped=dropped)
    parts = torch.empty(scratch, device=x.device)
    gpu_convolution.weight_gradient(work, dy, routes, slopes, x, dweight, dbias, parts, dropped=dropped)
    dx = dx[far:].view(members, images, layer.height, layer.width, layer.stored_channels)
    dweight = dweight.permute(0, 4, 3, 1, 2)
    if dx.device.type != "meta":
        for padding in (dweight[:, layer.filters :], dweight[:, :, layer.channels :], dbias[:, layer.filters :]):
            assert not padding.any()
    dx, dweight = dx[..., : layer.channels].movedim(-1, -3), dweight[:, : layer.filters, : layer.channels]
    return dx, dweight, dbias[:, : layer.filters]


class Case:
    """Inputs of a layer for M members, and what comes out by the definition, in double precision.

    Coarse ones are multiples of 1/16 of a power of two, and at most 64 of them: numbers of 7 bits. The forward pass is
    then exact in every precision, and no window of a pool goes another way because of rounding.
    """

    def __init__(self, layer: Layer, dtype: torch.dtype, *, members=2, images=4, shared=False, coarse=False, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape, scale=1.0, dtype=dtype):
            drawn = torch.randn(shape, generator=generator)
            if coarse:
                drawn, scale = (drawn * 16).round().clamp(-64, 64) / 16, 2.0 ** round(math.log2(scale))
            return (drawn * scale).to(dtype)

        self.layer, self.shared = layer, shared
        own = () if shared else (members,)
        self.x = normal(*own, images, layer.channels, layer.height, layer.width)
        self.weight = normal(members, layer.filters, layer.channels, 3, 3, scale=(9 * layer.channels) ** -0.5)
        self.bias = normal(members, layer.filters, dtype=torch.float32)
        self.dy = normal(members, images, layer.filters, *layer.out_sides)
        self.keys = torch.randint(-(2**63), 2**63 - 1, (members,), generator=generator)
        self.step = torch.tensor([2**31 + 5])

    def defined(self):
        """y, dx, dweight, dbias."""
        layer, found = self.layer, []
        for m in range(len(self.weight)):
            x = self.x if self.shared else self.x[m]
            x, weight, bias = (t.double().requires_grad_() for t in (x, self.weight[m], self.bias[m]))
            y = self._behind(F.conv2d(x, weight, bias, padding=layer.padding), m)
            found.append((y.detach(), *torch.autograd.grad(y, (x, weight, bias), self.dy[m].double())))
        return [torch.stack(each) for each in zip(*found, strict=True)]

    def bounds(self, kind):
        """How far y, dx, dweight and dbias may be off.

        A gradient before the activation is rounded where it is multiplied (tf32 may cut it off, which is twice as much)
        and where its slope was stored; what comes of it by as much as the sum of its products' sizes. Results are
        rounded where they are stored.
        """
        found = []
        for m, weight in enumerate(self.weight.double()):
            x, dy, layer = (self.x if self.shared else self.x[m]).double(), self.dy[m].double(), self.layer
            z = F.conv2d(x, weight, self.bias[m].double(), padding=layer.padding).requires_grad_()
            y = self._behind(z, m)
            (dz,) = torch.autograd.grad(y, z, dy)
            dx = F.conv_transpose2d(dz, weight, padding=layer.padding)
            sizes = torch.nn.grad.conv2d_weight(x.abs(), weight.shape, dz.abs(), padding=layer.padding)
            share = 2 * kind.factor + kind.stored
            found.append((
                kind.stored * y.detach().abs(),
                kind.stored * dx.abs() + share * F.conv_transpose2d(dz.abs(), weight.abs(), padding=layer.padding),
                share * sizes, share * dz.abs().sum((0, 2, 3)),
            ))  # fmt: skip
        return [torch.stack(each) for each in zip(*found, strict=True)]

    def _behind(self, z, m):
        """Activation, pool and dropout of member m."""
        layer = self.layer
        y = ACTIVATIONS[layer.activation](z)
        y = F.max_pool2d(y, 2) if layer.pool else y
        return dropout.dropout(y, self.keys[m], self.step[0], layer.index, layer.rate256, None) if layer.rate256 else y

    def computed(self, device, precision, *, drop=True, **options):
        """The same by the kernels."""
        masks = (self.keys.to(device), self.step.to(device)) if drop else None
        tensors = [t.to(device) for t in (self.x, self.weight, self.bias)]
        y, saved = forward(self.layer, *tensors, masks=masks, precision=precision, **options)
        return [y, *backward(self.dy.to(device), saved)]


@pytest.mark.parametrize(("name", "kind"), sorted(NAMES))
def test_agrees_with_the_definition(device, name, kind):
    how = KINDS[kind]
    case = Case(LAYERS[name], how.dtype, shared=LAYERS[name].channels == 1, coarse=how.factor > 0)
    # Sizes come from the table where members differ, which a product of 16 bits stands for here.
    assert_agrees(case, how, device, constant=kind == "fp32")


def assert_agrees(case, how, device, **options):
    computed = case.computed(device, how.precision, **options)
    for what, found, expected, bound in zip(
        ("y", "dx", "dweight", "dbias"), computed, case.defined(), case.bounds(how), strict=True
    ):
        off = (found.cpu().double() - expected).abs()
        share = (off / (bound + SUMS * expected.abs().max())).max()
        assert share <= 1, f"{what} is off by {share:.2f} times what rounding explains"  # NaN is not


# Of images: patches within them or not, one to four channels, two blocks of filters, slopes, dropout, odd sides.
IMAGES = {
    "one, within": Layer(6, 8, 1, 16, 0, False, "relu", 0, 0),
    "one, pool": Layer(9, 7, 1, 40, 0, True, "relu", 64, 0),
    "two, pool, padding": Layer(5, 6, 2, 5, 1, True, "tanh", 64, 0),
    "three": Layer(4, 5, 3, 40, 1, False, "relu", 85, 0),
    "four, pool": Layer(6, 6, 4, 16, 0, True, "relu", 0, 0),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("kind", ["elementwise", "products"])
def test_few_channels_agree_with_the_definition(device, name, kind):
    how = Kind(torch.float32, "fp32")
    if kind == "products":
        how = KINDS["fp16" if INTERPRETING else "bf16"]
    assert_agrees(Case(IMAGES[name], how.dtype, images=3, coarse=how.factor > 0), how, device)


def test_the_mask_is_that_of_op_dropout_bit_for_bit(device):
    for name in ("few, pool, odd filters", "pool, dropout", "wide, odd without a pool"):
        case = Case(LAYERS[name]._replace(activation="sigmoid"), torch.float32, images=2)  # it is never 0 itself
        y = case.computed(device, EXACT)[0].cpu()
        for m, member in enumerate(y):
            ones = torch.ones_like(member)
            kept = dropout.dropout(ones, case.keys[m], case.step[0], case.layer.index, case.layer.rate256, None)
            assert torch.equal(member != 0, kept != 0)


def test_without_keys_nothing_is_dropped_or_scaled(device):
    case = Case(LAYERS["pool, dropout"], torch.float32)
    found = case.computed(device, EXACT, drop=False)
    case.layer = case.layer._replace(rate256=0)
    for one, expected in zip(found, case.defined(), strict=True):
        assert_close(one.double(), expected, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_first_of_equal_ones_wins(device, activation):
    case = Case(Layer(6, 6, 16, 16, 0, True, activation, 0, 0), torch.float32, images=1)
    case.x = torch.ones_like(case.x)
    # Sums are exact, whatever their order: the interpreter's may depend on where in a tile a row lies.
    case.weight, case.bias = ((each * 64).round() / 64 for each in (case.weight, case.bias))
    for found, expected in zip(case.computed(device, EXACT), case.defined(), strict=True):
        assert_close(found.double(), expected, atol=2e-6 * expected.abs().max().item())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # from the interpreter, which is NumPy
def test_a_member_that_diverges_keeps_its_nan_and_leaves_the_others_alone(device):
    healthy = Case(LAYERS["pool, dropout"], torch.float32)
    sick = Case(LAYERS["pool, dropout"], torch.float32)
    sick.x[0, 1, 3, 4, 5] = torch.nan
    sick.dy[0] *= torch.inf
    for found, expected, before in zip(
        sick.computed(device, EXACT), sick.defined(), healthy.computed(device, EXACT), strict=True
    ):
        assert torch.equal(found[1], before[1])
        assert not found[0].isfinite().all()
        if found.ndim == 5 and found.shape == sick.dy.shape:
            assert torch.equal(found[0].isnan().cpu(), expected[0].isnan())


def test_results_repeat_and_do_not_depend_on_the_neighbours(device):
    case = Case(LAYERS["padding, pool, odd widths"], torch.float32, members=3)
    first, again = case.computed(device, EXACT), case.computed(device, EXACT)
    assert all(map(torch.equal, first, again))
    for name in ("x", "weight", "bias", "dy", "keys"):
        setattr(case, name, getattr(case, name)[1:2])
    y, dx, *_ = case.computed(device, EXACT)
    assert torch.equal(y[0], first[0][1])
    assert torch.equal(dx[0], first[1][1])


def test_batches_of_more_blocks_than_32_bits_count_are_divided_likewise(device, monkeypatch):
    case = Case(LAYERS["few, padding"], torch.float32, images=24, members=1)
    usual, work = case.computed(device, EXACT), gpu_convolution.work
    monkeypatch.setattr(gpu_convolution, "work", lambda *args, **kind: far(work(*args, **kind)))

    def far(made):
        assert not made.launch.far
        return made._replace(launch=made.launch._replace(far=True))

    assert all(map(torch.equal, usual, case.computed(device, EXACT)))


def test_programs_that_share_the_images_are_added_up(device):
    layer = LAYERS["padding, pool, odd widths"]
    case = Case(layer, torch.float32, images=43, members=1)
    y, saved = forward(layer, *(t.to(device) for t in (case.x, case.weight, case.bias)), precision=EXACT)
    table = dict(zip(gpu_convolution.Layer._fields, saved.work.launch.layers[0].tolist(), strict=True))
    assert table["turns"] > table["splits"] > 1
    case.layer = layer._replace(rate256=0)
    for found, expected in zip([y, *backward(case.dy.to(device), saved)], case.defined(), strict=True):
        assert_close(found.double(), expected, atol=2e-6 * expected.abs().max().item())


def test_more_blocks_than_32_bits_count_are_noticed():
    convolution = gpu_layout.Convolution(30, 30, 1, 1, 1, True, 0, 15, 15, 1, 16, 0, 0)
    assert not gpu_convolution.is_far([convolution], 2_000_000)
    assert gpu_convolution.is_far([convolution], 2_200_000)


@pytest.mark.gpu
@pytest.mark.parametrize("constant", [True, False])
def test_numbers_may_lie_further_than_32_bits_count(constant):
    case = Case(LAYERS["pool, dropout"], torch.bfloat16)
    near, far = (case.computed("cuda", "bf16", constant=constant, far=far) for far in (0, 2**31 + 16))
    assert all(map(torch.equal, near, far))


@pytest.mark.skipif(INTERPRETING, reason="about the multiplication of a GPU")
def test_three_products_of_tf32_are_nearly_as_good_as_fp32(device):
    layer = Layer(13, 13, 64, 64, 0, True, "relu", 0, 0)
    case = Case(layer, torch.float32, images=32)
    for exact, split, expected in zip(
        case.computed(device, EXACT), case.computed(device, "tf32x3"), case.defined(), strict=True
    ):
        error, fp32_error = (split.cpu() - expected).norm(), (exact.cpu() - expected).norm()
        # What it leaves out, the product of two remainders, is 2^-22 of a product; fp32 sums lose more than 2^-24.
        # Tensor cores of capability 9 cut off each of their additions, three for eight channels of a tap, at up to
        # 2^-23 of the sum. One tf32 product alone would be off by 2^-12, ten times as much.
        assert error < 4 * fp32_error + 3 * 9 * layer.channels / 8 * 2**-23 * expected.norm()


@pytest.mark.skipif(INTERPRETING, reason="the child process itself")
def test_interpreted_kernels_agree_with_the_definitions():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= len(LAYERS) + 8, run.stdout


CONV2 = (Layer(28, 28, 1, 32, 0, True, "relu", 0, 0), Layer(13, 13, 32, 64, 0, True, "relu", 0, 1))
CONV4 = (
    Layer(32, 32, 3, 32, 1, False, "relu", 0, 0),
    Layer(32, 32, 32, 32, 0, True, "relu", 64, 1),
    Layer(15, 15, 32, 64, 1, False, "relu", 0, 2),
    Layer(15, 15, 64, 64, 0, True, "gelu", 64, 3),
)
# A conv family's: behind the first pool, and where one row is left; filters that are no multiple of 16, dropout.
CHAIN = (
    Layer(28, 28, 1, 40, 1, True, "gelu", 64, 0),
    Layer(14, 14, 24, 40, 1, True, "relu", 64, 1),
    Layer(3, 3, 256, 512, 1, False, "gelu", 0, 1),
    Layer(3, 3, 24, 40, 1, False, "relu", 0, 1),
)
# Capability, precision, layer: each layer and precision, and for each card what spills first.
COMPILED = [
    *((90, "bf16", layer) for layer in (CONV2[0], CONV4[2])),
    (80, "bf16", CONV4[3]),
    *((capability, "bf16", layer) for capability in (90, 100) for layer in (CONV2[1], CONV4[3])),
    *((capability, "tf32", CONV2[1]) for capability in (80, 90, 100)),
    *((capability, "fp32", CONV4[1]) for capability in (80, 90, 100)),
    *((90, "tf32x3", layer) for layer in (CONV2[1], CONV4[1], CONV4[3])),
]
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
INSTRUCTION = {80: r"\bmma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}


def launches(monkeypatch, layer, precision, capability, constant=True):
    """The kernels as a step of 40 members on a card would call them: function, arguments, options."""
    found = []

    class Recorded:
        def __init__(self, function):
            self.function = function

        def __getitem__(self, grid):
            return lambda *arguments, **options: found.append((self.function, arguments, options))

    for name in [name for name in vars(gpu_convolution) if name.endswith("_kernel")]:
        monkeypatch.setattr(gpu_convolution, name, Recorded(getattr(gpu_convolution, name)))
    monkeypatch.setattr(gpu_convolution_tiles, "_capability", lambda device: capability // 10)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images = [] if layer.index == 0 else [40]
    x = torch.empty(*images, 128, layer.channels, layer.height, layer.width, dtype=dtype, device="meta")
    weight, bias = x.new_empty(40, layer.filters, layer.channels, 3, 3), x.new_empty(40, layer.filters)
    masks = bias[:, 0].long(), bias[0, :1].long()
    y, saved = forward(layer, x, weight, bias, masks=masks, precision=precision, constant=constant)
    backward(torch.empty_like(y), saved)
    return found


# Of the table's sizes: in training, in evaluation, and for other cards.
TABLED = [
    *((90, "bf16", layer) for layer in (CHAIN[0], CHAIN[3])),
    (90, "fp32", CHAIN[1]),
    (90, "tf32x3", CHAIN[2]),
    *(
        pytest.param(capability, precision, layer, marks=pytest.mark.slow)
        for capability in (80, 90, 100)
        for precision in ("bf16", "tf32", "tf32x3", "fp32")
        for layer in CHAIN
    ),
]


@ahead
@linux
@pytest.mark.parametrize(("capability", "precision", "layer"), COMPILED, ids=str)
def test_kernels_compile_into_registers(monkeypatch, compile_ahead, spilled, capability, precision, layer):
    assert_compiled(launches(monkeypatch, layer, precision, capability), compile_ahead, spilled, capability, precision)


@ahead
@linux
@pytest.mark.parametrize(("capability", "precision", "layer"), TABLED, ids=str)
def test_kernels_of_members_that_differ_compile_too(monkeypatch, compile_ahead, spilled, capability, precision, layer):
    kernels = launches(monkeypatch, layer, precision, capability, constant=False)
    assert_compiled(kernels, compile_ahead, spilled, capability, precision)


def assert_compiled(kernels, compile_ahead, spilled, capability, precision):
    """Within the budgets of registers and shared memory, and by tensor cores."""
    assert len(kernels) == 4
    for function, arguments, options in kernels:
        kernel = compile_ahead(function, arguments, capability, options)
        assert spilled(kernel) <= SPILLED, function
        assert kernel.metadata.shared <= SHARED_BYTES[capability]
        name = function.fn.__name__
        # Of a convolution of images only the forward pass of 16 bits is a product of large matrices; ReLU's weight
        # gradient is one of 16 rows, by the products of older cards.
        if name == "first_weight_gradient_kernel":
            assert ("mma.sync" in kernel.asm["ptx"]) == (precision == "bf16" and arguments[2] is None)
        elementwise = {"reduce_kernel", "first_weight_gradient_kernel", "first_input_gradient_kernel"}
        elementwise |= {"first_forward_kernel"} if precision != "bf16" else set()
        multiplies = precision != "fp32" and name not in elementwise
        assert bool(re.search(INSTRUCTION[capability], kernel.asm["ptx"])) == multiplies, function


@ahead
@linux
def test_a_tile_that_is_too_large_is_over_the_budget(monkeypatch, compile_ahead, spilled):
    monkeypatch.setitem(gpu_convolution_tiles.FORWARD, "bf16", gpu_convolution_tiles.FORWARD["bf16"]._replace(rows=256))
    function, arguments, options = launches(monkeypatch, CONV2[1], "bf16", 90)[0]
    assert spilled(compile_ahead(function, arguments, 90, options)) > 2 * SPILLED


@ahead
def test_the_bias_is_summed_only_where_it_is_stored(monkeypatch, compile_ahead):
    function, arguments, options = launches(monkeypatch, CONV2[1], "bf16", 90)[2]
    lines = compile_ahead(function, arguments, 90, options).asm["ttgir"].splitlines()
    loop = next(i for i, line in enumerate(lines) if "scf.for" in line)
    end = next(i for i, line in enumerate(lines) if i > loop and "scf.yield" in line and indent(line) < 7)
    added = [i for i in range(loop, end) if "arith.addf" in lines[i]]
    summed = [i for i, line in enumerate(lines) if '"tt.reduce"' in line]
    assert added
    assert len(summed) == 1
    assert summed[0] > end
    for at in (*added, *summed):
        # The nearest enclosing operation is the one before it that is indented less.
        around = next(line for line in lines[at::-1] if line.strip() and indent(line) < indent(lines[at]))
        assert "scf.if" in around


def indent(line):
    return len(line) - len(line.lstrip())


@ahead
def test_pixels_are_read_16_bytes_at_a_time_and_multiplied_a_tap_at_once(monkeypatch, compile_ahead):
    function, arguments, options = launches(monkeypatch, CONV2[1], "bf16", 90)[0]
    kernel = compile_ahead(function, arguments, 90, options)
    # A tap of 256 positions of 32 channels is 4 copies of 8 values for each of 256 threads, and 32x64 weights are one;
    # they stand before the loop for each stage and once within, unless a compiler writes taps out. None is narrower.
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*, (0x\w+),", kernel.asm["ptx"])
    assert set(copies) == {"0x10"}
    assert len(copies) % 5 == 0
    assert kernel.asm["ttgir"].count("ttng.warp_group_dot ") == 1
