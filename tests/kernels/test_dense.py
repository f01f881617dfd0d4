"""Op dense: its definition, and every backend against it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from atras.kernels import backends, dense
from atras.kernels.dense import reference
from atras.kernels.dense.dispatch import BACKENDS as BACKENDS
from atras.kernels.step.reference import ACTIVATIONS
from atras.testing.inputs import assert_close, assert_near, directions, make_dense_inputs, slopes

once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
# Float32 against float64: sums of up to 1024 products round by some 1e-6 of their size.
ROUNDING = 1e-5
# B, F and O: single, around the vectors' widths, past a panel of 64 and a chunk of 96.
WIDTHS = (1, 7, 8, 9, 63, 1024)
SHAPES = [(3, 5, width) for width in WIDTHS] + [(17, width, 6) for width in WIDTHS] + [(1, 1, 1), (130, 65, 97)]
ALL = (*ACTIVATIONS, "none")


def gradients(function, tensors, upstream):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return y, torch.autograd.grad(y, leaves, upstream.to(y))


def assert_agrees(shape, activation, device):
    """Forward and backward."""
    tensors = [tensor[0] for tensor in make_dense_inputs(1, *shape, device=device)]
    upstream = torch.randn(shape[0], shape[2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, found = gradients(lambda *t: dense(*t, activation=activation), tensors, upstream)
    wide = [tensor.cpu().double() for tensor in tensors]
    expected, wanted = gradients(lambda *t: reference.dense(*t, activation), wide, upstream)
    assert y.dtype == torch.float32
    for one, other in zip([y, *found], [expected, *wanted], strict=True):
        assert_near(one, other, ROUNDING)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_definition(backend, shape):
    assert_agrees(shape, "relu", backend.device)


@pytest.mark.parametrize("activation", ALL)
def test_every_activation_agrees_with_the_definition(backend, activation):
    for shape in SHAPES[3], SHAPES[-1]:
        assert_agrees(shape, activation, backend.device)


@extension
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_instruction_set_agrees_with_the_definition(instructions, activation):
    for shape in SHAPES:
        assert_agrees(shape, activation, "cpu")


@once
@pytest.mark.parametrize("activation", ALL)
def test_the_definition_is_torchs_own_and_its_gradient_is_right(activation):
    tensors = [tensor[0].requires_grad_() for tensor in make_dense_inputs(1, 4, 5, 3, dtype=torch.float64)]
    z = F.linear(*tensors)
    assert_close(dense(*tensors, activation=activation), z if activation == "none" else ACTIVATIONS[activation](z))
    assert torch.autograd.gradcheck(lambda *t: dense(*t, activation=activation), tensors)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "gelu", "none"])
def test_the_gradient_is_the_slope(backend, activation):
    tensors = [tensor[0] for tensor in make_dense_inputs(1, 9, 33, 20, device=backend.device)]
    _, found = gradients(
        lambda *t: dense(*t, activation=activation), tensors, 2 * dense(*tensors, activation=activation)
    )
    along = [float((g * d).sum()) for g, d in zip(found, directions(tensors), strict=True)]
    expected = slopes(lambda *t: dense(*t, activation=activation), tensors, 1e-2)
    # Central differences over 1e-2: float32 sums, and the third derivative.
    assert along == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("dims", [d for d in itertools.product((None, 0), repeat=3) if any(x == 0 for x in d)], ids=str)
def test_vmap_is_the_loop_over_members(backend, dims):
    members = 3
    given = make_dense_inputs(members, 21, 19, 23, device=backend.device)
    given = [tensor if dim == 0 else tensor[1] for tensor, dim in zip(given, dims, strict=True)]

    def one(*tensors):
        return dense(*tensors, activation="gelu")

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
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    torch.vmap(one, dims)(*leaves).square().sum().backward()
    for leaf, each, dim in zip(leaves, expected, dims, strict=True):
        assert_close(leaf.grad, each if dim == 0 else each.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "none"])
def test_members_may_share_what_comes_back(backend, activation):
    x, weight, bias = make_dense_inputs(3, 4, 5, 6, device=backend.device)
    upstream = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(x)

    def pulled(*tensors):
        return torch.func.vjp(lambda *t: dense(*t, activation=activation), *tensors)[1](upstream)

    expected = [torch.stack(each) for each in zip(*(pulled(x[0], weight[m], bias[m]) for m in range(3)), strict=True)]
    rounding = {"rtol": 1e-4, "atol": 1e-5} if backend.name == "reference" else {}  # as above
    for one, other in zip(torch.vmap(pulled, (None, 0, 0))(x[0], weight, bias), expected, strict=True):
        assert_close(one, other, **rounding)


def test_vmap_nests_and_takes_any_axis_and_strides(backend):
    x, weight, bias = make_dense_inputs(3, 4, 5, 6, device=backend.device)
    rounding = {"rtol": 1e-4, "atol": 1e-5} if backend.name == "reference" else {}  # as above
    found = torch.vmap(torch.vmap(dense, in_dims=(None, 0, 0)), in_dims=(0, None, None))(x, weight, bias)
    expected = [torch.stack([dense(x[i], weight[j], bias[j]) for j in range(3)]) for i in range(3)]
    assert_close(found, torch.stack(expected), **rounding)
    moved = torch.vmap(dense, in_dims=(1, 2, 1))(x.movedim(0, 1).contiguous(), weight.movedim(0, 2), bias.T)
    assert_close(moved, torch.vmap(dense)(x, weight, bias), **rounding)
    strided = dense(x[0].repeat_interleave(2, 1)[:, ::2], weight[0].T.contiguous().T, bias[0])
    assert_close(strided, dense(x[0], weight[0], bias[0]), **rounding)


def test_no_rows_are_no_error(backend):
    given = make_dense_inputs(2, 0, 5, 6, device=backend.device)
    y, found = gradients(lambda *t: torch.vmap(dense)(*t), given, torch.zeros(2, 0, 6))
    assert y.shape == (2, 0, 6)
    for gradient, like in zip(found, given, strict=True):
        assert_close(gradient, torch.zeros_like(like))


def test_infinite_and_nan_values_stay(backend):
    x, weight, bias = (tensor[0] for tensor in make_dense_inputs(1, 3, 4, 2, device=backend.device))
    x[0, 0], x[1, 1] = torch.inf, torch.nan
    for activation in ("relu", "none", "sigmoid", "tanh"):
        expected = reference.dense(x, weight, bias, activation)
        # One rounding of each of four products, and of the activation.
        assert_close(dense(x, weight, bias, activation=activation), expected, rtol=1e-5, atol=1e-6)


@extension
def test_threads_runs_and_neighbours_do_not_change_a_bit(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    tensors = make_dense_inputs(3, 131, 200, 103)
    batched = torch.vmap(lambda *t: dense(*t, activation="tanh"))

    def run(members, rows=slice(None)):
        leaves = [tensor[members].clone().requires_grad_() for tensor in tensors]
        y = batched(leaves[0][:, rows], *leaves[1:])
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            found.append(run(slice(None)))
        alone, few = run(slice(1, 2)), run(slice(None), slice(5, 8))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert_close(one, expected)
    for one, expected in zip(alone, found[0], strict=True):
        assert_close(one[0], expected[1])
    assert_close(few[0], found[0][0][:, 5:8])
    assert_close(few[1][:, 5:8], found[0][1][:, 5:8])


@extension
def test_what_the_fast_path_cannot_do_is_said(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    x, weight, bias = (tensor[0] for tensor in make_dense_inputs(1, 2, 3, 4))
    with pytest.raises(ValueError, match="backend cpu computes in float32, got float64; convert first"):
        dense(x.double(), weight.double(), bias.double())
    (once_more,) = torch.autograd.grad(dense(x, weight.requires_grad_(), bias).sum(), weight, create_graph=True)
    with pytest.raises(ValueError, match="dense: second derivatives are not implemented"):
        once_more.sum().backward()


X, WEIGHT, BIAS = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4)


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: dense(X[0], WEIGHT, BIAS),
            "dense: expected x [B, F], got float32 (3,); batch members with torch.vmap",
        ),
        (
            lambda: dense(X, [1.0], BIAS),
            "dense: expected weight [O, F], got [1.0]; batch members with torch.vmap",
        ),
        (
            lambda: dense(X, WEIGHT, BIAS[:3]),
            "dense: expected weight [O, 3] and bias [O] beside x (2, 3), got (4, 3) and (3,); make them agree",
        ),
        (
            lambda: dense(X.int(), WEIGHT, BIAS),
            "dense: expected x of a floating-point dtype, got int32 (2, 3); convert before the call",
        ),
        (
            lambda: dense(X, WEIGHT.double(), BIAS),
            "dense: expected x and weight of one dtype, got float32 (2, 3) and float64 (4, 3); convert one",
        ),
        (
            lambda: dense(X, WEIGHT, BIAS.to("meta")),
            "dense: expected x and bias on one device, got cpu and meta",
        ),
        (
            lambda: dense(X, WEIGHT, BIAS, activation="elu"),
            "dense: activation (='elu'): expected one of relu, sigmoid, tanh, gelu, none",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text
