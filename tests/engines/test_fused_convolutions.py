"""Engine fused on networks with convolutions of their own: against the loop, in any company, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atras.engines import Engine, FusedEngine, LoopEngine, why_not
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.kernels import ConvLayer, Step
from atras.kernels.backends import bf16
from atras.networks import Candidate, Conv, Dense, Member, Spec
from atras.planning import Speed
from atras.running.prepare import make_plan

CPU = torch.device("cpu")
FP32 = Protocol(precision="fp32")
# A stem of a dense network and of those with convolutions after it; dropout is the layers' own or the head's.
SPECS = {
    "none": Spec((1, 9, 8), 10, head_rate256=64),
    "conv2": Spec((1, 15, 14), 10, "conv2"),
    "auto": Spec((1, 15, 14), 10, "conv2", head_rate256=64, stem_auto=True),
    "c6k2p2d0.25": Spec((3, 9, 10), 10, "c6k2p2d0.25", "tanh"),
}
MEMBERS = [Member(Candidate.parse(name), 3) for name in ("c5k3s2z1-c17k1d0.5-8", "12-9", "c3-c4zsame-c5", "c20k2-7-6")]

pytestmark = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


def train(engine: Engine, chosen: list[int]) -> list[list[float]]:
    """Losses [step][member] of ten steps, every other one with images of its own for each member."""
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


def parameters(engine: Engine, index: int) -> Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(index).values()])


@pytest.mark.parametrize("stem", SPECS)
def test_ten_steps_follow_the_loop_and_neighbours_do_not_matter(stem: str) -> None:
    together = FusedEngine(SPECS[stem], MEMBERS, FP32, CPU)
    losses = train(together, [0, 1, 2, 3])
    for i, member in enumerate(MEMBERS):
        loop, alone = (kind(SPECS[stem], [member], FP32, CPU) for kind in (LoopEngine, FusedEngine))
        # A gradient at rounding level can turn an Adam update of 1e-3 around; ten steps of that move a loss by 1e-4.
        assert [row[i] for row in losses] == pytest.approx([row[0] for row in train(loop, [i])], rel=1e-3)
        assert [row[0] for row in train(alone, [i])] == [row[i] for row in losses]
        assert torch.equal(parameters(alone, 0), parameters(together, i))


@pytest.mark.parametrize("stem", SPECS)
def test_evaluation_and_gradients_equal_the_loops_and_pairs_are_whole_sets(stem: str) -> None:
    spec = SPECS[stem]
    fused = FusedEngine(spec, MEMBERS, FP32, CPU)
    images = torch.rand(4, 5, *spec.image_shape, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(20).view(4, 5) % 10
    gradient, out = fused.gradient(images, labels)
    for i, member in enumerate(MEMBERS):
        loop = LoopEngine(spec, [member], FP32, CPU)
        alone, alone_out = loop.gradient(images[i], labels[i])
        # float32 sums of up to a thousand terms of size 1e-2 to 1.
        torch.testing.assert_close(gradient[i], alone[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(out[i], alone_out[0], rtol=1e-4, atol=1e-5)
    counts = torch.tensor([3, 0, 5, 1])
    own = torch.tensor([[k < count for k in range(5)] for count in counts.tolist()])
    assert torch.equal(fused.logits(images[own], counts), out[own])
    assert torch.equal(fused.gradient(images[own], labels[own], counts)[0], gradient[own])


def test_training_goes_on_from_the_loops_state() -> None:
    spec = SPECS["c6k2p2d0.25"]
    loop, fused = (kind(spec, MEMBERS[:1], FP32, CPU) for kind in (LoopEngine, FusedEngine))
    train(loop, [0])
    fused.begin_phase("train")
    fused.load_state(loop.state())
    assert all(torch.equal(values, fused.state()[name]) for name, values in loop.state().items())
    images, labels = torch.rand(16, *spec.image_shape), torch.arange(16) % 10
    for engine in (loop, fused):
        engine.step(images, labels)
    # One step from equal moments and masks: gradients of float32, and Adam's division.
    torch.testing.assert_close(parameters(fused, 0), parameters(loop, 0), rtol=1e-4, atol=1e-6)


def test_what_the_engine_does_not_take_is_said_in_one_line() -> None:
    spec, convolutions = SPECS["none"], [MEMBERS[0].candidate]
    assert FusedEngine.refusal(spec, convolutions) == ""
    takes = "on a GPU it takes convolutions of kernel 3, stride 1, padding 0 or 1 and pool 2 or none"
    for name, got in {
        "c5k3s2z1-c17k1d0.5-8": "kernel 3, stride 2, padding 1, pool 0",
        "c5k5zsame": "kernel 5, stride 1, padding 2, pool 0",
        "c5z2": "kernel 3, stride 1, padding 2, pool 0",
        "c5p3": "kernel 3, stride 1, padding 0, pool 3",
    }.items():
        assert FusedEngine.refusal(spec, [Candidate.parse(name)], "cuda") == f"{takes}, got {got}"
    for name in ("c3zsame", "c20k3-7-6", "c40", "c8-c16-c32-c64-c128-c256-c512-c1024"):
        assert FusedEngine.refusal(spec, [Candidate.parse(name)], "cuda") == ""
    wide = FusedEngine.refusal(spec, [Candidate.parse("c10000-c10000")], "cuda")
    assert wide.startswith("on a GPU it takes at most 2147483647 numbers in the parts of a layer, got 2400")
    assert FusedEngine.refusal(spec, [Candidate((8,))], "cuda") == ""
    assert FusedEngine.refusal(Spec((3, 9, 10), 10, "c6k2"), [Candidate((8,))], "cuda")
    dense_stem = Spec((1, 8, 8), 10, (Dense(4),))
    assert FusedEngine.refusal(dense_stem, [Candidate((8,))]) == "it has stems of convolutions alone, not 4"
    with pytest.raises(
        InputError, match=r"engine \(=fused\): expected a pool from 0 to 255, got 300; use --engine auto, loop"
    ):
        FusedEngine(Spec((1, 400, 400), 10), [Member(Candidate((Conv(1, pool=300),)), 0)], FP32, CPU)


def test_auto_takes_it_for_convolutions_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.running.speeds.speed", lambda *_, **__: Speed(1.0, 1.0, 1.0, 1.0))
    protocol = Protocol(candidates=tuple(member.candidate for member in MEMBERS), stem="none")
    plan = make_plan(protocol, Execution(device="cpu"))
    assert (plan.engine, plan.reason) == ("fused", "")
    assert plan.precision == ("bf16" if bf16(CPU).faster else "fp32")  # as where stems take it


def test_a_convolution_keeps_its_own_memory_count() -> None:
    with pytest.raises(ValueError, match="values in the patches of a row of results"):
        Step((16, 2000, 2000), 10, [[1]], convolutions=[[ConvLayer(1, 20, pool=2)]])
