"""Op step on lists of (member, image) pairs: bit for bit as on whole sets in C++, and as defined in Triton."""

from __future__ import annotations

import pytest
import torch

from atras.kernels import ConvLayer, Step, backends, pad_pairs, unpad_pairs
from atras.kernels.step import reference
from atras.testing import assert_close, make_step_inputs
from populations import Case, assert_same, define, make

MISSING = backends.missing("cpu", torch.device("cpu"))
in_cpp = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
CASES = [
    Case("none", (1, 8, 8), "relu", [[40], [7, 63], [1, 8, 9]], 32, 80),
    Case("conv2", (1, 13, 11), "relu", [[9], [7, 63], [64]], 20, 50),
    Case("conv4", (3, 12, 13), "gelu", [[24, 19], [8], [5]], 16, 60),
    Case("conv2", (3, 12, 10), "relu", [[24, 19], [8], [5]], 16, 60, convolutions=[
        [ConvLayer(5, 4, 2, 1), ConvLayer(20, 3, 1, 1, 2)], [ConvLayer(17, 2, pool=3)], [],
    ]),
]  # fmt: skip
COUNTS = [[50, 0, 7], [0, 0, 3], [1, 33, 50], [0, 0, 0]]


def pairs_of(case, counts):
    """Images, labels and cotangents of pairs, uint8, int64 and float32, and where each pair is in whole sets of 50."""
    images = torch.stack([make_step_inputs(50, case.image_shape, seed=m)[0] for m in range(3)])
    labels = torch.randint(10, (3, 50))
    cotangents = torch.randn(3, 50, 10)
    chosen = torch.cat([torch.randperm(50)[:count] for count in counts])
    where = (torch.arange(3).repeat_interleave(torch.tensor(counts)), chosen)
    return images, labels, cotangents, where


@in_cpp
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_a_pair_has_the_numbers_that_it_has_in_a_whole_set(case, counts):
    images, labels, cotangents, where = pairs_of(case, counts)
    step, given = make(case, 2), torch.tensor(counts)
    whole = [step.logits(images), *step.input_gradient(images, labels)[:2]]
    whole.append(step.input_gradient(images, cotangents=cotangents)[0])
    step.poison()
    own = [step.logits(images[where], counts=given)]
    gradient, logits, zero, nan = step.input_gradient(images[where], labels[where], counts=given)
    own += [gradient, logits, step.input_gradient(images[where], cotangents=cotangents[where], counts=given)[0]]
    assert_same(own, [values[where] for values in whole])
    padded = pad_pairs((gradient == 0).flatten(1).sum(1), given)
    assert_same(zero, padded.sum(1) if len(gradient) else torch.zeros(3, dtype=torch.int64))
    assert not nan.any()


@in_cpp
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pairs_are_evaluated_as_defined(case):
    images, labels, cotangents, where = pairs_of(case, COUNTS[2])
    step, definition, counts = make(case), define(case), torch.tensor(COUNTS[2])
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6.
    assert_close(
        step.logits(images[where], counts=counts).double(),
        definition.logits(images[where], counts=counts),
        atol=1e-5,
        rtol=1e-5,
    )
    for objective in ({"labels": labels[where]}, {"cotangents": cotangents[where]}):
        found = step.input_gradient(images[where], counts=counts, **objective)
        expected = definition.input_gradient(images[where], counts=counts, **objective)
        size = expected.gradient.abs().amax()
        assert_close(found.gradient.double() / size, expected.gradient / size, atol=1e-5)


@in_cpp
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 3], r"expected counts \[3\]"),
        ([3, 3, 3], "expected counts of 10 images, got 9"),
        ([-1, 5, 6], "from 0 to 10"),
    ],
)
def test_counts_that_do_not_fit_are_refused(counts, message):
    step = make(CASES[0])
    with pytest.raises(ValueError, match=message):
        step.logits(torch.rand(10, 1, 8, 8), counts=torch.tensor(counts))


def test_padding_is_undone():
    counts = torch.tensor([2, 0, 5, 1])
    values = torch.randn(8, 3)
    padded = pad_pairs(values, counts)
    assert padded.shape == (4, 5, 3)
    assert_close(unpad_pairs(padded, counts), values)
    assert padded[1].eq(0).all()
    assert padded[0, 2:].eq(0).all()


def test_the_definition_takes_pairs_as_members_take_images():
    case = CASES[0]
    images, labels, _, where = pairs_of(case, COUNTS[2])
    definition: reference.Step | Step = define(case)
    counts = torch.tensor(COUNTS[2])
    assert_close(definition.logits(images[where], counts=counts), definition.logits(images)[where], atol=1e-12)
    gradient = definition.input_gradient(images[where], labels[where], counts=counts).gradient
    assert_close(gradient, definition.input_gradient(images, labels).gradient[where], atol=1e-12)
