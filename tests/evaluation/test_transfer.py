"""Transfer between candidates: its diagonal, its order, and its figures by hand; attacks and defences side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from atras.attacks import FGSM, PGD
from atras.data import load, pixels
from atras.engines import LoopEngine, StackEngine, why_not
from atras.evaluation import PHASES, Evaluator, Part, Transfer, trials_of
from atras.evaluation.parts import room_for
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member, Spec
from atras.results import SCHEMAS, Results, read
from atras.running import Reporter, make_plan, run

pytestmark = pytest.mark.usefixtures("cache_of_module")

CPU = torch.device("cpu")
SMALL = Protocol(
    candidates=(Candidate((16,)), Candidate((12, 8)), Candidate((8,))), epochs=12, adversarial_epochs=3, seeds=(4, 0),
    batch_size=32, learning_rate=0.01, transfer=True,
    attacks=("fgsm", "pgd(steps=3)", "deepfool", "deepfool(norm=linf)"), epsilons=(0.0, 0.05, 0.2, 0.5),
    precision="fp32", train_size=300, test_size=200,
)  # fmt: skip
ENGINES = [
    "loop",
    "stack",
    pytest.param("fused", marks=pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")),
]
PARTLY = "pgd(epsilon=0.2, steps=3), pgd(epsilon=0.5, steps=3), deepfool, deepfool(norm=linf)"
WORST = f"worst(fgsm, pgd(steps=3); partly {PARTLY})"
HONEST = {"attack": "fgsm", "mode": "white-box", "label_source": "true", "epsilon": 0.05}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(SMALL, Execution(engine="stack"), out=tmp_path_factory.mktemp("run"))


def where(frame: pl.DataFrame, **values: object) -> pl.DataFrame:
    return frame.filter(*[pl.col(name) == value for name, value in values.items()])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_diagonal_is_the_white_box_figure_exactly(engine: Any, results: Results) -> None:
    short = SMALL.replace(attacks=("fgsm",), epsilons=())
    found = results if engine == "stack" else run(short, Execution(engine=engine))
    diagonal = found.transfer.filter(pl.col("source_hidden_layers") == pl.col("target_hidden_layers"))
    own = where(found.metrics, **HONEST).select(
        "phase", "seed", "correct", "n", pl.col("hidden_layers").alias("source_hidden_layers")
    )
    keys = ["phase", "seed", "source_hidden_layers"]
    both = diagonal.join(own, on=keys, suffix="_own")
    assert both.height == diagonal.height == 2 * 3 * 2
    assert both["correct"].equals(both["correct_own"], check_names=False)
    assert both["n"].equals(both["n_own"], check_names=False)
    others = found.transfer.filter(pl.col("source_hidden_layers") != pl.col("target_hidden_layers"))
    assert others["accuracy"].mean() > diagonal["accuracy"].mean()  # type: ignore[operator]


def test_a_run_with_everything_is_read_back(results: Results) -> None:
    assert results.directory is not None
    found = read(results.directory)
    for name in SCHEMAS:
        assert getattr(found, name).equals(getattr(results, name))
        assert len(getattr(found, name))


def test_all_pairs_stand_in_the_order_of_phases_candidates_and_seeds(results: Results) -> None:
    names = ["16", "12-8", "8"]
    expected = [
        (phase, source, target, seed)
        for phase in ("trained", "defended") for source in names for target in names for seed in (4, 0)
    ]  # fmt: skip
    keys = results.transfer.select("phase", "source_hidden_layers", "target_hidden_layers", "seed").rows()
    assert keys == expected
    assert results.transfer.select("attack", "epsilon", "label_source", "n").unique().rows() == [
        ("fgsm", 0.05, "true", 200)
    ]
    assert where(results.timings, phase="transfer")["group"].to_list() == [None]


def part(
    kind: type, spec: Spec, members: list[Member], protocol: Protocol, batch: int, fill: Any, size: int = 0
) -> Part:
    return Part(tuple(members), batch, lambda: kind(spec, members, protocol, CPU), fill, size, 64 * 4 * len(members))


@pytest.mark.parametrize("cap", [math.inf, 5e6, 0], ids=["all at once", "turns", "one at a time"])
def test_pairs_by_hand_whatever_the_parts_and_room_and_without_those_that_diverged(cap: float) -> None:
    spec = Spec((1, 8, 8), 10)
    protocol = Protocol(
        candidates=(Candidate((6,)), Candidate((9,))), seeds=(0, 1), epsilon=0.1, test_size=90, transfer=True
    )
    data = load("digits", test_size=90)
    members = [Member(c, s) for c in protocol.candidates for s in protocol.seeds]
    engines = {member: LoopEngine(spec, [member], protocol, CPU) for member in members}
    fine = {"trained": set(members), "defended": {*members[:3]}}

    def fill(networks: Any, phase: str) -> None:
        for slot, member in enumerate(networks.members):
            if member in fine[phase]:
                networks.set_parameters(slot, engines[member].get_parameters(0))

    work = Transfer(data, protocol, trials_of(protocol), fine)
    work.run([
        part(StackEngine, spec, [members[0], members[3], members[1]], protocol, 40, fill, 3_000_000),
        part(StackEngine, spec, [members[2]], protocol, 25, fill, 3_000_000),
    ], cap)  # fmt: skip
    rows = work.rows()
    images, labels = pixels(data.test.images, torch.float32), data.test.labels
    for row in rows:
        source, target = (
            engines[Member(Candidate.parse(row[f"{side}_hidden_layers"]), row["seed"])]  # type: ignore[arg-type]
            for side in ("source", "target")
        )
        adversarial = FGSM(0.1)(source, images, labels).clipped
        assert row["correct"] == (target.logits(adversarial)[0].argmax(-1) == labels).sum().item()
    assert len([row for row in rows if row["phase"] == "trained"]) == 8
    assert [(row["source_hidden_layers"], row["target_hidden_layers"], row["seed"]) for row in rows[8:]] == [
        ("6", "6", 0), ("6", "6", 1), ("6", "9", 0), ("9", "6", 0), ("9", "9", 0),
    ]  # fmt: skip


def test_any_attack_is_transferred_with_its_own_starts_and_named() -> None:
    spec, attack = Spec((1, 8, 8), 10), PGD(steps=2, step_size=0.05)
    protocol = Protocol(
        candidates=(Candidate((6,)), Candidate((9,))), epsilon=0.1, test_size=90, attacks=(attack,), transfer=True,
        transfer_attacks=(attack,),
    )  # fmt: skip
    data = load("digits", test_size=90)
    members = [Member(candidate, 0) for candidate in protocol.candidates]
    parts = [part(LoopEngine, spec, [member], protocol, 40, lambda *_: None) for member in members]
    work = Transfer(data, protocol, trials_of(protocol), {phase: set(members) for phase in PHASES})
    work.run(parts)
    rows = work.rows()
    assert {(row["attack"], row["epsilon"], row["label_source"]) for row in rows} == {
        ("pgd(steps=2, step_size=0.05)", 0.1, "true")
    }
    for each, member in zip(parts, members, strict=True):
        figures, _ = Evaluator(each.make(), data, protocol, 25).attack_test()
        (own,) = figures.attacks[attack.at(0.1)].correct
        name = member.candidate.name
        both = {row["correct"] for row in rows if row["source_hidden_layers"] == row["target_hidden_layers"] == name}
        assert both == {own}  # starts are those of the image's number, whatever the chunks


def test_the_attacked_images_and_the_networks_share_the_room() -> None:
    members = (Member(Candidate((6,)), 0),)
    few, many = (Part[Any](members * count, 10, lambda: None, lambda *_: None, 1000, 20 * count) for count in (1, 4))
    assert room_for(few, [few, many], 2200) == (10, math.inf)  # 2,000 and a batch of 200
    assert room_for(few, [few, many], 2199) == (20, 1799)  # half of what one part leaves: two batches
    assert room_for(many, [few, many], 2199) == (10, 1399)
    assert room_for(few, [few, many], 9) == (10, -191)  # one part and one batch there must be


def test_the_worst_case_is_at_most_the_least_of_the_bounded_attacks(results: Results) -> None:
    for phase, column in (("trained", "before"), ("defended", "after")):
        fresh = where(results.metrics, phase=phase, mode="white-box", label_source="true")
        worst = where(fresh, attack=WORST)
        assert worst["attack"].unique().to_list() == [WORST]
        assert worst["accuracy"].equals(results.table[f"worst_case_accuracy_{column}"], check_names=False)
        least = [where(fresh, attack=name, epsilon=0.05)["correct"] for name in ("fgsm", "pgd(steps=3)")]
        assert all((worst["correct"] <= other).all() for other in least)
        assert (worst["correct"] < least[0]).any()
        deepfool = where(fresh, attack="deepfool(norm=linf)")
        assert (deepfool["correct"] < worst["correct"]).all()  # it changes pixels by more than epsilon
        assert deepfool["epsilon"].to_list() == [None] * 6


def test_deepfool_counts_where_its_change_is_within_epsilon() -> None:
    wide = SMALL.replace(epsilon=1.0, transfer=False, epsilons=(), attacks=("deepfool",), epochs=4, seeds=(0,))
    table = run(wide, Execution(engine="stack")).table
    assert table["worst_case_accuracy_after"].to_list() == [0.0] * 3  # within 1 is every image that DeepFool turns


def test_fgsm_alone_is_its_own_worst_case_and_says_nothing_twice() -> None:
    plain = SMALL.replace(attacks=("fgsm",), transfer=False, epsilons=())
    found = run(plain, Execution(engine="stack"))
    assert not found.metrics["attack"].str.starts_with("worst").any()
    for column, own in (("before", "before_true"), ("after", "after_white_box")):
        assert found.table[f"worst_case_accuracy_{column}"].equals(
            found.table[f"attacked_accuracy_{own}"], check_names=False
        )
    assert found.transfer.height == 0


def test_the_epsilon_curve_has_a_row_a_strength_and_begins_at_the_clean_accuracy(results: Results) -> None:
    for phase in ("trained", "defended"):
        curve = where(results.metrics, phase=phase, attack="fgsm", mode="white-box", label_source="true", seed=0)
        points = where(curve, hidden_layers="16").sort("epsilon")
        assert points["epsilon"].to_list() == [0.0, 0.05, 0.2, 0.5]
        clean = where(results.metrics, phase=phase, mode="clean", split="test", seed=0, hidden_layers="16")
        assert points["correct"][0] == clean["correct"][0]
        # Epsilon 0 changes no image, and a mean over none is none.
        assert points["mean_linf"].to_list() == [
            None,
            *(pytest.approx(epsilon, rel=1e-6) for epsilon in (0.05, 0.2, 0.5)),
        ]
        assert points["correct"].is_sorted(descending=True)
        assert points["zero_gradient_fraction"].n_unique() == 1


def test_examples_show_a_class_each_with_the_first_seed(results: Results) -> None:
    shown = results.examples
    assert shown["seed"].unique().to_list() == [4]
    data = load("digits", test_size=200)
    numbers = shown["image"].to_list()
    made = {"fgsm": 0.05, "pgd(steps=3)": 0.05, "deepfool": None, "deepfool(norm=linf)": None}
    assert dict(shown.select("attack", "epsilon").unique().iter_rows()) == made
    assert numbers == numbers[:8] * 2 * 3 * len(made)
    assert data.test.labels[numbers[:8]].unique().numel() == 8
    for row in shown.iter_rows(named=True):
        assert row["label"] == data.test.labels[row["image"]].item()
        picture = (pixels(data.test.images[row["image"]], torch.float64) * 255).round().to(torch.uint8)
        assert row["pixels"] == picture.numpy().tobytes()
        change = np.frombuffer(row["change"], np.float16).astype(float)
        assert np.abs(change).max() <= (row["epsilon"] or 1.0) * (1 + 1e-3)  # 11 bits
        attacked = np.frombuffer(row["pixels"], np.uint8) / 255 + change.ravel()
        assert -0.01 < attacked.min() <= attacked.max() < 1.01
    again = where(results.metrics, phase="trained", hidden_layers="16", seed=4, **HONEST)
    assert where(shown, hidden_layers="16", phase="trained")["clean_prediction"].n_unique() > 1
    assert again.height == 1


def test_a_defence_learned_on_another_candidate() -> None:
    own = run(SMALL.replace(transfer=False, attacks=("fgsm",)), Execution(engine="loop")).table
    smallest = SMALL.replace(transfer=False, attacks=("fgsm",), defence="copies(source=smallest)")
    found = run(smallest, Execution(engine="loop"))
    before = ["test_accuracy", "attacked_accuracy_before", "attacked_accuracy_before_true"]
    assert found.table.select("hidden_layers", "seed", *before).equals(own.select("hidden_layers", "seed", *before))
    after = pl.col("^.*after.*$")
    source, others = pl.col("hidden_layers") == "8", pl.col("hidden_layers") != "8"
    # The source itself trains on its own copies, and is what it always was.
    assert found.table.filter(source).select(after).equals(own.filter(source).select(after))
    assert not found.table.filter(others).select(after).equals(own.filter(others).select(after))
    copies = where(found.metrics, split="train", mode="static")
    assert copies["source"].unique().to_list() == ["8"]
    assert where(found.metrics, split="test", mode="static")["source"].unique().to_list() == [None]
    named = run(smallest.replace(defence="copies(source=8)"), Execution(engine="loop"))
    assert named.table.drop("defence").equals(found.table.drop("defence"))
    spelled = [frame["defence"].unique().to_list() for frame in (own, found.table, named.table)]
    assert spelled == [["copies"], ["copies(source=smallest)"], ["copies(source=8)"]]


def test_cautions_are_told_and_kept() -> None:
    class Listener(Reporter):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def note(self, message: str) -> None:
            self.heard.append(message)

    listener = Listener()
    shallow = SMALL.replace(transfer=False, attacks=("fgsm",), epochs=1, adversarial_epochs=0, optimizer="sgd")
    found = run(shallow.replace(learning_rate=1e9), Execution(engine="stack"), reporter=listener)
    assert any(line.startswith(("dead", "diverged")) for line in found.run["warnings"])
    assert listener.heard == found.run["warnings"]


def test_the_plan_prices_attacks_transfer_and_the_source(tmp_path: Path) -> None:
    plain_protocol = SMALL.replace(transfer=False, attacks=("fgsm",), epsilons=())

    def seconds(**changes: object) -> float:
        plan = make_plan(plain_protocol.replace(**changes), Execution())
        groups = [*plan.groups, *(training.group for training in plan.trainings)]
        return sum(group.predicted_seconds or 0.0 for group in groups)

    plain = seconds()
    assert seconds(transfer=True) > plain
    assert seconds(defence="copies(source=smallest)") > plain
    assert seconds(defence="batch(pgd)") > plain
