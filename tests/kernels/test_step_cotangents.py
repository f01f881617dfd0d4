"""Op step with any objective: input gradients and training from d(objective)/d(logits), and the logits they are of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atras.kernels import Step, backends
from atras.testing import assert_close, make_step_inputs, poisoned
from populations import (
    CLASSES,
    Case,
    all_values,
    assert_near_the_definition,
    assert_same,
    define,
    make,
    parameters,
    plan,
    work,
)

MISSING = backends.missing("cpu", torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
OTHERS = backends.instruction_sets()[1:]
# Unequal depths, no hidden layer at all, odd sides, batches that are no multiple of a vector; dropout in stem and head.
CASES = [
    Case("none", (1, 8, 8), "relu", [[40], [7, 63], [1, 8, 9]], 32, 32, data=43),
    Case("none", (1, 5, 3), "sigmoid", [[7, 9], [16], []], 1, 1, data=7),
    Case("none", (1, 8, 8), "tanh", [[33, 65]], 130, 101, 50, data=101),
    Case("conv2", (1, 13, 11), "relu", [[9], [7, 33]], 20, 19, 64, data=23),
    Case("conv2", (2, 12, 17), "gelu", [[9]], 17, 17, data=21),
    Case("conv4", (3, 12, 13), "relu", [[24, 19], [8]], 24, 17, 30, data=25),
    Case("conv4", (3, 13, 12), "tanh", [[24]], 8, 8, data=11),
]
FEW = [CASES[0], CASES[2], CASES[3], CASES[5]]


def drawn(case, count, seed=0):
    """Cotangents of no objective in particular."""
    return torch.randn(len(case.hidden), count, CLASSES, generator=torch.Generator().manual_seed(seed))


def one_batch(case):
    """The arguments of a call of one batch beside images, labels and order; rates are for `train` alone."""
    arguments = plan(case, 1e-2)
    return arguments.pop("learning_rates"), arguments


def margins(logits, labels):
    """An objective that is not the cross-entropy: the mean margin over the best other class, squashed."""
    own = logits.gather(-1, labels[..., None])[..., 0]
    others = logits.masked_fill(F.one_hot(labels, CLASSES).bool(), -torch.inf)
    return torch.tanh(0.3 * (others.logsumexp(-1) - own)).mean(-1).sum()


def cotangents_of(objective, logits, labels):
    """d(objective)/d(logits), in float64 from the logits' own values."""
    wide = logits.double().requires_grad_()
    (found,) = torch.autograd.grad(objective(wide, labels.expand(wide.shape[:2])), wide)
    return found.to(logits.dtype)


def summed_cross_entropy(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def summed_log_odds(logits, labels):
    own = labels[..., None]
    return (logits.scatter(2, own, -torch.inf).logsumexp(2) - logits.gather(2, own)[..., 0]).sum()


def assert_gradients_near(found, expected, share=1e-5):
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6.
    for a, b in zip(found.double(), expected, strict=True):
        assert (a - b).norm() <= share * b.norm() + 1e-30


@pytest.mark.parametrize("case", CASES, ids=str)
def test_input_gradients_of_any_objective_are_as_defined(case):
    images, labels, _ = work(case)
    step, definition = make(case, 2), define(case)
    for given in (drawn(case, case.data), cotangents_of(margins, step.logits(images), labels)):
        with poisoned():
            found = step.input_gradient(images, cotangents=given)
        expected = definition.input_gradient(images, cotangents=given)
        assert_gradients_near(found.gradient, expected.gradient)
        assert_close(found.zero, (found.gradient == 0).flatten(1).sum(1))
        assert not found.nan.any()
        for direction in (1, -1):
            signs = step.input_gradient(images, cotangents=given, signs=True, direction=direction)
            assert_same(signs, (direction * found.gradient.sign().to(torch.int8), *found[1:]))


@pytest.mark.parametrize("instructions", OTHERS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_every_instruction_set_takes_cotangents(case, instructions):
    images, _, _ = work(case)
    step, given = make(case, instructions=instructions), drawn(case, case.data)
    found, expected = (each.input_gradient(images, cotangents=given) for each in (step, define(case)))
    assert_gradients_near(found.gradient, expected.gradient)
    assert_same(found.logits, step.logits(images))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_logits_on_the_way_are_those_of_the_call_for_them(case):
    images, labels, _ = work(case)
    own = torch.stack([make_step_inputs(case.data, case.image_shape, seed=m)[0] for m in range(len(case.hidden))])
    step = make(case, 2)
    for given in (images, own, images.float() / 255):
        expected = step.logits(given)
        step.poison()
        with poisoned():
            for options in ({}, {"labels": labels}, {"cotangents": drawn(case, case.data)}, {"signs": True}):
                assert_same(step.input_gradient(given, **options).logits, expected)
    assert_close(expected.double(), define(case).input_gradient(images).logits, rtol=1e-4, atol=1e-5)  # as for logits


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_log_odds_cotangents_give_their_gradient(case):
    images, labels, _ = work(case)
    step = make(case)
    by_label = step.input_gradient(images, labels)
    given = cotangents_of(summed_log_odds, by_label.logits, labels)
    assert_gradients_near(step.input_gradient(images, cotangents=given).gradient, by_label.gradient.double())


@pytest.mark.parametrize("case", FEW, ids=str)
def test_cotangents_stay_with_their_image_and_member(case):
    images, _, _ = work(case)
    step, given = make(case, 2), drawn(case, case.data)
    usual = step.input_gradient(images, cotangents=given)
    nothing = step.input_gradient(images, cotangents=torch.zeros_like(given))
    assert not nothing.gradient.any()
    assert_close(nothing.zero, torch.full_like(nothing.zero, images.numel()))
    sick = given.clone()
    sick[-1, 3] = torch.nan
    found = step.input_gradient(images, cotangents=sick)
    assert found.gradient[-1, 3].isnan().any()
    assert_same(found.nan, found.gradient.isnan().flatten(1).sum(1))
    healthy = torch.ones_like(usual.gradient, dtype=torch.bool)
    healthy[-1, 3] = False
    assert_same(found.gradient[healthy], usual.gradient[healthy])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_on_any_objective_as_defined(case, optimizer):
    images, labels, order = work(case)
    rates, arguments = one_batch(case)
    options = {"optimizer": optimizer, "momentum": 0.5 if optimizer == "sgd" else 0.0}
    step, definition = make(case, 2, **options), define(case, **options)
    for _ in range(2):  # moments included
        logits = step.training_logits(images, order, **arguments)
        objectives = {"cotangents": cotangents_of(margins, logits, labels[order])}
        with poisoned():
            found = step.train(images, labels, order, learning_rates=rates, **arguments, **objectives)
        expected = definition.train(images, labels, order, learning_rates=rates, **arguments, **objectives)
        # float32 against float64, as for the cross-entropy; Adam moves a gradient that is but rounding by its rate.
        assert_close(found[0], expected[0], rtol=1e-4, atol=2e-6)
    assert_near_the_definition(step, definition, case, 2e-2 if optimizer == "adam" else 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cross_entropys_cotangents_give_its_update(case, precision):
    images, labels, order = work(case)
    rates, arguments = one_batch(case)
    options = {"optimizer": "sgd", "momentum": 0.5, "precision": precision}
    by_label, by_cotangents = make(case, **options), make(case, **options)
    logits = by_label.training_logits(images, order, **arguments)
    given = cotangents_of(summed_cross_entropy, logits, labels[order]) / len(order)
    expected = by_label.train(images, labels, order, learning_rates=rates, **arguments)
    assert_same(
        by_cotangents.train(images, labels, order, learning_rates=rates, **arguments, cotangents=given), expected
    )
    # The cotangents differ in the last bits of a float32 (see above); bf16 rounds those that lie between two of its
    # numbers to the one or the other, by 2**-8 of themselves.
    share = 2e-5 if precision == "fp32" else 2e-3
    for m, (ours, theirs) in enumerate(zip(all_values(by_cotangents, case), all_values(by_label, case), strict=True)):
        for a, b, start in zip(ours, theirs, parameters(case, m), strict=True):
            # A parameter of size 1 rounds by 6e-8 when it is moved.
            assert (a - b).norm() <= share * (b - start).norm() + 1e-7 * b.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_logits_are_those_that_a_step_trains_on(case, precision):
    images, labels, order = work(case)
    rates, arguments = one_batch(case)
    step = make(case, 2, precision=precision)
    before = all_values(step, case)
    step.poison()
    with poisoned():
        logits = step.training_logits(images, order, **arguments)
    assert_same(all_values(step, case), before)
    assert step.steps == [0] * len(case.hidden)
    assert_same(make(case, 1, precision=precision).training_logits(images, order, **arguments), logits)
    losses, correct = step.train(images, labels, order, learning_rates=rates, **arguments)
    targets = labels[order].expand(logits.shape[:2])
    expected = [F.cross_entropy(z.double(), y) for z, y in zip(logits, targets, strict=True)]
    assert_close(losses[:, 0], torch.stack(expected), rtol=1e-6, atol=1e-7)  # the op's float32 exponentials
    assert_same(correct[:, 0], (logits.argmax(-1) == targets).sum(1))
    if precision == "fp32":
        defined = define(case).training_logits(images, order, **arguments)
        assert_close(logits.double(), defined, rtol=1e-4, atol=1e-5)  # as for evaluation
    if case.head_rate256:  # masks count the step, and evaluation has none
        other = make(case, precision=precision).training_logits(images, order, **(arguments | {"first_step": 4}))
        assert not torch.equal(other, logits)
        assert not torch.equal(make(case).logits(images[order].contiguous()), logits)


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_members_follow_orders_and_copies_of_their_own(case):
    members, generator = len(case.hidden), torch.Generator().manual_seed(4)
    images, labels, _ = work(case)
    copies = torch.randint(-1, 2, (members, *images.shape), generator=generator, dtype=torch.int8)
    orders = torch.stack([torch.randperm(2 * case.data, generator=generator)[: case.images] for _ in range(3)])
    rates, arguments = one_batch(case)
    arguments |= {"order_of": torch.tensor([2, 0, 1])[:members], "signs": copies, "epsilon": 0.05}
    step, definition = make(case, 2, optimizer="sgd"), define(case, optimizer="sgd")
    logits = step.training_logits(images, orders, **arguments)
    assert_close(logits.double(), definition.training_logits(images, orders, **arguments), rtol=1e-4, atol=1e-5)
    given = {"learning_rates": rates, "cotangents": drawn(case, case.images)}
    found, expected = (each.train(images, labels, orders, **arguments, **given) for each in (step, definition))
    assert_close(found[0], expected[0], rtol=2e-5, atol=2e-6)  # float32 against float64
    assert_near_the_definition(step, definition, case, 1e-4)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_threads_do_not_matter(case):
    images, labels, order = work(case)
    rates, arguments = one_batch(case)
    given, results = drawn(case, case.images), []
    for threads in (1, 2, 3):
        step = make(case, threads)
        losses = step.train(images, labels, order, learning_rates=rates, **arguments, cotangents=given)
        results.append((losses, all_values(step, case), step.input_gradient(images, cotangents=drawn(case, case.data))))
    for other in results[1:]:
        assert_same(other, results[0])


def test_cotangents_that_require_a_gradient_are_taken_as_numbers():
    case = CASES[0]
    step, (images, labels, order) = make(case), work(case)
    given = drawn(case, case.data)
    expected = step.input_gradient(images, cotangents=given)
    assert_same(step.input_gradient(images, cotangents=given.requires_grad_()), expected)
    part = given[:, : case.images].contiguous()
    found = step.train(images, labels, order, learning_rates=torch.zeros(3), cotangents=part)
    assert not any(tensor.requires_grad for tensor in (*expected, *found))


def test_nothing_to_do_is_done():
    case = CASES[0]
    step, (images, labels, order) = make(case), work(case)
    assert step.training_logits(images, order[:0]).shape == (3, 0, CLASSES)
    rates = torch.zeros(3)
    empty = torch.zeros(3, 0, CLASSES)
    assert step.train(images, labels, order[:0], learning_rates=rates, cotangents=empty)[0].shape == (3, 0)
    found = step.input_gradient(images[:0], cotangents=empty)
    assert [found.gradient.shape, found.logits.shape] == [(3, 0, 1, 8, 8), (3, 0, CLASSES)]


def test_wrong_arguments_are_named():
    step = Step((1, 8, 8), 10, [[8], [9]], batch=3)
    images, labels, order = torch.zeros(4, 1, 8, 8), torch.arange(4), torch.arange(3)
    good, rates = torch.zeros(2, 4, 10), torch.zeros(2)
    calls = [
        (lambda: step.input_gradient(images, labels, cotangents=good), "expected labels or cotangents, got both"),
        (lambda: step.input_gradient(images, cotangents=good[0]), "expected cotangents [2, 4, 10], got (4, 10)"),
        (lambda: step.input_gradient(images, cotangents=good.double()), "expected cotangents of dtype float32, got"),
        (lambda: step.input_gradient(images, cotangents=good.mT.contiguous().mT), "expected cotangents contiguous"),
        (
            lambda: step.train(images, labels, labels, learning_rates=rates, cotangents=good),
            "expected cotangents of the logits of one batch, at most 3 images, got an order of 4; make a call for each",
        ),
        (
            lambda: step.train(images, labels, order, learning_rates=rates, cotangents=good),
            "expected cotangents [2, 3, 10], got (2, 4, 10)",
        ),
        (lambda: step.training_logits(images, labels), "expected the training logits of one batch, at most 3 images"),
        (
            lambda: step.training_logits(images, order, first_step=-1),
            "first_step (=-1): expected a whole number from 0",
        ),
        (lambda: step.training_logits(images, order, keys=order), "expected keys [2], got (3,)"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith("step: ")
        assert message in str(error.value)
