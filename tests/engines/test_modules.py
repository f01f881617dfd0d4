"""Engine `modules`: a user's module is trained as textbook torch trains it, and nothing of torch's own state counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atras import InputError, Protocol
from atras.attacks import FGSM, PGD
from atras.engines import (
    FusedEngine,
    LoopEngine,
    ModulesEngine,
    ModuleStackEngine,
    StackEngine,
    finished_engines,
    modules_engine,
)
from atras.networks import Candidate, Factory, Member, Own, Spec, stable_key, untouched

SPEC = Spec((1, 8, 8), 10)
CPU = torch.device("cpu")


class Net(nn.Module):
    """Batch normalisation, dropout and a counter of its own: all that evaluation mode and buffers are for."""

    def __init__(self, filters: int = 6) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, filters, 3, padding=1, bias=False)  # before a norm its gradient is rounding
        self.norm = nn.BatchNorm2d(filters)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(filters * 16, 10)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(images)
        x = F.max_pool2d(torch.relu(self.norm(self.convolution(images))), 2)
        return self.head(self.dropout(x.flatten(1)))


def member(factory=Net, seed: int = 0, name: str = "mine") -> Member:
    return Member(Candidate([Own(Factory.of(name, factory))]), seed)


def engine(precision: str = "fp64", optimizer: str = "adam", seed: int = 0, **named) -> ModulesEngine:
    protocol = Protocol(precision=precision, optimizer=optimizer, learning_rate=0.01)
    made = ModulesEngine(SPEC, [member(seed=seed, **named)], protocol, CPU)
    made.begin_phase("train")
    return made


def batches(count: int = 10, dtype: torch.dtype = torch.float64):
    draw = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield torch.rand(12, 1, 8, 8, generator=draw, dtype=dtype), torch.randint(0, 10, (12,), generator=draw)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_ten_steps_are_those_of_textbook_torch(optimizer):
    ours = engine(optimizer=optimizer)
    torch.manual_seed(stable_key(0, "mine", "init"))
    module = Net().double()
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    updates = kinds[optimizer](module.parameters(), lr=0.01)
    for step, (images, labels) in enumerate(batches()):
        module.train()
        torch.manual_seed(stable_key(0, "mine", "train", step))
        loss = F.cross_entropy(module(images), labels)
        updates.zero_grad()
        loss.backward()
        updates.step()
        assert ours.step(images, labels).losses.item() == pytest.approx(loss.item(), abs=1e-9)
    module.eval()
    found = ours.get_parameters(0)
    assert found.keys() == {*dict(module.named_parameters()), *dict(module.named_buffers())}
    for name, values in module.state_dict().items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-9)
    images.requires_grad_()
    logits = module(images)
    odds = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
    odds.sum().backward()
    gradient, seen = ours.gradient(images, labels)
    torch.testing.assert_close(seen[0], logits.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient[0], images.grad, rtol=0, atol=1e-9)


def test_what_is_restored_goes_on_bitwise():
    whole, first, second = engine("fp32"), engine("fp32"), engine("fp32")
    work = list(batches(6, torch.float32))
    for each in work:
        whole.step(*each)
    for each in work[:3]:
        first.step(*each)
    second.load_state(first.state())
    for each in work[3:]:
        second.step(*each)
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert "parameters/mine/0/seen" in found
    assert all(torch.equal(values, found[name]) for name, values in expected.items())


class Skipping(nn.Module):
    """A layer that half of the steps leave out, and one that none takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.flatten(1)
        if not self.training or torch.rand(()) < 0.5:
            x = torch.relu(self.first(x))
        return self.head(x)


def test_layers_that_steps_leave_out_go_on_bitwise_too():
    whole, first, second = (engine("fp32", factory=Skipping) for _ in range(3))
    work = list(batches(9, torch.float32))
    for each in work:
        whole.step(*each)
    for each in work[:5]:
        first.step(*each)
    assert 0 < first.state()["updates/mine/0/first.weight"] < 5
    second.load_state(first.state())
    for each in work[5:]:
        second.step(*each)
    found = second.state()
    assert all(torch.equal(values, found[name]) for name, values in whole.state().items())


def test_the_state_of_torch_is_neither_read_nor_changed():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        made = engine("fp32")
        for images, labels in batches(2, torch.float32):
            result = made.step(images, labels)
        made.gradient(images, labels)
        assert torch.equal(before, torch.get_rng_state())
        results.append((result.losses, *made.get_parameters(0).values()))
    assert all(map(torch.equal, *results))


def test_members_differ_by_seed_and_have_masks_of_their_own():
    first, second = engine("fp32"), engine("fp32", seed=1)
    assert not torch.equal(first.get_parameters(0)["head.weight"], second.get_parameters(0)["head.weight"])
    second.set_parameters(0, first.get_parameters(0))
    work = next(batches(1, torch.float32))
    assert not torch.equal(first.step(*work).losses, second.step(*work).losses)


def test_pairs_are_images_of_the_one_member():
    made, (images, labels) = engine("fp32"), next(batches(1, torch.float32))
    counts = torch.tensor([12])
    gradient, logits = made.gradient(images, labels)
    own, seen = made.gradient(images, labels, counts)
    assert torch.equal(own, gradient[0])
    assert torch.equal(seen, logits[0])
    assert torch.equal(made.logits(images, counts), made.logits(images)[0])


def test_a_finished_module_is_attacked_and_left_as_it_was():
    module = Net()
    module.head.train()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    images, labels = next(batches(1, torch.float32))
    held = Member(Candidate([Own(Factory.holding("mine", module))]), 0)
    with untouched(module):
        made = ModulesEngine(SPEC, [held], Protocol(precision="fp32"), CPU)
        for attack in (FGSM(0.1), PGD(0.1, steps=3)):
            attacked = attack(made, images, labels)
            assert (attacked.clipped - images).abs().max() <= 0.1 + 1e-6
    assert module.training
    assert all(values.requires_grad and values.grad is None for values in module.parameters())
    assert all(torch.equal(values, before[name]) for name, values in module.state_dict().items())


def test_a_member_starts_from_a_state():
    module = Net()
    factory = Factory.of("mine", Net).starting_from(module.state_dict(), "w.pth")
    made = ModulesEngine(SPEC, [Member(Candidate([Own(factory)]), 0)], Protocol(precision="fp32"), CPU)
    images, _ = next(batches(1, torch.float32))
    torch.testing.assert_close(made.logits(images)[0], module.eval()(images).detach())


@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, FusedEngine])
def test_other_engines_refuse_a_module(kind):
    with pytest.raises(InputError, match="module mine, which engine modules computes"):
        kind(SPEC, [member()], Protocol(precision="fp32"), CPU)


@pytest.mark.parametrize(("given", "said"), [
    ({"members": [Member(Candidate((8,)), 0)], "precision": "fp32"}, "modules of yours, not 8"),
    ({"members": [member(), member(seed=1)], "precision": "fp32"}, "expected one member"),
    ({"members": [member()], "precision": "bf16"}, "computes in fp32 or fp64"),
])  # fmt: skip
def test_what_it_cannot_do_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        ModulesEngine(SPEC, given["members"], Protocol(precision=given["precision"]), CPU)


class Plain(nn.Module):
    """Batch normalisation and a counter, but nothing drawn at random: members can share a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(96, 10)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.frozen = nn.Parameter(torch.rand(10), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(images)
        x = F.max_pool2d(torch.relu(self.norm(self.convolution(images))), 2)
        return self.head(x.flatten(1)) + self.frozen


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stack_gives_what_its_members_give_one_by_one(optimizer):
    momentum = 0.9 if optimizer == "sgd" else 0.0  # without one torch keeps no moment
    protocol = Protocol(precision="fp64", optimizer=optimizer, learning_rate=0.01, momentum=momentum)
    members = [member(Plain, seed) for seed in range(3)]
    stack = ModuleStackEngine(SPEC, members, protocol, CPU)
    singles = [ModulesEngine(SPEC, [each], protocol, CPU) for each in members]
    for each in (stack, *singles):
        each.begin_phase("train")
    for images, labels in batches():
        result = stack.step(images, labels)
        for index, single in enumerate(singles):
            own = single.step(images, labels)
            assert result.losses[index].item() == pytest.approx(own.losses.item(), abs=1e-9)
            assert result.correct[index] == own.correct[0]
    gradients, logits = stack.gradient(images, labels)
    for index, single in enumerate(singles):
        own = single.gradient(images, labels)
        torch.testing.assert_close(gradients[index], own[0][0], rtol=0, atol=1e-9)
        torch.testing.assert_close(logits[index], own[1][0], rtol=0, atol=1e-9)
        for moment in range(3 if optimizer == "adam" else 2):
            expected, found = single.get_parameters(0, moment), stack.get_parameters(index, moment)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                torch.testing.assert_close(found[name], values, rtol=0, atol=1e-9)
    assert stack.get_parameters(0)["seen"] == 120
    again = ModuleStackEngine(SPEC, members, protocol, CPU)
    again.begin_phase("train")
    again.load_state(stack.state())
    assert torch.equal(again.step(images, labels).losses, stack.step(images, labels).losses)


def test_what_draws_at_random_is_not_stacked():
    assert modules_engine("cuda", SPEC, member(Plain).candidate, 3) == "modules-stack"
    assert modules_engine("cuda", SPEC, member(Plain).candidate, 1) == "modules"
    assert modules_engine("cpu", SPEC, member(Plain).candidate, 3) == "modules"
    assert modules_engine("cuda", SPEC, member(Net).candidate, 3) == "modules"
    with pytest.raises(
        InputError, match="mine draws at random, which members of a stack would share; use engine modules"
    ):
        ModuleStackEngine(SPEC, [member(Net)], Protocol(precision="fp32"), CPU)


def test_finished_modules_of_one_architecture_share_a_stack():
    modules = [Plain(), Plain(), Net()]
    members = [Member(Candidate([Own(Factory.holding(f"m{i}", each))]), 0) for i, each in enumerate(modules)]
    images, _ = next(batches(1, torch.float32))
    with untouched(*modules):
        engines = list(finished_engines(members, (1, 8, 8), stack=True))
        assert [(each.name, len(each.members)) for each in engines] == [("modules-stack", 2), ("modules", 1)]
        found = torch.cat([each.logits(images) for each in engines])
        expected = torch.stack([module(images) for module in modules])
    torch.testing.assert_close(found, expected)
