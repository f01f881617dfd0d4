"""Torch's settings around a call (default dtype and device, grad mode, autocast) change no bit of what an op gives."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch

from atras.kernels import (
    Step,
    apply_signs,
    ascent_step,
    backends,
    boundary_step,
    dropout,
    fgsm,
    keep_better,
    keep_rows,
    propose_bumps,
    propose_corners,
)
from atras.kernels.step import reference
from atras.testing import (
    assert_close,
    make_ascent_inputs,
    make_dropout_inputs,
    make_fgsm_inputs,
    make_projection_inputs,
    make_square_inputs,
    make_step_inputs,
    make_step_parameters,
)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def autocast():
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cuda", torch.bfloat16, torch.cuda.is_available()):
        yield


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": autocast,
}


def assert_all_same(found, expected):
    """Bit for bit: values, shapes, dtypes and devices."""
    for one, other in zip(found, expected, strict=True):
        assert one.device == other.device
        assert_close(one, other)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32])
def test_fgsm_is_the_same(backend, state, image_dtype):
    images, gradients = make_fgsm_inputs(3, (2, 3, 5, 7), image_dtype=image_dtype, device=backend.device)

    def call():
        signs = fgsm(images, gradients, 0.1, output="signs", direction=-1)
        each = torch.vmap(lambda g: fgsm(images, g, 0.1), in_dims=0)(gradients)
        return [*fgsm(images, gradients, 0.1), *signs, *each, apply_signs(images, signs.values, 0.1)]

    expected = call()
    with STATES[state]():
        found = call()
    assert_all_same(found, expected)


@pytest.mark.parametrize("state", STATES)
def test_steps_of_attacks_are_the_same(backend, state):
    ascent = make_ascent_inputs(3, (2, 3, 5), 0.1, device=backend.device)
    onto = make_projection_inputs(7, (2, 3, 5), device=backend.device)

    def call():
        kept = ascent[0].clone()
        keep_rows((kept,), (ascent[1],), ascent[4] > 0.1)
        onto_boundary = [boundary_step(*onto, norm=norm, alpha=0.1, eta=1.05) for norm in ("linf", "l2", "l1")]
        return [kept, ascent_step(*ascent, epsilon=0.1, weight=0.75), *onto_boundary]

    expected = call()
    with STATES[state]():
        found = call()
    assert_all_same(found, expected)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("shape", "padded"), [((5, 7), True), ((2, 5, 3, 4), False)], ids=["padded", "planes"])
def test_dropout_is_the_same(backend, state, shape, padded):
    x, key, width = make_dropout_inputs(3, shape, padded=padded, device=backend.device)
    widths = 5 if padded else None

    def call(differentiable):
        leaf = x.clone().requires_grad_(differentiable)

        def one(x, key, width):
            return dropout(x, key, 7, layer=1, rate256=64, width=width)

        y = torch.vmap(one, in_dims=(0, 0, 0 if padded else None))(leaf, key, width)
        single = dropout(x[0], key[0], 7, layer=1, rate256=64, width=widths)
        gradient = torch.autograd.grad((y * x).sum(), leaf) if differentiable else ()
        return [y.detach(), single, *gradient]

    differentiable = state not in ("no_grad", "inference")
    expected = call(differentiable)
    with STATES[state]():
        found = call(differentiable)
    assert_all_same(found, expected)


@pytest.mark.parametrize("state", STATES)
def test_square_is_the_same(backend, state):
    made = make_square_inputs(4, (3, 6, 7), device=backend.device)
    bumps = torch.full((2, 3, 3), 1 / 3, device=backend.device)
    none, drawn = torch.zeros(4, dtype=torch.float64, device=backend.device), made.drawn[:, :5].contiguous()

    def call():
        best, tried, values, spent = (each.clone() for each in (made.best, made.best, made.values, none))
        propose_corners(tried, made.clean, drawn, side=3, epsilon=0.1)
        corners = tried.clone()
        keep_better(best, tried, values, made.logits, made.labels, drawn, side=3)
        after = propose_bumps(tried, best, made.clean, spent, made.drawn, bumps, epsilon=0.1)
        bumped = tried.clone()
        keep_better(best, tried, values, made.logits, made.labels, made.drawn, side=3, spent=(spent, after))
        return [corners, bumped, best, tried, values, spent, after]

    expected = call()
    with STATES[state]():
        found = call()
    assert_all_same(found, expected)


CASES = {"none": ((1, 5, 3), [[9], [7, 17]]), "conv2": ((1, 11, 10), [[5]])}


def of_a_step(stem, device):
    """What a Step of a case is trained and asked with."""
    image_shape, hidden = CASES[stem]
    images, labels = (tensor.to(device) for tensor in make_step_inputs(5, image_shape))
    cotangents = torch.randn(len(hidden), 5, 10, generator=torch.Generator().manual_seed(2)).to(device)
    shapes = [reference.parameter_shapes(image_shape, 10, stem, widths) for widths in hidden]
    return {
        "inputs": (images, labels, torch.arange(5), cotangents, torch.full((len(hidden),), 1e-2).double()),
        "parameters": [make_step_parameters(each, seed=m) for m, each in enumerate(shapes)],
    }


@functools.cache
def usual_life(backend, stem):
    """In the usual state, once for all others."""
    device = torch.device(backend.device)
    return whole_life(stem, device, of_a_step(stem, device))


def whole_life(stem, device, steps):
    """Everything that a Step is asked for, from an object that another state may have made."""
    image_shape, hidden = CASES[stem]
    images, labels, order, cotangents, rates = steps["inputs"]
    members = len(hidden)
    step = steps.get("step") or Step(
        image_shape, 10, hidden, stem=stem, activation="gelu", batch=3, head_rate256=64, device=device
    )
    steps["step"] = step
    step.poison()
    for m, widths in enumerate(hidden):
        shapes = reference.parameter_shapes(image_shape, 10, stem, widths)
        step.set_parameters(m, steps["parameters"][m])
        assert [tuple(array.shape) for array in step.get_parameters(m)] == shapes
    step.reset_optimizer()
    found = list(step.train(images, labels, order, learning_rates=rates))
    found.append(step.training_logits(images, order[:3]))
    found += step.train(images, labels, order[:3], learning_rates=rates, cotangents=cotangents[:, :3].contiguous())
    found.append(step.logits(images))
    for options in ({}, {"labels": labels}, {"cotangents": cotangents}, {"signs": True}):
        found += step.input_gradient(images, **options)
    for m in range(members):
        for moment in range(3):
            found += step.get_parameters(m, moment)
    assert step.steps == [3] * members
    step.set_steps([0] * members)
    return found


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stem", CASES)
def test_a_step_is_the_same(backend, state, stem):
    if backend.name == "reference":
        pytest.skip("op step has no backend in plain torch")
    if backends.interpreting() and stem != "none":
        pytest.skip("a stem takes the interpreter minutes, and makes no tensors of its own kind")
    device = torch.device(backend.device)
    expected, steps = usual_life(backend, stem), of_a_step(stem, device)
    with STATES[state]():
        found = whole_life(stem, device, steps)
    assert_all_same(found, expected)
    assert_all_same(whole_life(stem, device, steps), expected)  # the one that was made in that state


@pytest.mark.parametrize("state", ["float64", "bfloat16", "meta"])
def test_the_definition_of_a_step_is_the_same(backend, state):
    if backend.name != "reference":
        pytest.skip("plain torch")
    image_shape, hidden = CASES["conv2"]
    images, labels = make_step_inputs(5, image_shape)
    parameters = make_step_parameters(reference.parameter_shapes(image_shape, 10, "conv2", hidden[0]))
    order, rates = torch.arange(5), torch.full((1,), 1e-2)

    def call():
        step = reference.Step(image_shape, 10, hidden, stem="conv2", batch=3, head_rate256=64)
        step.set_parameters(0, parameters)
        found = [*step.train(images, labels, order, learning_rates=rates), step.training_logits(images, order[:3])]
        return [*found, step.logits(images), *step.input_gradient(images, labels), *step.get_parameters(0)]

    expected = call()
    with STATES[state]():
        found = call()
    assert_all_same(found, expected)
