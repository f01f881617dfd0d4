"""Ensemble adversarial training: whose copies each network is trained on, batch by batch, and where it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from atras.data import Dataset, Split
from atras.defences import EnsembleTraining
from atras.engines import LoopEngine, StackEngine
from atras.errors import InputError
from atras.evaluation import Source, Sources
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member, Spec, permutation
from atras.running import run
from atras.running.defence_source import source_candidates
from atras.testing import SMALL
from atras.training import run_group

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 3, activation="tanh")
CANDIDATES = tuple(map(Candidate.parse, ("4", "6", "9", "12")))
PROTOCOL = Protocol(
    precision="fp64", batch_size=8, epsilon=0.1, epochs=1, adversarial_epochs=2, defence="ensemble(k=2)",
    optimizer="sgd", learning_rate=0.1, candidates=CANDIDATES,
)  # fmt: skip


def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (18, 1, 5, 5), generator=draw, dtype=torch.uint8)
    part = Split(images, torch.randint(0, 3, (18,), generator=draw))
    return Dataset("noise", part, part, 3)


def signs(which: int) -> Tensor:
    draw = torch.Generator().manual_seed(10 + which)
    return (2 * torch.randint(0, 2, (2, 18, 1, 5, 5), generator=draw) - 1).to(torch.int8)


SOURCES = Sources(tuple(Source(c.name, signs(i), (0, 3)) for i, c in enumerate(CANDIDATES[:3])), 2)


def by_hand(member: Member) -> list[Tensor]:
    """Parameters after the second training, in which the copies of a batch are those of whose turn it is."""
    engine = LoopEngine(SPEC, [member], PROTOCOL, CPU)
    engine.begin_phase("adversarial")
    part, others = data().train, [i for i in range(3) if CANDIDATES[i] != member.candidate][:2]
    for epoch in (1, 2):
        for number, index in enumerate(permutation(member.seed, "adversarial", epoch, 36).split(8)):
            images, labels = part.images[index % 18].double() / 255, part.labels[index % 18]
            turn = (epoch + number) % 3
            if turn < 2:
                moves = signs(others[turn])[(0, 3).index(member.seed)][index % 18].double()
            else:
                moves = engine.gradient(images, labels)[0][0].sign()
            copies = (images + 0.1 * moves).clamp(0, 1)
            engine.step(torch.where((index >= 18)[:, None, None, None], copies, images), labels)
    return list(engine.get_parameters(0).values())


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_copies_come_in_turn_from_the_smallest_others_and_the_network_itself(augment: str) -> None:
    members = [Member(CANDIDATES[0], 0), Member(CANDIDATES[3], 3)]
    engine = StackEngine(SPEC, members, PROTOCOL, CPU)
    rows = run_group(engine, data(), PROTOCOL.replace(augment=augment), source=SOURCES)
    assert all(row["status"] != "diverged" for row in rows.table)
    assert {row["steps"] for row in rows.history if row["phase"] == "adversarial"} == {5}
    if augment == "none":
        for index, member in enumerate(members):
            for values, expected in zip(engine.get_parameters(index).values(), by_hand(member), strict=True):
                torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9)


def test_sources_are_the_smallest_or_those_that_are_named() -> None:
    assert source_candidates(PROTOCOL, SPEC) == CANDIDATES[:3]
    named = PROTOCOL.replace(defence="ensemble(k=1, sources=12+6)")
    assert source_candidates(named, SPEC) == (CANDIDATES[3], CANDIDATES[1])
    assert EnsembleTraining(2).cost(3).gradient == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        ("ensemble(k=4, start=trained)", "got 4; write ensemble(start=trained), or add candidates"),
        ("ensemble(k=1, sources=7+4)", "expected candidates of this run, got 7"),
        ("ensemble(k=2, sources=4+6)", "more than k (=2) different candidates"),  # 4 has 6 alone to learn from
        ("ensemble(k=1, sources=6+6)", "more than k (=1) different candidates"),
        ("ensemble(k=0)", "k (=0)"),
    ],
)
def test_what_the_run_has_not_is_refused(defence: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        source_candidates(PROTOCOL.replace(defence=defence), SPEC)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_one_candidate_no_smaller_k_is_advised() -> None:
    with pytest.raises(InputError, match="got 1; with one there is nothing to learn from: add candidates, or take"):
        source_candidates(PROTOCOL.replace(candidates=CANDIDATES[:1], defence="ensemble(k=1)"), SPEC)


def test_a_run_trains_its_sources_first(tmp_path: Path) -> None:
    asked = SMALL.replace(candidates=CANDIDATES[:2], defence="ensemble(k=1)", precision="fp32")
    results = run(asked, Execution(engine="loop", device="cpu"), out=tmp_path / "run")
    assert set(results.table["status"]) <= {"trained", "dead"}
    assert set(results.table["defence"]) == {"ensemble(k=1)"}
    assert not list((tmp_path / "run").glob("checkpoint/*"))  # those of the sources are gone with the run
