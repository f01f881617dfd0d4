"""Op step: what is wrong with its arguments is said in one line."""

from __future__ import annotations

import pytest
import torch

from atras.kernels import ConvLayer, Step, backends

MISSING = backends.missing("cpu", torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")

OPTION_ERRORS = [
    ({"stem": "conv3"}, "stem (='conv3'): expected one of none, conv2, conv4"),
    ({"activation": "elu"}, "activation (='elu'): expected one of relu, sigmoid, tanh, gelu"),
    ({"optimizer": "lion"}, "optimizer (='lion'): expected one of adam, adamw, sgd"),
    ({"label_smoothing": 1.5}, "label_smoothing (=1.5): expected a share from 0 to 1"),
    ({"clip": -1.0}, "clip (=-1.0): expected a finite number of at least 0"),
    ({"average": 1.0}, "average (=1.0): expected a decay from 0 to below 1, or None for none"),
    ({"precision": "fp64"}, "precision (='fp64'): expected one of fp32, tf32, bf16"),
    ({"instructions": "mmx"}, "instructions (=mmx): expected amx, avx512_bf16, avx512, avx2 or portable"),
    ({"image_shape": (1, 0, 8)}, "image_shape (=(1, 0, 8)): expected (C, H, W)"),
    ({"stem": "conv2"}, "stem (='conv2'): expected images of at least 10x10, got 8x8; use stem none"),
    ({"stem": "conv4", "image_shape": (32, 12, 12)}, "expected images of at most 31 channels, got 32"),
    ({"convolutions": []}, "convolutions: expected those of 1 members, got 0"),
    ({"convolutions": [[ConvLayer(0)]]}, "convolutions: expected a filters from 1 to 2147483647, got 0"),
    ({"convolutions": [[ConvLayer(4, padding=3)]]}, "convolutions: expected a padding from 0 to 2, got 3"),
    ({"convolutions": [[ConvLayer(4, pool=256)]]}, "convolutions: expected a pool from 0 to 255, got 256"),
    ({"convolutions": [[ConvLayer(4)] * 4]}, "got 2x2"),
    ({"hidden": []}, "hidden (=[]): expected the hidden widths of at least one member"),
    ({"hidden": [[8, 0]]}, "hidden width (=0): expected a whole number from 1"),
    ({"classes": 0}, "classes (=0): expected a whole number from 1"),
    ({"batch": 0}, "batch (=0): expected a whole number from 1"),
    ({"threads": 0}, "threads (=0): expected a whole number from 1"),
    ({"head_rate256": 256}, "head_rate256 (=256): expected a whole number from 0 to 255"),
    ({"stem_rate256": -1}, "stem_rate256 (=-1): expected a whole number from 0 to 255"),
    ({"momentum": -1.0}, "momentum (=-1.0): expected a finite number of at least 0"),
]


@pytest.mark.parametrize(
    ("options", "message"), OPTION_ERRORS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError) as error:
        Step(**{"image_shape": (1, 8, 8), "classes": 10, "hidden": [[8]], **options})
    assert str(error.value).startswith("step: ")
    assert message in str(error.value)


IMAGES_OF_8 = torch.zeros(4, 1, 8, 8)
CALL_ERRORS = [
    ({"images": [0.0]}, "expected images as a torch tensor, got list"),
    ({"images": torch.zeros(4, 1, 8, 7)}, "expected images [N, 1, 8, 8], got (4, 1, 8, 7); reshape before the call"),
    ({"images": IMAGES_OF_8.expand(2, 4, 1, 8, 8).contiguous()}, "expected images [N, 1, 8, 8], got (2, 4, 1, 8, 8)"),
    ({"images": IMAGES_OF_8.double()}, "expected images of dtype uint8 or float32, got float64; convert them"),
    ({"images": IMAGES_OF_8.to("meta")}, "expected images on the CPU, got meta; move it before the call"),
    ({"images": IMAGES_OF_8.mT}, "expected images contiguous, got strides (64, 64, 1, 8); call .contiguous() first"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, "expected labels [4], got (3,)"),
    ({"labels": torch.zeros(4, dtype=torch.int32)}, "expected labels of dtype int64, got int32"),
    (
        {"labels": torch.tensor([0, 1, 2, 10])},
        "expected labels from 0 to 9, got 0 to 10; give Step the number of classes",
    ),
    ({"labels": torch.tensor([0, 1, -1, 3])}, "expected labels from 0 to 9, got -1 to 3"),
    ({"order": torch.tensor([4])}, "expected order from 0 to 3, got 4 to 4; an index past the images needs signs"),
    ({"order": torch.tensor([0.0])}, "expected order of dtype int64, got float32"),
    ({"order_of": torch.tensor([0, 1])}, "expected order_of from 0 to 0, got 0 to 1; give order a row for each"),
    ({"order_of": torch.tensor([0])}, "expected order_of [2], got (1,)"),
    ({"signs": torch.zeros(4, 1, 8, 8, dtype=torch.int8)}, "expected signs [2, 4, 1, 8, 8], got (4, 1, 8, 8)"),
    ({"signs": torch.zeros(2, 4, 1, 8, 8)}, "expected signs of dtype int8, got float32"),
    ({"epsilon": float("nan")}, "epsilon (=nan): expected a finite number of at least 0"),
    ({"learning_rates": torch.zeros(3)}, "expected learning_rates [2] or [2, 1], got (3,)"),
    ({"learning_rates": torch.zeros(2, 2)}, "expected learning_rates [2] or [2, 1], got (2, 2)"),
    ({"weight_decays": torch.zeros(3)}, "expected weight_decays [2], got (3,)"),
    ({"weight_decays": torch.tensor([0.0, -1.0])}, "expected weight_decays of at least 0, finite, got [0.0, -1.0]"),
    ({"batch": 129}, "batch (=129): expected a whole number from 1 to 128"),
    ({"keys": torch.zeros(1, dtype=torch.int64)}, "expected keys [2], got (1,)"),
    ({"first_step": -1}, "first_step (=-1): expected a whole number from 0"),
]


@pytest.mark.parametrize(("change", "message"), CALL_ERRORS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_argument_is_named(change, message):
    call = {
        "images": IMAGES_OF_8,
        "labels": torch.arange(4),
        "order": torch.arange(4),
        "learning_rates": torch.zeros(2),
    }
    with pytest.raises(ValueError) as error:
        Step((1, 8, 8), 10, [[8], [9]]).train(**{**call, **change})
    assert str(error.value).startswith("step: ")
    assert message in str(error.value)


def test_wrong_arguments_of_the_other_calls_are_named():
    step = Step((1, 8, 8), 10, [[8], [9]], optimizer="sgd")
    calls = [
        (lambda: step.set_parameters(2, []), "member (=2): expected a whole number from 0 to 1"),
        (lambda: step.get_parameters(0, 2), "moment (=2): expected a whole number from 0 to 1"),
        (lambda: step.set_parameters(0, []), "expected 4 arrays for member 0, got 0"),
        (lambda: step.set_parameters(0, step.get_parameters(1)), "expected array 0 of member 0 [8, 64], got (9, 64)"),
        (lambda: step.set_steps([1]), "expected steps of 2 members, got 1"),
        (lambda: step.set_steps([1, -1]), "steps (=-1): expected a whole number from 0"),
        (lambda: step.logits(IMAGES_OF_8.expand(3, 4, 1, 8, 8)), "expected images [N, 1, 8, 8] or [2, N, 1, 8, 8]"),
        (
            lambda: step.input_gradient(IMAGES_OF_8, torch.zeros(2, 3).long()),
            "expected labels [4] or [2, 4], got (2, 3)",
        ),
        (lambda: step.input_gradient(IMAGES_OF_8, direction=0), "direction (=0): expected 1 (ascend) or -1 (descend)"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith("step: ")
        assert message in str(error.value)
