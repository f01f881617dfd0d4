"""Pools, dropout, normalisation and residual pairs: spellings, shapes, counts, and forward passes as torch has them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import (
    ACTIVATIONS,
    INITIALISATIONS,
    AveragePool,
    Candidate,
    DropoutLayer,
    GlobalAveragePool,
    GroupNorm,
    InputNorm,
    Layer,
    LayerNorm,
    Network,
    Residual,
    Spec,
    parse_layers,
)
from atras.networks.layers.layer import MAX_UNITS
from atras.planning import forward_flops, training_flops

WIDTHS = st.integers(1, MAX_UNITS)
NUMBERS = st.floats(0.0, 1e6)
CHANNELS = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.tuples(*[NUMBERS] * n),
        st.tuples(*[st.floats(1e-6, 1e6)] * n),
    )
)
ANY_LAYER = st.one_of(
    st.builds(AveragePool, WIDTHS),
    st.just(GlobalAveragePool()),
    st.builds(DropoutLayer, st.floats(0.0, 0.99)),
    st.builds(GroupNorm, WIDTHS),
    st.just(LayerNorm()),
    CHANNELS.map(lambda both: InputNorm(*both)),
    st.builds(Residual, WIDTHS, WIDTHS),
)


@given(st.lists(ANY_LAYER, min_size=1, max_size=4))
def test_any_layers_spelling_is_read_as_those_layers(layers: list[Layer]) -> None:
    text = "-".join(map(str, layers))
    assert parse_layers(text) == tuple(layers)
    assert Candidate.parse(text).name == text


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("a2", AveragePool(2)),
        ("ga", GlobalAveragePool()),
        ("d0.25", DropoutLayer(0.25)),
        ("gn8", GroupNorm(8)),
        ("ln", LayerNorm()),
        ("m0.1307s0.3081", InputNorm((0.1307,), (0.3081,))),
        ("m0.5_0.0s0.25_1.0", InputNorm((0.5, 0.0), (0.25, 1))),
        ("r64", Residual(64)),
        ("r64s2", Residual(64, 2)),
    ],
)
def test_spellings(text: str, layer: Layer) -> None:
    assert str(layer) == text
    assert parse_layers(text) == (layer,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0", "side (=0): expected a whole number from 1"),
        ("gn0", "groups (=0): expected a whole number from 1"),
        ("r8s0", "stride (=0): expected a whole number from 1"),
        ("d0.995", "share (=0.995): expected a number from 0 to 0.99"),
        ("m0.5s0", "std (=0.0): expected a number from 1e-06"),
        ("m0.5_0.5s0.5", "m0.5_0.5s0.5: expected as many standard deviations as means, got 1 and 2"),
        ("m0.5", "expected widths separated by commas"),
        ("d1", "expected widths separated by commas"),
        ("a9", "on images of 9x8: a9: expected an image of at least 9x9, got 9x8; leave out layers before it"),
        ("8-ga", "ga: expected an image, got 8 features; put it before dense layers"),
        ("8-r4", "r4: expected an image, got 8 features"),
        ("c6k3-gn4", "gn4: expected channels that 4 groups share evenly, got 6"),
        ("m0.5_0.5_0.5s1_1_1-8", "expected one mean, or one for each channel (2), got 3; give them with _ between"),
    ],
)
def test_what_is_misspelled_or_does_not_fit_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Network(Spec((2, 9, 8), 10), Candidate.parse(text)).parameter_shapes  # noqa: B018
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


class Pair(nn.Module):
    """A residual pair in textbook torch."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, stride, 1)
        self.second = nn.Conv2d(out, out, 3, 1, 1)
        if stride != 1 or inside != out:
            self.projection = nn.Conv2d(inside, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.tanh(self.first(x)))
        return torch.tanh(y + (self.projection(x) if hasattr(self, "projection") else x))


class Shift(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean, std = torch.tensor([0.5, 0.25]), torch.tensor([0.25, 2.0])
        return (x - mean.to(x)[:, None, None]) / std.to(x)[:, None, None]


TEXTBOOK: list[tuple[Layer, nn.Module]] = [
    (AveragePool(2), nn.AvgPool2d(2)),
    (GlobalAveragePool(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    (GroupNorm(1), nn.GroupNorm(1, 2)),
    (GroupNorm(2), nn.GroupNorm(2, 2)),
    (LayerNorm(), nn.LayerNorm([2, 9, 8])),
    (InputNorm((0.5, 0.25), (0.25, 2.0)), Shift()),
    (Residual(2), Pair(2, 2, 1)),
    (Residual(3), Pair(2, 3, 1)),
    (Residual(2, 2), Pair(2, 2, 2)),
    (Residual(5, 3), Pair(2, 5, 3)),
    (DropoutLayer(0.5), nn.Identity()),
]


@pytest.mark.parametrize(("layer", "textbook"), TEXTBOOK, ids=lambda each: str(each) if isinstance(each, Layer) else "")
def test_a_layer_is_its_textbook_module(layer: Layer, textbook: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 9, 8, dtype=torch.float64, generator=draw)
    textbook = textbook.double()
    own = dict(textbook.named_parameters())
    with torch.no_grad():
        for values in own.values():
            values.uniform_(-1, 1, generator=draw)
    expected = textbook(images)
    shape = (2, 9, 8)
    assert layer.output_shape(shape) == tuple(expected.shape[1:])
    assert layer.parameter_shapes(shape) == {name: tuple(values.shape) for name, values in own.items()}
    torch.testing.assert_close(layer.forward(own, images, torch.tanh), expected, rtol=1e-12, atol=1e-12)
    with FlopCounterMode(display=False) as counter:
        textbook(images)
    assert 2 * layer.multiplications(shape) * len(images) == counter.get_total_flops()
    assert layer.kept_values(shape) >= math.prod(expected.shape[1:])
    network = Network(Spec(shape, 7, activation="tanh"), Candidate([layer]))
    parameters = network.initial_parameters(0, torch.float64)
    module = network.module(parameters)
    assert dict(module.named_parameters()).keys() == parameters.keys()
    assert torch.equal(module(images), network.logits(parameters, images))


WHOLE = "m0.5_0.4s0.25_0.3-c6k3z1-gn3-r6-r8s2-a2-d0.25-ga-ln-9-d0.5"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_network_of_all_layers_is_the_module_that_it_is_exported_as(activation: str) -> None:
    network = Network(Spec((2, 9, 8), 5, activation=activation), Candidate.parse(WHOLE))
    parameters = network.initial_parameters(3, torch.float32)
    module = network.module(parameters)
    images = torch.rand(4, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(images), network.logits(parameters, images))
    assert sum(values.numel() for values in module.parameters()) == network.parameter_count
    assert set(module.state_dict()) == set(network.parameter_shapes)
    program = torch.export.export(module, (images,))
    assert torch.equal(program.module()(images), module(images))


def test_layers_without_weights_are_no_hidden_layers() -> None:
    assert Candidate.parse(WHOLE).depth == 1 + 2 + 2 + 1
    network = Network(Spec((2, 9, 8), 5, head_rate256=64), Candidate.parse("c4k3-gn2-a2-d0.5-9"))
    assert [place.rate256 for place in network.hidden] == [64, 0, 0, 128, 64]


def test_scales_begin_at_one_and_shifts_at_zero() -> None:
    parameters = Network(Spec((2, 9, 8), 5), Candidate.parse(WHOLE)).initial_parameters(0, torch.float64)
    for name in ("groupnorm1", "layernorm1"):
        assert parameters[f"{name}.weight"].unique().tolist() == [1.0]
        assert parameters[f"{name}.bias"].unique().tolist() == [0.0]
    assert parameters["residual2.projection.weight"].std() > 0.1
    assert parameters["residual2.projection.bias"].unique().tolist() == [0.0]


VARIANCES = {
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, _: 2 / fan_in,
    "lecun": lambda fan_in, _: 1 / fan_in,
    "ntk": lambda fan_in, _: 1 / fan_in,
    "pytorch": lambda fan_in, _: 1 / (3 * fan_in),
}


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initial_weights_have_the_variance_of_their_source(name: str) -> None:
    parameters = Network(Spec((3, 8, 8), 10, initialisation=name), Candidate.parse("c200k3-300")).initial_parameters(
        1, torch.float64
    )
    for layer, fans in {"conv1": (27, 1800), "dense1": (200 * 36, 300)}.items():
        values = parameters[f"{layer}.weight"].flatten()
        # 5,400 draws or more: the spread of their variance is 2 % of it for a normal, 1.2 % for a uniform one.
        assert values.var().item() == pytest.approx(VARIANCES[name](*fans), rel=0.08)
        farthest = values.abs().max().item() / values.std().item()
        assert farthest > 3 if name == "ntk" else farthest == pytest.approx(math.sqrt(3), rel=0.03)
    if name != "pytorch":
        assert not parameters["dense1.bias"].any()


@pytest.mark.parametrize(("text", "image", "kind"), [
    ("c40k3", (3, 8, 8), torch.nn.Conv2d), ("r64s2", (3, 8, 8), torch.nn.Conv2d), ("300", (1, 5, 5), torch.nn.Linear),
])  # fmt: skip
def test_pytorch_s_initial_parameters_lie_where_its_own_layers_draw_them(
    text: str, image: tuple[int, int, int], kind: type[torch.nn.Module]
) -> None:
    network = Network(Spec(image, 500, initialisation="pytorch"), Candidate.parse(text))
    drawn = network.initial_parameters(1, torch.float64)
    own = {name: module for name, module in network.module(drawn).named_modules() if isinstance(module, kind)}
    assert own
    for name, module in own.items():
        module.reset_parameters()
        for mine in ("weight", "bias"):
            values = getattr(module, mine)
            beside = drawn[f"{name}.{mine}"]
            # Both uniform: the farthest of n draws is within 10 / n of the limit, but in one case of 20,000.
            assert beside.abs().max().item() == pytest.approx(values.abs().max().item(), rel=10 / (values.numel() - 10))


def test_what_can_be_chosen_is_what_there_is() -> None:
    for activation in ACTIVATIONS:
        Protocol(activation=activation)
    for initialisation in INITIALISATIONS:
        Protocol(initialisation=initialisation)
    with pytest.raises(InputError, match=f"expected one of {', '.join(ACTIVATIONS)}"):
        Protocol(activation="swish")
    with pytest.raises(InputError, match=f"expected one of {', '.join(INITIALISATIONS)}"):
        Protocol(initialisation="xavier")


def test_flops_of_a_network_that_begins_with_a_normalisation_are_those_of_the_rest() -> None:
    plain, normal = (Network(Spec((2, 9, 8), 5), Candidate.parse(text)) for text in ("c4k3-9", "m0.5s0.5-c4k3-9"))
    assert forward_flops(normal) == forward_flops(plain)
    assert training_flops(normal) == training_flops(plain)  # no gradient is made of the pixels


def test_input_normalisation_takes_pixels_and_gives_the_network_normal_ones() -> None:
    network = Network(Spec((1, 4, 4), 3), Candidate.parse("m0.1307s0.3081-5"))
    parameters = network.initial_parameters(0, torch.float64)
    images = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    hidden = torch.relu(linear(((images - 0.1307) / 0.3081).flatten(1), parameters["dense1.weight"]))
    expected = linear(hidden, parameters["logits.weight"])
    torch.testing.assert_close(network.logits(parameters, images), expected, rtol=1e-12, atol=1e-12)
