"""Named networks: the very parameters and logits of their sources, written here in textbook torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atras.experiment import Protocol
from atras.networks import NETWORK_TEXTS, NETWORKS, Candidate, Network
from atras.running.prepare import make_spec

R, F, D = nn.ReLU(), nn.Flatten(), nn.Dropout
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


class Normal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).to(x)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return (x - mean) / std


def wong(channels: int, side: int) -> list[nn.Module]:
    first, second = nn.Conv2d(channels, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
    return [first, R, second, R, F, nn.Linear(32 * side * side, 100), R, nn.Linear(100, 10)]


def tramer_of_two(first: int, second: int, kernel: int, side: int) -> list[nn.Module]:
    convolutions = [nn.Conv2d(1, first, kernel), R, nn.Conv2d(first, second, kernel), R, D(0.25), F]
    return [*convolutions, nn.Linear(second * side * side, 128), R, D(0.5), nn.Linear(128, 10)]


def hundreds(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, 300), R, D(0.5)]


TEXTBOOK: dict[str, tuple[tuple[int, int, int], int, list[nn.Module]]] = {
    "madry-mnist": (MNIST, 3_274_634, [
        nn.Conv2d(1, 32, 5, padding=2), R, nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), R, nn.MaxPool2d(2), F,
        nn.Linear(7 * 7 * 64, 1024), R, nn.Linear(1024, 10),
    ]),
    "trades-mnist": (MNIST, 312_202, [
        nn.Conv2d(1, 32, 3), R, nn.Conv2d(32, 32, 3), R, nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), R,
        nn.Conv2d(64, 64, 3), R, nn.MaxPool2d(2), F, nn.Linear(64 * 4 * 4, 200), R, D(0.5), nn.Linear(200, 200), R,
        nn.Linear(200, 10),
    ]),
    "wong-mnist": (MNIST, 166_406, wong(1, 7)),
    "wong-cifar": (CIFAR, 214_918, [Normal(), *wong(3, 8)]),
    "tramer-a": (MNIST, 3_382_346, tramer_of_two(64, 64, 5, 20)),
    "tramer-b": (MNIST, 710_218, [
        D(0.2), nn.Conv2d(1, 64, 8, 2, 3), R, nn.Conv2d(64, 128, 6, 2), R, nn.Conv2d(128, 128, 5), R, D(0.5), F,
        nn.Linear(128, 10),
    ]),
    "tramer-c": (MNIST, 4_795_082, tramer_of_two(128, 64, 3, 24)),
    "tramer-d": (MNIST, 509_410, [
        F, *hundreds(784), *hundreds(300), *hundreds(300), *hundreds(300), nn.Linear(300, 10),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_named_network_has_the_parameters_the_dropout_and_the_logits_of_its_source(name: str) -> None:
    shape, count, layers = TEXTBOOK[name]
    textbook = nn.Sequential(*layers).eval()
    candidate = Candidate.parse(name)
    network = Network(make_spec(Protocol(candidates=(candidate,)), shape, 10), candidate)
    parameters = network.initial_parameters(0, torch.float32)
    assert [tuple(values.shape) for values in textbook.parameters()] == list(network.parameter_shapes.values())
    assert network.parameter_count == count == sum(values.numel() for values in textbook.parameters())
    with torch.no_grad():
        for own, values in zip(textbook.parameters(), parameters.values(), strict=True):
            own.copy_(values)
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        # float32 sums of up to 25,600 terms, in the same order but for the layout.
        torch.testing.assert_close(network.module(parameters)(images), textbook(images), rtol=1e-5, atol=1e-6)
    shares = [each.p for each in layers if isinstance(each, D)]
    assert [place.rate256 for place in network.places if place.rate256] == [round(256 * share) for share in shares]


def test_every_named_network_says_what_it_is() -> None:
    assert set(NETWORK_TEXTS) == set(NETWORKS) == set(TEXTBOOK)
    assert all(text and len(text) < 100 for text in NETWORK_TEXTS.values())
