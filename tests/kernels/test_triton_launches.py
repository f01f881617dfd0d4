"""A step's launches: what they do beside launching, and how they are recorded and replayed."""

from __future__ import annotations

import importlib
import logging
from typing import ClassVar

import pytest
import torch

from atras.kernels import ConvLayer, backends
from atras.kernels.step import reference
from atras.kernels.step.gpu_graph import MOST, Graphs
from atras.testing import make_step_inputs

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(backends.interpreting(), reason="nothing here computes")


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


OPTIONS = {"optimizer": "adam", "momentum": 0.0, "head_rate256": 32, "label_smoothing": 0.1, "clip": 1.0}
OWN = [ConvLayer(24, padding=1, pool=2, rate256=64), ConvLayer(7)]


def population(stem="none", batch=16, precision="bf16"):
    """Three members, the last with convolutions of its own, and everything that an update may do besides."""
    gpu_triton = importlib.import_module("atras.kernels.step.gpu_triton")
    chains = [reference.chain_of(stem, convolutions, 64) for convolutions in ([], [], OWN)]
    return gpu_triton.Population(
        (1, 12, 12), 10, [[40], [24, 192], []], chains=chains, precision=precision, activation="gelu", batch=batch,
        average=0.9, device=torch.device("cpu"), **OPTIONS,
    )  # fmt: skip


def test_every_step_but_the_first_of_its_size_is_replayed(recorded, monkeypatch):
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, **__: None)
    step, (images, labels) = population("conv2", 5), make_step_inputs(12, (1, 12, 12))
    step.graphs = recorded[0]
    rates, keys = torch.full((3, 3), 1e-3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    given = {"order_of": keys, "signs": None, "epsilon": 0.0, "learning_rates": rates, "weight_decays": None}
    given |= {"keys": keys, "first_step": 0, "cotangents": None, "size": 5}
    for calls in range(1, 4):
        step.train(images, labels, torch.arange(12)[None], **given)
        assert step.graphs.replays == 3 * calls - 2  # batches of 5, 5 and 2
    step.train(images.clone(), labels, torch.arange(12)[None], **given)  # a graph would read where the others lay
    assert step.graphs.replays == 3 * calls - 2 + 1


@pytest.fixture
def launches(monkeypatch):
    """Kernels do nothing; their names and constants are noted."""
    found = []

    def launch(self, *arguments, **_):
        given = zip(self.arg_names, arguments, strict=False)
        found.append((self.__name__, {name: value for name, value in given if not isinstance(value, torch.Tensor)}))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    return found


@pytest.fixture
def operations():
    """A context in which torch's operations are noted, and the set of them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        seen: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.add(str(function))
            return function(*args, **(kwargs or {}))

    Log.seen.clear()
    return Log()


VIEWS = {"aten.slice.Tensor", "aten.select.int", "aten.view.default"}


@pytest.mark.parametrize("stem", reference.STEMS)
def test_a_steps_launches_allocate_and_copy_nothing(stem, launches, operations):
    """Else no CUDA graph could hold them; on a CPU, with kernels that do nothing."""
    gpu_triton, gpu_gather = (importlib.import_module(f"atras.kernels.step.{n}") for n in ("gpu_triton", "gpu_gather"))
    step, (images, labels) = population(stem), make_step_inputs(12, (1, 12, 12))
    batch = step._batch(16, False, "bf16", "weights")
    with operations:
        step._launch(batch, gpu_gather.Source(images, None, None, labels), gpu_triton.Kind(16, own=False, decays=True))
    names = [name for name, _ in launches]
    assert names[-4:] == ["squares_kernel", "scales_kernel", "adam_kernel", "bump_kernel"]
    assert operations.seen <= VIEWS


@pytest.mark.parametrize("objective", ["odds", "margin"])
@pytest.mark.parametrize("stem", reference.STEMS)
def test_the_launches_of_a_gradient_allocate_and_copy_nothing(stem, objective, launches, operations):
    gpu_evaluation = importlib.import_module("atras.kernels.step.gpu_evaluation")
    step, labels = population(stem), torch.zeros(16, dtype=torch.int64)
    block = step.evaluation._block(16, False, "images")
    with operations:
        step.evaluation._launch(block, step.parameters, gpu_evaluation.Aim(objective, labels))
    assert launches
    assert operations.seen <= VIEWS | {"aten.unbind.int"}


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32x3"), ("bf16", "tf32x3")])
def test_evaluation_multiplies_as_exactly_as_attacks_need(precision, expected, launches):
    step, images = population(precision=precision), torch.zeros(5, 1, 12, 12)
    step.logits(images, None, 0.0, None, False)
    step.input_gradient(images, None, "odds", None, None, True, 1, None, False, True)
    products = [constants["PRECISION"] for _, constants in launches if "PRECISION" in constants]
    assert len(products) > 10
    assert set(products) == {expected}


def test_images_that_move_are_not_recorded_anew(recorded, launches):
    step, (graphs, *_) = population(), recorded
    step.evaluation.graphs = graphs
    images, labels = make_step_inputs(12, (1, 12, 12), dtype=torch.float32)
    kept = []  # so that no two lie in the same place
    for turn in range(5):
        kept += [images.clone(), labels.clone()]
        own = [step.logits(kept[-2], None, 0.0, None, False)]
        own += [
            step.input_gradient(*kept[-2:], objective, None, None, False, 1, None, False, False).gradient
            for objective in ("odds", "margin")
        ]
        kept += own
        assert len(graphs._graphs) == (3 if turn else 0)
    assert graphs.replays == 3 * 4


def test_counts_of_images_share_few_sizes_of_blocks():
    gpu_evaluation = importlib.import_module("atras.kernels.step.gpu_evaluation")
    sizes = [gpu_evaluation.block_rows(count) for count in range(1, 257)]
    assert all(count <= size <= 1.25 * count for count, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 28
    assert sizes[-1] == gpu_evaluation.block_rows(250) == 256
    # With and without gradients, of shared images and own ones, and training's: none has to be recorded again.
    assert 4 * len(set(sizes)) + 8 <= MOST


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_may_have_more_images_or_members_than_the_second_axis_of_a_grid_takes(own, monkeypatch):
    """CUDA takes 65,535 programs at the most along all axes but the first."""
    grids = []
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, grid, **__: grids.append(grid))
    gpu_gather = importlib.import_module("atras.kernels.step.gpu_gather")
    sets, rows = (70_000, 2) if own else (1, 70_000)
    images = torch.zeros(*([sets] if own else []), rows, 1, 2, 2)
    labels, values = torch.zeros(sets, rows, dtype=torch.int64), torch.zeros(sets, rows, 16)
    source = gpu_gather.Source(images, None, None, labels[0])
    gpu_gather.launch_gather(source, values, labels, image_shape=(1, 2, 2), planar=True, stored=16)
    ((first, *others),) = grids
    assert first == rows * sets
    assert max(others) <= 65_535


def test_members_and_images_grow_along_the_first_axis_alone(monkeypatch):
    """CUDA takes 65,535 programs at the most along the others."""
    grids = []

    def launch(self, *_, grid, **__):
        grids.append(grid)

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    gpu_convolution, gpu_layout = (
        importlib.import_module(f"atras.kernels.step.{name}") for name in ("gpu_convolution", "gpu_layout")
    )
    layout = gpu_layout.Layout(
        (1, 2, 2), 2, [[]] * 70_000, [[ConvLayer(1, padding=1), ConvLayer(1, padding=1)]] * 70_000
    )
    places = gpu_layout.Places(layout, 1, 1)
    options = {"members": layout.members, "images": 1, "activation": "relu", "slopes": False, "precision": "bf16"}
    for launched in layout.launches:
        sites = [gpu_convolution.Site(layout.chains[m][i], 0, places.convolved[m][i], 0, 4, m, i) for m, i in launched]
        work = gpu_convolution.work(sites, device=torch.device("cpu"), **options)
        buffer = torch.empty(0, dtype=torch.bfloat16)
        gpu_convolution.forward(work, *[buffer] * 5, None)
        gpu_convolution.input_gradient(work, buffer, buffer, None, buffer, buffer, dropped=False)
        gpu_convolution.weight_gradient(work, buffer, buffer, None, *[buffer] * 4, dropped=False)
    assert len(grids) == 8
    for grid in grids:
        assert grid[0] >= 70_000
        assert max((1, *grid[1:])) == 1
