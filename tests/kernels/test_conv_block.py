"""Op conv_block: its definition, and every backend against it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from atras.kernels import backends, conv_block, dropout
from atras.kernels.conv_block import reference
from atras.kernels.conv_block.dispatch import BACKENDS as BACKENDS
from atras.kernels.step.reference import ACTIVATIONS
from atras.testing.inputs import assert_close, assert_near, directions, make_conv_block_inputs, slopes

once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
# Float32 against float64: sums of up to 9 * 70 products round by some 1e-6 of their size.
ROUNDING = 1e-5
# [B, C, H, W] and O: single, odd, images past a tile and a group, channels around the blocks of 32, narrow and wide.
SHAPES = [
    ((1, 1, 4, 4), 1),
    ((2, 1, 7, 9), 5),
    ((2, 3, 6, 5), 33),
    ((35, 2, 6, 4), 8),
    ((3, 31, 5, 7), 32),
    ((2, 33, 5, 6), 70),
    ((1, 64, 9, 4), 40),
    ((1, 2, 5, 72), 3),
]
KINDS = [{"padding": padding, "pool": pool} for padding in (0, 1) for pool in (False, True)]
STEP, LAYER, RATE256 = 2**31 + 5, 2**32 - 1, 64


def kind_id(kind):
    return "-".join(f"{name}{int(value)}" for name, value in kind.items())


def define(x, weight, bias, key=None, activation="relu", padding=0, pool=False):
    """The definition for one member, in float64."""
    step = None if key is None else torch.tensor(STEP)
    x, weight, bias = (tensor.cpu().double() for tensor in (x, weight, bias))
    key = None if key is None else key.cpu()
    return reference.conv_block(x, weight, bias, key, step, activation, padding, pool, RATE256, LAYER)


def block(x, weight, bias, key=None, **kind):
    dropped = {} if key is None else {"key": key, "step": STEP, "rate256": RATE256, "layer": LAYER}
    return conv_block(x, weight, bias, **kind, **dropped)


def gradients(function, tensors, upstream):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return y, torch.autograd.grad(y, leaves, upstream.to(y))


def assert_agrees(shape, outputs, device, activation="relu", **kind):
    """Forward and backward, with dropout and without."""
    *tensors, key = make_conv_block_inputs(1, shape, outputs, device=device)
    tensors = [tensor[0] for tensor in tensors]
    for used in (None, key[0]):
        expected = define(*tensors, used, activation, **kind)
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def ours(*leaves, used=used):
            return block(*leaves, used, activation=activation, **kind)

        def defined(*leaves, used=used):
            return define(*leaves, used, activation, **kind)

        y, found = gradients(ours, tensors, upstream)
        assert y.dtype == torch.float32
        assert_near(y, expected, ROUNDING)
        _, wanted = gradients(defined, [tensor.cpu().double() for tensor in tensors], upstream)
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other, ROUNDING)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize(("shape", "outputs"), SHAPES, ids=str)
def test_agrees_with_the_definition(backend, shape, outputs, kind):
    assert_agrees(shape, outputs, backend.device, **kind)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "relu"])
def test_every_activation_agrees_with_the_definition(backend, activation, kind):
    for shape, outputs in SHAPES[1], SHAPES[5]:
        assert_agrees(shape, outputs, backend.device, activation, **kind)


@extension
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_every_instruction_set_agrees_with_the_definition(instructions, activation):
    for (shape, outputs), kind in itertools.product(SHAPES[1:6], (KINDS[1], KINDS[2])):
        assert_agrees(shape, outputs, "cpu", activation, **kind)


@once
@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_definition_is_torchs_own_and_its_gradient_is_right(activation, kind):
    x, weight, bias, key = make_conv_block_inputs(1, (2, 2, 5, 6), 3, dtype=torch.float64)
    tensors = [tensor[0].requires_grad_() for tensor in (x, weight, bias)]
    expected = ACTIVATIONS[activation](F.conv2d(*tensors, padding=kind["padding"]))
    expected = F.max_pool2d(expected, 2) if kind["pool"] else expected
    assert_close(block(*tensors, activation=activation, **kind), expected)
    dropped = dropout(expected, key[0], STEP, layer=LAYER, rate256=RATE256)
    assert_close(block(*tensors, key[0], activation=activation, **kind), dropped)

    def function(*leaves):
        return block(*leaves, key[0], activation=activation, **kind)

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "gelu"])
def test_the_gradient_is_the_slope(backend, activation):
    *tensors, key = make_conv_block_inputs(1, (3, 4, 8, 7), 9, device=backend.device)
    tensors = [tensor[0] for tensor in tensors]

    def function(*leaves):
        return block(*leaves, key[0], activation=activation, padding=1, pool=True)

    y = function(*tensors)
    _, found = gradients(function, tensors, 2 * y)
    expected = slopes(function, tensors, 1e-3)
    along = [float((g * d).sum()) for g, d in zip(found, directions(tensors), strict=True)]
    # Central differences of float32 sums over 1e-3: their rounding, and winners of the pool that change in between.
    assert along == pytest.approx(expected, rel=2e-2)


def test_dropout_is_op_dropout(backend):
    *tensors, key = make_conv_block_inputs(1, (5, 3, 9, 8), 7, device=backend.device)
    tensors, key = [tensor[0] for tensor in tensors], key[0]
    kept = block(*tensors, pool=True)
    expected = dropout(kept, key, STEP, layer=LAYER, rate256=RATE256)
    assert_close(block(*tensors, key, pool=True), expected)
    step = torch.tensor(STEP, device=backend.device)
    given = {"rate256": RATE256, "key": key, "layer": LAYER, "pool": True}
    assert_close(conv_block(*tensors, step=step, **given), expected)
    assert_close(conv_block(*tensors, pool=True, rate256=RATE256), kept)


def test_the_first_of_equal_ones_wins_the_pool(backend):
    x = torch.ones(1, 1, 6, 6, device=backend.device).requires_grad_()
    weight = torch.zeros(1, 1, 3, 3, device=backend.device)
    weight[..., 0, 0] = 1.0
    conv_block(x, weight, torch.zeros(1, device=backend.device), pool=True).sum().backward()
    expected = torch.zeros(6, 6)
    expected[0:4:2, 0:4:2] = 1.0
    assert_close(x.grad[0, 0], expected)


@pytest.mark.parametrize("dims", [d for d in itertools.product((None, 0), repeat=4) if any(x == 0 for x in d)], ids=str)
def test_vmap_is_the_loop_over_members(backend, dims):
    members = 3
    given = make_conv_block_inputs(members, (4, 2, 6, 7), 5, device=backend.device)
    given = [tensor if dim == 0 else tensor[1] for tensor, dim in zip(given, dims, strict=True)]

    def one(*tensors):
        return block(*tensors, activation="tanh", pool=True)

    def loss(*tensors):
        return one(*tensors).square().sum()

    def loop(function):
        for m in range(members):
            yield function(*(tensor if dim is None else tensor[m] for tensor, dim in zip(given, dims, strict=True)))

    def check(found, expected):
        # Plain torch multiplies a batch in another order than one by one; every backend's own rule does not.
        assert_close(found, expected, **({"rtol": 1e-4, "atol": 1e-5} if backend.name == "reference" else {}))

    check(torch.vmap(one, dims)(*given), torch.stack(list(loop(one))))
    derivative = torch.func.grad(loss, argnums=(0, 1, 2))
    expected = [torch.stack(each) for each in zip(*loop(derivative), strict=True)]
    for one_found, one_expected in zip(torch.vmap(derivative, dims)(*given), expected, strict=True):
        check(one_found, one_expected)
    # Outside vmap a tensor that the members share gets the sum of their gradients.
    leaves = [tensor.clone().requires_grad_() for tensor in given[:3]]
    torch.vmap(one, dims)(*leaves, given[3]).square().sum().backward()
    for leaf, each, dim in zip(leaves, expected, dims[:3], strict=True):
        assert_close(leaf.grad, each if dim == 0 else each.sum(0), rtol=1e-4, atol=1e-5)


def test_members_may_share_what_comes_back(backend):
    x, weight, bias, key = make_conv_block_inputs(3, (2, 2, 6, 7), 5, device=backend.device)
    upstream = torch.randn(2, 5, 2, 2, generator=torch.Generator().manual_seed(0)).to(x)

    def pulled(x, weight, bias, key):
        def one(*tensors):
            return block(*tensors, key, activation="tanh", pool=True)

        return torch.func.vjp(one, x, weight, bias)[1](upstream)

    loop = (pulled(x[0], weight[m], bias[m], key[m]) for m in range(3))
    expected = [torch.stack(each) for each in zip(*loop, strict=True)]
    rounding = {"rtol": 1e-4, "atol": 1e-5} if backend.name == "reference" else {}  # as above
    for one, other in zip(torch.vmap(pulled, (None, 0, 0, 0))(x[0], weight, bias, key), expected, strict=True):
        assert_close(one, other, **rounding)


def test_each_member_may_be_at_a_step_of_its_own(backend):
    x, weight, bias, key = make_conv_block_inputs(3, (2, 2, 5, 6), 5, device=backend.device)
    steps = torch.tensor([0, 7, 2**31 + 5], device=backend.device)

    def one(weight, step):
        return conv_block(x[0], weight, bias[0], rate256=128, key=key[0], step=step, activation="sigmoid")

    found = torch.vmap(one)(weight, steps)
    for m in range(3):
        assert_close(found[m] == 0, one(weight[m], steps[m]) == 0)
        assert not torch.equal(found[m] == 0, found[m - 1] == 0)


def test_vmap_nests_and_takes_any_axis(backend):
    x, weight, bias, key = make_conv_block_inputs(3, (4, 2, 6, 7), 5, device=backend.device)
    rounding = {"rtol": 1e-4, "atol": 1e-5} if backend.name == "reference" else {}  # as above
    inner = torch.vmap(block, in_dims=(None, 0, 0, None))
    found = torch.vmap(inner, in_dims=(0, None, None, 0))(x, weight, bias, key)
    expected = [torch.stack([block(x[i], weight[j], bias[j], key[i]) for j in range(3)]) for i in range(3)]
    assert_close(found, torch.stack(expected), **rounding)
    moved = torch.vmap(block, in_dims=(1, 3, 1, 0))(x.movedim(0, 1).contiguous(), weight.movedim(0, 3), bias.T, key)
    assert_close(moved, torch.vmap(block)(x, weight, bias, key), **rounding)


@pytest.mark.parametrize("layout", ["channels-last", "every-other"])
def test_strides_do_not_matter(backend, layout):
    x, weight, bias, _ = make_conv_block_inputs(1, (4, 3, 6, 6), 5, device=backend.device)
    change = {
        "channels-last": lambda t: t.to(memory_format=torch.channels_last),
        "every-other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    }[layout]
    strided = [change(tensor[0]) for tensor in (x, weight)]
    assert not strided[0].is_contiguous()
    upstream = torch.randn(4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    found = gradients(block, [*strided, bias[0]], upstream)
    expected = gradients(block, [x[0], weight[0], bias[0]], upstream)
    for one, other in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)  # torch itself may take another algorithm


def test_no_images_are_no_error(backend):
    x, weight, bias, _ = make_conv_block_inputs(2, (0, 3, 6, 6), 5, device=backend.device)
    y, found = gradients(lambda *t: torch.vmap(block)(*t), [x, weight, bias], torch.zeros(2, 0, 5, 4, 4))
    assert y.shape == (2, 0, 5, 4, 4)
    for gradient, like in zip(found, (x, weight, bias), strict=True):
        assert_close(gradient, torch.zeros_like(like))


@extension
@pytest.mark.parametrize("kind", [KINDS[1], KINDS[2]], ids=kind_id)
def test_threads_runs_and_neighbours_do_not_change_a_bit(monkeypatch, kind):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    *tensors, key = make_conv_block_inputs(3, (37, 5, 12, 11), 34)
    batched = torch.vmap(lambda *t: block(*t, activation="gelu", **kind))

    def run(members):
        leaves = [tensor[members].clone().requires_grad_() for tensor in tensors]
        y = batched(*leaves, key[members])
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            found.append(run(slice(None)))
        alone = run(slice(1, 2))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert_close(one, expected)
    for one, expected in zip(alone, found[0], strict=True):
        assert_close(one[0], expected[1])


@extension
def test_what_the_fast_path_cannot_do_is_said(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    x, weight, bias, _ = (tensor[0] for tensor in make_conv_block_inputs(1, (1, 1, 4, 4), 1))
    with pytest.raises(ValueError, match="backend cpu computes in float32, got float64; convert first"):
        conv_block(x.double(), weight.double(), bias.double())
    (once_more,) = torch.autograd.grad(conv_block(x, weight.requires_grad_(), bias).sum(), weight, create_graph=True)
    with pytest.raises(ValueError, match="conv_block: second derivatives are not implemented"):
        once_more.sum().backward()


X, WEIGHT, BIAS, KEY = torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3), torch.zeros(4), torch.tensor(5)


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: conv_block(X[0], WEIGHT, BIAS),
            "conv_block: expected x [B, C, H, W], got float32 (3, 5, 5); batch members with torch.vmap",
        ),
        (
            lambda: conv_block(X, WEIGHT, 0.0),
            "conv_block: expected bias [O], got 0.0; batch members with torch.vmap",
        ),
        (
            lambda: conv_block(X, WEIGHT[:, :2], BIAS),
            "conv_block: expected weight [O, 3, 3, 3] and bias [O] beside x (2, 3, 5, 5), got (4, 2, 3, 3) and (4,); "
            "make them agree",
        ),
        (
            lambda: conv_block(X.int(), WEIGHT, BIAS),
            "conv_block: expected x of a floating-point dtype, got int32 (2, 3, 5, 5); convert before the call",
        ),
        (
            lambda: conv_block(X, WEIGHT.double(), BIAS),
            "conv_block: expected x and weight of one dtype, got float32 (2, 3, 5, 5) and float64 (4, 3, 3, 3); "
            "convert one",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS.to("meta")),
            "conv_block: expected x and bias on one device, got cpu and meta",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, activation="elu"),
            "conv_block: activation (='elu'): expected one of relu, sigmoid, tanh, gelu",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, rate256=256),
            "conv_block: rate256 (=256): expected a whole number from 0 to 255",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, padding=-1),
            "conv_block: padding (=-1): expected a whole number from 0 to 32768",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, layer=2**32),
            "conv_block: layer (=4294967296): expected a whole number from 0 to 4294967295",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, key=KEY),
            "conv_block: expected key and step together, got one of them; give both, or none to evaluate",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, key=KEY.float(), step=0),
            "conv_block: expected key as int64 (), got float32 (); batch members with torch.vmap",
        ),
        (
            lambda: conv_block(X, WEIGHT, BIAS, key=KEY, step=0.5),
            "conv_block: expected step as a whole number or int64 (), got 0.5; convert it",
        ),
        (
            lambda: conv_block(X[..., :3, :3], WEIGHT, BIAS, pool=True),
            "conv_block: expected images with a pixel left after the convolution and pool, got 3x3; give larger ones "
            "or padding",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text
