"""Counted FLOPs and bytes against counts made by others."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atras.engines import FusedEngine, LoopEngine, convolutions_of, has_bf16, why_not
from atras.experiment import Protocol
from atras.kernels.step import gpu_layout
from atras.networks import Candidate, Member, Network, Spec, widest
from atras.planning import forward_flops, member_bytes, training_flops
from atras.planning.cost import fused_bytes, fused_device_bytes, fused_device_rows
from atras.planning.grouping import make_groups
from atras.planning.machine import Machine

CPU = torch.device("cpu")
SPECS = [Spec((1, 8, 8), 10), Spec((1, 28, 28), 10, "conv2"), Spec((3, 32, 32), 10, "conv4")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem_name)
def test_flops_are_those_that_torch_counts(spec: Spec) -> None:
    network = Network(spec, Candidate((24, 192)))
    engine = LoopEngine(spec, [Member(Candidate((24, 192)), 0)], Protocol(), torch.device("cpu"))
    engine.begin_phase("train")
    images, labels = torch.rand(4, *spec.image_shape), torch.zeros(4, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        engine.logits(images)
    with FlopCounterMode(display=False) as step:
        engine.step(images, labels)
    assert forward_flops(network) * 4 == forward.get_total_flops()
    assert training_flops(network) * 4 == step.get_total_flops()


def test_the_papers_stems_cost_what_the_floor_is_computed_from() -> None:
    assert forward_flops(Network(SPECS[1], Candidate((40,)))) / 1e6 == pytest.approx(4.98, abs=0.005)
    assert forward_flops(Network(SPECS[2], Candidate((40,)))) / 1e6 == pytest.approx(39.3, abs=0.05)


def test_bytes_grow_with_everything_that_is_kept() -> None:
    def need(**changes: int) -> int:
        sizes = {"itemsize": 4, "batch": 128, "evaluation_batch": 128, "images": 100} | changes
        return member_bytes(Network(SPECS[0], Candidate((24, 192))), **sizes)

    assert need(itemsize=8) > need() < need(batch=256)
    assert need(evaluation_batch=256) > need() < need(images=200)


def test_padding_takes_the_widest_of_each_layer() -> None:
    assert widest([Candidate((8, 64, 3)), Candidate((16, 2, 3))]) == Candidate((16, 64, 3))


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
@pytest.mark.parametrize("precision", ["fp32", *(["bf16"] if has_bf16() else [])])
@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("c24p2-c96p2-c384p2", "relu"),
        ("c48zsame-c48zsame", "tanh"),
        ("c16k5p2-c64k5-100", "gelu"),
        ("c16-c32-c300-c48-c48-c17", "relu"),
    ],
)
def test_bytes_of_convolutions_in_engine_fused_are_near_what_it_takes(
    name: str, activation: str, precision: str
) -> None:
    spec, member = Spec((3, 24, 24), 10, "none", activation), Member(Candidate.parse(name), 0)
    engine = FusedEngine(spec, [member], Protocol(precision=precision), CPU)
    sizes = {"batch": 128, "evaluation_batch": 0, "images": 0, "copies": 0}
    predicted = fused_bytes(engine.networks, precision=precision, threads=torch.get_num_threads(), **sizes)
    # The operating system gives whole pages of 2 MiB, of which a part is unused in each of a handful of buffers.
    assert predicted < engine._op.bytes < 1.15 * predicted + 5 * 2**21


def test_bytes_of_averages_and_clipping_in_engine_fused_are_near_what_they_take() -> None:
    spec, member = Spec((3, 24, 24), 10), Member(Candidate.parse("1000-1000"), 0)
    taken, predicted = [], []
    for recipe in ({}, {"average": 0.9, "clip_gradient": 1.0}):
        engine = FusedEngine(spec, [member], Protocol(precision="fp32", **recipe), CPU)
        sizes = {"batch": 128, "evaluation_batch": 0, "images": 0, "copies": 0, "threads": torch.get_num_threads()}
        own = {"averages": True, "clips": True} if recipe else {}
        predicted.append(fused_bytes(engine.networks, precision="fp32", **sizes, **own))
        taken.append(engine._op.bytes)
    # Pages of 2 MiB, as above.
    assert predicted[1] - predicted[0] == pytest.approx(taken[1] - taken[0], abs=2 * 2**21)


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("stem", "names", "batch"),
    [
        ("none", ("c40", "24-192", "c8-c16-c32-c64-c128", "c24-c96k3-7"), 32),
        ("none", ("c40k3",), 300),
        ("conv4", ("24-192", "c5zsame"), 32),
        ("none", ("24-192", "8"), 32),
    ],
)
def test_bytes_on_a_gpu_are_what_a_population_allocates(
    stem: str, names: tuple[str, ...], batch: int, precision: str, average: float | None
) -> None:
    """Nothing is launched, so that a CPU will do."""
    pytest.importorskip("triton")
    population = importlib.import_module("atras.kernels.step.gpu_triton").Population
    spec = Spec((3, 20, 19), 10, stem)
    networks = [Network(spec, Candidate.parse(name)) for name in names]
    hidden = [[place.layer.units for place in network.hidden if len(place.outputs) == 1] for network in networks]
    step = population(
        spec.image_shape, 10, hidden, chains=list(map(convolutions_of, networks)), activation="relu", batch=batch,
        optimizer="adam", momentum=0.0, label_smoothing=0.0, clip=None, average=average, head_rate256=0,
        precision=precision, device=CPU,
    )  # fmt: skip
    sizes = {"batch": batch, "evaluation_batch": 0, "images": 0, "averages": average is not None}
    predicted = fused_device_bytes(networks, precision=precision, **sizes)
    # What an evaluation takes beside the op: gradients and signs of a block of images in float32.
    assert predicted == step.bytes + len(names) * 3 * 20 * 19 * 2 * 4 * step.evaluation.rows


def evaluation_rows(members: int, stem: str, precision: str = "bf16") -> int:
    shape = (1, 28, 28) if stem == "conv2" else (3, 32, 32)
    networks = [Network(Spec(shape, 10, stem), Candidate((256, 256)))] * members
    return fused_device_rows(networks, precision=precision, batch=128)


def test_evaluation_on_a_gpu_takes_large_blocks_while_memory_lasts() -> None:
    assert evaluation_rows(40, "conv2") == gpu_layout.EVALUATION_ROWS == 256
    rows = [evaluation_rows(members, "conv4") for members in (1, 40, 400, 4000)]
    assert rows == sorted(rows, reverse=True)
    assert all(count % 16 == 0 for count in rows)
    assert rows[0] == 256 > rows[2] == rows[3]  # half of what bf16 trains on at once, whose numbers are half as long
    # fp32 training needs more, which evaluation may then take.
    assert evaluation_rows(400, "conv4", "fp32") > rows[2]


@pytest.mark.parametrize("members", [1, 40, 400])
@pytest.mark.parametrize("stem", ["conv2", "conv4"])
def test_evaluation_batches_on_a_gpu_are_whole_blocks(stem: str, members: int) -> None:
    shape = (1, 28, 28) if stem == "conv2" else (3, 32, 32)
    protocol = Protocol(candidates=(Candidate((256, 256)),), stem=stem, seeds=tuple(range(members)), precision="bf16")
    (group,) = make_groups(protocol, Spec(shape, 10, stem), 100, 600, "fused", Machine("cuda", 2**40))
    rows = evaluation_rows(members, stem)
    assert group.evaluation_batch % rows == 0 or group.evaluation_batch < rows
    assert group.evaluation_batch <= 512
    assert members > 40 or group.evaluation_batch >= rows >= 192
