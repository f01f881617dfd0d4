"""What the host does around the launches of op step on a GPU: how often it waits, copies and records."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

import gpu_kernels
from atras.engines import FusedEngine
from atras.experiment import Protocol
from atras.kernels import ConvLayer, backends
from atras.kernels.step import checks, gpu_graph
from atras.networks import Candidate, Member, Spec
from atras.testing import Waits, make_step_inputs

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(backends.interpreting(), reason="nothing here computes")
MEMBERS, IMAGES = 2, 24


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that do nothing but leave their names."""
    names: list[str] = []
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, **__: names.append(self.__name__))
    return names


def population(precision: str = "bf16", chains: Any = ((),) * MEMBERS, clip: float | None = None) -> Any:
    gpu_triton = importlib.import_module("atras.kernels.step.gpu_triton")
    options = {"activation": "relu", "batch": 8, "optimizer": "adam", "momentum": 0.0, "head_rate256": 0}
    options |= {"label_smoothing": 0.0, "clip": clip, "average": None, "precision": precision}
    hidden = [[20], [9, 5]]
    return gpu_triton.Population((1, 3, 3), 4, hidden, chains=chains, device=torch.device("cpu"), **options)


def train(step: Any, images: Tensor, labels: Tensor, rows: int) -> None:
    order, zeros = torch.arange(rows)[None], torch.zeros(MEMBERS, dtype=torch.int64)
    rates = torch.ones(MEMBERS, -(-rows // 8), dtype=torch.float64)
    step.train(images, labels, order, zeros, None, 0.0, rates, None, zeros, 0, None, 8)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """By what each step of a population would be found among the recordings; "forgotten" where they all go."""
    found: list[Any] = []

    def run(self: Any, key: Any, launch: Callable[[], None]) -> None:
        found.append(key)
        launch()

    monkeypatch.setattr(gpu_graph.Graphs, "run", run)
    monkeypatch.setattr(gpu_graph.Graphs, "forget", lambda self: found.append("forgotten"))
    return found


def test_batches_that_lie_elsewhere_every_time_are_one_recording(launches: list[str], keys: list[Any]) -> None:
    step = population()
    batches = [make_step_inputs(8, (1, 3, 3), seed=seed) for seed in range(3)]  # all kept: none lies where one lay
    for images, labels in batches:
        train(step, images, labels, 8)
    steps = [key for key in keys if key != "forgotten"]
    assert len(steps) == 3
    assert len(set(steps)) == 1
    assert launches.count("gather_kernel") == 3
    assert launches[0] == "gather_kernel"
    images, labels = make_step_inputs(IMAGES, (1, 3, 3))
    train(step, images, labels, IMAGES)
    assert images.data_ptr() in keys[-1]  # a whole epoch's gathering is recorded too


def test_copies_of_all_images_leave_the_recordings(launches: list[str], keys: list[Any]) -> None:
    step = population()
    images, labels = make_step_inputs(2 * IMAGES, (1, 3, 3))
    train(step, images, labels, IMAGES)
    before = keys.count("forgotten")
    train(step, images, labels, 2 * IMAGES)
    assert keys.count("forgotten") == before


def test_a_members_parameters_go_in_one_piece() -> None:
    step, copied = population("fp32"), []
    place = step.parameters.untyped_storage().data_ptr()

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten.copy_.default and args[0].untyped_storage().data_ptr() == place:
                copied.append(args[0].shape)
            return function(*args, **(kwargs or {}))

    shapes = [(9, 9), (9,), (5, 9), (5,), (4, 5), (4,)]
    arrays = [torch.rand(shape) for shape in shapes]
    with Copies():
        step.set_parameters(1, arrays, 0)
    assert len(copied) == 1
    with Waits() as waits:
        found = step.get_parameters(1, shapes, 0)
    assert len(waits.places) == 1
    assert all(torch.equal(got, given) for got, given in zip(found, arrays, strict=True))
    assert not step.parameters[step.layout.span(0)].any()  # the neighbour's stay as they were


@pytest.mark.parametrize("objective", ["odds", "margin"])
def test_batches_of_another_size_compile_nothing(objective: str) -> None:
    gpu_loss = importlib.import_module("atras.kernels.step.gpu_loss")
    with gpu_kernels.recording(90) as recorder:
        for rows in (128, 122, 16, 8, 1):
            logits, labels = torch.zeros(MEMBERS, rows, 16), torch.zeros(MEMBERS, rows, dtype=torch.int64)
            if objective == "odds":
                losses, correct = torch.zeros(MEMBERS), torch.zeros(MEMBERS, dtype=torch.int64)
                gpu_loss.launch(logits, labels, losses, correct, logits, classes=10, odds=True)
            else:
                gpu_loss.launch_objective(objective, logits, labels, None, logits, classes=10)
    assert len(recorder.found) == 1


@pytest.mark.parametrize(("signs", "tally", "expected"), [(False, False, 0), (False, True, 1), (True, False, 1)])
def test_gradients_are_read_again_only_for_signs_or_counts(
    launches: list[str], signs: bool, tally: bool, expected: int
) -> None:
    step, (images, labels) = population(), make_step_inputs(5, (1, 3, 3), dtype=torch.float32)
    found = step.input_gradient(images, labels, "odds", None, None, signs, 1, None, False, tally)
    assert launches.count("fgsm_kernel") == expected
    assert found.gradient.dtype == (torch.int8 if signs else torch.float32)
    assert (found.zero is not None) is tally
    assert (found.nan is not None) is tally


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with nothing remembered yet."""
    monkeypatch.setattr(checks, "waits", lambda values: True)
    monkeypatch.setattr(checks, "_EXTENTS", WeakIdKeyDictionary())


@pytest.mark.usefixtures("remembering")
def test_labels_are_looked_at_once_and_again_when_they_change() -> None:
    labels = torch.arange(40) % 5
    with Waits() as waits:
        for start in range(0, 40, 8):
            checks.within("labels", labels[start : start + 8], 5, "")
    assert len(waits.places) == 1
    labels[3] = 5
    with pytest.raises(ValueError, match="from 0 to 4, got 0 to 5"):
        checks.within("labels", labels[:8], 5, "")
    checks.within("labels", labels[8:16], 5, "")  # the wrong one is not among these
    with torch.inference_mode():
        checks.within("labels", torch.tensor([1, 2]), 5, "")


@pytest.mark.usefixtures("remembering")
@pytest.mark.parametrize(("values", "expected"), [([1, 1], True), ([0, 1], False)])
def test_members_of_one_order_are_known_from_what_is_remembered(values: list[int], expected: bool) -> None:
    order_of = torch.tensor(values)
    assert checks.alike(order_of) is expected
    assert checks.alike(torch.tensor([*values, 2])[:2]) is expected
    with Waits() as waits:
        checks.alike(order_of)
    assert not waits.places


# The second one's last convolution meets a single pixel: it is computed as a dense layer, and belongs to the heads.
CHAINS = ((ConvLayer(5),), (ConvLayer(6), ConvLayer(7, padding=1)))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What streams are told, without CUDA, and the kernels that are launched on them."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = name if isinstance(name, str) else "second"

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

    main, current = Stream("first"), []

    class On:
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            current.append(self.stream)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", On)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current[-1] if current else main)

    def launch(self: Any, *_: Any, **__: Any) -> None:
        module = self.fn.__module__.rpartition("gpu_kernels_")[2]
        told.append(f"{torch.cuda.current_stream().name}: {module} {self.__name__}")

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    return told


@pytest.mark.parametrize("clip", [None, 1.0], ids=["plain", "clipped"])
def test_heads_run_beside_the_convolutions(events: list[str], clip: float | None) -> None:
    step = population(chains=CHAINS, clip=clip)
    gpu_beside = importlib.import_module("atras.kernels.step.gpu_beside")
    step.beside = gpu_beside.Beside(torch.device("cuda"))
    images, labels = make_step_inputs(8, (1, 3, 3))
    train(step, images, labels, 8)
    fork, join = events.index("second waits for first"), events.index("first waits for second")
    second = [event for event in events if event.startswith("second: ")]
    assert (
        second == ["second: dense weight_gradient_kernel", "second: optimizer adam_kernel"][: 2 if clip is None else 1]
    )
    assert all(fork < events.index(event) < join for event in second)
    first = [event.partition(": ")[2] for event in events[fork:join] if event.startswith("first: ")]
    assert first.count("optimizer adam_kernel") == (clip is None)
    assert any("weight_gradient" in event for event in first)
    after = [event.partition(": ")[2] for event in events[join + 1 :]]
    update = ["optimizer squares_kernel", "optimizer scales_kernel", "optimizer adam_kernel"] if clip else []
    assert after == [*update, "gather bump_kernel"]


def test_heads_and_convolutions_are_all_that_is_trained() -> None:
    layout = population(chains=CHAINS).layout
    heads, convolutions = layout.parted
    assert sorted([*heads, *convolutions]) == layout.segments
    assert sum(end - start for start, end, _ in convolutions) == 2 * (9 * 16 + 16)
    assert not population().layout.parted[1]


@pytest.mark.usefixtures("remembering")
def test_batches_of_an_engine_are_looked_at_for_their_labels_alone() -> None:
    protocol = Protocol(precision="fp32", batch_size=8)
    members = [Member(Candidate((width,)), 0) for width in (4, 6)]
    engine = FusedEngine(Spec((1, 3, 3), 4), members, protocol, torch.device("cpu"))
    engine.begin_phase("train")
    places = []
    for seed in range(2):
        images, labels = make_step_inputs(8, (1, 3, 3), classes=4, dtype=torch.float32, seed=seed)
        with Waits() as waits:
            engine.gradient(images, labels)
            engine.gradient(images, labels.expand(2, 8))
            engine.step(images.expand(2, *images.shape), labels)
            engine.step(images, labels)
        places.append([place for place in waits.places if "/checks.py" in place])
    # The labels, those of all members one behind the other, and of both steps, on the host, whose order is whose; in
    # the first batch also both orders, which stay the same.
    assert (len(places[0]), len(places[1])) == (6, 4), places
