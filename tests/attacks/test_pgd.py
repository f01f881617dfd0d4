"""PGD and random-start FGSM: by hand, on every engine, and parity with the Adversarial Robustness Toolbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atras.attacks import FGSM, PGD, Attack, DeepFool, RandomFGSM, Start, starts
from atras.data import load, pixels
from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Cotangent, Member, Spec, log_odds, random_targets

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), 10)
MEMBERS = [Member(Candidate((24, 12)), 0), Member(Candidate((16, 8)), 0), Member(Candidate((24, 12)), 1)]
EPSILON = 0.1
ATTACKS: list[Attack] = [
    FGSM(EPSILON),
    RandomFGSM(EPSILON),
    PGD(EPSILON, steps=5, restarts=2),
    DeepFool(EPSILON, norm="l2"),
    DeepFool(EPSILON, norm="linf"),
]
named = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.spec.attack)
needs_fused = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


def pictures(n: int) -> tuple[Tensor, Tensor]:
    part = load("digits").train
    return pixels(part.images[:n], torch.float32), part.labels[:n]


@pytest.fixture(scope="module")
def trained() -> StackEngine:
    """Three members after some epochs: right on most digits, and not sure of any."""
    engine = StackEngine(SPEC, MEMBERS, Protocol(learning_rate=0.01, precision="fp32"), CPU)
    engine.begin_phase("train")
    images, labels = pictures(898)
    for _ in range(8):
        for start in range(0, 896, 64):
            engine.step(images[start : start + 64], labels[start : start + 64])
    return engine


def copy_of(engine: Engine, kind: type[Engine], chosen: list[int]) -> Engine:
    made = kind(engine.spec, [engine.members[i] for i in chosen], engine.protocol, CPU)
    for slot, i in enumerate(chosen):
        made.set_parameters(slot, engine.get_parameters(i))
    return made


class Stub:
    """An engine of one member whose gradient is a constant, along which the loss of one class grows."""

    members = (Member(Candidate((1,)), 0),)

    def __init__(self, gradient: Tensor, label: int) -> None:
        self.slope, self.sign = gradient, 1 - 2 * label
        self.asked: list[Tensor] = []

    def logits(self, images: Tensor) -> Tensor:
        along = (images * self.slope.nan_to_num()).sum((-3, -2, -1)).expand(1, -1)
        return torch.stack([-self.sign * along, self.sign * along], -1)

    def gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        self.asked.append(images)
        return self.slope.expand(1, images.shape[-4], *self.slope.shape), self.logits(images)


def stub(label: int = 0) -> Any:
    return Stub(torch.tensor([[[2.0, -1.0, 0.0, torch.nan]]]), label)


def test_random_fgsm_steps_once_by_one_and_a_quarter_epsilon_and_comes_back_into_the_ball() -> None:
    images, engine = torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 4), stub()
    start = torch.tensor([-0.9, -0.5, 0.25, 0.5]).view(1, 1, 1, 4)
    attacked = RandomFGSM(0.2)(engine, images, torch.tensor([0]), start=Start(draw=lambda _: start))
    torch.testing.assert_close(engine.asked[0].flatten(), torch.tensor([0.32, 0.4, 0.55, 0.6]))
    # 0.4 - 0.25 leaves the ball of 0.2; a zero or NaN gradient moves nothing.
    torch.testing.assert_close(attacked.clipped.flatten(), torch.tensor([0.57, 0.3, 0.55, 0.6]))
    assert (attacked.zero_gradients.tolist(), attacked.nan_gradients.tolist()) == ([1], [1])


@pytest.mark.parametrize("clip_start", [False, True])
def test_random_fgsm_takes_its_gradient_where_it_starts_and_steps_from_there(clip_start: bool) -> None:
    images, engine = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 1, 4), stub()
    start = torch.tensor([-0.5, 0.5, -0.5, 0.5]).view(1, 1, 1, 4)
    attack = RandomFGSM(0.2, step_size=0.15, clip_start=clip_start)
    attacked = attack(engine, images, torch.tensor([0]), start=Start(draw=lambda _: start))
    asked = [0.0, 1.0, 0.0, 1.0] if clip_start else [-0.1, 1.1, -0.1, 1.1]
    torch.testing.assert_close(engine.asked[0].flatten(), torch.tensor(asked))
    reached = [0.15, 0.85, 0.0, 1.0] if clip_start else [0.05, 0.95, 0.0, 1.0]  # inside again, without a gradient too
    torch.testing.assert_close(attacked.clipped.flatten(), torch.tensor(reached))


@pytest.mark.parametrize(("target", "sign"), [("none", 1), ("class:1", -1), ("least-likely", -1), ("random", -1)])
def test_pgd_walks_to_the_edge_of_ball_and_bounds_up_its_loss_or_down_its_targets(target: str, sign: int) -> None:
    images, engine = torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 4), stub(int(target != "none"))
    attack = PGD(0.3, steps=4, random_start=False, target=target)
    attacked = attack(engine, images, torch.tensor([0]), start=Start(targets=torch.tensor([1])))
    assert attacked.labels.tolist() == [[0 if target == "none" else 1]]
    first = torch.tensor([0.5 + sign * 0.1875, 0.5 - sign * 0.1875, 0.5, 0.5])  # 2.5 x 0.3 / 4
    torch.testing.assert_close(engine.asked[1].flatten(), first)
    edge = torch.tensor([0.5 + sign * 0.3, 0.5 - sign * 0.3, 0.5, 0.5])
    torch.testing.assert_close(attacked.clipped.flatten(), edge)
    further = PGD(0.9, steps=4, random_start=False, target=target)
    wide = further(engine, images, torch.tensor([0]), start=Start(targets=torch.tensor([1])))
    torch.testing.assert_close(wide.clipped.flatten(), torch.tensor([0.5 + sign * 0.5, 0.5 - sign * 0.5, 0.5, 0.5]))


def test_of_several_restarts_the_misclassified_image_wins_then_the_highest_loss() -> None:
    attack = PGD(0.1)
    labels = torch.tensor([[0, 0, 0]])
    old = torch.tensor([[[1.0, 2.0], [3.0, 1.0], [3.0, 1.0]]])
    new = torch.tensor([[[9.0, 1.0], [1.0, 2.0], [2.0, 1.0]]])
    assert attack._better(new, old, labels).tolist() == [[False, True, True]]
    assert attack._better(old, new, labels).tolist() == [[True, False, False]]
    fooled = torch.tensor([[[1.0, 1.1, -9.0]]])  # by little, while the next one is right though its loss is higher
    assert attack._better(torch.tensor([[[0.4, 0.3, 0.3]]]), fooled, labels[:, :1]).tolist() == [[False]]
    towards = PGD(0.1, target="class:1")
    assert towards._better(new, old, labels + 1).tolist() == [[False, True, True]]


class Hill:
    """A network of two classes that is least sure of its first one at one brightness of a pixel."""

    members = (Member(Candidate((1,)), 0),)

    def __init__(self, top: float, height: float) -> None:
        self.top, self.height = top, height

    def logits(self, images: Tensor) -> Tensor:
        odds = self.height - 100 * (images - self.top).square().sum((-3, -2, -1)).expand(1, -1)
        return torch.stack([torch.zeros_like(odds), odds], -1)

    def gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        return (self.top - images).expand(1, *images.shape[-4:]), self.logits(images)


@pytest.mark.parametrize("height", [-40.0, 0.5], ids=["saturated", "turned at the top alone"])
def test_pgd_keeps_its_best_point_where_a_long_step_passes_over_it(height: float) -> None:
    """From 0.5 by 0.1 a step: 0.6, 0.7, 0.6 with the top at 0.62. At -40 a cross-entropy in float32 is 0 all along."""
    engine: Any = Hill(0.62, height)
    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    attack = PGD(0.3, steps=2, step_size=0.1, random_start=False)
    attacked = attack(engine, images, labels)
    assert attacked.clipped.item() == pytest.approx(0.6)
    assert attacked.success(engine, labels).item() == (height > 0)
    assert torch.equal(attacked.logits_of(engine), engine.logits(attacked.clipped))
    assert PGD(0.3, steps=1, step_size=0.3, random_start=False)(engine, images, labels).clipped.item() == 0.5
    once = RandomFGSM(0.3, step_size=0.3, random_start=False)(engine, images, labels)  # which is its step
    assert once.clipped.item() == pytest.approx(0.8)


def test_no_point_on_the_way_of_pgd_is_better_than_the_one_kept(trained: StackEngine) -> None:
    images, labels = pictures(200)
    seen: list[Tensor] = []
    engine = copy_of(trained, StackEngine, [0, 1, 2])
    gradient = engine.gradient
    engine.gradient = lambda x, y: seen.append(x) or gradient(x, y)  # type: ignore[method-assign, func-returns-value]
    attacked = PGD(0.1, steps=4, step_size=0.09, restarts=2)(engine, images, labels)
    kept = engine.logits(attacked.clipped)
    assert torch.equal(attacked.logits_of(engine), kept)
    chosen = labels.expand(3, -1)
    turned, odds = kept.argmax(-1) != labels, log_odds(kept, chosen)
    assert len(seen) == 8
    for x in seen:
        logits = trained.logits(x)
        wrong = logits.argmax(-1) != labels
        assert (turned | ~wrong).all()
        # The logits come from other calls, whose sums are rounded in another order.
        assert (log_odds(logits, chosen) <= odds + 1e-4)[wrong == turned].all()


def test_images_without_any_gradient_are_counted(trained: StackEngine) -> None:
    engine = copy_of(trained, StackEngine, [0, 1])
    engine.set_parameters(0, {name: torch.zeros_like(values) for name, values in engine.get_parameters(0).items()})
    images, labels = pictures(30)
    for attack in (FGSM(EPSILON), PGD(EPSILON, steps=2), RandomFGSM(EPSILON)):
        attacked = attack(engine, images, labels)
        assert attacked.no_gradient is not None
        assert attacked.no_gradient.sum(1).tolist() == [30, 0]


def test_restarts_only_help(trained: StackEngine) -> None:
    images, labels = pictures(300)
    once, often = (PGD(EPSILON, steps=3, restarts=n)(trained, images, labels) for n in (1, 6))
    fooled, fooled_more = once.success(trained, labels), often.success(trained, labels)
    assert (fooled_more | ~fooled).all()
    assert fooled_more.sum() > fooled.sum()


def test_random_starts_are_counted_by_seed_split_attack_restart_and_image(trained: StackEngine) -> None:
    images, labels = pictures(40)
    attack = RandomFGSM(EPSILON)
    torch.manual_seed(1)
    first = attack(trained, images, labels).clipped
    torch.manual_seed(2)
    assert torch.equal(attack(trained, images, labels).clipped, first)
    other_seed = copy_of(trained, LoopEngine, [0])
    other_seed.members = (Member(MEMBERS[0].candidate, 5),)
    assert not torch.equal(attack(other_seed, images, labels).clipped[0], first[0])
    whole = starts(trained, images, "pgd")(0)
    assert whole.shape == (3, 40, 1, 8, 8)
    assert torch.equal(whole[0], whole[1])  # two candidates of one seed
    assert not torch.equal(whole[0], whole[2])
    assert torch.equal(starts(trained, images[10:20], "pgd", first=10)(0), whole[:, 10:20])
    others = [starts(trained, images, "pgd")(1), starts(trained, images, "fgsm")(0),
              starts(trained, images, "pgd", "train")(0)]  # fmt: skip
    assert not any(torch.equal(other, whole) for other in others)
    assert -1 <= whole.min() < -0.99
    assert 0.99 < whole.max() < 1


@named
def test_bounds_hold_and_epsilon_zero_is_the_identity(trained: StackEngine, attack: Attack) -> None:
    images, labels = pictures(60)
    attacked = attack(trained, images, labels)
    assert attacked.clipped.min() >= 0
    assert attacked.clipped.max() <= 1
    if not isinstance(attack, DeepFool):
        one_ulp = torch.finfo(torch.float32).eps
        assert (attacked.clipped - images).abs().max() <= np.float32(EPSILON) + one_ulp
        nothing = type(attack)(0.0)(trained, images, labels)
        assert torch.equal(nothing.clipped, images.expand(3, -1, -1, -1, -1))


@named
def test_images_of_each_members_own_and_known_logits_give_the_same(trained: StackEngine, attack: Attack) -> None:
    images, labels = pictures(50)
    shared = attack(trained, images, labels)
    own = images.expand(3, *images.shape).contiguous()
    again = attack(trained, own, labels.expand(3, -1), start=Start(clean_logits=trained.logits(images)))
    assert (shared.clipped != again.clipped).float().mean() < 0.01  # a gradient at rounding level may turn
    assert torch.equal(shared.success(trained, labels), again.success(trained, labels))


@named
@pytest.mark.parametrize("kind", [LoopEngine, pytest.param(FusedEngine, marks=needs_fused)])
def test_engines_agree_and_members_do_not_know_their_neighbours(
    trained: StackEngine, attack: Attack, kind: type[Engine]
) -> None:
    images, labels = pictures(150)
    expected = attack(trained, images, labels)
    for i in range(3):
        alone = copy_of(trained, kind, [i])
        attacked = attack(alone, images, labels)
        # Rounding turns the sign of a gradient that is nearly zero; an image's fate it changes at most once.
        assert (attacked.success(alone, labels)[0] != expected.success(trained, labels)[i]).sum() <= 1
        difference = (attacked.clipped[0] - expected.clipped[i]).abs()
        assert (difference > 1e-3).float().mean() < 0.01


@needs_fused
@named
def test_on_engine_fused_a_members_examples_are_the_same_bits_in_any_company(
    trained: StackEngine, attack: Attack
) -> None:
    images, labels = pictures(70)
    together = attack(copy_of(trained, FusedEngine, [0, 1, 2]), images, labels)
    for i in range(3):
        alone = attack(copy_of(trained, FusedEngine, [i]), images, labels)
        assert torch.equal(alone.clipped[0], together.clipped[i])


@pytest.mark.parametrize("target", ["class:3", "least-likely", "random"])
def test_targeted_pgd_reaches_its_class_more_often_than_targeted_fgsm(trained: StackEngine, target: str) -> None:
    images, labels = pictures(200)
    targets = random_targets(0, "test", labels, torch.arange(10)) if target == "random" else None
    step = FGSM(0.2, target=target)(trained, images, labels, start=Start(targets=targets))
    walk = PGD(0.2, target=target, steps=10)(trained, images, labels, start=Start(targets=targets))
    assert torch.equal(step.labels, walk.labels)
    reached = [(~attacked.success(trained, attacked.labels)).float().mean() for attacked in (step, walk)]
    assert reached[1] > reached[0] + 0.05


def test_the_label_may_be_the_models_own(trained: StackEngine) -> None:
    images, labels = pictures(100)
    attacked = PGD(EPSILON, label_source="predicted", steps=3)(trained, images, labels)
    assert torch.equal(attacked.labels, trained.logits(images).argmax(-1))


def test_images_out_of_bounds_and_missing_targets_are_refused(trained: StackEngine) -> None:
    images, labels = pictures(4)
    for attack in (PGD(EPSILON), RandomFGSM(EPSILON), DeepFool(EPSILON)):
        with pytest.raises(InputError, match=f"{type(attack).__name__}: expected pixels from 0 to 1"):
            attack(trained, images * 2 - 1, labels)
    with pytest.raises(InputError, match="PGD: expected targets"):
        PGD(EPSILON, target="random")(trained, images, labels)


def plain(engine: StackEngine, index: int) -> nn.Module:
    """A member as a textbook network."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 10))
    network.load_state_dict(dict(zip(network.state_dict(), engine.get_parameters(index).values(), strict=True)))
    return network


def classifier(network: nn.Module) -> Any:
    from art.estimators.classification import PyTorchClassifier

    loss = nn.CrossEntropyLoss(reduction="sum")
    return PyTorchClassifier(network, loss, (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")


old_peers = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # in their imports


@old_peers
@pytest.mark.parametrize("target", ["none", "least-likely"])
def test_pgd_from_the_image_equals_arts(trained: StackEngine, target: str) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    images, labels = pictures(500)
    network = plain(trained, 0)
    attack = PGD(EPSILON, steps=10, step_size=0.02, random_start=False, target=target)
    ours = attack(trained, images, labels)
    art = ProjectedGradientDescent(
        classifier(network), norm=np.inf, eps=EPSILON, eps_step=0.02, max_iter=10, num_random_init=0, batch_size=500,
        targeted=target != "none", verbose=False,
    )  # fmt: skip
    theirs = torch.from_numpy(art.generate(images.numpy(), y=ours.labels[0].numpy()))
    aim, sign = ours.labels[0], attack.direction
    logits = [network(found).detach() for found in (ours.clipped[0], theirs)]
    reached = [(z.argmax(1) != aim) if target == "none" else (z.argmax(1) == aim) for z in logits]
    # Rounding turns single signs, and hardly ever a class. The Toolbox keeps the last point, which some steps passed.
    assert (reached[1] & ~reached[0]).sum() <= 1
    odds = [sign * log_odds(z, aim) for z in logits]
    assert (odds[0] >= odds[1] - 1e-2)[reached[0] == reached[1]].float().mean() > 0.99
    apart = ((ours.clipped[0] - theirs).abs() > 1e-5).flatten(1).float().mean(1)
    same = apart < 0.05
    assert same.float().mean() > 0.5
    assert (apart[same]).mean() < 0.01


def deepfool_of_art(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    from art.attacks.evasion import DeepFool as Art

    attack = Art(classifier(network), max_iter=50, epsilon=0.02, nb_grads=10, batch_size=len(images), verbose=False)
    return torch.from_numpy(attack.generate(images.numpy()))


def deepfool_of_foolbox(norm: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def call(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import foolbox

        attacks = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
        model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
        attack = attacks[norm](steps=50, candidates=10, overshoot=0.02, loss="logits")
        return attack(model, images, labels, epsilons=None)[1].detach()

    return call


@old_peers
@pytest.mark.parametrize(
    ("norm", "peer", "tolerance"),
    [
        # The Toolbox crosses the boundary without the overshoot, and adds it behind: up to 2 % more.
        ("l2", deepfool_of_art, 0.02),
        # foolbox tests with the overshoot, as the authors' code and ours do; what is left is rounding.
        ("l2", deepfool_of_foolbox("l2"), 1e-3),
        ("linf", deepfool_of_foolbox("linf"), 1e-3),
    ],
    ids=["l2-art", "l2-foolbox", "linf-foolbox"],
)
def test_deepfools_mean_perturbation_is_the_peers(
    trained: StackEngine, norm: str, peer: Callable[[nn.Module, Tensor, Tensor], Tensor], tolerance: float
) -> None:
    images, labels = pictures(300)
    right = trained.logits(images)[0].argmax(-1) == labels  # of the others foolbox and the Toolbox disagree by design
    images, labels = images[right], labels[right]
    network = plain(trained, 0)
    ours = DeepFool(EPSILON, norm=norm)(trained, images, labels).clipped[0]
    theirs = peer(network, images, labels)
    order = 2 if norm == "l2" else torch.inf
    sizes = [(found - images).flatten(1).norm(order, 1) for found in (ours, theirs)]
    assert (network(ours).argmax(1) != labels).float().mean() > 0.99
    assert sizes[0].mean().item() == pytest.approx(sizes[1].mean().item(), rel=tolerance)


def test_deepfool_finds_less_than_fgsm_needs_and_leaves_misclassified_images_alone(trained: StackEngine) -> None:
    images, labels = pictures(200)
    wrong = trained.logits(images).argmax(-1) != labels
    attacked = DeepFool(EPSILON)(trained, images, labels)
    change = (attacked.clipped - images).flatten(2).norm(dim=2)
    assert (change[wrong] == 0).all()
    assert (change[~wrong] > 0).all()
    own = DeepFool(EPSILON, label_source="predicted")(trained, images, labels)
    assert ((own.clipped - images).flatten(2).norm(dim=2) > 0).all()
    fgsm = FGSM(0.05)(trained, images, labels)
    both = attacked.success(trained, labels) & fgsm.success(trained, labels) & ~wrong
    assert both.sum() > 20
    assert change[both].mean() < (fgsm.clipped - images).flatten(2).norm(dim=2)[both].mean()


def test_deepfool_ends_where_all_gradients_vanish(trained: StackEngine) -> None:
    engine = copy_of(trained, StackEngine, [0, 1])
    engine.set_parameters(0, {name: torch.zeros_like(values) for name, values in engine.get_parameters(0).items()})
    calls = []
    gradient = engine.gradient
    engine.gradient = lambda images, labels: calls.append(images.shape) or gradient(images, labels)  # type: ignore[method-assign, func-returns-value]
    images, labels = pictures(30)
    attacked = DeepFool(EPSILON)(engine, images, labels * 0)
    assert torch.equal(attacked.clipped[0], images)
    assert len(calls) <= 11 * 12
