"""Op step in Triton against autograd in float64: interpreted in a child process, compiled ahead of time, on a GPU."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from atras.kernels import Step, backends
from atras.kernels.step import gpu_layout, reference
from atras.kernels.step.gpu_graph import MOST, Graphs
from atras.testing.inputs import assert_close, make_step_inputs, make_step_parameters

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
CHILD = backends.interpreting()
in_parent = pytest.mark.skipif(CHILD, reason="the child process does not ask for it again")
# Triton's interpreter computes with numpy, which warns of infinities and NaN that a GPU passes over.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")]
IMAGES = 12


class Case(NamedTuple):
    """A population and how it is trained: two or three steps, of which the last is smaller."""

    stem: str
    image_shape: tuple[int, int, int]
    activation: str
    hidden: list[list[int]]
    batch: int
    order: int
    head_rate256: int = 0

    def __str__(self) -> str:
        return f"{self.stem}-{self.activation}-{self.batch}"


# Unequal depths (one with no hidden layer), widths around 16 and past a tile's 64, pixels that are no multiple of 16.
DENSE = [
    Case("none", (1, 6, 6), "relu", [[40], [7, 66, 1], []], 5, 12, 64),
    Case("none", (3, 5, 3), "sigmoid", [[7, 9], [16]], 4, 10, 30),
    Case("none", (1, 5, 3), "gelu", [[9], [33, 5]], 1, 3),
    Case("none", (1, 8, 8), "tanh", [[70, 3]], 80, 170, 128),
]
# The first leaves more than a pixel, so that channels change places before the first dense layer.
STEMS = [
    Case("conv2", (1, 14, 10), "relu", [[9], [7, 18]], 2, 3, 64),
    Case("conv4", (3, 10, 10), "gelu", [[9]], 1, 2),
]
CASES = [*DENSE, *STEMS]


@pytest.fixture(params=["cpu"] if CHILD else [pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where Triton computes: its interpreter on the CPU, in the child process, or a GPU."""
    return torch.device(request.param)


def parameters(case, member):
    shapes = reference.parameter_shapes(case.image_shape, 10, case.stem, case.hidden[member])
    return make_step_parameters(shapes, seed=member + 5)


def build(case, kind, **options):
    common = {"stem": case.stem, "activation": case.activation, "head_rate256": case.head_rate256, "batch": case.batch}
    step = kind(case.image_shape, 10, case.hidden, **common, **options)
    for m in range(len(case.hidden)):
        step.pour_in(m, parameters(case, m))
    return step


def make(case, device, **options):
    """The op on poisoned scratch."""
    step = build(case, Step, device=device, **options)
    step.poison()
    return step


def define(case, **options):
    """The definition in float64."""
    return build(case, reference.Step, dtype=torch.float64, **options)


def work(case, dtype=torch.uint8):
    images, labels = make_step_inputs(IMAGES, case.image_shape, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    epochs = [torch.randperm(IMAGES, generator=generator) for _ in range(-(-case.order // IMAGES))]
    return images, labels, torch.cat(epochs)[: case.order]


def plan(case, rate=1e-3):
    members = len(case.hidden)
    return {
        "learning_rates": torch.full((members,), rate).double(),
        "keys": torch.arange(members) * 2**40 - 77,
        "first_step": 3,
    }


def train(step, case, device=None, rate=1e-3, **arguments):
    images, labels, order = work(case)
    if device is not None:
        images, labels = images.to(device), labels.to(device)
    return step.train(images, labels, order, **{**plan(case, rate), **arguments})


def pour_all(step, case):
    return [step.pour_out(m) for m in range(len(case.hidden))]


def assert_same(found, expected):
    """Bit for bit, in tuples and lists too."""
    if isinstance(found, torch.Tensor):
        assert_close(found, expected)
        return
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)


@in_parent
def test_interpreted_steps_agree_with_the_definition():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "ATRAS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 24, run.stdout


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_as_defined(case, optimizer, device):
    if optimizer == "sgd" and case != DENSE[0]:
        pytest.skip("the optimizers know no activation")
    rate, momentum, distance = {"adam": (1e-3, 0.0, 2e-2), "sgd": (0.05, 0.5, 1e-3)}[optimizer]
    options = {"optimizer": optimizer, "momentum": momentum}
    step, definition = make(case, device, **options), define(case, **options)
    losses, correct = train(step, case, device, rate)
    expected, expected_correct = train(definition, case, rate=rate)
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6, which a few updates amplify.
    assert_close(losses, expected, rtol=2e-5, atol=2e-6)
    assert_same(correct, expected_correct)
    assert step.steps == [losses.shape[1]] * len(case.hidden)
    for m, (found, defined) in enumerate(zip(pour_all(step, case), pour_all(definition, case), strict=True)):
        for a, b, start in zip(found, defined, parameters(case, m), strict=True):
            # Against how far it moved. Adam moves a parameter whose gradient is but rounding by its full rate.
            assert (a - b).norm() <= distance * (b - start).norm() + 1e-7, tuple(a.shape)


@pytest.mark.parametrize(
    "case", [DENSE[0], DENSE[1], STEMS[0], pytest.param(STEMS[1], marks=pytest.mark.slow)], ids=str
)
def test_evaluates_as_defined(case, device):
    images, labels, _ = work(case, torch.float32)
    count = 2 if case.stem != "none" else IMAGES
    images, labels = images[:count], labels[:count]
    step, definition = make(case, device), define(case)
    # float32 against float64, as for training but without updates.
    assert_close(step.logits(images.to(device)).double(), definition.logits(images), rtol=1e-4, atol=1e-5)
    for given in (labels, None):
        found, zero, nan = step.input_gradient(images.to(device), None if given is None else given.to(device))
        expected, *_ = definition.input_gradient(images, given)
        for a, b in zip(found.cpu().double(), expected, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()
        assert_same(zero, (found == 0).flatten(1).sum(1))
        assert not nan.any()
    signs, *counts = step.input_gradient(images.to(device), signs=True, direction=-1)
    assert_same(signs, -found.sign().to(torch.int8))
    assert_same(counts, (zero, nan))


def test_evaluation_goes_on_past_a_chunk(device):
    case = Case("none", (1, 2, 2), "relu", [[3], [4]], 2, 4)
    step, definition = make(case, device), define(case)
    count = gpu_layout.EVALUATION_ROWS + 2
    own = torch.stack([make_step_inputs(count, case.image_shape, seed=m)[0] for m in range(2)])
    labels = torch.arange(2 * count).view(2, count) % 10
    assert_close(step.logits(own.to(device)).double(), definition.logits(own), rtol=1e-4, atol=1e-5)  # as above
    found = step.input_gradient(own.to(device), labels.to(device))[0].cpu().double()
    expected = definition.input_gradient(own, labels)[0]
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("case", [DENSE[1], STEMS[0]], ids=str)
def test_adversarial_copies_and_orders_of_its_own(case, device):
    members, generator = len(case.hidden), torch.Generator().manual_seed(4)
    images, labels, _ = work(case)
    signs = torch.randint(-1, 2, (members, *images.shape), generator=generator, dtype=torch.int8)
    orders = torch.stack([torch.randperm(2 * IMAGES, generator=generator)[: case.order] for _ in range(3)])
    arguments = {"order_of": torch.tensor([2, 0]), **plan(case, 1e-2), "epsilon": 0.05}
    step, definition = make(case, device), define(case)
    there = [tensor.to(device) for tensor in (images, labels)]
    found = step.train(*there, orders.to(device), signs=signs.to(device), **arguments)
    expected = definition.train(images, labels, orders, signs=signs, **arguments)
    assert_close(found[0], expected[0], rtol=1e-4, atol=2e-6)  # as above, at ten times the rate
    assert_same(found[1], expected[1])
    step, definition = make(case, device), define(case)
    logits = step.logits(images[:3].to(device), signs[:, :3].to(device).contiguous(), 0.05).double()
    assert_close(logits, definition.logits(images[:3], signs[:, :3], 0.05), rtol=1e-4, atol=1e-5)  # as above


@pytest.mark.parametrize("case", [DENSE[0], pytest.param(STEMS[0], marks=pytest.mark.slow)], ids=str)
def test_a_diverging_neighbour_changes_nothing(case, device):
    usual, wild = (torch.full((len(case.hidden),), 1e-3).double() for _ in range(2))
    wild[1] = 1e30
    first, again, beside = (make(case, device) for _ in range(3))
    losses = train(first, case, device, learning_rates=usual)[0]
    assert_same(train(again, case, device, learning_rates=usual)[0], losses)
    assert_same(pour_all(again, case), pour_all(first, case))
    wild_losses = train(beside, case, device, learning_rates=wild)[0]
    assert not wild_losses[1].isfinite().all()
    for m in range(len(case.hidden)):
        if m != 1:
            assert_same(wild_losses[m], losses[m])
            assert_same(beside.pour_out(m), first.pour_out(m))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_calls_can_be_cut_anywhere_and_moments_poured(optimizer, device):
    case, options = DENSE[0], {"optimizer": optimizer, "momentum": 0.9}
    whole, stepped = (make(case, device, **options) for _ in range(2))
    expected = train(whole, case, device)
    images, labels, order = work(case)
    parts = []
    for i, index in enumerate(order.split(case.batch)):
        arguments = plan(case) | {"first_step": 3 + i}
        parts.append(stepped.train(images.to(device), labels.to(device), index, **arguments))
        other = make(case, device, **options)
        for m in range(len(case.hidden)):
            for moment in range(3 if optimizer == "adam" else 2):
                other.pour_in(m, stepped.pour_out(m, moment), moment)
        other.set_steps(stepped.steps)
        stepped = other
    assert_same([torch.cat(each, 1) for each in zip(*parts, strict=True)], expected)
    assert_same(pour_all(stepped, case), pour_all(whole, case))
    whole.reset_optimizer()
    assert whole.steps == [0] * len(case.hidden)
    assert not any(array.any() for array in whole.pour_out(0, 1))


@pytest.mark.parametrize("case", [DENSE[1]], ids=str)
def test_padding_stays_zero(case, device):
    step = make(case, device)
    train(step, case, device, rate=1e-2)
    population = step._step
    for buffer in (population.parameters, population.moments[0], population.moments[1]):
        padding = buffer.clone()
        for m in range(len(case.hidden)):
            for view in population.layout.views(padding, m):
                view.zero_()
        assert buffer.any()
        assert not padding.any()


@pytest.mark.parametrize("case", [DENSE[1], pytest.param(STEMS[0], marks=pytest.mark.slow)], ids=str)
def test_half_precision_stays_close(case, device, monkeypatch):
    if CHILD:  # the interpreter multiplies no bf16
        monkeypatch.setitem(importlib.import_module("atras.kernels.step.gpu_batch").DTYPES, "bf16", torch.float16)
    step = make(case, device, precision="bf16")
    assert step._step.copy.dtype == (torch.float16 if CHILD else torch.bfloat16)
    expected, _ = train(define(case), case)
    found, _ = train(step, case, device)
    # A factor rounds by 2**-9 (bf16) or 2**-11 of itself, and three updates amplify that.
    assert ((found.cpu() - expected).abs() / expected).max() < 2e-2
    assert not torch.equal(found, train(make(case, device), case, device)[0])
    for view, source in zip(
        step._step.layout.views(step._step.copy, 0), step._step.layout.views(step._step.parameters, 0), strict=True
    ):
        assert_same(view, source.to(view.dtype))


def test_nothing_to_do_is_done(device):
    case = DENSE[0]
    step, (images, labels, order) = make(case, device), work(case)
    images, labels = images.to(device), labels.to(device)
    assert step.train(images, labels, order[:0], **plan(case))[0].shape == (3, 0)
    assert step.logits(images[:0]).shape == (3, 0, 10)
    assert step.input_gradient(images[:0])[0].shape == (3, 0, 1, 6, 6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", [DENSE[1], *STEMS], ids=str)
def test_memory_is_what_was_predicted(case, precision, device):
    step = make(case, device, precision=precision)
    predicted = gpu_layout.device_bytes(step._step.layout, case.activation, precision=precision, batch=case.batch)
    # Results and tables are left out; the convolutions' scratch is an upper bound.
    assert 0.9 * step.bytes <= predicted
    if case.stem == "none":
        assert predicted <= step.bytes


def test_the_single_ops_agree_with_torch(device):
    dense, cross_entropy, adam = (
        importlib.import_module(f"atras.kernels.{op}.gpu_triton") for op in ("dense", "cross_entropy", "adam")
    )
    draw = torch.Generator().manual_seed(0)
    members, rows, inputs, outputs = 2, 19, 23, 70
    weight, bias = (torch.randn(*s, generator=draw) for s in ((members, outputs, inputs), (members, outputs)))
    x, dy = (torch.randn(members, rows, n, generator=draw) for n in (inputs, outputs))
    there = [tensor.to(device) for tensor in (x, weight, bias, dy)]
    # float32 sums of up to 70 products of normal numbers.
    close = {"rtol": 1e-5, "atol": 1e-5}
    assert_close(dense.forward(*there[:3]), x @ weight.mT + bias[:, None], **close)
    assert_close(dense.forward(there[0][0], *there[1:3]), x[0] @ weight.mT + bias[:, None], **close)
    assert_close(dense.input_gradient(there[3], there[1]), dy @ weight, **close)
    dw, db = dense.weight_gradient(there[3], there[0])
    assert_close(dw, dy.mT @ x, **close)
    assert_close(db, dy.sum(1), **close)
    assert_close(dense.weight_gradient(there[3], there[0][1])[0], dy.mT @ x[1], **close)

    logits = (4 * dy).requires_grad_()
    labels = torch.randint(0, outputs, (members, rows), generator=draw)
    expected = torch.stack([torch.nn.functional.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    losses, dlogits = cross_entropy.cross_entropy(logits.detach().to(device), labels.to(device))
    assert_close(losses, expected.detach(), rtol=1e-6, atol=1e-6)
    assert_close(dlogits, gradient, rtol=1e-5, atol=1e-8)

    offsets, rates = torch.tensor([0, 1500, 1507]), torch.tensor([1e-3, 1e-2])
    start = torch.randn(1507, generator=draw, dtype=torch.float64)
    own = [part.clone().requires_grad_() for part in start.split([1500, 7])]
    state = [start.float().to(device), *(torch.zeros(1507, device=device) for _ in range(2))]
    optimizers = [torch.optim.Adam([part], lr=float(rate)) for part, rate in zip(own, rates, strict=True)]
    before = (0, 700)  # the second is past where the bias corrections are computed otherwise
    for part, optimizer, count in zip(own, optimizers, before, strict=True):
        moments = {name: torch.zeros_like(part) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[part] = {"step": torch.tensor(float(count)), **moments}
    for step in range(3):
        grads = torch.randn(1507, generator=draw)
        for part, gradient, optimizer in zip(own, grads.double().split([1500, 7]), optimizers, strict=True):
            part.grad = gradient
            optimizer.step()
        steps = torch.tensor([count + step for count in before], device=device)
        adam.adam(state[0], grads.to(device), state[1], state[2], offsets.to(device), steps, rates.to(device))
    # float32 against float64.
    assert_close(state[0].double(), torch.cat(own).detach(), rtol=1e-5, atol=1e-6)


def test_engine_fused_follows_the_loop(device):
    from atras.engines.engine import Member
    from atras.engines.fused import FusedEngine, why_not
    from atras.engines.loop import LoopEngine
    from atras.experiment.protocol import Protocol
    from atras.networks.candidates import Candidate
    from atras.networks.network import Spec

    spec, protocol = Spec((1, 4, 4), 10, "none", head_rate256=64), Protocol(precision="fp32", batch_size=8)
    members = [Member(Candidate((8, 16)), 0), Member(Candidate((5,)), 3)]
    assert why_not(device) == ""
    fused, draw = FusedEngine(spec, members, protocol, device), torch.Generator().manual_seed(5)
    loops = [LoopEngine(spec, [member], protocol, device) for member in members]
    for engine in (fused, *loops):
        engine.begin_phase("train")
    for shape in ([8], [2, 8], [5]):
        images = torch.rand(*shape, *spec.image_shape, generator=draw).to(device)
        labels = torch.randint(0, 10, shape, generator=draw).to(device)
        found = fused.step(images, labels)
        assert found.losses.device.type == device.type
        for i, loop in enumerate(loops):
            own = (images, labels) if len(shape) == 1 else (images[i : i + 1], labels[i : i + 1])
            # float32 both; a gradient at rounding level can turn an update of 1e-3 around.
            assert float(found.losses[i]) == pytest.approx(float(loop.step(*own).losses), rel=1e-3)
    gradient, out = fused.input_gradient(images, lambda logits: logits.argmin(-1))
    for i, loop in enumerate(loops):
        own_gradient, own_out = loop.input_gradient(images, lambda logits: logits.argmin(-1))
        assert_close(out[i], own_out[0], rtol=1e-2, atol=1e-3)  # after three such updates
        assert (gradient[i] - own_gradient[0]).norm() <= 1e-2 * own_gradient.norm()


@pytest.mark.skipif(not CHILD, reason="a GPU has what the interpreter lacks")
def test_the_interpreter_claims_neither_tf32_nor_bf16():
    assert Step.precisions() == ("fp32",)
    assert make(DENSE[2], torch.device("cpu")).instructions == "triton interpreter"


@in_parent
def test_a_step_on_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "triton")
    with pytest.raises(ValueError, match="step: it takes tensors on a CUDA device, got cpu"):
        Step((1, 2, 2), 2, [[1]])


@in_parent
def test_tf32_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match="expected fp32 or bf16 on a CPU; tf32 needs a GPU"):
        Step((1, 2, 2), 2, [[1]], precision="tf32")


class Recorder:
    """A CUDA graph without CUDA: replays whatever was launched while it was recorded."""

    def __init__(self):
        self.launches = []

    def replay(self):
        for launch in self.launches:
            launch()


@pytest.fixture
def recorded(monkeypatch):
    """Graphs whose recording is faked, and the calls that reached the device."""
    calls, recording = [], []

    class Capture:
        def __init__(self, graph, **_):
            self.graph = graph

        def __enter__(self):
            recording.append(self.graph)

        def __exit__(self, *_):
            recording.clear()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", Capture)

    def launch(name):
        if recording:
            recording[0].launches.append(lambda: calls.append(name))
        else:
            calls.append(name)

    return Graphs(torch.device("cuda")), launch, calls


@in_parent
def test_what_comes_again_is_recorded_and_nothing_is_launched_twice(recorded):
    graphs, launch, calls = recorded
    for i, name in enumerate("aabab"):
        graphs.run(name, lambda name=name: launch(name))
        assert calls == list("aabab")[: i + 1]
    assert graphs.replays == 3
    graphs.forget()
    graphs.run("a", lambda: launch("a"))
    assert graphs.replays == 3
    for i in range(2 * MOST):
        graphs.run(i, lambda i=i: launch(i))
    assert len(graphs._seen) <= MOST


@in_parent
def test_a_recording_that_fails_is_told_once_and_the_steps_go_on(recorded, monkeypatch, caplog):
    graphs, launch, calls = recorded

    def fail(*_, **__):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    with caplog.at_level(logging.WARNING, "atras.kernels"):
        for _ in range(4):
            graphs.run("a", lambda: launch("a"))
    assert calls == ["a"] * 4
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()
    assert graphs.reason == "capture failed: operation not permitted when stream is capturing"


@in_parent
@pytest.mark.parametrize("stem", reference.STEMS)
def test_a_steps_launches_allocate_and_copy_nothing(stem, monkeypatch):
    """Else no CUDA graph could hold them; on a CPU, with kernels that do nothing."""
    from torch.utils._python_dispatch import TorchDispatchMode

    launches, operations = [], set()

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operations.add(str(function))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, **__: launches.append(self.__name__))
    gpu_triton, gpu_gather = (importlib.import_module(f"atras.kernels.step.{n}") for n in ("gpu_triton", "gpu_gather"))
    options = {"stem": stem, "activation": "gelu", "batch": 16, "optimizer": "adam", "momentum": 0.0}
    rates = {"stem_rate256": 64, "head_rate256": 32, "precision": "bf16"}
    hidden = [[40], [24, 192], []]
    step = gpu_triton.Population((1, 12, 12), 10, hidden, **options, **rates, device=torch.device("cpu"))
    images, labels = make_step_inputs(IMAGES, (1, 12, 12))
    batch = step._batch(16, False, "bf16", "weights")
    with Log():
        step._launch(batch, gpu_gather.Source(images, None, 0.0, labels))
    assert launches[-2:] == ["adam_kernel", "bump_kernel"]
    assert operations <= {"aten.slice.Tensor", "aten.select.int", "aten.view.default"}


BLOCKS = {"BLOCK_M": 64, "BLOCK_N": 64}
DENSE_TYPES = {
    "p_layers": "*i64",
    "p_tiles": "*i32",
    "p_keys": "*i64",
    "p_step": "*i64",
    "p_biases": "*fp32",
    "rows": "i32",
}
FORWARD = {"ACTIVATION": "relu", "RATE256": 0, "SLOPES": False, "BLOCK_K": 64}
DROPPING = FORWARD | {"ACTIVATION": "gelu", "RATE256": 64, "SLOPES": True}
ADAM = {"p_copy": "*bf16", "p_tiles": "*i64", "p_steps": "*i64", "p_rates": "*fp64"}
ADAM |= dict.fromkeys(("beta1", "beta2", "log1", "log2", "epsilon", "momentum"), "fp64")
LOSS = {"p_labels": "*i64", "p_losses": "*fp64", "p_correct": "*i64", "p_gradients": "*bf16", "p_counter": "*i64"}
GATHER = {"p_images": "*u8", "p_signs": "*i8", "p_values": "*bf16", "epsilon": "fp64"}
KERNELS = {
    "forward": ("dense", "forward_kernel", DENSE_TYPES, FORWARD, "OPTIONS"),
    "forward-dropping": ("dense", "forward_kernel", DENSE_TYPES, DROPPING, "OPTIONS"),
    "input-gradient": ("dense", "input_gradient_kernel", DENSE_TYPES, {"SLOPE": "relu", "RATE256": 0}, "OPTIONS"),
    "weight-gradient": ("dense", "weight_gradient_kernel", DENSE_TYPES | {"p_weights": "*fp32"}, {}, "BATCH_OPTIONS"),
    "adam": ("adam", "adam_kernel", ADAM, {"ALIGNED": True, "COPY": True, "BLOCK": 1024}, "OPTIONS"),
    "sgd": ("adam", "sgd_kernel", ADAM, {"ALIGNED": True, "COPY": True, "BLOCK": 1024}, "OPTIONS"),
    "cross-entropy": (
        "cross_entropy",
        "cross_entropy_kernel",
        LOSS,
        {"COUNTED": True, "PREDICTED": False, "MEAN": True, "BLOCK_B": 128, "BLOCK_Y": 16},
        "OPTIONS",
    ),
    "gather": (
        "step.gpu_gather",
        "gather_kernel",
        GATHER,
        {"ORDERED": True, "OWN": False, "SIGNS": True, "LABELS": True, "BLOCK": 1024},
        "OPTIONS",
    ),
    "bump": ("step.gpu_gather", "bump_kernel", {}, {"BLOCK": 1024}, "OPTIONS"),
}
SIZES = {"rows", "stride", "gradient_stride", "label_stride", "pixels", "stored"}  # multiples of 16


def compiled(name, capability, precision="bf16"):
    """A kernel compiled for a card that need not be here, with what the launcher would find aligned."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    op, kernel, types, constants, options = KERNELS[name]
    module = importlib.import_module("atras.kernels." + (op if "." in op else f"{op}.gpu_triton"))
    function = getattr(module, kernel)
    names = function.arg_names
    if op == "dense":
        depths = module.BATCH_DEPTHS if options == "BATCH_OPTIONS" else module.DEPTHS
        constants = {"ALIGNED": True, "FIELDS": len(module.Layer._fields), **BLOCKS, **constants}
        constants |= {"PRECISION": module.INPUT_PRECISION[precision], "BLOCK_K": depths[precision]}
        operand = "*bf16" if precision == "bf16" else "*fp32"
    else:
        operand = "*fp32" if op in ("adam", "cross_entropy") else "*i64"
    default = {n: operand if n.startswith("p_") else "i32" for n in names}
    signature = {n: "constexpr" if n in constants else {**default, **types}[n] for n in names}
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*" or n in SIZES},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=getattr(module, options))


def assembled(ptx, tmp_path):
    """What Triton's own assembler says about registers and spills; it ships two, for older and newer cards."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    (tmp_path / "kernel.ptx").write_text(ptx)
    arch = re.search(r"\.target (\w+)", ptx)[1]
    for tool in sorted(folder.glob("ptxas*")):
        command = [tool, "-v", f"-arch={arch}", tmp_path / "kernel.ptx", "-o", os.devnull]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 0:
            return run.stderr
    raise AssertionError(f"no ptxas in {folder} takes {arch}: {run.stderr}")


TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma", 100: "tcgen05.mma"}
PRODUCTS = ["forward", "forward-dropping", "input-gradient", "weight-gradient"]
# Every kernel in bf16 for every card; the other precisions where they differ, and slow beyond one card.
COMPILED = [(name, capability, "bf16") for name in KERNELS for capability in TENSOR_CORES]
COMPILED += [(name, 90, precision) for name in PRODUCTS for precision in ("tf32", "fp32")]
COMPILED += [
    pytest.param(name, capability, precision, marks=pytest.mark.slow)
    for name in PRODUCTS
    for capability in (80, 100)
    for precision in ("tf32", "fp32")
]


@in_parent
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton ships its assembler for Linux")
@pytest.mark.parametrize(("name", "capability", "precision"), COMPILED)
def test_kernels_compile_without_spills(name, capability, precision, tmp_path):
    kernel = compiled(name, capability, precision)
    report = assembled(kernel.asm["ptx"], tmp_path)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    assert spills
    assert set(spills) == {"0"}, report
    assert kernel.metadata.shared <= 99 * 1024
    ptx = kernel.asm["ptx"]
    if name in PRODUCTS:
        assert (TENSOR_CORES[capability] in ptx) == (precision != "fp32")
        # Operands come 16 bytes at a time, but for tf32, whose transposed operands go 4 by 4.
        narrow = re.search(r"cp\.async\.c[ag]\.shared\.global [^;]*, 0x[48],", ptx)
        assert narrow is None or precision == "tf32"


@pytest.mark.gpu
@in_parent
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_graphs_change_no_bit(case, precision):
    device = torch.device("cuda")
    replayed, launched = (make(case, device, precision=precision) for _ in range(2))
    launched._step.graphs.reason = "switched off"
    for _ in range(4):
        assert_same(train(replayed, case, device), train(launched, case, device))
    assert_same(pour_all(replayed, case), pour_all(launched, case))
    assert replayed.fallback == ""
    assert replayed._step.graphs.replays > 4
    assert launched._step.graphs.replays == 0


@pytest.mark.gpu
@in_parent
def test_the_digits_table_differs_no_more_than_between_two_seeds():
    import numpy as np
    import polars as pl

    from atras.experiment.protocol import Execution, Protocol
    from atras.running.orchestrator import run

    def accuracies(table, seed):
        return table.filter(pl.col("seed") == seed).select(pl.col("^.*_accuracy.*$")).to_numpy()

    protocol = Protocol(epochs=5, adversarial_epochs=5)
    expected = run(protocol.replace(seeds=(0, 1), precision="fp32"), Execution(engine="fused", device="cpu")).table
    tables = [run(protocol, Execution(engine="fused", device="cuda")).table for _ in range(2)]
    assert tables[0].equals(tables[1])
    difference = np.abs(accuracies(expected, 0) - accuracies(tables[0], 0)).mean(0)
    assert (difference <= np.abs(accuracies(expected, 0) - accuracies(expected, 1)).mean(0)).all()
