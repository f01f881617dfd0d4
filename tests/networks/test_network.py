"""One candidate: shapes, initial weights, forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Network, Spec, choose_stem
from atras.running import make_spec


def textbook(stem: str, activation: nn.Module, channels: int, features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """The networks of docs/protocol.md, written with torch.nn and nothing of atras."""
    layers: list[nn.Module] = []
    if stem == "conv2":
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3), activation, nn.MaxPool2d(2)]
    if stem == "conv4":
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), activation]
            layers += [nn.Conv2d(outputs, outputs, 3), activation, nn.MaxPool2d(2), nn.Dropout(0.25)]
    layers.append(nn.Flatten())
    for inputs, outputs in zip((features, *hidden), hidden, strict=False):
        layers += [nn.Linear(inputs, outputs), activation]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 10))


def features(spec: Spec) -> int:
    """Inputs of the first dense layer behind a stem."""
    return math.prod(Network(spec, Candidate((1,))).places[len(spec.stem_layers)].inputs)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
@pytest.mark.parametrize(
    ("stem", "shape"), [("none", (1, 8, 8)), ("conv2", (1, 28, 28)), ("conv4", (3, 32, 32)), ("conv4", (3, 15, 11))]
)
def test_forward_pass_is_the_textbook_network(stem: str, shape: tuple[int, int, int], activation: str) -> None:
    spec = Spec(shape, 10, stem, activation)
    hidden = (7, 21)
    ours = Network(spec, Candidate(hidden))
    parameters = ours.initial_parameters(0, torch.float64)
    module = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}[activation]()
    network = textbook(stem, module, shape[0], features(spec), hidden).double().eval()
    network.load_state_dict(dict(zip(network.state_dict(), parameters.values(), strict=True)))
    images = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.logits(parameters, images), network(images), rtol=1e-12, atol=1e-12)


def test_parameters_of_a_paper_network_are_counted() -> None:
    spec = Spec((1, 28, 28), 10, "conv2")
    assert features(spec) == 1600
    stem, dense = (9 * 32 + 32) + (9 * 32 * 64 + 64), (1600 * 40 + 40) + (40 * 10 + 10)
    assert Network(spec, Candidate((40,))).parameter_count == stem + dense


@pytest.mark.parametrize(("name", "fans"), [("glorot", lambda i, o: i + o), ("he", lambda i, o: i)])
def test_initial_weights_fill_the_range_of_their_rule_and_biases_are_zero(name: str, fans: object) -> None:
    spec = Spec((1, 28, 28), 10, "conv2", initialisation=name)
    for key, values in Network(spec, Candidate((64,))).initial_parameters(0, torch.float32).items():
        if key.endswith("bias"):
            assert not values.any()
            continue
        window = math.prod(values.shape[2:])
        limit = math.sqrt(6 / fans(values.shape[1] * window, values.shape[0] * window))  # type: ignore[operator]
        assert 0.9 * limit < values.abs().max() <= limit
        assert abs(values.mean()) < 0.1 * limit


def test_initial_weights_depend_on_seed_and_candidate_alone() -> None:
    spec = Spec((1, 8, 8), 10)
    network = Network(spec, Candidate((9,)))
    first, again, other_seed = (network.initial_parameters(s, torch.float32) for s in (0, 0, 1))
    assert torch.equal(first["dense1.weight"], again["dense1.weight"])
    assert not torch.equal(first["dense1.weight"], other_seed["dense1.weight"])


def test_stems_are_chosen_by_image_shape() -> None:
    assert [choose_stem(shape) for shape in [(1, 8, 8), (1, 28, 28), (3, 32, 32)]] == ["none", "conv2", "conv4"]
    assert make_spec(Protocol(stem="none"), (3, 32, 32), 10).stem_name == "none"


@pytest.mark.parametrize(("stem", "layer"), [("conv2", "c64p2"), ("conv4", "c64p2d0.25")])
def test_a_stem_refuses_images_that_it_would_shrink_to_nothing(stem: str, layer: str) -> None:
    assert features(Spec((1, 10, 10), 10, stem)) == 64
    with pytest.raises(InputError, match=f"stem .='{stem}'.: {layer}: expected an image of at least 4x4, got 3x4"):
        Spec((1, 9, 10), 10, stem)


def test_parameter_names_follow_the_layers() -> None:
    names = list(Network(Spec((3, 32, 32), 10, "conv2"), Candidate((8, 16))).parameter_shapes)
    assert names[::2] == ["conv1.weight", "conv2.weight", "dense1.weight", "dense2.weight", "logits.weight"]
