"""Recipes: schedules, weight decay, clipping, label smoothing and averages of weights, against a textbook loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atras.engines import (
    AVERAGE,
    Engine,
    Epoch,
    FusedEngine,
    LoopEngine,
    ModulesEngine,
    ModuleStackEngine,
    StackEngine,
    why_not,
)
from atras.experiment import Protocol
from atras.networks import (
    Candidate,
    Dropout,
    Factory,
    Member,
    Own,
    Parameters,
    Spec,
    StepResult,
    Trainable,
    Variant,
    dropout_key,
)

CPU = torch.device("cpu")
SPEC = Spec((1, 4, 4), 5)
MEMBERS = [Member(Candidate((6,)), 4), Member(Candidate((9,)), 1)]
STEPS, EPOCH_STEPS = 10, 5
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")

RECIPES: dict[str, dict[str, Any]] = {
    "adam with decay in the gradient": {"weight_decay": 0.1},
    "adamw with its decay apart": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine(warmup=1)"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.05, "schedule": "cyclic(peak=0.4)"},
    "clipping": {"clip_gradient": 0.2, "optimizer": "sgd", "weight_decay": 0.05},
    "smoothing": {"label_smoothing": 0.1, "schedule": "step(every=1)"},
    "average": {"average": 0.7, "schedule": "one-cycle"},
    "all of it": {
        "optimizer": "adamw", "weight_decay": 0.1, "clip_gradient": 0.5, "label_smoothing": 0.2, "average": 0.9,
        "schedule": "cosine(warmup=1)",
    },
}  # fmt: skip


class TwoLayers(nn.Module):
    """A module as users write them, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Linear(16, 6, bias=False)  # before a norm a bias has a gradient of rounding
        self.body = nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.rand(8, 1, 4, 4, generator=draw, dtype=torch.float64),
            torch.randint(0, 5, (8,), generator=draw),
        )
        for _ in range(STEPS)
    ]


def protocol_of(recipe: dict[str, Any]) -> Protocol:
    return Protocol(precision="fp64", learning_rate=0.02, **recipe)


def textbook(network: nn.Module, recipe: dict[str, Any]) -> tuple[list[float], nn.Module]:
    """The usual loop in torch: the losses, and what it evaluates. The network is trained in place."""
    given = {"optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"} | recipe
    parameters, decay = list(network.parameters()), given["weight_decay"]
    optimizer: torch.optim.Optimizer
    if given["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=given["momentum"], weight_decay=decay)
    else:
        kind = torch.optim.AdamW if given["optimizer"] == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, lr=0.02, weight_decay=decay)
    scheduler = scheduler_of(given["schedule"], optimizer)
    average = None
    if "average" in given:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(given["average"]))
    losses = []
    for images, labels in batches():
        network.train()
        out = network(images)
        losses.append(nn.functional.cross_entropy(out, labels).item())
        optimizer.zero_grad()
        nn.functional.cross_entropy(out, labels, label_smoothing=given.get("label_smoothing", 0.0)).backward()
        if "clip_gradient" in given:
            nn.utils.clip_grad_norm_(network.parameters(), given["clip_gradient"])
        optimizer.step()
        scheduler.step()
        if average is not None:
            average.update_parameters(network)
    return losses, network if average is None else average.module


def scheduler_of(text: str, o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if text == "constant":
        return lr_scheduler.ConstantLR(o, factor=1.0)
    if text == "step(every=1)":
        return lr_scheduler.StepLR(o, EPOCH_STEPS)
    if text == "one-cycle":
        return lr_scheduler.OneCycleLR(o, 0.02, STEPS, cycle_momentum=False)
    if text == "cyclic(peak=0.4)":
        return lr_scheduler.CyclicLR(o, 0.0, 0.02, 4, 6, cycle_momentum=False)
    rise = lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4)
    return lr_scheduler.SequentialLR(o, [rise, lr_scheduler.CosineAnnealingLR(o, STEPS - 5)], milestones=[5])


def network_of(engine: Engine, index: int) -> nn.Module:
    """The member's network as a module, at the engine's parameters."""
    candidate, values = engine.members[index].candidate, engine.get_parameters(index)
    if candidate.complete:
        network: nn.Module = TwoLayers().double()
        network.load_state_dict(values)
        return network
    (units,) = (layer.units for layer in candidate.layers)  # type: ignore[attr-defined]
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, units), nn.ReLU(), nn.Linear(units, 5)).double()
    network.load_state_dict(dict(zip(network.state_dict(), values.values(), strict=True)))
    return network


def state_of(network: nn.Module, like: Parameters) -> Parameters:
    """The state of a module under an engine's names."""
    state = network.state_dict()
    return state if isinstance(network, TwoLayers) else dict(zip(like, state.values(), strict=True))


def begin_again(engine: Engine) -> None:
    """Begin a second phase, from the weights that the first one began with: it is to know nothing of the first."""
    initial = [engine.get_parameters(index) for index in range(len(engine.members))]
    engine.begin_phase("train", 3, 3)
    for images, labels in batches()[:3]:
        engine.step(images.to(engine.dtype), labels)
    for index, values in enumerate(initial):
        engine.set_parameters(index, values)
    engine.begin_phase("adversarial", STEPS, EPOCH_STEPS)


def engines_of(kind: type[Engine], recipe: dict[str, Any], **rates: Any) -> list[Engine]:
    protocol, members = protocol_of(recipe), MEMBERS
    if kind.takes_modules:
        members = [Member(Candidate([Own(Factory.of("two", TwoLayers))]), seed) for seed in (0, 1)]
    groups = [[member] for member in members] if kind.one_by_one else [members]
    return [kind(SPEC, group, protocol, CPU, **rates) for group in groups]


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step..` was not necessary")  # SequentialLR's own
@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, ModulesEngine, ModuleStackEngine])
@pytest.mark.parametrize("recipe", RECIPES)
def test_ten_steps_equal_a_textbook_loop(recipe: str, kind: type[Engine]) -> None:
    chosen, seen = RECIPES[recipe], torch.rand(6, 1, 4, 4, dtype=torch.float64)
    for engine in engines_of(kind, chosen):
        networks = [network_of(engine, index) for index in range(len(engine.members))]
        begin_again(engine)
        losses = torch.stack([engine.step(*batch).losses for batch in batches()], 1)
        logits = engine.logits(seen)
        for index, network in enumerate(networks):
            expected, evaluated = textbook(network, chosen)
            assert losses[index].tolist() == pytest.approx(expected, rel=1e-9)
            # Sums in another order differ by 1e-16, which Adam's division may magnify.
            raw = engine.get_parameters(index)
            torch.testing.assert_close(raw, state_of(network, raw), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(logits[index], evaluated.eval()(seen), rtol=1e-9, atol=1e-9)
            own = engine.evaluated_parameters(index)
            torch.testing.assert_close(own, state_of(evaluated, own), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=NEEDS_FUSED)])
def test_each_phase_and_step_has_masks_of_its_own(kind: type[Engine]) -> None:
    spec, (member, _), (images, labels) = Spec((1, 4, 4), 5, head_rate256=128), MEMBERS, batches()[0]
    engine = kind(spec, [member], Protocol(precision="fp32", learning_rate=0.02), CPU)
    for phase in ("train", "adversarial"):
        engine.begin_phase(phase)
        key = torch.tensor(dropout_key(member.seed, member.candidate.name, phase))
        for step in range(2):
            masks = Dropout(key, torch.tensor(step))
            logits = engine.networks[0].logits(engine.get_parameters(0), images.float(), masks=masks)
            expected = nn.functional.cross_entropy(logits, labels).item()
            assert engine.step(images.float(), labels).losses.item() == pytest.approx(expected, rel=1e-5)  # float32


@pytest.mark.parametrize("kind", [StackEngine, ModuleStackEngine])
def test_members_of_a_stack_have_rates_and_decays_of_their_own(kind: type[Engine]) -> None:
    for optimizer in ("adam", "adamw", "sgd"):
        recipe = {"optimizer": optimizer, "schedule": "cosine", "clip_gradient": 0.5}
        (engine,) = engines_of(kind, recipe, learning_rates=[0.02, 0.01], weight_decays=[0.0, 0.3])
        engine.begin_phase("train", STEPS, EPOCH_STEPS)
        for batch in batches():
            engine.step(*batch)
        for index, member in enumerate(engine.members):
            protocol = protocol_of(recipe).replace(learning_rate=[0.02, 0.01][index], weight_decay=[0.0, 0.3][index])
            alone = kind(SPEC, [member], protocol, CPU)
            alone.begin_phase("train", STEPS, EPOCH_STEPS)
            for batch in batches():
                alone.step(*batch)
            torch.testing.assert_close(
                engine.get_parameters(index), alone.get_parameters(0), rtol=1e-9, atol=1e-9, msg=optimizer
            )


def test_the_numbers_of_a_variant_go_before_those_of_the_run() -> None:
    variant = Variant((("learning_rate", "0.01"), ("weight_decay", "0.3"), ("epsilon", "0.2")))
    members = [Member(MEMBERS[0].candidate, 4, own) for own in (Variant(), variant)]
    engine = StackEngine(SPEC, members, protocol_of({"weight_decay": 0.1, "epsilon": 0.05}), CPU)
    found = engine.learning_rates, engine.weight_decays, engine.epsilons
    assert found == ((0.02, 0.01), (0.1, 0.3), (0.05, 0.2))


@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, ModulesEngine, ModuleStackEngine])
def test_what_trains_on_attacks_meets_the_raw_weights_and_evaluation_the_average(kind: type[Engine]) -> None:
    images, labels = batches()[0]
    for engine in engines_of(kind, {"average": 0.9}):
        engine.begin_phase("adversarial", STEPS, EPOCH_STEPS)
        seen: list[int] = []

        def step(networks: Any, x: Tensor, y: Tensor, copied: Tensor, number: int) -> StepResult:
            del copied
            raw = torch.stack([network_of(networks, index).eval()(x) for index in range(len(networks.members))])
            torch.testing.assert_close(networks.logits(x), raw, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(networks.gradient(x, y)[1], raw, rtol=1e-9, atol=1e-9)
            seen.append(number)  # noqa: B023 (called at once)
            return networks.step(x, y)

        rows = torch.zeros(len(engine.members), dtype=torch.int64)
        work = Epoch(images, labels, torch.arange(8).repeat(1, 4), rows, None, 0.0, step)
        engine.protocol = engine.protocol.replace(batch_size=8)
        engine.epoch(work)
        plain = engine.logits(images)
        for index in range(len(engine.members)):
            network = network_of(engine, index).eval()
            assert not torch.allclose(plain[index], network(images), rtol=1e-6)  # it is the average's
        assert seen == [0, 1, 2, 3]
        assert torch.equal(engine.gradient(images, labels)[1], plain)


@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, ModulesEngine, ModuleStackEngine])
@pytest.mark.parametrize("recipe", ["all of it", "sgd"])
def test_training_goes_on_from_a_state_bitwise(recipe: str, kind: type[Engine]) -> None:
    for whole, again in zip(engines_of(kind, RECIPES[recipe]), engines_of(kind, RECIPES[recipe]), strict=True):
        whole.begin_phase("train", STEPS, EPOCH_STEPS)
        for batch in batches()[:6]:
            whole.step(*batch)
        again.begin_phase("train", STEPS, EPOCH_STEPS)
        again.load_state(whole.state())
        for batch in batches()[6:]:
            assert torch.equal(whole.step(*batch).losses, again.step(*batch).losses)
        left, right = whole.state(), again.state()
        assert left.keys() == right.keys()
        assert any(name.startswith("average/") for name in left) == ("average" in RECIPES[recipe])
        assert all(torch.equal(values, right[name]) for name, values in left.items())


def test_a_schedule_needs_the_length_of_the_phase() -> None:
    (engine,) = engines_of(StackEngine, {"schedule": "cosine"})
    with pytest.raises(ValueError, match="expected the steps of the phase"):
        engine.begin_phase("train")
    engine.begin_phase("train", 4, 2)
    expected = [0.02, 0.02 * (1 + 0.5**0.5) / 2, 0.01, 0.02 * (1 - 0.5**0.5) / 2]
    torch.testing.assert_close(engine.rates(4), torch.tensor([expected] * 2, dtype=torch.float64))


def fused_of(recipe: dict[str, Any], members: list[Member] = MEMBERS, **own: Any) -> FusedEngine:
    protocol = Protocol(precision="fp32", learning_rate=0.02, batch_size=8, **recipe)
    engine = FusedEngine(SPEC, members, protocol, CPU, **own)
    engine.begin_phase("train", STEPS, EPOCH_STEPS)
    return engine


def singles() -> list[tuple[Tensor, Tensor]]:
    return [(images.float(), labels) for images, labels in batches()]


def epoch_of(engine: FusedEngine, batch_step: Any = None) -> Epoch:
    """All batches behind one another."""
    images, labels = (torch.cat(parts) for parts in zip(*singles(), strict=True))
    rows = torch.zeros(len(engine.members), dtype=torch.int64)
    return Epoch(images, labels, torch.arange(len(labels))[None], rows, None, 0.0, batch_step)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step..` was not necessary")  # SequentialLR's own
@pytest.mark.parametrize("recipe", RECIPES)
def test_in_fused_ten_steps_equal_a_textbook_loop(recipe: str) -> None:
    """In float32: from float64 it may be as far as rounding brings it."""
    stepped, whole, seen = fused_of(RECIPES[recipe]), fused_of(RECIPES[recipe]), torch.rand(6, 1, 4, 4)
    begin_again(stepped)
    networks = [network_of(stepped, index).double() for index in range(len(MEMBERS))]
    losses = torch.stack([stepped.step(*batch).losses.double() for batch in singles()], 1)
    assert torch.equal(whole.epoch(epoch_of(whole)).losses, losses)  # the schedule goes on inside a call
    logits = stepped.logits(seen)
    for index, network in enumerate(networks):
        expected, evaluated = textbook(network, RECIPES[recipe])
        # Float32 rounds sums of 16 products by some 1e-7, which ten updates of a fiftieth magnify.
        assert losses[index].tolist() == pytest.approx(expected, rel=1e-4)
        own, values = stepped.evaluated_parameters(index), list(evaluated.state_dict().values())
        assert_near(list(own.values()), values)
        assert_near([logits[index]], [evaluated.eval()(seen.double())])
        assert_near(list(stepped.get_parameters(index).values()), list(network.state_dict().values()))


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()


def test_in_fused_members_have_rates_and_decays_of_their_own() -> None:
    """Bit for bit: a member does not know its neighbours."""
    rates, decays = [0.02, 0.01], [0.0, 0.3]
    for optimizer in ("adam", "adamw", "sgd"):
        recipe = {"optimizer": optimizer, "schedule": "cosine", "clip_gradient": 0.5}
        engine = fused_of(recipe, learning_rates=rates, weight_decays=decays)
        engine.epoch(epoch_of(engine))
        for index, member in enumerate(MEMBERS):
            alone = fused_of(recipe, [member], learning_rates=rates[index : index + 1])
            alone.weight_decays = (decays[index],)
            alone.begin_phase("train", STEPS, EPOCH_STEPS)
            alone.epoch(epoch_of(alone))
            for name, values in engine.get_parameters(index).items():
                assert torch.equal(values, alone.get_parameters(0)[name]), (optimizer, name)


def test_in_fused_what_trains_on_attacks_meets_the_raw_weights_and_evaluation_the_average() -> None:
    engine = fused_of({"average": 0.9})
    seen: list[tuple[Tensor, Tensor]] = []

    def step(networks: Trainable, x: Tensor, y: Tensor, copied: Tensor, number: int) -> StepResult:
        del copied, number
        seen.append((networks.logits(x), networks.gradient(x, lambda logits: logits)[1]))
        return networks.step(x, y)

    engine.epoch(epoch_of(engine, step))
    images, labels = singles()[-1]
    plain = engine.logits(images)
    assert torch.equal(*seen[-1])
    assert torch.equal(engine.gradient(images, labels)[1], plain)
    for index in range(len(MEMBERS)):
        raw = network_of(engine, index).double()(images.double())
        assert not torch.allclose(plain[index].double(), raw, rtol=1e-3)
        assert any(
            not torch.equal(values, engine.get_parameters(index, AVERAGE)[name])
            for name, values in engine.get_parameters(index).items()
        )


@pytest.mark.parametrize("recipe", ["all of it", "sgd"])
def test_in_fused_training_goes_on_from_a_state_bitwise(recipe: str) -> None:
    whole, again = fused_of(RECIPES[recipe]), fused_of(RECIPES[recipe])
    for batch in singles()[:6]:
        whole.step(*batch)
    again.load_state(whole.state())
    for batch in singles()[6:]:
        assert torch.equal(whole.step(*batch).losses, again.step(*batch).losses)
    left, right = whole.state(), again.state()
    assert left.keys() == right.keys()
    assert any(name.startswith("average/") for name in left) == ("average" in RECIPES[recipe])
    assert all(torch.equal(values, right[name]) for name, values in left.items())
