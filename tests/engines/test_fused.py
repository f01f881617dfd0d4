"""Engine fused against the loop: any grouping, dropout on, threads, neighbours; and bf16 against fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from atras.defences import DEFENCES
from atras.engines import Engine, Epoch, FusedEngine, LoopEngine, has_bf16, why_not, why_slow
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.kernels import Step
from atras.networks import Candidate, Member, Spec
from atras.running.orchestrator import run

CPU = torch.device("cpu")
FP32 = Protocol(precision="fp32")
SPECS = {
    "none": Spec((1, 8, 8), 10, "none", head_rate256=64),
    "conv2": Spec((1, 14, 13), 10, "conv2"),
    "conv4": Spec((3, 12, 12), 10, "conv4", head_rate256=32),
}
MEMBERS = [Member(Candidate(hidden), seed) for hidden in ((8, 16), (5,), (24, 7, 33)) for seed in (0, 3)]

pytestmark = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


def train(engine: Engine, chosen: list[int]) -> list[list[float]]:
    """Losses [step][member] of ten steps, every other one with images of its own for each member, dropout on."""
    engine.begin_phase("train")
    draw = torch.Generator().manual_seed(5)
    losses = []
    for step in range(10):
        shape = ([len(MEMBERS)] if step % 2 else []) + [9 if step == 4 else 16]
        images = torch.rand(*shape, *engine.spec.image_shape, generator=draw)
        labels = torch.randint(0, 10, shape, generator=draw)
        result = engine.step(images[chosen], labels[chosen]) if step % 2 else engine.step(images, labels)
        losses.append(result.losses.tolist())
    return losses


def parameters(engine: Engine, index: int) -> torch.Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(index).values()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stem", SPECS)
def test_ten_steps_follow_the_loop(stem: str, optimizer: str) -> None:
    protocol = FP32.replace(optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    everyone = list(range(len(MEMBERS)))
    fused = train(FusedEngine(SPECS[stem], MEMBERS, protocol, CPU), everyone)
    for i in everyone:
        alone = train(LoopEngine(SPECS[stem], [MEMBERS[i]], protocol, CPU), [i])
        # A gradient at rounding level can turn an Adam update of 1e-3 around; ten steps of that move a loss by 1e-4.
        assert [row[i] for row in fused] == pytest.approx([row[0] for row in alone], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stem", SPECS)
def test_numbers_depend_neither_on_neighbours_nor_on_threads(
    stem: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # more threads than processors may be asked for
    protocol, everyone = Protocol(precision=precision), list(range(len(MEMBERS)))  # type: ignore[arg-type]
    rates = [1e-3] * len(MEMBERS)
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor multiplies no bf16")
    together = FusedEngine(SPECS[stem], MEMBERS, protocol, CPU, rates)
    losses = train(together, everyone)
    wild = FusedEngine(SPECS[stem], MEMBERS, protocol, CPU, [*rates[:2], 1e30, *rates[3:]])
    wild_losses = train(wild, everyone)
    assert not torch.tensor(wild_losses)[-1, 2].isfinite()
    threads = torch.get_num_threads()
    for i in everyone:
        torch.set_num_threads(1 + i % 3)
        try:
            alone = FusedEngine(SPECS[stem], [MEMBERS[i]], protocol, CPU)
        finally:
            torch.set_num_threads(threads)
        assert [row[0] for row in train(alone, [i])] == [row[i] for row in losses]
        assert torch.equal(parameters(alone, 0), parameters(together, i))
        if i != 2:
            assert torch.equal(parameters(wild, i), parameters(together, i))


@pytest.mark.parametrize("signs", [False, True])
def test_an_epoch_is_its_steps(signs: bool) -> None:
    spec, protocol = SPECS["none"], FP32.replace(batch_size=16)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (25, *spec.image_shape), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (25,), generator=draw)
    n = 50 if signs else 25
    orders = torch.stack([torch.randperm(n, generator=draw) for _ in range(2)])
    directions = torch.randint(-1, 2, (len(MEMBERS), *images.shape), generator=draw, dtype=torch.int8)
    work = Epoch(images, labels, orders, torch.tensor([0, 1] * 3), directions if signs else None, 0.1)
    whole, stepped = (FusedEngine(spec, MEMBERS, protocol, CPU) for _ in range(2))
    for engine in (whole, stepped):
        engine.begin_phase("adversarial")
    once = whole.epoch(work)
    # The base class goes batch by batch: images made by the kernels that every other engine uses.
    twice = Engine.epoch(stepped, work)
    assert torch.equal(once.correct, twice.correct)
    assert torch.equal(once.losses, twice.losses)
    assert all(torch.equal(parameters(whole, i), parameters(stepped, i)) for i in range(len(MEMBERS)))


def test_a_defence_of_pairs_has_room_for_them_and_batches_stay_as_they_are() -> None:
    """Bit for bit: the clean training knows nothing of it."""
    spec, members = Spec((1, 4, 4), 5), [Member(Candidate((6,)), 4)]
    draw = torch.Generator().manual_seed(2)
    images, labels = torch.rand(20, 1, 4, 4, generator=draw), torch.randint(0, 5, (20,), generator=draw)
    work, results = Epoch(images, labels, torch.arange(20)[None], torch.zeros(1, dtype=torch.int64), None, 0.0), []
    for defence in ("none", "trades"):
        protocol = Protocol(precision="fp32", batch_size=8, defence=DEFENCES.parse(defence))
        engine = FusedEngine(spec, members, protocol, CPU)
        engine.begin_phase("train")
        results.append(engine.epoch(work).losses)
    assert results[0].shape == (1, 3)
    assert torch.equal(*results)
    both = torch.cat([images[:8], images[8:16]])
    assert engine.step(both, labels[:16], lambda logits: torch.zeros_like(logits)).losses.shape == (1,)
    assert engine._op.batch == 16


@pytest.mark.parametrize("stem", SPECS)
def test_evaluation_and_gradients_equal_the_loops(stem: str) -> None:
    spec = SPECS[stem]
    fused = FusedEngine(spec, MEMBERS, FP32, CPU)
    own = torch.rand(len(MEMBERS), 4, *spec.image_shape, generator=torch.Generator().manual_seed(2))
    gradient, out = fused.gradient(own[0], lambda logits: logits.argmin(-1))
    own_out = fused.logits(own)
    for i, member in enumerate(MEMBERS):
        loop = LoopEngine(spec, [member], FP32, CPU)
        alone, alone_out = loop.gradient(own[0], lambda logits: logits.argmin(-1))
        # float32 sums of up to a thousand terms of size 1e-2 to 1.
        torch.testing.assert_close(gradient[i], alone[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(out[i], alone_out[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own_out[i], loop.logits(own[i])[0], rtol=1e-4, atol=1e-5)


def test_parameters_come_out_as_they_were_set() -> None:
    engine = FusedEngine(SPECS["conv2"], MEMBERS, FP32, CPU)
    values_set = {name: torch.rand_like(values) for name, values in engine.get_parameters(1).items()}
    before = parameters(engine, 0)
    engine.set_parameters(1, values_set)
    assert all(torch.equal(values, values_set[name]) for name, values in engine.get_parameters(1).items())
    assert torch.equal(parameters(engine, 0), before)


def test_float64_is_refused() -> None:
    with pytest.raises(InputError, match="use engine loop or stack"):
        FusedEngine(SPECS["none"], MEMBERS, Protocol(precision="fp64"), CPU)


def accuracies(table: pl.DataFrame, seed: int) -> np.ndarray:
    return table.filter(pl.col("seed") == seed).select(pl.col("^.*_accuracy.*$")).to_numpy()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("bf16", "fused"), marks=pytest.mark.skipif(not has_bf16(), reason="no bf16 in this processor")),
        pytest.param(("fp32", "stack"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_the_digits_table_differs_no_more_than_between_two_seeds(other: tuple[Any, str]) -> None:
    protocol = FP32.replace(epochs=5, adversarial_epochs=5)
    precision, engine = other
    fused = run(protocol.replace(seeds=(0, 1)), Execution(engine="fused")).table
    table = run(protocol.replace(precision=precision), Execution(engine=engine)).table
    difference = np.abs(accuracies(fused, 0) - accuracies(table, 0)).mean(0)
    assert len(table) == 40
    assert (difference <= np.abs(accuracies(fused, 0) - accuracies(fused, 1)).mean(0)).all()


def test_only_the_portable_kernels_are_slow(monkeypatch):
    monkeypatch.setattr(Step, "best_instructions", staticmethod(lambda: "avx2"))
    assert why_slow() == ""
    monkeypatch.setattr(Step, "best_instructions", staticmethod(lambda: "portable"))
    assert why_slow() == "without AVX2 its kernels are slower than torch's"
