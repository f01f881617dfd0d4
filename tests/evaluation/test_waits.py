"""An evaluation on a GPU waits for it as often as there are scores, however many images there are."""

from __future__ import annotations

import pytest
import torch
from torch.utils.weak import WeakIdKeyDictionary

from atras import torch_state
from atras.data import Dataset, Split
from atras.engines import Engine, FusedEngine, StackEngine
from atras.evaluation import Evaluator, Recorder
from atras.experiment import Protocol
from atras.kernels.step import checks
from atras.networks import Candidate, Spec, members_of
from atras.testing import Waits

SHAPE = (1, 6, 6)
PROTOCOL = Protocol(
    candidates=(Candidate((9,)), Candidate((5,))), seeds=(0, 1), epsilons=(0.0, 0.1), precision="fp32",
    attacks=("pgd(steps=3)",), outcomes="all",
)  # fmt: skip


def data(images: int) -> Dataset:
    draw = torch.Generator().manual_seed(1)
    parts = [
        Split(torch.randint(0, 256, (images, *SHAPE), generator=draw).to(torch.uint8), torch.arange(images) % 3)
        for _ in range(2)
    ]
    return Dataset("drawn", *parts, 3)


def evaluated(kind: type[Engine], images: int) -> tuple[list[str], Recorder]:
    """Where it waits: all attacks on so many test images, 20 at a time, and the rows of the figures and pictures."""
    known, members = data(images), members_of(PROTOCOL.candidates, PROTOCOL.seeds)
    engine = kind(Spec(SHAPE, 3), members, PROTOCOL, torch.device("cpu"))
    recorder = Recorder(members, engine.spec, known, engine.device, "", PROTOCOL.seeds[0])
    evaluator = Evaluator(engine, known, PROTOCOL, 20)
    with Waits() as waits:
        signs, clean = evaluator.signs_of("train")
        scores = [clean, evaluator.score("train", signs)]
        figures, _ = evaluator.attack_test(PROTOCOL.attack, recorder.show)
        for score in (*scores, figures.clean, *figures.attacks.values(), *figures.curve.values(), figures.worst):
            recorder.record(None, "test", score)
    return waits.places, recorder


@pytest.mark.parametrize("kind", [StackEngine, FusedEngine])
def test_more_images_are_no_more_to_wait_for(kind: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_state, "waits", lambda values: True)
    monkeypatch.setattr(checks, "waits", lambda values: True)
    monkeypatch.setattr(checks, "_EXTENTS", WeakIdKeyDictionary())
    (few, _), (many, recorder) = evaluated(kind, 40), evaluated(kind, 160)
    assert sorted(many) == sorted(few)
    # Eight images, all in the first chunk, of the two networks of the first seed, in two attacks.
    assert len(recorder.rows.examples) == 8 * 2 * 2
    own = [place for place in many if "/evaluation/" not in place]
    assert len(own) < 8, "\n".join(own)
