"""Margins and the difference of logits ratio, whose gradients op step computes itself, bit for bit as defined."""

from __future__ import annotations

import pytest
import torch

from atras.kernels import Step, backends, dlr, margin, objective_gradient
from atras.kernels.step import reference
from atras.testing import assert_close
from populations import Case, assert_same, define, make, rows_of_logits, work

MISSING = backends.missing("cpu", torch.device("cpu"))
in_cpp = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
OTHERS = backends.instruction_sets()[1:]
OBJECTIVES = [(kind, targeted) for kind in ("margin", "dlr") for targeted in (False, True)]


def identities(kind: type, logits: torch.Tensor, **options: object) -> Step:
    """A network for each row: its gradient by pixels of zero is that by the logits, which are its biases."""
    members, classes = logits.shape
    step = kind((1, 1, classes), classes, [[] for _ in range(members)], **options)
    for m, bias in enumerate(logits):
        step.set_parameters(m, [torch.eye(classes), bias])
    return step


@in_cpp
@pytest.mark.parametrize(("kind", "targeted"), OBJECTIVES)
@pytest.mark.parametrize(("classes", "count"), [(2, 60), (3, 90), (4, 90), (10, 120), (37, 60), (1000, 6)])
def test_gradients_by_the_logits_are_the_definitions_bit_for_bit(kind, targeted, classes, count):
    logits, labels, targets = rows_of_logits(count, classes)
    images, given = torch.zeros(count, 1, 1, 1, classes), targets[:, None] if targeted else None
    arguments = {"objective": kind, "targets": given}
    found = identities(Step, logits, batch=4).input_gradient(images, labels[:, None], **arguments)
    expected = identities(reference.Step, logits).input_gradient(images, labels[:, None], **arguments)
    assert_close(found.logits[:, 0], logits)
    assert_close(found.gradient, expected.gradient)
    finite = expected.gradient.flatten(1).isfinite().all(1)
    assert finite[logits.isfinite().all(1)].all()
    assert expected.gradient[finite].any()


@in_cpp
@pytest.mark.parametrize("instructions", OTHERS)
@pytest.mark.parametrize(("kind", "targeted"), OBJECTIVES)
def test_every_instruction_set_has_the_same_bits(kind, targeted, instructions):
    logits, labels, targets = rows_of_logits(60, 10, seed=1)
    arguments = {"objective": kind, "targets": targets[:, None] if targeted else None}
    images = torch.zeros(60, 1, 1, 1, 10)
    best, other = (identities(Step, logits, instructions=name) for name in ("", instructions))
    assert_same(*(step.input_gradient(images, labels[:, None], **arguments) for step in (best, other)))


@pytest.mark.parametrize("targeted", [False, True])
def test_the_definitions_are_the_papers(targeted):
    if backends.interpreting():
        pytest.skip("plain torch")
    logits = torch.tensor([[0.5, 3.0, 2.0, -1.0, 2.5, 0.0]])
    labels, targets = torch.tensor([1]), torch.tensor([3])
    if targeted:
        assert margin(logits, labels, targets).item() == -4.0
        assert dlr(logits, labels, targets).item() == pytest.approx(-4.0 / (3.0 - (2.0 + 0.5) / 2))
    else:
        assert margin(logits, labels).item() == -0.5
        assert dlr(logits, labels).item() == pytest.approx(-0.5 / (3.0 - 2.0))


@in_cpp
@pytest.mark.parametrize(("kind", "targeted"), OBJECTIVES)
@pytest.mark.parametrize("shape", ["shared", "own", "pairs"])
def test_images_have_the_gradient_of_the_objective_by_whatever_way_it_is_asked_for(kind, targeted, shape):
    case = Case("conv2", (1, 13, 11), "relu", [[9], [7, 33]], 20, 30, data=30)
    images, labels, _ = work(case, torch.float32)
    counts = torch.tensor([26, 4]) if shape == "pairs" else None
    labels = torch.randint(10, (2, 30)) if shape == "own" else labels
    targets = (labels + 3) % 10 if targeted else None
    step, definition = make(case, 2), define(case)
    found = step.input_gradient(images, labels, objective=kind, targets=targets, counts=counts)
    logits = step.logits(images, counts=counts)
    rows = logits.shape[:-1]
    cotangents = objective_gradient(
        kind, logits, labels.expand(rows), None if targets is None else targets.expand(rows)
    )
    assert_same(found, step.input_gradient(images, cotangents=cotangents, counts=counts))
    expected = definition.input_gradient(images, labels, objective=kind, targets=targets, counts=counts)
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6.
    assert (found.gradient - expected.gradient).norm() <= 1e-5 * expected.gradient.norm()
    predicted = step.input_gradient(images, objective=kind, counts=counts)
    assert_same(predicted, step.input_gradient(images, logits.argmax(-1), objective=kind, counts=counts))


@in_cpp
def test_objectives_that_do_not_fit_are_refused():
    step, images = make(Case("none", (1, 2, 2), "relu", [[3]], 2, 4)), torch.rand(4, 1, 2, 2)
    labels = torch.zeros(4, dtype=torch.int64)
    for arguments, message in (
        ({"labels": labels, "objective": "ce"}, r"step: objective \(='ce'\): expected one of odds, margin, dlr"),
        ({"labels": labels, "targets": labels}, "expected targets beside labels, of objective margin or dlr"),
        ({"objective": "dlr", "targets": labels}, "expected targets beside labels, of objective margin or dlr"),
        ({"labels": labels, "objective": "dlr", "targets": labels[:3]}, r"expected targets \[4\]"),
        ({"labels": labels, "objective": "dlr", "targets": labels + 10}, "expected targets from 0 to 9"),
        ({"objective": "dlr", "cotangents": torch.zeros(1, 4, 10)}, "expected labels or cotangents, got both"),
    ):
        with pytest.raises(ValueError, match=message):
            step.input_gradient(images, **arguments)
