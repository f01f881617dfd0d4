"""The epoch that is kept: by robust accuracy on training images held out, each member's own, also after a kill."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import DATA, MEMBERS, PROTOCOL, SPEC, pictures

import atras
from atras.attacks import PGD, Start, starts
from atras.data import Dataset, load
from atras.engines import AVERAGE, Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.errors import InputError
from atras.evaluation import Evaluator, Score
from atras.experiment import Protocol
from atras.training import DONE, Snapshot, Watcher, epochs, kept_epochs, run_group, stages
from atras.training.selection import Selection

CPU = torch.device("cpu")
WHY = why_not(CPU)
HELD_OUT = Dataset("patterns", DATA.train, DATA.test, 4, validation=pictures(30, 3))
SELECTING = PROTOCOL.replace(adversarial_epochs=4, learning_rate=0.05, select="robust", optimizer="sgd", momentum=0.9)


class Keeper(Watcher):
    """Takes a snapshot between any two calls."""

    keeps = True

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def due(self) -> bool:
        return True

    def keep(self, snapshot: Snapshot) -> None:
        tensors = {name: values.clone() for name, values in snapshot.tensors.items()}  # as a file has them
        self.snapshots.append(replace(snapshot, tensors=tensors, record=copy.deepcopy(snapshot.record)))


def run(protocol: Protocol, kind: type[Engine] = StackEngine, **more: Any) -> Any:
    members = MEMBERS[:1] if kind.one_by_one else MEMBERS
    return run_group(kind(SPEC, members, protocol, CPU), HELD_OUT, protocol, evaluation_batch=17, **more)


@pytest.mark.parametrize("defence", ["copies", "batch(fgsm)", "none"])
def test_the_figures_are_those_of_a_run_that_ends_with_the_best_epoch(defence: str) -> None:
    protocol = SELECTING.replace(epochs=4, defence=defence)
    rows, phase = run(protocol), "train" if defence == "none" else "adversarial"
    length = "epochs" if defence == "none" else "adversarial_epochs"
    shorter = {n: run(protocol.replace(select="last", **{length: n})) for n in (1, 2, 3, 4)}
    chosen = []
    for index in range(len(MEMBERS)):
        own = [row for row in rows.history if row["phase"] == phase][index :: len(MEMBERS)]
        robust = [row["validation_robust_accuracy"] for row in own]
        best = robust.index(max(robust)) + 1  # the first of the best
        assert [row["epoch"] for row in own if row["selected"]] == [best]
        assert rows.table[index] == shorter[best].table[index]
        chosen.append(best)
    assert set(chosen) != {4}, "the last epoch is the best of all: the test could not fail"
    others = [row for row in rows.history if row["phase"] != phase]
    assert {row["selected"] for row in others} <= {None}
    assert {row["validation_robust_accuracy"] for row in others} <= {None}


def test_the_accuracy_on_images_held_out_is_that_under_pgd_of_ten_steps() -> None:
    protocol = SELECTING.replace(adversarial_epochs=1)
    engine = LoopEngine(SPEC, MEMBERS[:1], protocol, CPU)
    rows = run_group(engine, HELD_OUT, protocol, evaluation_batch=30)  # all in one batch, as below
    part = HELD_OUT.validation
    assert part is not None
    images = part.images[:].double() / 255
    start = Start(draw=starts(engine, images, "pgd", "validation", 0))
    attacked = PGD(0.1, steps=10)(engine, images, part.labels, start=start)
    hits = engine.logits(attacked.clipped).argmax(-1) == part.labels
    (row,) = (row for row in rows.history if row["phase"] == "adversarial")
    assert row["validation_robust_accuracy"] == pytest.approx(hits.double().mean().item())
    assert row["selected"]


@pytest.mark.parametrize(
    "kind", [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=pytest.mark.skipif(bool(WHY), reason=WHY))]
)
def test_a_run_goes_on_bitwise_with_schedule_average_and_selection(
    kind: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    recipe = {"schedule": "cosine(warmup=1)", "average": 0.8, "optimizer": "adamw", "weight_decay": 0.1}
    protocol = SELECTING.replace(
        **recipe,
        epochs=1,
        adversarial_epochs=3,
        momentum=0.0,
        clip_gradient=0.5,
        label_smoothing=0.1,
        defence="batch(fgsm)",
        precision="fp32" if kind is FusedEngine else "fp64",
    )
    keeper = Keeper()
    whole, last = run(protocol, kind, watcher=keeper), keeper.snapshots[-1]
    at = {stage: [n for n, each in enumerate(keeper.snapshots) if each.stage == stage] for stage in stages.STAGES}
    training = at["adversarial"]
    places = [at["train"][2], *training[2 :: len(training) // 3], at["measure_defended"][1]]
    for place in places:
        again = Keeper()
        rows = run(protocol, kind, watcher=again, snapshot=keeper.snapshots[place])
        for frame in ("table", "metrics", "history"):
            assert getattr(rows, frame) == getattr(whole, frame), (place, frame)
        assert again.snapshots[-1].tensors.keys() == last.tensors.keys()
        for name, values in again.snapshots[-1].tensors.items():
            assert torch.equal(values, last.tensors[name]), (place, name)


def test_what_is_kept_of_a_run_is_the_average_and_training_goes_on_from_the_weights() -> None:
    keeper, protocol = Keeper(), PROTOCOL.replace(average=0.5)
    engine = StackEngine(SPEC, MEMBERS, protocol, CPU)
    begun: list[dict[str, torch.Tensor]] = []
    begin = engine.begin_phase

    def noted(phase: str, *steps: int) -> None:
        begin(phase, *steps)
        begun.append(engine.get_parameters(0) | {})

    engine.begin_phase = noted  # type: ignore[method-assign, assignment]
    run_group(engine, DATA, protocol, watcher=keeper)
    name, last = MEMBERS[0].name, keeper.snapshots[-1]
    assert last.stage == DONE
    measured = next(each for each in keeper.snapshots if each.stage == "measure_trained")
    for parameter, values in begun[1].items():
        assert torch.equal(values, measured.tensors[f"parameters/{name}/{parameter}"])
        average = measured.tensors[f"average/{name}/{parameter}"]
        assert torch.equal(last.tensors[f"trained/{name}/{parameter}"], average)
        assert not torch.equal(values, average)
    kept = engine.get_parameters(0, AVERAGE)
    assert all(torch.equal(values, kept[parameter]) for parameter, values in engine.evaluated_parameters(0).items())


def test_of_equal_epochs_the_earlier_one_is_kept_after_ten_steps_of_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LoopEngine(SPEC, MEMBERS[:1], SELECTING, CPU)
    calls, gradient = [], engine.gradient
    monkeypatch.setattr(engine, "gradient", lambda *given: calls.append(0) or gradient(*given))
    score = Evaluator(engine, HELD_OUT, SELECTING, 30).validate()
    assert len(calls) == 10
    selection = Selection(engine)
    selection.take(1, score)
    selection.take(2, score)
    assert selection.epochs.tolist() == [1]


@pytest.mark.parametrize(
    "kind", [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=pytest.mark.skipif(bool(WHY), reason=WHY))]
)
def test_an_epoch_whose_logits_are_not_finite_has_no_figure_and_is_not_kept(
    kind: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, validate = [], Evaluator.validate

    def broken(evaluator: Evaluator) -> Score:
        """After the second epoch, with weights of the first member that are too large, but for that moment."""
        seen.append(evaluator)
        if len(seen) != 2:
            return validate(evaluator)
        engine: Any = evaluator.networks
        own = engine.get_parameters(0)
        engine.set_parameters(0, {name: torch.full_like(values, torch.nan) for name, values in own.items()})
        score = validate(evaluator)
        engine.set_parameters(0, own)
        # It would be the best of all, and its losses are those of a network that trains.
        return score._replace(class_correct=score.class_n.expand_as(score.class_correct))

    monkeypatch.setattr(Evaluator, "validate", broken)
    rows = run(SELECTING.replace(precision="fp32", defence="none", epochs=3), kind)
    step = 1 if kind.one_by_one else len(MEMBERS)
    own, other = rows.history[::step], rows.history[1::step]
    figures = [row["validation_robust_accuracy"] for row in own]
    assert [figure is None for figure in figures] == [False, True, False]
    assert [row["selected"] for row in own][1] is False
    assert rows.table[0]["status"] != "diverged"
    if step > 1:  # its neighbour is none the worse
        assert other[1]["validation_robust_accuracy"] == 1.0
        assert other[1]["selected"]


def test_images_are_held_out_by_class_and_not_trained_on() -> None:
    whole = load("digits", train_size=300, test_size=30)
    data = load("digits", train_size=300, test_size=30, held_out="default")
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (270, 30)
    every = {image.numpy().tobytes() for image in whole.train.images[:]}
    parts = [[image.numpy().tobytes() for image in part.images[:]] for part in (data.train, data.validation)]
    assert not set(parts[0]) & set(parts[1])
    assert {*parts[0], *parts[1]} == every
    counts = torch.bincount(data.validation.labels, minlength=10)
    assert (counts - torch.bincount(whole.train.labels, minlength=10) / 10).abs().max() <= 1
    again = load("digits", train_size=300, test_size=30, held_out=30)
    assert again.validation is not None
    assert torch.equal(data.validation.images[:], again.validation.images[:])
    assert torch.equal(data.test.images[:], whole.test.images[:])
    assert data.provenance()["validation_size"] == 30
    with pytest.raises(InputError, match=r"validation_size \(=300\): expected a number from 1 to 299"):
        load("digits", train_size=300, held_out=300)


def test_what_cannot_be_selected_is_refused() -> None:
    with pytest.raises(InputError, match=r"validation_size .=50.: only --select robust holds images out"):
        Protocol(validation_size=50)
    with pytest.raises(InputError, match=r"select .=robust.: expected a training, got finished networks"):
        Protocol(select="robust", epochs=0, defence="none", candidates=("8",), weights=("0" * 64,))
    with pytest.raises(InputError, match="expected training images held out"):
        run_group(StackEngine(SPEC, MEMBERS, SELECTING, CPU), DATA, SELECTING)


def test_a_run_tells_which_epochs_it_kept(tmp_path: Path) -> None:
    protocol = atras.Protocol(
        candidates=("8", "12"), train_size=100, test_size=40, epochs=2, adversarial_epochs=2, select="robust",
        validation_size=20,
    )  # fmt: skip
    results = atras.run(protocol, atras.Execution(engine="stack", device="cpu"), out=tmp_path / "run")
    history = results.history
    kept = history.filter(history["selected"].fill_null(value=False))
    assert kept["hidden_layers"].to_list() == ["8", "12"]
    assert kept["phase"].unique().to_list() == ["adversarial"]
    assert history["validation_robust_accuracy"].null_count() == 4
    assert results.run["data"]["train_size"] == 80
    assert kept_epochs(history.to_dicts()).endswith(" of 2 kept, by robust accuracy on training images held out")
    assert kept_epochs([]) == ""
