"""Op adam: its definition against torch.optim, and every backend against it."""

from __future__ import annotations

import pytest
import torch

from atras.kernels import adam, backends
from atras.kernels.adam import reference
from atras.kernels.adam.dispatch import BACKENDS as BACKENDS
from atras.testing.inputs import assert_close, make_adam_inputs

once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
# Around the vectors' widths, none at all, and more than a work item.
SIZES = [[1], [7, 8, 9, 63, 1024, 16], [5, 0, 3], [40_000, 20_001]]


def assert_steps_as_defined(sizes, device):
    """Ten steps in a row, with other gradients each."""
    (parameters, _, *moments), numbers = make_adam_inputs(sizes, device=device)
    found = [parameters, *moments]
    defined, defined_numbers = [buffer.cpu().double() for buffer in found], {k: v.cpu() for k, v in numbers.items()}
    defined_numbers["steps"] = defined_numbers["steps"].clone()
    start = numbers["steps"].clone()
    for seed in range(10):
        gradient = make_adam_inputs(sizes, device=device, seed=seed)[0][1]
        assert adam(found[0], gradient, *found[1:], **numbers) is None
        reference.adam(defined[0], gradient.cpu().double(), *defined[1:], **defined_numbers)
    assert_close(numbers["steps"], start + 10)
    rates = numbers["learning_rates"].cpu().repeat_interleave(torch.tensor(sizes))
    # Each update rounds by some 1e-6 of itself, which is at most a few learning rates, and of the parameter.
    off = (found[0].cpu().double() - defined[0]).abs()
    assert (off <= 2e-6 * (10 * rates + defined[0].abs())).all()
    # A tenth of a gradient is at most sqrt(second / 0.001) / 10; it rounds by some 1e-7 of itself, and sums may cancel.
    off = (found[1].cpu().double() - defined[1]).abs()
    assert (off <= 2e-6 * (defined[1].abs() + defined[2].sqrt()) + 1e-30).all()
    assert_close(found[2].cpu().double(), defined[2], rtol=2e-6, atol=1e-30)  # ten roundings of positive numbers


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_the_definition(backend, sizes):
    assert_steps_as_defined(sizes, backend.device)


@extension
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_instruction_set_agrees_with_the_definition(instructions, sizes):
    assert_steps_as_defined(sizes, "cpu")


@once
def test_the_definition_is_torch_optims_for_each_member_alone():
    sizes = [9, 4, 17]
    (parameters, *_), numbers = make_adam_inputs(sizes, dtype=torch.float64)
    numbers["steps"].zero_()
    leaves = [torch.nn.Parameter(part.clone()) for part in parameters.split(sizes)]
    rates = numbers["learning_rates"].tolist()
    optimizers = [torch.optim.Adam([leaf], lr=rate) for leaf, rate in zip(leaves, rates, strict=True)]
    moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
    for seed in range(10):
        gradient = make_adam_inputs(sizes, dtype=torch.float64, seed=seed)[0][1]
        adam(parameters, gradient, *moments, **numbers)
        for leaf, part, optimizer in zip(leaves, gradient.split(sizes), optimizers, strict=True):
            leaf.grad = part.clone()
            optimizer.step()
    # The same formula; torch takes the roots and quotients in another order.
    assert_close(parameters, torch.cat([leaf.detach() for leaf in leaves]), rtol=1e-12)


def test_nan_gradients_spoil_their_member_alone(backend):
    sizes = [20, 30]
    buffers, numbers = make_adam_inputs(sizes, device=backend.device)
    clean = [buffer.clone() for buffer in buffers]
    buffers[1][:20] = torch.nan
    for each in (buffers, clean):
        adam(*each, **(numbers | {"steps": numbers["steps"].clone()}))
    assert buffers[0][:20].isnan().all()
    for found, expected in zip(buffers, clean, strict=True):
        assert_close(found[20:], expected[20:])


@extension
def test_threads_and_neighbours_do_not_change_a_bit(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    sizes = [40_000, 20_003, 9]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            buffers, numbers = make_adam_inputs(sizes)
            adam(*buffers, **numbers)
            found.append(buffers)
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert_close(one, expected)
    buffers, numbers = make_adam_inputs(sizes)
    alone = [buffer[40_000:60_003].clone() for buffer in buffers]
    own = {name: numbers[name][1:2].clone() for name in ("steps", "learning_rates")}
    adam(*alone, offsets=torch.tensor([0, 20_003]), **own)
    for one, expected in zip(alone, found[0], strict=True):
        assert_close(one, expected[40_000:60_003])


def test_autograd_sees_that_parameters_changed(backend):
    buffers, numbers = make_adam_inputs([4], device=backend.device)
    x = torch.ones(4, device=backend.device, requires_grad=True)
    y = (x * buffers[0]).sum()
    adam(*buffers, **numbers)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    leaf = buffers[0].requires_grad_()
    adam(leaf, *buffers[1:], **numbers)
    assert leaf.is_leaf


def test_vmap_is_refused(backend):
    buffers, numbers = make_adam_inputs([4], device=backend.device)
    with pytest.raises(ValueError, match="adam: expected flat buffers of all members, got a call under vmap; call it"):
        torch.vmap(lambda *each: adam(*each, **numbers))(*(buffer.expand(3, 4) for buffer in buffers))


def call(**changes):
    """A call with some arguments changed."""
    (parameters, gradients, first, second), numbers = make_adam_inputs([2, 3])
    names = {"parameters": parameters, "gradients": gradients, "first": first, "second": second}
    adam(**(names | numbers | changes))


@once
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"parameters": torch.zeros(5, 1)},
            "adam: expected parameters [P] like parameters, got float32 (5, 1); flatten it",
        ),
        ({"second": torch.zeros(4)}, "adam: expected second [P] like parameters, got float32 (4,); flatten it"),
        ({"gradients": None}, "adam: expected gradients [P] like parameters, got None; flatten it"),
        ({"first": torch.zeros(10)[::2]}, "adam: expected first contiguous, got strides (2,); copy it first"),
        (
            {"first": torch.zeros(5).double()},
            "adam: expected parameters and first of one dtype, got float32 (5,) and float64 (5,); convert one",
        ),
        (
            {"steps": torch.zeros(2)},
            "adam: expected steps as int64 [M], contiguous, got float32 (2,); convert it",
        ),
        (
            {"offsets": torch.tensor([0, 5])},
            "adam: expected offsets as int64 (3,) for 2 members, got int64 (2,)",
        ),
        (
            {"learning_rates": torch.zeros(2)},
            "adam: expected learning_rates as float64 (2,) for 2 members, got float32 (2,)",
        ),
        (
            {"offsets": torch.tensor([0, 2, 4])},
            "adam: expected offsets that rise from 0 to 5, got 0 to 4; give each member its slice",
        ),
        (
            {"offsets": torch.tensor([0, 6, 5])},
            "adam: expected offsets that rise from 0 to 5, got 0 to 5; give each member its slice",
        ),
        ({"steps": torch.tensor([0, -1])}, "adam: expected steps of at least 0, got -1; count from 0"),
        (
            {"gradients": torch.zeros(5, device="meta")},
            "adam: expected parameters and gradients on one device, got cpu and meta",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(changes, text):
    with pytest.raises(ValueError) as error:
        call(**changes)
    assert str(error.value) == text
