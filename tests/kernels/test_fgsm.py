"""Op fgsm: its definition, and every backend against it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from atras.kernels import Perturbed, apply_signs, backends, fgsm
from atras.testing import assert_close, make_fgsm_inputs

EPSILON = 8 / 255
# Odd, single, empty, and (last) more than one tile or program for a member.
SHAPES = [(3, (2, 3, 5, 7)), (1, (1, 1, 1, 1)), (2, (0, 1, 4, 4)), (11, (3, 1, 9, 9)), (2, (3, 3, 31, 33))]
once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")


def explicit(images, gradients, direction=1, epsilon=EPSILON):
    """The definition written out in numpy, member by member."""
    values, nan, zero = [], [], []
    for m, gradient in enumerate(gradients.cpu().double().numpy()):
        image = (images if images.ndim == 4 else images[m]).cpu().numpy()
        dtype = np.float64 if gradients.dtype == torch.float64 else np.float32
        image = image.astype(dtype) / dtype(255) if image.dtype == np.uint8 else image
        sign = np.where(np.isnan(gradient), 0, np.sign(gradient)).astype(dtype)
        values.append(np.clip(image + dtype(epsilon) * direction * sign, dtype(0), dtype(1)))
        nan.append(np.isnan(gradient).sum())
        zero.append((gradient == 0).sum())
    return Perturbed(torch.tensor(np.stack(values)), torch.tensor(nan), torch.tensor(zero))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("image", ["float", "uint8"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("members", "shape"), SHAPES, ids=str)
def test_agrees_with_the_definition_bit_for_bit(backend, members, shape, dtype, direction, shared, image):
    kind = {"image_dtype": torch.uint8 if image == "uint8" else dtype, "shared": shared, "device": backend.device}
    images, gradients = make_fgsm_inputs(members, shape, dtype=dtype, **kind)
    expected = explicit(images, gradients, direction)
    assert_same(fgsm(images, gradients, EPSILON, direction=direction), expected)
    signs = fgsm(images, gradients, EPSILON, direction=direction, output="signs")
    assert signs.values.dtype == torch.int8
    assert_same(signs[1:], expected[1:])
    assert_close(apply_signs(images, signs.values, EPSILON, dtype=dtype), expected.values)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize(("members", "shape"), SHAPES, ids=str)
def test_members_with_epsilons_of_their_own_move_as_alone(backend, members, shape, shared):
    images, gradients = make_fgsm_inputs(members, shape, shared=shared, device=backend.device)
    epsilons = torch.rand(members, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(backend.device)
    found, signs = fgsm(images, gradients, epsilons), fgsm(images, gradients, epsilons, output="signs").values
    rebuilt = apply_signs(images, signs, epsilons)
    each = torch.vmap(lambda x, g, e: fgsm(x, g, e[None]), in_dims=(None if shared else 0, 0, 0))
    assert_same(each(images, gradients, epsilons), found)
    for m, epsilon in enumerate(epsilons.tolist()):
        own = fgsm(images if shared else images[m], gradients[m], epsilon)
        assert_same([values[m] for values in found], own)
        assert_close(rebuilt[m], own.values)


@pytest.mark.parametrize("layout", ["channels-last", "transposed", "every-other"])
def test_strides_do_not_matter(backend, layout):
    images, gradients = make_fgsm_inputs(3, (4, 3, 6, 6), shared=False, device=backend.device)
    change = {
        "channels-last": lambda t: t.movedim(2, -1).contiguous().movedim(-1, 2),
        "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "every-other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    }[layout]
    expected = fgsm(images, gradients, EPSILON)
    strided = change(gradients)
    assert not strided.is_contiguous()
    assert_same(fgsm(images, strided, EPSILON), expected)
    assert_same(fgsm(change(images), strided, EPSILON), expected)
    assert_same(fgsm(change(images), gradients, EPSILON), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bytes_become_correctly_rounded_pixels(backend, dtype):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).to(backend.device)
    pixels = fgsm(images, torch.zeros(1, 1, 16, 16, dtype=dtype, device=backend.device), 0.0).values.flatten()
    half_step = Fraction(float(torch.finfo(dtype).eps)) / 2
    for byte, pixel in enumerate(pixels.tolist()):
        assert abs(Fraction(pixel) - Fraction(byte, 255)) <= half_step * Fraction(byte, 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32], ids=str)
def test_half_precision_gradients_give_float32_values(backend, dtype, image_dtype):
    if dtype == torch.bfloat16 and backends.interpreting():
        pytest.skip("the interpreter has no bfloat16")
    images, gradients = make_fgsm_inputs(2, (2, 1, 5, 5), image_dtype=image_dtype, device=backend.device)
    gradients = gradients.to(dtype)
    assert_same(fgsm(images, gradients, EPSILON), explicit(images, gradients))


def test_epsilon_zero_is_the_identity(backend):
    images, gradients = make_fgsm_inputs(2, (2, 1, 5, 5), shared=False, device=backend.device)
    assert_close(fgsm(images, gradients, 0.0).values, images)


def test_opposite_gradients_on_a_shared_image_perturb_oppositely(backend):
    images = torch.full((1, 1, 4, 4), 0.5, device=backend.device)
    gradient = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).to(backend.device)
    values = fgsm(images, torch.stack([gradient, -gradient]), 0.25).values
    assert_close(values[0] - images, images - values[1])
    assert_close(values[0] - images, 0.25 * gradient.sign())


def test_bounds_clip(backend):
    images = torch.tensor([0.0, 0.2, 0.8, 1.0], device=backend.device).view(1, 1, 2, 2)
    gradients = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=backend.device).view(1, 1, 2, 2)
    clipped = fgsm(images, gradients, 0.5, bounds=(0.1, 0.9)).values.flatten()
    assert_close(clipped.cpu(), torch.tensor([0.1, 0.1, 0.9, 0.9]))
    unbounded = fgsm(images, gradients, 0.5, bounds=(-torch.inf, torch.inf)).values
    assert_close(unbounded, images + 0.5 * gradients)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_vmap_is_the_loop_over_members(backend, shared):
    images, gradients = make_fgsm_inputs(3, (2, 3, 5, 7), shared=shared, device=backend.device)
    axis = None if shared else 0
    of = [images if shared else images[m] for m in range(3)]
    loop = [fgsm(of[m], gradients[m], EPSILON) for m in range(3)]
    assert loop[0].nan_count.shape == ()
    found = torch.vmap(lambda x, g: fgsm(x, g, EPSILON), in_dims=(axis, 0))(images, gradients)
    assert_same(found, [torch.stack(values) for values in zip(*loop, strict=True)])
    signs = torch.vmap(lambda x, g: fgsm(x, g, EPSILON, output="signs"), in_dims=(axis, 0))(images, gradients)
    rebuilt = torch.vmap(lambda x, s: apply_signs(x, s, EPSILON), in_dims=(axis, 0))(images, signs.values)
    assert_close(rebuilt, found.values)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_vmap_over_vmap_and_over_any_axis(backend, axis):
    images, gradients = make_fgsm_inputs(6, (2, 1, 3, 3), shared=axis is None, device=backend.device)
    expected = fgsm(images, gradients, EPSILON)
    gradients = gradients.unflatten(0, (2, 3)).transpose(0, 1)
    if axis is not None:
        images = images.unflatten(0, (2, 3)).transpose(0, 1)
    inner = torch.vmap(lambda x, g: fgsm(x, g, EPSILON), in_dims=(None if axis is None else 0, 0))
    found = torch.vmap(inner, in_dims=(None if axis is None else 1, 1))(images, gradients)
    assert_same([value.flatten(0, 1) for value in found], expected)
    whole = torch.vmap(lambda x, g: fgsm(x, g, EPSILON), in_dims=(None if axis is None else axis, 1))
    images = images if axis != 0 else images.transpose(0, 1)
    assert_same([value.flatten(0, 1) for value in whole(images, gradients)], expected)


def test_the_result_carries_no_gradient(backend):
    images, gradients = make_fgsm_inputs(2, (1, 1, 3, 3), shared=False, corners=False, device=backend.device)
    found = fgsm(images.requires_grad_(), gradients.requires_grad_(), EPSILON)
    assert not any(value.requires_grad for value in found)
    # Nor inside a transformation: the derivative of the perturbed image is zero, not an error.
    total = torch.func.grad(lambda g: g.sum() + fgsm(images.detach(), g, EPSILON).values.sum())
    assert_close(total(gradients.detach()), torch.ones_like(gradients))


@extension
@pytest.mark.parametrize("pixels", [8192, 70_001, 2_200_001], ids=["small", "tiles", "streamed"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_threads_do_not_change_a_bit(monkeypatch, pixels, shared):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2, pixels, 1, 1, 1, generator=generator).round(decimals=1)
    images = torch.rand(gradients.shape[shared:], generator=generator)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(fgsm(images, gradients, EPSILON))
    finally:
        torch.set_num_threads(threads)
    assert_same(found[0], explicit(images, gradients))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@extension
def test_calls_from_many_threads_at_once(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    inputs = [make_fgsm_inputs(2, (1, 1, 300, 301), seed=seed) for seed in range(4)]
    found = [[] for _ in inputs]

    def work(i):
        found[i].extend(fgsm(*inputs[i], EPSILON) for _ in range(20))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for (images, gradients), results in zip(inputs, found, strict=True):
        expected = explicit(images, gradients)
        assert len(results) == 20
        for result in results:
            assert_same(result, expected)


FORKED = """
import os, signal, torch
from atras.kernels import fgsm
images, gradients = torch.rand(1, 1, 300, 300), torch.randn(4, 1, 1, 300, 300)
expected = fgsm(images, gradients, 0.1).values.numpy()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(int((fgsm(images, gradients, 0.1).values.numpy() != expected).any()))
assert os.waitpid(child, 0)[1] == 0
"""


@extension
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_survive_a_fork():
    environment = os.environ | {"ATRAS_BACKEND": "cpu", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    subprocess.run(command, env=environment, check=True, timeout=60)


IMAGES, GRADIENTS = torch.zeros(2, 1, 3, 3), torch.zeros(4, 2, 1, 3, 3)


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: fgsm(torch.zeros(128, 784), torch.zeros(40, 128, 784), 0.1),
            "fgsm: expected gradients [M, B, C, H, W] or [B, C, H, W], got (40, 128, 784); reshape before the call",
        ),
        (
            lambda: fgsm(torch.zeros(3, 1, 3, 3), GRADIENTS, 0.1),
            "fgsm: expected images (2, 1, 3, 3) or of the gradients' shape, got (3, 1, 3, 3) beside gradients "
            "(4, 2, 1, 3, 3); give both the same B, C, H, W",
        ),
        (
            lambda: fgsm(IMAGES.double(), GRADIENTS, 0.1),
            "fgsm: expected images of dtype uint8 or float32 beside float32 gradients, got float64; convert one",
        ),
        (
            lambda: fgsm(IMAGES.int(), GRADIENTS, 0.1),
            "fgsm: expected images of dtype uint8, float32 or float64, got int32; convert them",
        ),
        (
            lambda: fgsm(IMAGES, GRADIENTS.int(), 0.1),
            "fgsm: expected gradients of dtype float32 or float64 or float16 or bfloat16, got int32; convert them",
        ),
        (lambda: fgsm(IMAGES, GRADIENTS, -0.1), "fgsm: epsilon (=-0.1): expected a finite number of at least 0"),
        (
            lambda: fgsm(IMAGES, GRADIENTS, torch.ones(2)),
            "fgsm: expected epsilon as a number, or float64 [4], each member's own, got float32 [2]",
        ),
        (lambda: fgsm(IMAGES, GRADIENTS, torch.nan), "fgsm: epsilon (=nan): expected a finite number of at least 0"),
        (
            lambda: fgsm(IMAGES, GRADIENTS, 0.1, bounds=(1, 0)),
            "fgsm: bounds (=(1, 0)): expected two numbers, the lower one first",
        ),
        (
            lambda: fgsm(IMAGES, GRADIENTS, 0.1, direction=2),
            "fgsm: direction (=2): expected 1 (ascend) or -1 (descend)",
        ),
        (lambda: fgsm(IMAGES, GRADIENTS, 0.1, output="x"), "fgsm: output (='x'): expected one of images, signs"),
        (lambda: fgsm([0.5], GRADIENTS, 0.1), "fgsm: expected images as a torch tensor, got list"),
        (
            lambda: fgsm(IMAGES, GRADIENTS.to("meta"), 0.1),
            "fgsm: expected images and gradients on one device, got cpu and meta",
        ),
        (
            lambda: apply_signs(IMAGES, GRADIENTS, 0.1),
            "apply_signs: expected signs of dtype int8, got float32; convert them",
        ),
        (
            lambda: apply_signs(IMAGES, GRADIENTS.to(torch.int8), 0.1, dtype=torch.float16),
            "apply_signs: dtype (=torch.float16): expected torch.float32 or torch.float64",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text
