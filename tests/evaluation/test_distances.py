"""Distances of adversarial images are over the images that an attack had to turn, with their number."""

from __future__ import annotations

from functools import cache
from statistics import median

import pytest
import torch

from atras.attacks import PGD, DeepFool
from atras.data import Dataset, load, pixels
from atras.engines import LoopEngine, StackEngine
from atras.evaluation import DISTANCES, Counter, Evaluator, Score
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

CPU = torch.device("cpu")
PROTOCOL = Protocol(
    candidates=(Candidate((12,)), Candidate((16,))), seeds=(0, 1), precision="fp64", train_size=200, test_size=50,
    attacks=("fgsm", "deepfool", "pgd(steps=2)"), epsilons=(0.0, 0.02), learning_rate=0.01,
)  # fmt: skip
MEMBERS = [Member(candidate, seed) for candidate in PROTOCOL.candidates for seed in PROTOCOL.seeds]


@cache
def digits() -> Dataset:
    return load("digits", train_size=200, test_size=50)


@cache
def trained() -> StackEngine:
    """Poor networks: they misclassify a part of the images, which DeepFool leaves as they are."""
    engine = StackEngine(Spec((1, 8, 8), 10), MEMBERS, PROTOCOL, CPU)
    engine.begin_phase("train")
    for _ in range(25):
        engine.step(pixels(digits().train.images, torch.float64), digits().train.labels)
    return engine


def by_hand(attack: DeepFool | PGD, member: int) -> tuple[list[float], list[float]]:
    """Both distances of every image that a network classifies correctly, attacked all at once."""
    images, labels = pixels(digits().test.images, torch.float64), digits().test.labels
    engine = trained()
    right = engine.logits(images)[member].argmax(-1) == labels
    found = attack(engine, images, labels)
    change = (found.clipped - found.images)[member][right].flatten(1)
    return change.norm(dim=1).tolist(), change.abs().amax(1).tolist()


@cache
def scores(batch: int = 17) -> dict[str, Score]:
    figures, _ = Evaluator(trained(), digits(), PROTOCOL, batch).attack_test()
    return {attack.name: score for attack, score in figures.attacks.items()}


@pytest.mark.parametrize("member", range(4))
def test_a_misclassified_image_does_not_make_a_network_look_easy_to_fool(member: int) -> None:
    found = scores()["deepfool"]
    l2, linf = by_hand(DeepFool(), member)
    assert 5 < len(l2) < 45  # some images are misclassified, or the test tells nothing
    own = {name: values[member] for name, values in found._asdict().items() if name in DISTANCES and values}
    # Chunks of other sizes: sums are rounded in another order.
    assert own == {
        "attacked": len(l2),
        "mean_l2": pytest.approx(sum(l2) / len(l2), rel=1e-9),
        "median_l2": pytest.approx(median(l2), rel=1e-9),
        "mean_linf": pytest.approx(sum(linf) / len(linf), rel=1e-9),
        "median_linf": pytest.approx(median(linf), rel=1e-9),
    }


def test_bounded_attacks_and_the_curve_count_the_same_images() -> None:
    figures, _ = Evaluator(trained(), digits(), PROTOCOL.replace(attacks=("fgsm", "pgd(steps=2)")), 17).attack_test()
    clean = figures.clean.correct
    for name in ("fgsm", "pgd", "deepfool"):
        assert scores()[name].attacked == clean, name
    assert figures.curve[0.02].attacked == clean
    assert figures.curve[0.02].mean_linf == pytest.approx([0.02] * 4)
    # Epsilon 0 changes nothing: a mean over no images is none.
    assert figures.curve[0.0].attacked == [0] * 4
    assert figures.curve[0.0].mean_l2 == figures.curve[0.0].median_linf == [None] * 4
    assert figures.clean.attacked is None


def test_a_network_whose_gradient_vanishes_is_not_one_that_is_fooled_by_nothing() -> None:
    engine = LoopEngine(Spec((1, 8, 8), 10), MEMBERS[:1], PROTOCOL, CPU)
    zeros = {name: torch.zeros_like(values) for name, values in engine.get_parameters(0).items()}
    engine.set_parameters(0, zeros)
    images = pixels(digits().test.images, torch.float64)
    labels = torch.zeros(len(images), dtype=torch.int64)
    counter, found = Counter(engine), DeepFool()(engine, images, labels)
    counter.add_attacked(found, found.logits_of(engine), labels)
    score = counter.score()
    assert score.correct == [len(images)]  # it resists, as there is nothing to follow
    assert (score.attacked, score.mean_l2, score.median_l2) == ([0], [None], [None])


def test_a_members_distances_do_not_depend_on_its_neighbours_or_on_chunks() -> None:
    whole = scores(17)["deepfool"]
    other = scores(50)["deepfool"]
    assert whole.attacked == other.attacked
    assert whole.median_l2 == pytest.approx(other.median_l2, rel=1e-9)
