"""Layers and what is made of them: spellings, shapes, counts and forward passes against torch's own modules."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from atras.errors import InputError
from atras.networks import (
    LAYERS,
    Candidate,
    Conv,
    Dense,
    Layer,
    Network,
    Spec,
    parse_layers,
    register_layer,
    spell_layers,
)
from atras.networks.layers.layer import MAX_UNITS

WIDTHS = st.integers(1, MAX_UNITS)


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    """Any convolution there is."""
    same = draw(st.booleans())
    kernel = 2 * draw(st.integers(0, 400)) + 1 if same else draw(st.integers(1, 800))
    return Conv(
        draw(WIDTHS), kernel, 1 if same else draw(WIDTHS), "same" if same else draw(st.integers(0, kernel - 1)),
        draw(st.integers(0, MAX_UNITS) | st.just("auto")), draw(st.floats(0.0, 0.99)),
    )  # fmt: skip


ANY_LAYERS = st.lists(convolutions() | st.builds(Dense, WIDTHS), min_size=1, max_size=5)


@given(ANY_LAYERS, st.sampled_from("-,"))
def test_any_layers_spelling_is_read_as_those_layers(layers: list[Layer], between: str) -> None:
    text = between.join(map(str, layers))
    assert parse_layers(text) == tuple(layers)
    assert Candidate.parse(text) == Candidate(layers)
    assert Candidate(layers).name == spell_layers(layers)


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("24", Dense(24)),
        ("c32", Conv(32, padding="same", pool="auto")),
        ("c32k3", Conv(32)),
        ("c32k5zsamepauto", Conv.pooled(32, 5)),
        ("c32pauto", Conv(32, pool="auto")),
        ("c32k5s2z1p2d0.25", Conv(32, 5, 2, 1, 2, 0.25)),
        ("c32zsame", Conv(32, padding="same")),
        ("c32k5zsamep3", Conv(32, 5, padding="same", pool=3)),
        ("c8d0.00001", Conv(8, dropout=1e-5)),
    ],
)
def test_a_layer_is_spelled_by_its_letters_and_nothing_that_is_as_by_default(text: str, layer: Layer) -> None:
    assert str(layer) == text
    assert parse_layers(text) == (layer,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c0", "hidden (='c0'): filters (=0): expected a whole number from 1 to 65536"),
        ("c8k0", "hidden (='c8k0'): kernel (=0): expected a whole number from 1 to 65536"),
        ("c8s0", "hidden (='c8s0'): stride (=0): expected a whole number from 1 to 65536"),
        ("c8k3z3", "hidden (='c8k3z3'): padding (=3): expected a whole number from 0 to 2"),
        ("c8s2zsame", "hidden (='c8s2zsame'): stride (=2): expected 1 with padding same; give the padding as a number"),
        ("c8k4zsame", "hidden (='c8k4zsame'): kernel (=4): expected an odd number with padding same"),
        ("c8d0.995", "hidden (='c8d0.995'): dropout (=0.995): expected a number from 0 to 0.99"),
        ("99999999", "hidden (='99999999'): units (=99999999): expected a whole number from 1 to 65536"),
        ("8-c", "hidden (='8-c'): expected widths separated by commas, such as 24,192, or layers, such as c32p2,64"),
        ("c8p2k3", "hidden (='c8p2k3'): expected widths separated by commas"),
        ("c٣", "hidden (='c٣'): expected widths separated by commas"),
        ("c8d1e-05", "hidden (='c8d1e-05'): expected widths separated by commas"),
        ("c" + "9" * 5000, "expected widths separated by commas"),
    ],
)
def test_a_misspelled_layer_is_refused_in_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Candidate.parse(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan"), "0.5", None, True])
def test_a_dropout_that_is_no_share_is_refused(dropout: float) -> None:
    with pytest.raises(InputError, match=r"dropout \(=.*expected a number from 0 to 0.99"):
        Conv(8, dropout=dropout)


def test_two_layers_of_one_kind_are_refused() -> None:
    class Other(Dense):
        """A second layer of kind dense."""

    with pytest.raises(InputError, match=r"layer kind .='dense'.: expected a new one, there are average, "):
        register_layer(Other)
    assert register_layer(Dense) is Dense
    assert set(LAYERS) >= {"dense", "conv"}


SHAPES = [(1, 9, 9), (3, 11, 7), (2, 6, 13)]
CONVOLUTIONS = [
    Conv(5, kernel, stride, padding, pool)
    for kernel, stride, padding, pool in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (0, 2, 3))
    if padding < kernel
] + [Conv(4, kernel, padding="same", pool=pool) for kernel in (1, 3, 5) for pool in (0, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_is_torchs_conv2d_and_max_pool_at_every_setting(shape: tuple[int, int, int]) -> None:
    images = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    refused = 0
    for layer in CONVOLUTIONS:
        convolution = nn.Conv2d(shape[0], layer.filters, layer.kernel, layer.stride, layer.padding, dtype=torch.float64)
        try:
            expected = torch.tanh(convolution(images))
            convolved = expected.shape[2:]
            expected = nn.functional.max_pool2d(expected, layer.pool) if layer.pool else expected
        except RuntimeError:  # torch has nothing left of the image
            refused += 1
            with pytest.raises(
                InputError, match=rf"{layer}: expected an image of at least (\d+)x\1, got {shape[1]}x{shape[2]}"
            ):
                layer.output_shape(shape)
            continue
        assert layer.output_shape(shape) == tuple(expected.shape[1:]), layer
        own = dict(convolution.named_parameters())
        assert layer.parameter_shapes(shape) == {name: tuple(values.shape) for name, values in own.items()}
        torch.testing.assert_close(layer.forward(own, images, torch.tanh), expected, rtol=1e-12, atol=1e-12)
        modules = nn.Sequential(OrderedDict((f"x{name}", each) for name, each in layer.modules(shape, nn.Tanh)))
        modules.double().load_state_dict({f"x.{name}": values for name, values in own.items()})
        assert torch.equal(modules(images), expected), layer
        with FlopCounterMode(display=False) as counter:
            convolution(images)
        assert 2 * layer.multiplications(shape) * len(images) == counter.get_total_flops(), layer
        kept = 2 * layer.filters * convolved.numel() + (2 * expected[0].numel() if layer.pool else 0)
        assert layer.kept_values(shape) == kept, layer
    assert 0 < refused < len(CONVOLUTIONS) / 3


@pytest.mark.parametrize(
    ("side", "pools"), [(8, [2, 2, 2, 0]), (9, [2, 2, 2, 0]), (3, [2, 0, 0, 0]), (1, [0, 0, 0, 0])]
)
def test_bare_filters_pool_while_two_rows_and_columns_are_left(side: int, pools: list[int]) -> None:
    network = Network(Spec((1, side, side + 1), 10), Candidate.parse("c2-c3-c4-c5"))
    assert [place.layer for place in network.hidden] == [
        Conv(filters, padding=1, pool=pool) for filters, pool in zip((2, 3, 4, 5), pools, strict=True)
    ]
    parameters = network.initial_parameters(0, torch.float64)
    images = torch.rand(2, 1, side, side + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = images
    for number, pool in enumerate(pools, 1):
        x = torch.relu(
            nn.functional.conv2d(x, parameters[f"conv{number}.weight"], parameters[f"conv{number}.bias"], padding=1)
        )
        x = nn.functional.max_pool2d(x, 2) if pool else x
    logits = nn.functional.linear(x.flatten(1), parameters["logits.weight"], parameters["logits.bias"])
    torch.testing.assert_close(network.logits(parameters, images), logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(network.module(parameters)(images), network.logits(parameters, images))


@pytest.mark.parametrize("shape", [*SHAPES, (17,)], ids=str)
def test_a_dense_layer_is_torchs_linear_behind_a_flatten(shape: tuple[int, ...]) -> None:
    layer, x = Dense(6), torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    linear = nn.Linear(x[0].numel(), 6, dtype=torch.float64)
    own = dict(linear.named_parameters())
    assert layer.output_shape(shape) == (6,)
    assert layer.parameter_shapes(shape) == {name: tuple(values.shape) for name, values in own.items()}
    assert torch.equal(layer.forward(own, x, torch.relu), torch.relu(linear(x.flatten(1))))
    with FlopCounterMode(display=False) as counter:
        linear(x.flatten(1))
    assert 2 * layer.multiplications(shape) * len(x) == counter.get_total_flops()
    assert [(name, type(module)) for name, module in layer.modules(shape, nn.ReLU)] == [
        ("", nn.Linear), ("_activation", nn.ReLU),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "16-c8",
            "hidden (='16-c8'): on images of 8x8: c8: expected an image, got 16 features; put it before dense layers",
        ),
        (
            "c8p2-c8k5-4",
            "hidden (='c8p2-c8k5-4'): on images of 8x8: c8k5: expected an image of at least 5x5, got 3x3; leave",
        ),
        (
            "c8k9",
            "hidden (='c8k9'): on images of 8x8: c8k9: expected an image of at least 9x9, got 8x8; leave out layers",
        ),
        ("c8s2p4", "hidden (='c8s2p4'): on images of 8x8: c8s2p4: expected an image of at least 9x9, got 8x8; leave"),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_the_sizes(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Network(Spec((1, 8, 8), 10), Candidate.parse(text)).parameter_shapes  # noqa: B018
    assert str(caught.value).startswith(message)


def test_a_stem_that_does_not_fit_is_named_with_the_sizes() -> None:
    with pytest.raises(InputError, match=r"^stem \(='c4k5-c4k5'\): c4k5: expected an image of at least 5x5, got 4x4"):
        Spec((1, 8, 8), 10, "c4k5-c4k5")


def test_layers_are_known_by_their_widths_and_their_structure() -> None:
    wide, narrow = Candidate.parse("c16p2-8"), Candidate.parse("c3p2-50")
    assert (wide.widths, wide.structure) == ((16, 8), narrow.structure)
    assert wide.structure != Candidate.parse("c16-8").structure != Candidate.parse("c16k3-8").structure
    assert Spec((1, 8, 8), 10, "c4p2").to_dict()["stem"] == "c4p2"
    assert Spec(**Spec((1, 8, 8), 10, "c4p2").to_dict()) == Spec((1, 8, 8), 10, (Conv(4, pool=2),))
