"""Torch's settings around a run or a call change no byte of what comes of it, and are as they were afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atras.attacks import PGD, DeepFool
from atras.defences import Batch, BatchCopies
from atras.engines import FusedEngine, LoopEngine, StackEngine, why_not
from atras.errors import Interrupted
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member, Network, Spec
from atras.running import Reporter, make_plan, resume, run, transfer_task
from atras.testing import SMALL, poisoned, tables_of
from atras.torch_state import exact_arithmetic, fixed_state

CPU = torch.device("cpu")
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
NAMES = ["loop", "stack", pytest.param("fused", marks=NEEDS_FUSED)]
KINDS = [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=NEEDS_FUSED)]
EVERYTHING = SMALL.replace(
    attacks=("fgsm", "random-fgsm", "pgd(steps=2, restarts=2)", "deepfool(steps=3)"), target="random", seeds=(0, 3),
    epsilons=(0.0, 0.1), defence="batch(pgd(steps=2))", transfer=True, evaluate_every=1, precision="fp64",
)  # fmt: skip


@contextlib.contextmanager
def restored(setting: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    """A context in which one of torch's settings has a value."""
    setting(value)
    try:
        yield
    finally:
        setting(before)


@contextlib.contextmanager
def bfloat16() -> Iterator[None]:
    """A context in which torch takes bfloat16 for new tensors, and where it multiplies float32 ones."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored(torch.set_default_dtype, torch.bfloat16, torch.float32))
        for kind in (torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul):
            stack.callback(setattr, kind, "fp32_precision", kind.fp32_precision)
        stack.enter_context(restored(torch.set_float32_matmul_precision, "medium", "highest"))
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        yield


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "float64": lambda: restored(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": bfloat16,
    "meta": lambda: restored(torch.set_default_device, "meta", None),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: restored(torch.use_deterministic_algorithms, True, False),
}


def settings() -> list[object]:
    """All of torch that a caller may have set, and the state of its random numbers."""
    return [
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_num_threads(),
        torch.get_autocast_dtype("cpu"), torch.get_rng_state().numpy().tobytes(), *products(),
    ]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Protocol, str], dict[str, bytes]]:
    """The tables of a run with nothing set, each made once."""
    made: dict[tuple[str, str], dict[str, bytes]] = {}

    def tables(protocol: Protocol, engine: str) -> dict[str, bytes]:
        key = protocol.hash, engine
        if key not in made:
            folder = tmp_path_factory.mktemp("plain")
            run(protocol, Execution(engine=engine, device="cpu"), out=folder)
            made[key] = tables_of(folder)
        return made[key]

    return tables


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("engine", NAMES)
def test_a_run_gives_the_same_bytes_and_leaves_all_as_it_was(
    engine: str, state: str, plain: Any, tmp_path: Path
) -> None:
    expected = plain(SMALL, engine)
    with STATES[state]():
        before = settings()
        run(SMALL, Execution(engine=engine, device="cpu"), out=tmp_path)
        assert settings() == before
    assert tables_of(tmp_path) == expected


@pytest.mark.parametrize("state", STATES)
def test_a_run_with_every_attack_and_its_transfer_gives_the_same_bytes(state: str, plain: Any, tmp_path: Path) -> None:
    expected = plain(EVERYTHING, "stack")
    with STATES[state]():
        before = settings()
        run(EVERYTHING, Execution(engine="stack", device="cpu"), out=tmp_path)
        assert settings() == before
    assert tables_of(tmp_path) == expected


@pytest.mark.parametrize("state", STATES)
def test_a_defences_source_gives_the_same_bytes(state: str, plain: Any, tmp_path: Path) -> None:
    protocol = SMALL.replace(defence="copies(source=smallest)")
    expected = plain(protocol, "loop")
    with STATES[state]():
        run(protocol, Execution(engine="loop", device="cpu"), out=tmp_path)
    assert tables_of(tmp_path) == expected


class Failing(Reporter):
    """Raises in the midst of training."""

    def __init__(self, after: int) -> None:
        self.left = after

    def progress(self, *told: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError


@pytest.mark.parametrize("state", ["float64", "meta", "inference"])
@pytest.mark.parametrize("engine", NAMES)
def test_after_an_error_or_an_interruption_all_is_as_it_was_and_the_run_goes_on_to_the_same_bytes(
    engine: str, state: str, plain: Any, tmp_path: Path
) -> None:
    expected, execution = plain(SMALL, engine), Execution(engine=engine, device="cpu", checkpoint_every=0)
    asked = iter([False] * 3 + [True] * 100)
    with STATES[state]():
        before = settings()
        with pytest.raises(ZeroDivisionError):
            run(SMALL, execution, out=tmp_path, reporter=Failing(1))
        assert settings() == before
        with pytest.raises(Interrupted):
            resume(tmp_path, stop=lambda: next(asked))
        assert settings() == before
        resume(tmp_path)
        assert settings() == before
    assert tables_of(tmp_path) == expected


def test_a_transfer_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = SMALL.replace(transfer=True, transfer_attacks=("pgd(steps=3)",))
    execution = Execution(engine="stack", device="cpu")
    run(protocol, execution, out=tmp_path / "plain")
    folder, asked, pause = tmp_path / "run", [False], transfer_task._Keeper.pause

    def in_an_attack(self: Any) -> None:
        asked[0] |= any(name.startswith("steps.") for name in self._work.tensors())
        pause(self)

    with STATES["meta"]():
        monkeypatch.setattr(transfer_task._Keeper, "pause", in_an_attack)
        with pytest.raises(Interrupted):
            run(protocol, execution, out=folder, stop=lambda: asked[0])
        monkeypatch.undo()
        resume(folder)
    assert tables_of(folder) == tables_of(tmp_path / "plain")


@pytest.mark.parametrize("state", STATES)
def test_a_plan_and_its_measured_speed_are_made_in_any_state(state: str) -> None:
    with STATES[state]():
        before = settings()
        plan = make_plan(SMALL, Execution(engine="stack", device="cpu", recalibrate=True))
        assert settings() == before
    assert all(group.predicted_seconds for group in plan.groups)


def whole_life(kind: type[LoopEngine | StackEngine | FusedEngine], images: Tensor, labels: Tensor) -> list[Tensor]:
    """What an engine is asked for from Python: steps, evaluation, attacks, a defence, its state."""
    members = [Member(Candidate((7, 5)), 0), Member(Candidate((4, 9)), 3)][: 1 if kind is LoopEngine else 2]
    protocol = Protocol(precision="fp32", activation="sigmoid")
    engine = kind(Spec((1, 6, 6), 4, activation="sigmoid", head_rate256=64), members, protocol, CPU)
    engine.begin_phase("train")
    results = [engine.step(images, labels) for _ in range(3)]
    results.append(engine.step(images, labels, lambda logits: logits))
    found = [*(values for result in results for values in result), engine.logits(images)]
    for cotangent in (labels, None, engine.logits(images), lambda logits: logits.sign()):
        found += engine.gradient(images, cotangent)
    for attack in (PGD(0.1, steps=3, restarts=2), DeepFool(steps=3)):
        attacked = attack(engine, images, labels)
        found += [attacked.clipped, attacked.labels, attacked.logits_of(engine)]
    copied = torch.arange(len(labels), device=labels.device) % 2 == 0
    found += BatchCopies(PGD(0.1, steps=2)).step(engine, Batch(images, labels, copied, 1, 0))
    state = engine.state()
    engine.load_state(state)
    return [*found, *state.values(), *engine.get_parameters(0).values()]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_and_what_is_made_with_it_are_the_same_bits(kind: Any, state: str) -> None:
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 1, 6, 6, generator=draw), torch.randint(0, 4, (6,), generator=draw)
    expected = whole_life(kind, images, labels)
    with STATES[state]():
        before = settings()
        found = whole_life(kind, images, labels)
        if state == "inference":
            found = whole_life(kind, images.clone(), labels.clone())  # tensors that may be in no gradient
        assert settings() == before
    for one, other in zip(found, expected, strict=True):
        assert (one.device, one.dtype) == (other.device, other.dtype)
        assert torch.equal(one, other)


@pytest.mark.parametrize("state", STATES)
def test_a_network_and_its_module_have_the_dtype_and_device_of_their_parameters(state: str) -> None:
    network = Network(Spec((1, 12, 12), 4, "conv2"), Candidate.parse("6"))
    expected = network.initial_parameters(0, torch.float32)
    with STATES[state]():
        before = settings()
        parameters = network.initial_parameters(0, torch.float32)
        module = network.module(parameters)
        assert settings() == before
    for name, values in expected.items():
        assert torch.equal(parameters[name], values)
        assert torch.equal(module.state_dict()[name], values)


def test_the_fixed_state_is_that_of_a_fresh_process_and_ends_with_it() -> None:
    fresh = settings()
    with contextlib.ExitStack() as stack:
        for state in STATES.values():
            stack.enter_context(state())
        before = settings()
        with fixed_state(CPU):
            multiplied = products()
            assert settings() == [*fresh[: -len(multiplied)], *multiplied]
            assert multiplied[2:] == ["ieee"] * 4
        assert settings() == before
        with pytest.raises(ZeroDivisionError), fixed_state(CPU):
            raise ZeroDivisionError
        assert settings() == before
    assert settings() == fresh


def products() -> list[object]:
    """How convolutions, recurrences and matrices are multiplied on a GPU, and matrices on a CPU."""
    backends: Any = torch.backends
    owners = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul)
    precisions = [each.fp32_precision for each in owners]
    return [backends.cudnn.deterministic, backends.cudnn.benchmark, *precisions]


def older() -> list[object]:
    """The older switches of the same, which cannot be read where they disagree with the newer ones."""
    return [
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    ]


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("allowed", [True, False])
def test_a_gpu_multiplies_whole_float32_numbers_and_every_switch_can_be_read(
    repeatable: bool, precision: str, allowed: bool
) -> None:
    with (
        restored(torch.set_float32_matmul_precision, precision, "highest"),
        restored(lambda value: setattr(torch.backends.cudnn, "allow_tf32", value), allowed, True),
    ):
        before = [*products(), *older()]
        with exact_arithmetic(repeatable=repeatable):
            assert products() == [repeatable, not repeatable, *["ieee"] * 4]
            assert older() == [False, False, "highest"]
            with torch.backends.cudnn.flags(enabled=False):  # which reads and sets them, as modules of users do
                pass
            assert older() == [False, False, "highest"]
        assert [*products(), *older()] == before


@pytest.mark.parametrize("allowed", [True, False])
def test_switches_that_disagree_are_left_as_they_were(allowed: bool) -> None:
    cudnn: Any = torch.backends.cudnn
    with restored(lambda value: setattr(cudnn, "allow_tf32", value), allowed, True):
        cudnn.conv.fp32_precision = "ieee" if allowed else "tf32"
        before = products()
        with exact_arithmetic():
            assert older() == [False, False, "highest"]
        assert products() == before
        with pytest.raises(RuntimeError, match="allow_tf32"):
            older()
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision
        assert older()[0] is allowed


def test_a_cpu_multiplies_whole_float32_numbers() -> None:
    factors = torch.rand(2, 256, 256, generator=torch.Generator().manual_seed(0))
    expected = factors[0] @ factors[1]
    with bfloat16():
        before = settings()
        with fixed_state(CPU):
            assert products()[-1] == "ieee"
            assert torch.equal(factors[0] @ factors[1], expected)
        assert settings() == before


def test_gradients_on_a_gpu_are_computed_by_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of autograd's own has no CUDA context at first, of which cuBLAS warns."""
    asked: list[bool] = []

    class Mode(torch.autograd.set_multithreading_enabled):
        def __init__(self, mode: bool) -> None:
            asked.append(mode)
            super().__init__(mode)

    monkeypatch.setattr(torch.autograd, "set_multithreading_enabled", Mode)
    with fixed_state(torch.device("cuda")):
        assert asked == [False]
        assert not torch._C._is_multithreading_enabled()
    assert torch._C._is_multithreading_enabled()
    with fixed_state(CPU):
        assert asked == [False]


def test_poisoned_memory_tells_what_cublas_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with poisoned():  # the tests' own setting
        assert torch.empty(2).isnan().all()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(RuntimeError, match="CUBLAS_WORKSPACE_CONFIG: expected :4096:8"), poisoned():
        pass
