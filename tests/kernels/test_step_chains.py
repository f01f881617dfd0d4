"""Op step's convolutions by tiles (3x3 without a stride) and by single pixels: against autograd in float64, in every
arithmetic and instruction set, and what their speed must not cost."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from atras.kernels import ConvLayer, backends
from atras.kernels.step import reference
from atras.testing import assert_close
from populations import (
    CLASSES,
    Case,
    all_values,
    assert_near_the_definition,
    assert_same,
    define,
    make,
    parameters,
    train,
    work,
)

MISSING = backends.missing("cpu", torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
SETS = backends.instruction_sets()

# Channels that fill no vector, more than a panel's 64 and a block's 256; odd sides with and without a pool, padding
# from 0 to 2, dropout, one pixel that is left (and convolutions after it), an odd number of tiles, over 192.
FAMILY = Case("none", (1, 15, 12), "relu", [[9], [], [7], []], 21, 50, 32, convolutions=[
    [ConvLayer(17, 3, 1, 1, 2), ConvLayer(20, 3, 1, 1, 2, 64), ConvLayer(70, 3, 1, 1, 2), ConvLayer(33, 3, 1, 1)],
    [ConvLayer(16, 3, 1, 1), ConvLayer(33, 3, 1, 2, 2), ConvLayer(24, 3, 1, 0)],
    [ConvLayer(24, 3, 1, 1, 2), ConvLayer(260, 3, 1, 1, 2), ConvLayer(18, 3, 1, 1, 2), ConvLayer(40, 3, 1, 1, 0, 30)],
    [ConvLayer(19, 5, 2, 2), ConvLayer(9, 4, 1, 1), ConvLayer(21, 2, 2, 0, 2), ConvLayer(16, 3, 1, 1)],
])  # fmt: skip
SMOOTH = Case("none", (2, 9, 8), "gelu", [[9], [5]], 17, 40, convolutions=[
    [ConvLayer(18, 3, 1, 2, 2, 30), ConvLayer(18, 3, 1, 2, 2), ConvLayer(48, 3, 1, 0)],
    [ConvLayer(40, 3, 1, 0), ConvLayer(17, 3, 1, 0, 2, 64)],
])  # fmt: skip
TEN_STEPS = FAMILY._replace(images=10 * FAMILY.batch)
CASES = [FAMILY, SMOOTH, SMOOTH._replace(activation="tanh", batch=1, images=3)]


SGD = {"optimizer": "sgd", "momentum": 0.5}


@cache
def defined(number: int) -> tuple[reference.Step, torch.Tensor, torch.Tensor]:
    """The definition of a case after its training by SGD, with losses and correct predictions."""
    definition = define(CASES[number], **SGD)
    return definition, *train(definition, CASES[number], rate=0.05)


@cache
def defined_values() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the family: logits, gradients of the images, and losses of ten steps of Adam."""
    images, labels, _ = work(FAMILY)
    definition = define(FAMILY)
    logits, gradient = definition.logits(images), definition.input_gradient(images, labels)[0]
    return logits, gradient, train(definition, TEN_STEPS)[0]


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_trains_as_defined(number: int, instructions: str) -> None:
    case, (definition, expected, expected_correct) = CASES[number], defined(number)
    step = make(case, 2, instructions=instructions, **SGD)
    losses, correct = train(step, case, rate=0.05)
    # float32 against float64: sums of up to 9 * 260 products, and tiles whose transform triples the rounding.
    assert_close(losses, expected, rtol=2e-5, atol=2e-6)
    assert_same(correct, expected_correct)
    # In 50 images of one network a pool's winner is decided by rounding: torch's float32 is off by 2.6e-3 there.
    assert_near_the_definition(step, definition, case, 5e-3)


@pytest.mark.parametrize("instructions", SETS)
def test_evaluates_and_differentiates_as_defined(instructions: str) -> None:
    (images, labels, _), (logits, gradient, _) = work(FAMILY), defined_values()
    step = make(FAMILY, 2, instructions=instructions)
    assert_close(step.logits(images).double(), logits, rtol=1e-4, atol=1e-5)  # float32
    for a, b in zip(step.input_gradient(images, labels)[0].double(), gradient, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("instructions", SETS)
def test_bf16_losses_of_ten_steps_stay_close(instructions: str) -> None:
    found, _ = train(make(TEN_STEPS, precision="bf16", instructions=instructions), TEN_STEPS)
    expected = defined_values()[2]
    distances = (found - expected).abs() / expected
    # A factor rounds by 2**-9 of itself, tiles' by half as much again, and nine updates by Adam amplify that.
    assert distances[:, 0].max() < 2e-3
    assert distances.max() < 3e-2


def test_all_convolutions_but_the_first_round_their_factors() -> None:
    """A dense layer and gradients of the logits are held exactly, so that convolutions alone tell two steps apart."""
    case = FAMILY._replace(hidden=[[]] * 4, images=FAMILY.batch)
    images, labels, order = work(case)
    cotangents = torch.zeros(4, case.batch, CLASSES)
    cotangents[:, :, 3] = 2.0**-6
    moved = []
    for precision in ("fp32", "bf16"):
        step = make(case, precision=precision, optimizer="sgd")
        for m in range(4):
            step.set_parameters(m, [array.bfloat16().float() for array in parameters(case, m)])
        before = [step.get_parameters(m) for m in range(4)]
        rates = torch.ones(4).double()
        step.train(images, labels, order, learning_rates=rates, cotangents=cotangents)
        moved.append([[a - b for a, b in zip(step.get_parameters(m), before[m], strict=True)] for m in range(4)])
    for exact, rounded in zip(*moved, strict=True):
        for a, b in zip(exact[:-2:2], rounded[:-2:2], strict=True):
            # 2**-9 of a factor, and more where a pool's or relu's decision falls within that.
            assert 1e-4 * a.norm() < (a - b).norm() < 0.1 * a.norm(), tuple(a.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_and_neighbours_do_not_matter(precision: str) -> None:
    images, labels, _ = work(FAMILY)
    company = make(FAMILY, 1, precision=precision)
    expected = train(company, FAMILY), all_values(company, FAMILY), company.logits(images)
    for threads in (2, 3):
        step = make(FAMILY, threads, precision=precision)
        assert_same((train(step, FAMILY), all_values(step, FAMILY), step.logits(images)), expected)
    for m in range(len(FAMILY.hidden)):
        alone = make(FAMILY.of(m), 3, precision=precision)
        alone.set_parameters(0, parameters(FAMILY, m))
        keys = torch.arange(len(FAMILY.hidden))[m : m + 1] * 2**40 - 77
        assert_same(train(alone, FAMILY.of(m), keys=keys)[0][0], expected[0][0][m])
        assert_same(alone.get_parameters(0), expected[1][m])
        assert_same(alone.input_gradient(images, labels)[0][0], company.input_gradient(images, labels)[0][m])


def test_gradients_of_an_image_end_where_the_next_image_begins() -> None:
    """Nine channels fill no vector, and without zeros around them the next image, another thread's, follows at once."""
    chain = [ConvLayer(19, 5, 2, 2), ConvLayer(9, 4, 1, 1), ConvLayer(21, 2, 2, 0, 2)]
    case = Case("none", (1, 31, 33), "relu", [[]], 64, 128, convolutions=[chain])
    expected = train(make(case, 1), case)
    for _ in range(5):  # whether two threads meet there is up to the machine
        assert_same(train(make(case, 3), case), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_continues_from_parameters_and_moments_it_returned(precision: str) -> None:
    first, second = (make(FAMILY, precision=precision) for _ in range(2))
    train(first, FAMILY)
    for m in range(len(FAMILY.hidden)):
        for moment in range(3):
            second.set_parameters(m, first.get_parameters(m, moment), moment)
    second.set_steps(first.steps)
    assert_same(train(second, FAMILY), train(first, FAMILY))
    assert_same(all_values(second, FAMILY), all_values(first, FAMILY))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weights_that_meet_no_pixel_rest_but_for_moments_they_were_given(optimizer: str) -> None:
    case = Case(
        "none", (1, 3, 3), "relu", [[]], 6, 12, convolutions=[[ConvLayer(18, pool=1), ConvLayer(17, padding=1)]]
    )
    step = make(case, optimizer=optimizer, momentum=0.5)
    before = step.get_parameters(0)[2]
    train(step, case)
    moved = step.get_parameters(0)[2] != before
    assert moved[..., 1, 1].any()
    moved[..., 1, 1] = False
    assert not moved.any()
    moments = step.get_parameters(0, 1)
    moments[2] = torch.full_like(moments[2], 0.1)
    step.set_parameters(0, moments, 1)
    train(step, case)
    assert (step.get_parameters(0)[2] != before).all()


def test_zeros_around_an_image_are_not_taken_from_a_neighbour() -> None:
    """Images that differ change no other's logits, at any number of tiles an image."""
    case = FAMILY._replace(head_rate256=0)
    images, _, _ = work(case, torch.float32)
    step = make(case)
    whole = step.logits(images)
    images[1::2] = torch.nan
    assert_same(step.logits(images)[:, ::2], whole[:, ::2])


def test_a_diverging_member_shows_in_its_loss() -> None:
    step = make(FAMILY)
    step.set_parameters(0, [torch.full_like(array, torch.nan) for array in parameters(FAMILY, 0)])
    losses, _ = train(step, FAMILY)
    assert losses[0].isnan().all()
    assert losses[1:].isfinite().all()
