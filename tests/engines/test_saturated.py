"""Networks that are sure: float32 rounds a label's probability to 1, and attacks still find float64's way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atras.attacks import FGSM, PGD
from atras.data import load, pixels
from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec, log_odds, log_odds_gradient

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), 10)
MEMBERS = [Member(Candidate((24, 12)), 0), Member(Candidate((16, 8)), 0), Member(Candidate((24, 12)), 1)]
EPSILONS = (0.05, 0.1, 0.2, 0.3)
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
ENGINES = [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=NEEDS_FUSED)]


def pictures() -> tuple[Tensor, Tensor]:
    part = load("digits").test
    return pixels(part.images, torch.float64), part.labels


@pytest.fixture(scope="module")
def oracles() -> list[Engine]:
    """The members, each in a float64 loop: trained for some epochs, then with logits 20 times as far apart."""
    trainer = StackEngine(SPEC, MEMBERS, Protocol(learning_rate=0.01, precision="fp64"), CPU)
    trainer.begin_phase("train")
    part = load("digits").train
    images, labels = pixels(part.images, torch.float64), part.labels
    for _ in range(20):
        for start in range(0, len(labels), 64):
            trainer.step(images[start : start + 64], labels[start : start + 64])
    engines: list[Engine] = []
    for i, member in enumerate(MEMBERS):
        engine = LoopEngine(SPEC, [member], Protocol(precision="fp64"), CPU)
        last = ("logits.weight", "logits.bias")
        engine.set_parameters(0, {k: v * (20 if k in last else 1) for k, v in trainer.get_parameters(i).items()})
        engines.append(engine)
    return engines


def groups(kind: type[Engine], oracles: list[Engine]) -> list[tuple[Engine, list[int]]]:
    """The same networks in float32, in as few engines as they fit, and which they are."""
    made = []
    for chosen in [[0], [1], [2]] if kind.one_by_one else [[0, 1, 2]]:
        engine = kind(SPEC, [MEMBERS[i] for i in chosen], Protocol(precision="fp32"), CPU)
        for slot, i in enumerate(chosen):
            engine.set_parameters(slot, {k: v.float() for k, v in oracles[i].get_parameters(0).items()})
        made.append((engine, chosen))
    return made


def test_most_images_are_beyond_what_float32_tells_from_certain(oracles: list[Engine]) -> None:
    images, labels = pictures()
    odds = torch.cat([log_odds(engine.logits(images), labels.expand(1, -1)) for engine in oracles])
    assert (odds < -18).double().mean() > 0.6


@pytest.mark.parametrize("kind", ENGINES)
def test_fgsm_in_float32_is_that_of_float64(oracles: list[Engine], kind: type[Engine]) -> None:
    images, labels = pictures()
    for engine, chosen in groups(kind, oracles):
        found = FGSM(EPSILONS[0])(engine, images.float(), labels)
        for slot, i in enumerate(chosen):
            expected = FGSM(EPSILONS[0])(oracles[i], images, labels)
            # Rounding turns the sign of a gradient that is nearly zero.
            assert (found.signs[slot] != expected.signs[0]).double().mean() < 1e-3
            for epsilon in EPSILONS:
                right = [
                    (network.logits(attacked.moved_by(epsilon))[row].argmax(-1) == labels).double().mean().item()
                    for network, attacked, row in ((engine, found, slot), (oracles[i], expected, 0))
                ]
                assert right[0] == pytest.approx(right[1], abs=0.004)  # four images of 899, from such signs


@pytest.mark.parametrize("kind", ENGINES)
def test_pgd_in_float32_is_that_of_float64(oracles: list[Engine], kind: type[Engine]) -> None:
    images, labels = (part[:300] for part in pictures())
    attack = PGD(0.1, steps=5)
    for engine, chosen in groups(kind, oracles):
        found = attack(engine, images.float(), labels).success(engine, labels)
        for slot, i in enumerate(chosen):
            expected = attack(oracles[i], images, labels).success(oracles[i], labels)[0]
            # A step along a sign that rounding turned; after five of them one image in a hundred.
            assert (found[slot] != expected).sum() <= 3


def test_the_gradient_is_that_of_the_cross_entropy_divided_by_what_is_missing_to_certainty() -> None:
    logits = 5 * torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 7
    z = logits.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(z, labels, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), z)
    missing = -torch.expm1(-losses.detach())  # 1 - p
    torch.testing.assert_close(slope, missing[:, None] * log_odds_gradient(logits, labels), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses.detach(), torch.nn.functional.softplus(log_odds(logits, labels)))


LOWEST, INFINITY, NAN = -torch.finfo(torch.float32).max, torch.inf, torch.nan


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([3.0, 1.0], [-1.0, 1.0]),  # of two classes the other has all
        ([900.0, 1.0, 1.0], [-1.0, 0.5, 0.5]),  # e^-899 is 0
        ([-LOWEST, LOWEST, LOWEST], [-1.0, 0.5, 0.5]),
        ([0.0, 800.0, 800.0], [-1.0, 0.5, 0.5]),  # e^800 is infinite
        ([1.0, -INFINITY, 5.0], [-1.0, 0.0, 1.0]),
        ([-INFINITY, 1.0, 1.0], [-1.0, 0.5, 0.5]),
        ([1.0, -INFINITY, -INFINITY], [0.0, 0.0, 0.0]),
        ([2.0], [0.0]),
        ([NAN, 1.0, 2.0], [NAN] * 3),
        ([1.0, NAN, 2.0], [NAN] * 3),
        ([INFINITY, 1.0, 2.0], [NAN] * 3),
        ([1.0, INFINITY, 2.0], [NAN] * 3),
    ],
)
def test_the_gradient_at_the_ends_of_float32(logits: list[float], expected: list[float]) -> None:
    found = log_odds_gradient(torch.tensor([logits]), torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-6, atol=0, equal_nan=True)


@NEEDS_FUSED
@pytest.mark.parametrize("logits", [[900.0, 1.0, 1.0], [0.0, 800.0, 700.0], [2.0], [NAN, 1.0], [INFINITY, 1.0]])
def test_engine_fused_agrees_there(logits: list[float]) -> None:
    """With one hidden unit that is 1, and logits that are its weights."""
    spec, image = Spec((1, 1, 1), len(logits)), torch.ones(1, 1, 1, 1)
    gradients = []
    for kind in (LoopEngine, FusedEngine):
        engine = kind(spec, [Member(Candidate((1,)), 0)], Protocol(precision="fp32"), CPU)
        values = engine.get_parameters(0)
        ones = {
            name: torch.ones_like(v) if name.endswith("weight") else torch.zeros_like(v) for name, v in values.items()
        }
        engine.set_parameters(0, ones | {"logits.weight": torch.tensor(logits)[:, None]})
        gradients.append(engine.gradient(image, torch.zeros(1, dtype=torch.int64))[0])
    torch.testing.assert_close(*gradients, equal_nan=True)
