"""A step's launches: what they do beside launching, and how they are recorded and replayed."""

from __future__ import annotations

import importlib
import logging

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


def population(stem, batch=16):
    """Three members, the last with convolutions of its own, and everything that an update may do besides."""
    gpu_triton = importlib.import_module("atras.kernels.step.gpu_triton")
    options = {"activation": "gelu", "batch": batch, "optimizer": "adam", "momentum": 0.0, "head_rate256": 32}
    options |= {"label_smoothing": 0.1, "clip": 1.0, "average": 0.9}
    own = [ConvLayer(24, padding=1, pool=2, rate256=64), ConvLayer(7)]
    chains = [reference.chain_of(stem, convolutions, 64) for convolutions in ([], [], own)]
    hidden, device = [[40], [24, 192], []], torch.device("cpu")
    return gpu_triton.Population((1, 12, 12), 10, hidden, chains=chains, precision="bf16", device=device, **options)


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
    step = population(stem)
    images, labels = make_step_inputs(12, (1, 12, 12))
    batch = step._batch(16, False, "bf16", "weights")
    with Log():
        step._launch(batch, gpu_gather.Source(images, None, 0.0, labels), gpu_triton.Kind(16, own=False, decays=True))
    assert launches[-4:] == ["squares_kernel", "scales_kernel", "adam_kernel", "bump_kernel"]
    assert operations <= {"aten.slice.Tensor", "aten.select.int", "aten.view.default"}


def test_a_batch_may_have_more_rows_than_the_second_axis_of_a_grid_takes(monkeypatch):
    """CUDA takes 65,535 programs at the most along all axes but the first."""
    grids = []
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *_, grid, **__: grids.append(grid))
    gpu_gather = importlib.import_module("atras.kernels.step.gpu_gather")
    rows = 70_000
    images, labels = torch.zeros(rows, 1, 2, 2), torch.zeros(1, rows, dtype=torch.int64)
    values = torch.zeros(1, rows, 16)
    source = gpu_gather.Source(images, None, 0.0, labels[0])
    gpu_gather.launch_gather(source, values, labels, image_shape=(1, 2, 2), planar=True, stored=16)
    ((first, *others),) = grids
    assert first >= rows
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
