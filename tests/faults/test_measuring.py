"""Measuring that is interrupted again and again comes to its end, with the figures of a run that never was."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atras.engines import Engine
from atras.errors import Interrupted
from atras.evaluation import Evaluator, parts, progress, transfer
from atras.experiment import Execution, Protocol
from atras.running import orchestrator, session
from atras.testing import SMALL, tables_of

LONG = SMALL.replace(
    candidates=SMALL.candidates[:2],
    train_size=40,
    test_size=20,
    epochs=1,
    head_dropout=0.0,
    precision="fp32",
    attacks=("pgd(steps=15, restarts=3)", "deepfool(steps=5)", "apgd-t(steps=12, targets=3)"),
    epsilons=(0.0, 0.2),
)
"""Two networks whose measuring takes 90 gradients of one attack, at two epsilons, on one chunk of images, and more."""


class Killed(BaseException):
    """Ends a process, which has no time to say anything."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def execution(engine: str) -> Execution:
    return Execution(engine=engine, device="cpu", checkpoint_every=0)


def killing_after(gradients: int, patch: pytest.MonkeyPatch) -> None:
    """Let a process live for so many gradients of images."""
    gradient, left = Engine.gradient, iter(range(gradients))

    def dying(self: Engine, *args: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return gradient(self, *args)

    patch.setattr(Engine, "gradient", dying)
    patch.setattr(session.Session, "leave", lambda *_: None)


def lives(folder: Path, protocol: Protocol, engine: str, gradients: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run to the end through processes that each compute so few gradients; how many there were."""
    for life in range(1, 100):
        with monkeypatch.context() as patch:
            killing_after(gradients, patch)
            try:
                if (folder / "run.json").exists():
                    orchestrator.resume(folder)
                else:
                    orchestrator.run(protocol, execution(engine), out=folder)
                return life
            except Killed:
                continue
    raise AssertionError("it never ends")


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["stack", "loop", "fused"])
def test_attacks_longer_than_a_process_lives_come_to_their_end(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    whole = orchestrator.run(LONG, execution(engine), out=tmp_path / "whole")
    found = lives(tmp_path / "killed", LONG, engine, 40, monkeypatch)
    assert found > 5
    assert tables_of(tmp_path / "killed") == tables_of(tmp_path / "whole")
    examples = "examples.parquet"
    assert (tmp_path / "killed" / examples).read_bytes() == (tmp_path / "whole" / examples).read_bytes()
    timings = orchestrator.read(tmp_path / "killed").timings
    assert timings["phase"].sort().to_list() == whole.timings["phase"].sort().to_list()
    count("kills survived", found - 1)


@pytest.mark.faults
@pytest.mark.parametrize("source", ["own", "smallest"])
def test_signs_of_a_whole_split_and_a_defences_source_come_to_their_end(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Evaluator.__init__

    def in_small_chunks(self: Evaluator, *args: Any, **options: Any) -> None:
        begun(self, *args, **options)
        self.evaluation_batch = 20

    monkeypatch.setattr(Evaluator, "__init__", in_small_chunks)
    protocol = LONG.replace(attacks=("fgsm",), epsilons=(), train_size=200, defence=f"copies(source={source})")
    orchestrator.run(protocol, execution("stack"), out=tmp_path / "whole")
    # The training images alone take ten gradients, also where they are attacked again after an interruption.
    assert lives(tmp_path / "killed", protocol, "stack", 4, monkeypatch) > 3
    assert tables_of(tmp_path / "killed") == tables_of(tmp_path / "whole")
    assert not (tmp_path / "killed" / "checkpoint").exists()


@pytest.mark.faults
def test_a_measuring_that_is_asked_to_stop_keeps_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are an hour apart: only the one that is written on stopping can help."""
    protocol = LONG.replace(attacks=("pgd(steps=15, restarts=3)",), evaluate_every=1, defence="batch(fgsm)")
    rare = Execution(engine="stack", device="cpu", checkpoint_every=3600)
    orchestrator.run(protocol, rare, out=tmp_path / "whole")
    folder, gradients = tmp_path / "stopped", []
    gradient = Engine.gradient

    def counting(self: Engine, *args: Any) -> Any:
        gradients.append(1)
        return gradient(self, *args)

    monkeypatch.setattr(Engine, "gradient", counting)
    for number in range(100):
        gradients.clear()
        try:
            if number:
                orchestrator.resume(folder, stop=lambda: len(gradients) > 25)
                break
            orchestrator.run(protocol, rare, out=folder, stop=lambda: len(gradients) > 25)
        except Interrupted:
            continue
    assert 5 < number < 99
    assert tables_of(folder) == tables_of(tmp_path / "whole")


@pytest.mark.faults
def test_a_transfer_longer_than_a_process_lives_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = LONG.replace(attacks=("fgsm",), epsilons=(), transfer=True, test_size=30)
    monkeypatch.setattr(transfer, "room_for", lambda source, *_: parts.Room(10, math.inf))
    whole = orchestrator.run(protocol, execution("loop"), out=tmp_path / "whole")
    attacked, folder = transfer.Transfer._attacked, tmp_path / "killed"
    for life in range(1, 100):
        left = iter(range(2))

        def dying(self: Any, *args: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise Killed
            return attacked(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(transfer.Transfer, "_attacked", dying)
            patch.setattr(session.Session, "leave", lambda *_: None)
            try:
                found = (
                    orchestrator.resume(folder)
                    if life > 1
                    else orchestrator.run(protocol, execution("loop"), out=folder)
                )
                break
            except Killed:
                continue
    # Two sources in two phases, each on three spans of the test images, of which a process attacks two.
    assert life == 6
    assert found.transfer.equals(whole.transfer)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("shape", [(2, 7, 1, 3, 3), (1, 0, 1, 2, 2), (3, 1, 1, 1, 1)])
def test_four_signs_a_byte_come_back(shape: tuple[int, ...]) -> None:
    signs = torch.randint(-1, 2, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    kept = progress.packed(signs)
    assert kept.shape == (shape[0], -(-signs[0].numel() // 4))
    assert torch.equal(progress.unpacked(kept, signs.shape), signs)
