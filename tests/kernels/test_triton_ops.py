"""The single ops on their Triton kernels through their public calls: interpreted in a child process, or on a GPU.

The ops' own tests run on a GPU as they are; the child process runs them too, but few of the slow convolution block's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atras.kernels import adam, backends, conv_block, cross_entropy, dense
from atras.kernels.adam import reference as adam_reference
from atras.kernels.conv_block import reference as conv_block_reference
from atras.testing.inputs import (
    assert_close,
    assert_near,
    make_adam_inputs,
    make_conv_block_inputs,
    make_cross_entropy_inputs,
    make_dense_inputs,
    poisoned,
)

pytest.importorskip("triton")

HERE = Path(__file__).parent
CHILD = backends.interpreting()
ON = "cpu" if CHILD else pytest.param("cuda", marks=pytest.mark.gpu)
CONV_BLOCK = """
agrees_with_the_definition[triton-(1, 1, 4, 4)-1-padding0-pool0]
agrees_with_the_definition[triton-(2, 1, 7, 9)-5-padding1-pool1]
agrees_with_the_definition[triton-(2, 3, 6, 5)-33-padding1-pool0]
agrees_with_the_definition[triton-(3, 31, 5, 7)-32-padding0-pool1]
vmap_is_the_loop_over_members[triton-(None, 0, None, 0)]
vmap_nests_and_takes_any_axis[triton]
members_may_share_what_comes_back[triton]
each_member_may_be_at_a_step_of_its_own[triton]
dropout_is_op_dropout[triton]
the_first_of_equal_ones_wins_the_pool[triton]
strides_do_not_matter[triton-every-other]
no_images_are_no_error[triton]
""".strip().splitlines()


@pytest.fixture(params=[ON])
def device(request, monkeypatch):
    """Where Triton computes; memory is poisoned, and the C++ extension gone, so that nothing else can answer."""
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    monkeypatch.setattr(backends, "_cpu", None)
    with poisoned():
        yield request.param


@pytest.mark.skipif(CHILD, reason="the child process itself")
def test_interpreted_ops_agree_with_the_definitions():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    # NumPy, which interprets, warns of infinities and NaN.
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", "-k", "triton"]
    files = [HERE / f"test_{name}.py" for name in ("dense", "cross_entropy", "adam", "triton_ops")]
    tests = [f"{HERE / 'test_conv_block.py'}::test_{name}" for name in CONV_BLOCK]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files), *tests]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 80, run.stdout


@pytest.mark.parametrize("pool", [False, True])
def test_wide_padding_is_as_defined(device, pool):
    *given, _ = make_conv_block_inputs(1, (2, 2, 3, 4), 5, device=device)
    leaves = [tensor[0].requires_grad_() for tensor in given]
    wide = [tensor.detach().cpu().double().requires_grad_() for tensor in leaves]
    found = conv_block(*leaves, activation="gelu", padding=3, pool=pool)
    expected = conv_block_reference.conv_block(*wide, None, None, "gelu", 3, pool, 0, 0)
    assert_near(found, expected, 1e-5)  # float32 sums of 18 products
    found.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(leaves, wide, strict=True):
        assert_near(one.grad, other.grad, 1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("op", [conv_block, dense])
def test_what_is_asked_for_does_not_change_what_comes(device, op, activation):
    if op is dense:
        given = make_dense_inputs(2, 3, 5, 7, device=device)
    else:
        given = make_conv_block_inputs(2, (2, 5, 5, 4), 3, device=device)[:3]

    def gradients(*wanted):
        leaves = [tensor.clone().requires_grad_(i in wanted) for i, tensor in enumerate(given)]
        torch.vmap(lambda *t: op(*t, activation=activation))(*leaves).square().sum().backward()
        return [leaves[i].grad for i in wanted]

    everything = gradients(0, 1, 2)
    assert all(gradient.isfinite().all() for gradient in everything)
    for i in range(3):
        # A bias alone may be summed in another order.
        assert_close(*gradients(i), everything[i], **({"rtol": 1e-5, "atol": 1e-6} if i == 2 else {}))


def test_adams_members_end_where_they_should(device):
    from atras.kernels.adam import gpu_triton

    block = gpu_triton.BLOCK
    sizes = [0, 1, block - 1, 0, block, block + 1, 2 * block, 0]
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)
    ends = offsets.tolist()
    expected = gpu_triton.tiles(zip(ends[:-1], ends[1:], range(len(sizes)), strict=True))
    found = gpu_triton._op_tiles(offsets, ends[-1]).cpu()
    assert_close(found[: len(expected)], expected)
    assert (found[len(expected) :, 0] == found[len(expected) :, 1]).all()


def test_adam_takes_numbers_of_any_strides_and_counts_the_steps(device):
    (buffers, numbers), (others, defined) = (make_adam_inputs([5, 0, 1030], device=at) for at in (device, "cpu"))
    strided = {name: numbers[name].repeat_interleave(2)[::2] for name in ("offsets", "learning_rates")}
    adam(*buffers, **(numbers | strided))
    adam_reference.adam(*others, **defined)
    assert_close(numbers["steps"], defined["steps"])
    for found, expected in zip(buffers, others, strict=True):
        assert_near(found, expected, 2e-6)  # a few roundings of float32, in another order
    nothing = torch.zeros(4, 0, device=device)
    none = {"steps": numbers["steps"][:1].clone(), "learning_rates": numbers["learning_rates"][:1]}
    adam(*nothing, offsets=torch.zeros(2, dtype=torch.int64, device=device), **none)
    assert_close(none["steps"], numbers["steps"][:1] + 1)


def test_more_classes_than_a_program_holds_are_refused(device):
    logits, labels = torch.zeros(1, 2**14 + 1, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="cross_entropy: expected at most 16384 classes on a GPU, got 16385; set"):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_only_float32_is_taken(device, dtype):
    x, weight, bias = (tensor[0].to(dtype) for tensor in make_dense_inputs(1, 2, 3, 4, device=device))
    image, filters, shifts, _ = make_conv_block_inputs(1, (1, 1, 4, 4), 2, device=device)
    logits, labels = (tensor[0] for tensor in make_cross_entropy_inputs(1, 2, 3, device=device))
    buffers, numbers = make_adam_inputs([3], device=device, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    for call in (
        lambda: dense(x, weight, bias),
        lambda: conv_block(*(tensor[0].to(dtype) for tensor in (image, filters, shifts))),
        lambda: cross_entropy(logits.to(dtype), labels),
        lambda: adam(*buffers, **numbers),
    ):
        with pytest.raises(ValueError, match=f"backend triton computes in float32, got {name}; convert first"):
            call()


def test_second_derivatives_are_refused(device):
    x, weight, bias = (tensor[0] for tensor in make_dense_inputs(1, 2, 3, 4, device=device))
    (once,) = torch.autograd.grad(dense(x, weight.requires_grad_(), bias).sum(), weight, create_graph=True)
    with pytest.raises(ValueError, match="dense: second derivatives are not implemented in this backend; set ATRAS"):
        once.sum().backward()
