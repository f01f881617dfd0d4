"""Op step in Triton against autograd in float64: interpreted in a child process, or on a GPU."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atras.kernels import ConvLayer, Step, backends
from atras.kernels.step import gpu_layout
from atras.testing import assert_close, make_step_inputs
from populations import (
    Case,
    all_values,
    assert_follows_the_recipe,
    assert_near_the_definition,
    assert_same,
    assert_saturated_signs_agree,
    define,
    make,
    parameters,
    plan,
    train,
    work,
)

pytest.importorskip("triton")

HERE = Path(__file__).parent
CHILD = backends.interpreting()
in_parent = pytest.mark.skipif(CHILD, reason="the child process does not ask for it again")
# Triton's interpreter computes with numpy, which warns of infinities and NaN that a GPU passes over.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")]
IMAGES = 12


# Unequal depths (one with no hidden layer), widths around 16 and past a tile's 64, pixels that are no multiple of 16.
DENSE = [
    Case("none", (1, 6, 6), "relu", [[40], [7, 66, 1], []], 5, 12, 64, data=IMAGES),
    Case("none", (3, 5, 3), "sigmoid", [[7, 9], [16]], 4, 10, 30, data=IMAGES),
    Case("none", (1, 5, 3), "gelu", [[9], [33, 5]], 1, 3, data=IMAGES),
    Case("none", (1, 8, 8), "tanh", [[70, 3]], 80, 170, 128, data=IMAGES),
]
# The first leaves more than a pixel, so that channels change places before the first dense layer.
STEMS = [
    Case("conv2", (1, 14, 10), "relu", [[9], [7, 18]], 2, 3, 64, data=IMAGES),
    Case("conv4", (3, 10, 10), "gelu", [[9]], 1, 2, data=IMAGES),
]
# Chains of different lengths beside a network without, filters around 16, pools down to one pixel and two layers past
# it, a rate of dropout for each layer; then images of more channels, and the same layers for all, whose sizes are
# compiled in.
POOLED = {"padding": 1, "pool": 2}
CHAINS = [
    Case("none", (1, 6, 5), "relu", [[9], [5], []], 2, 3, 64, data=IMAGES, convolutions=[
        [ConvLayer(5, **POOLED, rate256=64), ConvLayer(20, padding=1, rate256=32)],
        [ConvLayer(17, **POOLED), ConvLayer(3, **POOLED), ConvLayer(24, padding=1, rate256=9), ConvLayer(6, padding=1)],
        [],
    ]),
    Case("none", (5, 4, 3), "sigmoid", [[], [7]], 2, 3, data=IMAGES, convolutions=[
        [ConvLayer(18, rate256=64)], [ConvLayer(7, padding=1, pool=1), ConvLayer(16)],
    ]),
    Case(
        "none", (3, 4, 5), "gelu", [[], [4]], 2, 3, data=IMAGES,
        convolutions=2 * [[ConvLayer(6), ConvLayer(9, padding=1)]],
    ),
]  # fmt: skip
CASES = [*DENSE, *STEMS, *CHAINS]
SLOW_CHAIN = pytest.param(CHAINS[0], marks=pytest.mark.slow)


def convolved(case):
    return case.stem != "none" or case.convolutions is not None


@pytest.fixture(params=["cpu"] if CHILD else [pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where Triton computes: its interpreter on the CPU, in the child process, or a GPU."""
    return torch.device(request.param)


@in_parent
def test_interpreted_steps_agree_with_the_definition():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "ATRAS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 24, run.stdout


@pytest.mark.parametrize("case", [DENSE[0], SLOW_CHAIN], ids=str)
def test_pairs_are_evaluated_as_defined(case, device):
    counts = torch.tensor([4, 0, 7] if case.convolutions is None else [0, 3, 1])
    images, labels = make_step_inputs(int(counts.sum()), case.image_shape)
    step, definition = make(case, device=device), define(case)
    found = step.input_gradient(images.to(device), labels.to(device), counts=counts)
    expected = definition.input_gradient(images, labels, counts=counts)
    # As below.
    assert_close(found.logits.cpu().double(), expected.logits, atol=1e-5, rtol=1e-5)
    size = expected.gradient.abs().amax()
    assert_close(found.gradient.cpu().double() / size, expected.gradient / size, atol=1e-5)
    assert_same(found.zero.cpu(), expected.zero)
    assert_close(step.logits(images.to(device), counts=counts), found.logits, atol=1e-6)
    for targets in (None, (labels + 1) % 10):
        given = {"objective": "dlr", "counts": counts}
        towards = None if targets is None else targets.to(device)
        found = step.input_gradient(images.to(device), labels.to(device), targets=towards, **given)
        expected = definition.input_gradient(images, labels, targets=targets, **given)
        size = expected.gradient.abs().amax()
        # The logits' own error is divided by their differences, of which the smallest here are some tenths.
        assert_close(found.gradient.cpu().double() / size, expected.gradient / size, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_as_defined(case, optimizer, device):
    if optimizer == "sgd" and case != DENSE[0]:
        pytest.skip("the optimizers know no activation")
    rate, momentum, distance = {"adam": (1e-3, 0.0, 2e-2), "sgd": (0.05, 0.5, 1e-3)}[optimizer]
    options = {"optimizer": optimizer, "momentum": momentum}
    step, definition = make(case, device=device, **options), define(case, **options)
    losses, correct = train(step, case, device=device, rate=rate)
    expected, expected_correct = train(definition, case, rate=rate)
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6, which a few updates amplify.
    assert_close(losses, expected, rtol=2e-5, atol=2e-6)
    assert_same(correct, expected_correct)
    assert step.steps == [losses.shape[1]] * len(case.hidden)
    assert_near_the_definition(step, definition, case, distance)


# Small, for the interpreter's sake. The second member's convolution meets a single pixel: eight of its nine weights
# have no gradient, but decay.
SMALL = Case("none", (1, 2, 2), "relu", [[9], [], [3]], 3, 8, 64, data=IMAGES, convolutions=[
    [], [ConvLayer(5, **POOLED), ConvLayer(6, padding=1)], [],
])  # fmt: skip


@pytest.mark.parametrize("recipe", ["clip", "everything"])
def test_recipes_are_followed_as_defined(recipe, device):
    assert_follows_the_recipe(SMALL, recipe, device=device)


@pytest.mark.parametrize("clip", [None, 0.3], ids=["plain", "clipped"])
def test_what_runs_beside_the_convolutions_needs_nothing_of_them(clip, device, monkeypatch):
    """The heads' gradients and update on the second stream, at once or only when the others are over: equal bits."""
    beside = importlib.import_module("atras.kernels.step.gpu_beside").Beside
    once, late = (make(SMALL, device=device, clip=clip, precision="bf16" if device.type == "cuda" else "fp32")
                  for _ in range(2))  # fmt: skip
    losses = train(once, SMALL, device=device)
    if device.type == "cpu":
        waiting = []
        monkeypatch.setattr(beside, "start", lambda self, launch: waiting.append(launch))
        monkeypatch.setattr(beside, "join", lambda self: waiting.pop()())
    else:
        monkeypatch.setattr(beside, "start", lambda self, launch: launch())
    assert_same(train(late, SMALL, device=device), losses)
    for moment in range(once.slots):
        for m in range(len(SMALL.hidden)):
            assert_same(late.get_parameters(m, moment), once.get_parameters(m, moment))


def test_a_recipe_goes_on_from_what_is_kept_whatever_the_neighbours(device):
    case, rates = SMALL._replace(images=6, convolutions=None), torch.tensor([[1e-3, 3e-3]] * 3).double()
    decays = torch.tensor([0.3, 0.0, 0.1]).double()
    options = {"optimizer": "adamw", "clip": 0.3, "average": 0.9, "label_smoothing": 0.1, "device": device}
    whole, stepped = make(case, **options), make(case, **options)
    recipe = {"device": device, "learning_rates": rates, "weight_decays": decays}
    expected = first = train(whole, case, **recipe)[0]
    images, labels, order = work(case)
    for i, index in enumerate(order.split(case.batch)):
        own = plan(case) | {"first_step": 3 + i, "learning_rates": rates[:, i].contiguous(), "weight_decays": decays}
        losses = stepped.train(images.to(device), labels.to(device), index, **own)[0]
        assert_same(losses[:, 0], expected[:, i])
        other = make(case, **options)
        for m in range(len(case.hidden)):
            for slot in range(other.slots):
                other.set_parameters(m, stepped.get_parameters(m, slot), slot)
        other.set_steps(stepped.steps)
        stepped = other
    wild = rates.clone()
    wild[1] = 1e30
    beside = make(case, **options)
    assert not (train(beside, case, device=device, learning_rates=wild, weight_decays=decays)[0][1] < 1e6).all()
    for m, other in ((0, beside), (0, stepped), (1, stepped), (2, beside), (2, stepped)):
        for slot in range(whole.slots):
            assert_same(other.get_parameters(m, slot), whole.get_parameters(m, slot))
    raw, averaged = (whole.logits(images.to(device), raw=raw).cpu() for raw in (True, False))
    plain = make(case, device=device)
    for slot, expected in ((0, raw), (3, averaged)):
        for m in range(len(case.hidden)):
            plain.set_parameters(m, whole.get_parameters(m, slot))
        assert_same(plain.logits(images.to(device)).cpu(), expected)
    whole.reset_optimizer()  # another phase: moments, counts of steps and the average begin anew
    for m in range(len(case.hidden)):
        whole.set_parameters(m, parameters(case, m))
    assert_same(train(whole, case, **recipe)[0], first)


@pytest.mark.parametrize(
    "case", [DENSE[0], DENSE[1], STEMS[0], pytest.param(STEMS[1], marks=pytest.mark.slow), *CHAINS[:2]], ids=str
)
def test_evaluates_as_defined(case, device):
    images, labels, _ = work(case, torch.float32)
    count = 2 if convolved(case) else IMAGES
    images, labels = images[:count], labels[:count]
    step, definition = make(case, device=device), define(case)
    # float32 against float64, as for training but without updates.
    assert_close(step.logits(images.to(device)).double(), definition.logits(images), rtol=1e-4, atol=1e-5)
    for given in (labels, None):
        found, _, zero, nan = step.input_gradient(images.to(device), None if given is None else given.to(device))
        expected, *_ = definition.input_gradient(images, given)
        for a, b in zip(found.cpu().double(), expected, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()
        assert_same(zero, (found == 0).flatten(1).sum(1))
        assert not nan.any()
    signs, _, *counts = step.input_gradient(images.to(device), signs=True, direction=-1)
    assert_same(signs, -found.sign().to(torch.int8))
    assert_same(counts, (zero, nan))


@pytest.mark.parametrize("case", [DENSE[0], DENSE[3], STEMS[0]], ids=str)
def test_signs_of_saturated_networks_are_those_of_float64(case, device):
    images, _, _ = work(case, torch.float32)
    images = images[: 4 if convolved(case) else IMAGES]
    assert_saturated_signs_agree(make(case, device=device), case, images, device)


def test_evaluation_goes_on_past_a_block(device, monkeypatch):
    monkeypatch.setattr(gpu_layout, "EVALUATION_ROWS", 16)
    case = Case("none", (1, 2, 2), "relu", [[3], [4]], 2, 4, data=IMAGES)
    step, definition = make(case, device=device), define(case)
    count = 16 + 9  # the second block has room for ten
    own = torch.stack([make_step_inputs(count, case.image_shape, seed=m)[0] for m in range(2)])
    labels = torch.arange(2 * count).view(2, count) % 10
    assert_close(step.logits(own.to(device)).double(), definition.logits(own), rtol=1e-4, atol=1e-5)  # as above
    for given in ({}, {"objective": "dlr", "targets": (labels + 1) % 10}, {"cotangents": cotangents_of(case, count)}):
        there = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
        asked = () if "cotangents" in given else (labels,)
        found = step.input_gradient(own.to(device), *(each.to(device) for each in asked), **there)
        expected = definition.input_gradient(own, *asked, **given)
        assert (found.gradient.cpu() - expected.gradient).norm() <= 1e-5 * expected.gradient.norm()
        assert_same(found.zero.cpu(), (found.gradient.cpu() == 0).flatten(1).sum(1))
    assert {block.rows for block in step._step.evaluation._blocks.values()} == {16, 10}


@pytest.mark.parametrize("case", [DENSE[1], STEMS[0], CHAINS[0]], ids=str)
def test_adversarial_copies_and_orders_of_its_own(case, device):
    members, generator = len(case.hidden), torch.Generator().manual_seed(4)
    images, labels, _ = work(case)
    signs = torch.randint(-1, 2, (members, *images.shape), generator=generator, dtype=torch.int8)
    orders = torch.stack([torch.randperm(2 * IMAGES, generator=generator)[: case.images] for _ in range(3)])
    arguments = {"order_of": torch.tensor([2, 0, 1])[:members], **plan(case, 1e-2)}
    arguments["epsilon"] = torch.tensor([0.05, 0.2, 0.0]).double()[:members]
    step, definition = make(case, device=device), define(case)
    there = [tensor.to(device) for tensor in (images, labels)]
    found = step.train(*there, orders.to(device), signs=signs.to(device), **arguments)
    expected = definition.train(images, labels, orders, signs=signs, **arguments)
    assert_close(found[0], expected[0], rtol=1e-4, atol=2e-6)  # as above, at ten times the rate
    assert_same(found[1], expected[1])
    step, definition = make(case, device=device), define(case)
    for epsilon in (0.05, arguments["epsilon"]):
        logits = step.logits(images[:3].to(device), signs[:, :3].to(device).contiguous(), epsilon).double()
        assert_close(logits, definition.logits(images[:3], signs[:, :3], epsilon), rtol=1e-4, atol=1e-5)  # as above


@pytest.mark.parametrize("case", [DENSE[0], pytest.param(STEMS[0], marks=pytest.mark.slow), SLOW_CHAIN], ids=str)
def test_a_diverging_neighbour_changes_nothing(case, device):
    usual, wild = (torch.full((len(case.hidden),), 1e-3).double() for _ in range(2))
    wild[1] = 1e30
    first, again, beside = (make(case, device=device) for _ in range(3))
    losses = train(first, case, device=device, learning_rates=usual)[0]
    assert_same(train(again, case, device=device, learning_rates=usual)[0], losses)
    assert_same(all_values(again, case), all_values(first, case))
    wild_losses = train(beside, case, device=device, learning_rates=wild)[0]
    assert not wild_losses[1].isfinite().all()
    for m in range(len(case.hidden)):
        if m != 1:
            assert_same(wild_losses[m], losses[m])
            assert_same(beside.get_parameters(m), first.get_parameters(m))


def test_a_chains_numbers_are_the_same_in_other_company(device):
    """Bit for bit, whatever the neighbours' widths and depths: tiles are not made to their measure."""
    own, found = [ConvLayer(5, **POOLED), ConvLayer(6, padding=1)], []
    deep = [ConvLayer(3, **POOLED), ConvLayer(35, padding=1), ConvLayer(2, padding=1)]
    for other in ([ConvLayer(40, padding=1)], deep):
        case = Case("none", (1, 4, 3), "tanh", [[4], []], 2, 2, data=IMAGES, convolutions=[own, other])
        step = make(case, device=device)
        found.append([*(each[0] for each in train(step, case, device=device)), *step.get_parameters(0)])
    assert_same(*found)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_calls_can_be_cut_anywhere_and_moments_set(optimizer, device):
    case, options = DENSE[0], {"optimizer": optimizer, "momentum": 0.9}
    whole, stepped = (make(case, device=device, **options) for _ in range(2))
    expected = train(whole, case, device=device)
    images, labels, order = work(case)
    parts = []
    for i, index in enumerate(order.split(case.batch)):
        arguments = plan(case) | {"first_step": 3 + i}
        parts.append(stepped.train(images.to(device), labels.to(device), index, **arguments))
        other = make(case, device=device, **options)
        for m in range(len(case.hidden)):
            for moment in range(3 if optimizer == "adam" else 2):
                other.set_parameters(m, stepped.get_parameters(m, moment), moment)
        other.set_steps(stepped.steps)
        stepped = other
    assert_same([torch.cat(each, 1) for each in zip(*parts, strict=True)], expected)
    assert_same(all_values(stepped, case), all_values(whole, case))
    whole.reset_optimizer()
    assert whole.steps == [0] * len(case.hidden)
    assert not any(array.any() for array in whole.get_parameters(0, 1))


def test_results_of_a_step_are_the_callers_own(device):
    """A step or a member alone, whose results lie side by side in memory, is what the next call writes over."""
    for case in (DENSE[2]._replace(images=1), DENSE[2].of(0)):
        step = make(case, device=device)
        first = train(step, case, device=device)
        before = [each.clone() for each in first]
        train(step, case, device=device, rate=1.0)
        second = train(step, case, device=device)
        assert_same(first, before)
        assert not torch.equal(second[0], first[0])


@pytest.mark.parametrize("case", [DENSE[1], CHAINS[1]], ids=str)
def test_padding_stays_zero(case, device):
    step = make(case, device=device)
    train(step, case, device=device, rate=1e-2)
    population = step._step
    for buffer in (population.parameters, population.moments[0], population.moments[1]):
        padding = buffer.clone()
        for m in range(len(case.hidden)):
            for view in population.layout.views(padding, m):
                view.zero_()
        assert buffer.any()
        assert not padding.any()


@pytest.mark.parametrize("case", [DENSE[1], pytest.param(STEMS[0], marks=pytest.mark.slow), CHAINS[0]], ids=str)
def test_half_precision_stays_close(case, device, monkeypatch):
    if CHILD:  # the interpreter multiplies no bf16
        monkeypatch.setitem(importlib.import_module("atras.kernels.step.gpu_batch").DTYPES, "bf16", torch.float16)
    step = make(case, device=device, precision="bf16")
    assert step._step.copy.dtype == (torch.float16 if CHILD else torch.bfloat16)
    expected, _ = train(define(case), case)
    found, _ = train(step, case, device=device)
    # A factor rounds by 2**-9 (bf16) or 2**-11 of itself, and three updates amplify that.
    assert ((found.cpu() - expected).abs() / expected).max() < 2e-2
    assert not torch.equal(found, train(make(case, device=device), case, device=device)[0])
    for view, source in zip(
        step._step.layout.views(step._step.copy, 0), step._step.layout.views(step._step.parameters, 0), strict=True
    ):
        assert_same(view, source.to(view.dtype))


def test_nothing_to_do_is_done(device):
    case = DENSE[0]
    step, (images, labels, order) = make(case, device=device), work(case)
    images, labels = images.to(device), labels.to(device)
    assert step.train(images, labels, order[:0], **plan(case))[0].shape == (3, 0)
    assert step.logits(images[:0]).shape == (3, 0, 10)
    assert step.input_gradient(images[:0])[0].shape == (3, 0, 1, 6, 6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", [DENSE[1], *STEMS, *CHAINS], ids=str)
def test_memory_is_what_was_predicted(case, precision, device):
    step = make(case, device=device, precision=precision)
    predicted = gpu_layout.device_bytes(step._step.layout, case.activation, precision=precision, batch=case.batch)
    assert predicted == step.bytes  # before any call: results, orders and tables are left out


def test_engine_fused_follows_the_loop(device):
    from atras.engines import FusedEngine, LoopEngine, why_not
    from atras.experiment import Protocol
    from atras.networks import Candidate, Member, Spec

    spec, protocol = Spec((1, 4, 4), 10, "none", head_rate256=64), Protocol(precision="fp32", batch_size=8)
    members = [Member(Candidate((8, 16)), 0), Member(Candidate((5,)), 3), Member(Candidate.parse("c7-c20-c5"), 2)]
    assert why_not(device) == ""
    fused, draw = FusedEngine(spec, members, protocol, device), torch.Generator().manual_seed(5)
    loops = [LoopEngine(spec, [member], protocol, device) for member in members]
    for engine in (fused, *loops):
        engine.begin_phase("train")
    for shape in ([8], [3, 8], [5]):
        images = torch.rand(*shape, *spec.image_shape, generator=draw).to(device)
        labels = torch.randint(0, 10, shape, generator=draw).to(device)
        found = fused.step(images, labels)
        assert found.losses.device.type == device.type
        for i, loop in enumerate(loops):
            own = (images, labels) if len(shape) == 1 else (images[i : i + 1], labels[i : i + 1])
            # float32 both; a gradient at rounding level can turn an update of 1e-3 around.
            assert float(found.losses[i]) == pytest.approx(float(loop.step(*own).losses), rel=1e-3)
    gradient, out = fused.gradient(images, lambda logits: logits.argmin(-1))
    for i, loop in enumerate(loops):
        own_gradient, own_out = loop.gradient(images, lambda logits: logits.argmin(-1))
        assert_close(out[i], own_out[0], rtol=1e-2, atol=1e-3)  # after three such updates
        assert (gradient[i] - own_gradient[0]).norm() <= 1e-2 * own_gradient.norm()


@pytest.mark.skipif(not CHILD, reason="a GPU has what the interpreter lacks")
def test_the_interpreter_claims_neither_tf32_nor_bf16():
    assert Step.precisions() == ("fp32",)
    assert make(DENSE[2]).instructions == "triton interpreter"


@in_parent
def test_a_step_on_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    with pytest.raises(ValueError, match="step: it takes tensors on a CUDA device, got cpu"):
        Step((1, 2, 2), 2, [[1]])


@in_parent
def test_tf32_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match="expected fp32 or bf16 on a CPU; tf32 needs a GPU"):
        Step((1, 2, 2), 2, [[1]], precision="tf32")


@pytest.mark.gpu
@in_parent
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_graphs_change_no_bit(case, precision):
    device = torch.device("cuda")
    replayed, launched = (make(case, device=device, precision=precision) for _ in range(2))
    launched._step.graphs.reason = "switched off"
    images, labels, order = work(case)
    there = images.to(device), labels.to(device)  # once: a graph reads what lies where it lay
    for _ in range(4):
        assert_same(*(step.train(*there, order, **plan(case)) for step in (replayed, launched)))
    assert_same(all_values(replayed, case), all_values(launched, case))
    assert replayed.fallback == ""
    steps, sizes = -(-case.images // case.batch), 1 + (case.images % case.batch > 0)
    assert replayed._step.graphs.replays == 4 * steps - sizes  # all but the first of a whole and of a partial batch
    assert launched._step.graphs.replays == 0


@pytest.mark.gpu
@in_parent
@pytest.mark.parametrize("case", [DENSE[1], STEMS[0], CHAINS[0]], ids=str)
def test_images_that_move_replay_the_same_graphs(case):
    device, images = torch.device("cuda"), work(case, torch.float32)[0]
    replayed, launched = (make(case, device=device, precision="bf16") for _ in range(2))
    launched._step.graphs.reason = "switched off"
    for turn in range(4):
        moved, labels = (images * (1 - turn / 8)).to(device), torch.arange(IMAGES, device=device) % (turn + 1)
        for kind in ({}, {"objective": "margin"}):
            assert_same(*(each.input_gradient(moved, labels, **kind) for each in (replayed, launched)))
        assert_same(*(each.logits(moved) for each in (replayed, launched)))
    assert replayed.fallback == ""
    assert len(replayed._step.graphs._graphs) == 3
    assert replayed._step.graphs.replays == 3 * 3


@pytest.mark.gpu
@in_parent
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("case", [
    Case("conv2", (1, 28, 28), "relu", [[512], [64, 32]], 32, 64),
    Case("none", (1, 28, 28), "gelu", [[300, 300], [20]], 32, 64),
], ids=str)  # fmt: skip
def test_signs_are_as_those_of_fp32_whatever_training_multiplies_in(case, precision):
    """As many differ from float64's as in fp32, give or take: what is left out of a product is 2^-22 of it."""
    device, images = torch.device("cuda"), make_step_inputs(200, case.image_shape)[0]
    expected = define(case).input_gradient(images, signs=True).gradient

    def differing(precision):
        found = make(case, device=device, precision=precision).input_gradient(images.to(device), signs=True)
        return int((found.gradient.cpu() != expected).sum())

    # A sign turns where a gradient is nearer to zero than its rounding: some 1e-6 of them, so few that chance counts.
    assert differing(precision) <= 4 * differing("fp32") + 2e-5 * expected.numel()


@pytest.mark.gpu
@in_parent
def test_the_digits_table_differs_no_more_than_between_two_seeds():
    import numpy as np

    pl = pytest.importorskip("polars")
    if missing := backends.missing("cpu", torch.device("cpu")):
        pytest.skip(f"compared with the C++: {missing}")
    from atras.experiment import Execution, Protocol
    from atras.running import run

    def accuracies(table, seed):
        return table.filter(pl.col("seed") == seed).select(pl.col("^.*_accuracy.*$")).to_numpy()

    protocol = Protocol(epochs=5, adversarial_epochs=5)
    expected = run(protocol.replace(seeds=(0, 1), precision="fp32"), Execution(engine="fused", device="cpu")).table
    tables = [run(protocol, Execution(engine="fused", device="cuda")).table for _ in range(2)]
    assert tables[0].equals(tables[1])
    difference = np.abs(accuracies(expected, 0) - accuracies(tables[0], 0)).mean(0)
    assert (difference <= np.abs(accuracies(expected, 0) - accuracies(expected, 1)).mean(0)).all()


def cotangents_of(case, count):
    return torch.randn(len(case.hidden), count, 10, generator=torch.Generator().manual_seed(7))


# The slow stem has its turn in training.
@pytest.mark.parametrize("case", [DENSE[0], DENSE[1], STEMS[0], SLOW_CHAIN], ids=str)
def test_input_gradients_of_any_objective_are_as_defined(case, device):
    images, labels, _ = work(case, torch.float32)
    count = 2 if convolved(case) else IMAGES
    images, labels = images[:count], labels[:count]
    step, definition, given = make(case, device=device), define(case), cotangents_of(case, count)
    found = step.input_gradient(images.to(device), cotangents=given.to(device))
    expected = definition.input_gradient(images, cotangents=given)
    for a, b in zip(found.gradient.cpu().double(), expected.gradient, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()  # float32 against float64
    assert_same(found.zero, (found.gradient == 0).flatten(1).sum(1))
    assert_same(found.logits, step.logits(images.to(device)))
    assert_same(step.input_gradient(images.to(device), labels.to(device)).logits, found.logits)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", [DENSE[0], pytest.param(STEMS[0], marks=pytest.mark.slow), SLOW_CHAIN], ids=str)
def test_trains_on_any_objective_as_defined(case, precision, device, monkeypatch):
    if CHILD:  # the interpreter multiplies no bf16
        monkeypatch.setitem(importlib.import_module("atras.kernels.step.gpu_batch").DTYPES, "bf16", torch.float16)
    images, labels, order = work(case)
    there, order = [tensor.to(device) for tensor in (images, labels)], order[: case.batch]
    options = {"optimizer": "sgd", "momentum": 0.5}
    step = make(case, device=device, precision=precision, **options)
    rounding = step._step.copy.dtype if precision == "bf16" else None
    definition = define(case, rounding, **options)
    arguments = plan(case, 0.05)
    rates = arguments.pop("learning_rates")
    # A third call is replayed on a GPU. In 16 bits a number may be rounded the other way, and a second step then find a
    # ReLU on the other side of its kink.
    for seed in range(3 if precision == "fp32" else 1):
        logits = step.training_logits(there[0], order, **arguments)
        given = torch.tanh(logits.cpu() + seed).flip(-1) / len(order)
        numbers = given.to(device).requires_grad_()  # which is of no consequence
        found = step.train(*there, order, learning_rates=rates, **arguments, cotangents=numbers)
        expected = definition.train(images, labels, order, learning_rates=rates, **arguments, cotangents=given)
        targets = labels[order].expand(logits.shape[:2])
        own = [torch.nn.functional.cross_entropy(z.double(), y) for z, y in zip(logits.cpu(), targets, strict=True)]
        assert_close(found[0][:, 0], torch.stack(own), rtol=1e-5, atol=1e-6)  # it is those logits' loss, in float32
        assert_close(found[0], expected[0], rtol=1e-4, atol=2e-6)  # float32 against float64
    # The same; 1e-6 in the interpreter, but a number in the middle between two of 16 bits may be rounded to the other
    # one, and there are layers of few numbers.
    assert_near_the_definition(step, definition, case, 1e-3 if rounding is None else torch.finfo(rounding).eps / 2)


@pytest.mark.parametrize("case", [DENSE[1]], ids=str)
def test_training_logits_change_nothing(case, device):
    images, labels, order = work(case)
    there, order = [tensor.to(device) for tensor in (images, labels)], order[: case.batch]
    step, untouched = make(case, device=device), make(case, device=device)
    arguments = plan(case)
    rates = arguments.pop("learning_rates")
    logits = step.training_logits(there[0], order, **arguments)
    defined = define(case).training_logits(images, order, **arguments)
    assert_close(logits.double(), defined, rtol=1e-4, atol=1e-5)  # float32 against float64
    assert step.steps == [0] * len(case.hidden)
    results = [each.train(*there, order, learning_rates=rates, **arguments) for each in (step, untouched)]
    assert_same(*results)
    assert_same(all_values(step, case), all_values(untouched, case))
    assert step.training_logits(there[0], order[:0]).shape == (len(case.hidden), 0, 10)
