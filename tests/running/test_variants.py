"""Runs with axes: every member has the figures of its own solo run, however the run is divided and gone on with."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from atras.attacks import FGSM
from atras.defences import DEFENCES, TRADES, Adversarial, BatchCopies, Fast
from atras.engines import why_not
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.networks import Candidate
from atras.results import SCHEMAS, Results, read
from atras.running import make_plan, merge, plan_lines, resume, run
from atras.testing import SMALL, tables_of
from atras.training import read_member

CPU = torch.device("cpu")
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
AXES = {"learning_rate": (0.001, 0.03), "defence": ("copies", "batch(pgd(steps=2))", "none")}
PROTOCOL = SMALL.replace(
    candidates=(Candidate((8,)), Candidate((6, 8))), seeds=(0, 1), precision="fp32", epochs=1, axes=AXES
)


def execution(engine: str = "stack", **changes: Any) -> Execution:
    return Execution(engine=engine, device="cpu", checkpoint_every=0, **changes)


def assert_solo(results: Results, protocol: Any, engine: str, frames: tuple[str, ...]) -> None:
    for variant in protocol.variants:
        solo = run(protocol.of(variant), execution(engine))
        assert set(solo.table["variant"]) == {""}
        alone = results.of_variant(variant.name)
        assert alone.run["protocol"] == solo.run["protocol"]
        for frame in frames:
            hashes = [column for column in SCHEMAS[frame] if column == "protocol_hash"]
            expected, own = getattr(solo, frame).drop(hashes), getattr(alone, frame).drop(hashes)
            assert len(expected), frame
            assert_frame_equal(own, expected, check_exact=True)


@pytest.mark.parametrize("engine", ["loop", "stack", pytest.param("fused", marks=NEEDS_FUSED)])
def test_every_member_has_the_figures_of_its_solo_run(engine: str) -> None:
    results = run(PROTOCOL, execution(engine))
    assert_solo(results, PROTOCOL, engine, ("table", "history", "metrics", "examples", "outcomes"))
    accuracies = results.table.group_by("variant").agg(pl.col("test_accuracy").sum())["test_accuracy"]
    assert accuracies.n_unique() > 1  # the rates differ in effect


@pytest.mark.parametrize("engine", ["loop", "stack", pytest.param("fused", marks=NEEDS_FUSED)])
def test_members_with_epsilons_and_betas_of_their_own_share_a_group(engine: str) -> None:
    betas = [f"trades(beta={beta}, attack=kl(steps=2))" for beta in (0.5, 6.0)]
    protocol = PROTOCOL.replace(
        axes={"epsilon": (0.05, 0.2), "defence": ("copies", *betas)}, attacks=("pgd(steps=2)",), epsilons=(0.05, 0.1),
        average=0.5, evaluate_every=1,
    )  # fmt: skip
    if engine == "loop":
        protocol = protocol.replace(candidates=PROTOCOL.candidates[:1], seeds=(0,))
    found = {
        len({member.variant for member in group.members}) for group in make_plan(protocol, execution(engine)).groups
    }
    assert found == {2, 4}
    results = run(protocol, execution(engine))
    assert_solo(results, protocol, engine, ("table", "history", "metrics", "examples", "outcomes"))
    assert {row["defence"] for row in results.table.to_dicts()} == {"copies", *(str(DEFENCES.parse(b)) for b in betas)}


def test_what_is_selected_and_compared_by_epsilons_is_as_in_the_solo_run() -> None:
    axes = {"epsilon": (0.05, 0.2), "defence": ("fast", "none")}
    protocol = PROTOCOL.replace(axes=axes, select="robust", candidates=(Candidate((8,)),), adversarial_epochs=2)
    results = run(protocol, execution())
    assert len(results.run["plan"]["groups"]) == 2
    assert_solo(results, protocol, "stack", ("table", "history", "metrics"))


def test_an_attack_with_one_epsilon_makes_groups() -> None:
    axes = {"epsilon": (0.05, 0.2), "defence": ("batch(apgd(steps=2))", "batch(pgd)", "batch(pgd(epsilon=0.3))")}
    groups = make_plan(PROTOCOL.replace(axes=axes, candidates=PROTOCOL.candidates[:1], seeds=(0,)), execution()).groups
    assert [["apgd" in member.variant.name for member in group.members] for group in groups] == [
        [True], [False] * 4, [True]
    ]  # fmt: skip


def test_a_plan_counts_the_copies_that_members_of_each_epsilon_are_attacked_in() -> None:
    axes = {"epsilon": (0.05, 0.2)}, {"learning_rate": (0.001, 0.002)}
    apart, alike = (make_plan(PROTOCOL.replace(axes=own), execution()).groups[0] for own in axes)
    assert len(apart.members) == len(alike.members)
    assert alike.predicted_bytes < apart.predicted_bytes <= 2 * alike.predicted_bytes


def test_what_makes_another_network_or_attack_is_as_in_its_solo_run_too() -> None:
    axes = {"activation": ("relu", "tanh"), "epsilon": (0.05, 0.1), "clip_gradient": ("none", 0.01)}
    protocol = PROTOCOL.replace(axes=axes, candidates=(Candidate((8,)),), seeds=(0, 1), transfer=True)
    results = run(protocol, execution("loop"))
    assert_solo(results, protocol, "loop", ("table", "metrics", "transfer"))
    assert results.table.filter(pl.col("variant").str.contains("clip_gradient=none"))["clip_gradient"].is_null().all()
    assert results.table["clip_gradient"].drop_nulls().to_list() == [0.01] * 8


def test_the_frames_have_a_column_for_each_axis(tmp_path: Path) -> None:
    results = run(PROTOCOL.replace(axes={**AXES, "epsilon": (0.1,)}), execution(), out=tmp_path / "run")
    for found in (results, read(tmp_path / "run")):
        table = found.table
        assert dict(zip(table["variant"], table["learning_rate"], strict=True)) == {
            name: float(name.split()[0].partition("=")[2]) for name in set(table["variant"])
        }
        assert [row["variant"].split()[1] == f"defence={row['defence']}" for row in table.to_dicts()] == [True] * 24
        assert set(table["epsilon"]) == {0.1}
        assert set(found.history["defence"]) == {"copies", "batch(pgd(steps=2))", "none"}
        assert 0.0 in set(found.metrics["epsilon"])  # the attack's own, of clean images
        assert found.variants.columns == ["variant", "learning_rate", "defence", "epsilon"]
        assert found.table.select("hidden_layers", "variant", "seed").rows() == [
            (member.candidate.name, member.variant.name, member.seed)
            for member in PROTOCOL.replace(axes={**AXES, "epsilon": (0.1,)}).members
        ]
        assert found.missing() == ""
    plain = run(PROTOCOL.replace(axes=()), execution(), out=tmp_path / "plain")
    assert read(tmp_path / "plain").table.columns == plain.table.columns == list(SCHEMAS["table"])


def test_rates_share_a_group_and_other_settings_make_groups() -> None:
    plan = make_plan(PROTOCOL, execution())
    assert [len(group.members) for group in plan.groups] == [4] * 6
    assert [len({member.variant for member in group.members}) for group in plan.groups] == [2] * 6
    lines = plan_lines(PROTOCOL, execution())
    assert [line for line in lines if line.startswith("defence=")] == [
        "defence=copies", "defence=batch(pgd(steps=2))", "defence=none"
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert max(map(len, plan_lines(PROTOCOL, execution(), width=60))) <= 60
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()
    assert type(plan).from_dict(plan.to_dict(), PROTOCOL).groups == plan.groups
    with pytest.raises(InputError, match="its members are not the protocol's"):
        type(plan).from_dict(plan.to_dict(), PROTOCOL.replace(axes={**AXES, "learning_rate": (0.001, 0.02)}))


def test_networks_are_kept_by_variant(tmp_path: Path) -> None:
    protocol = PROTOCOL.replace(axes={"learning_rate": (0.001, 0.03), "activation": ("relu", "tanh")})
    run(protocol, execution(), out=tmp_path)
    found = [read_member(tmp_path, Candidate((8,)), 0, "defended", variant) for variant in protocol.variants]
    assert [spec.activation for spec, _ in found] == ["relu", "tanh", "relu", "tanh"]
    assert not torch.equal(found[0][1]["dense1.weight"], found[2][1]["dense1.weight"])
    with pytest.raises(InputError, match="found none"):
        read_member(tmp_path, Candidate((8,)), 0, "defended")


def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_files(tmp_path: Path) -> None:
    protocol = PROTOCOL.replace(axes={**AXES, "epsilon": (0.05, 0.2)})
    whole = run(protocol, execution(), out=tmp_path / "whole")
    for stop_at in (9, 25, 44, 70):
        calls, folder = itertools.count(), tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            run(protocol, execution(), out=folder, stop=lambda calls=calls, at=stop_at: next(calls) >= at)
        resume(folder)
        assert tables_of(folder) == tables_of(tmp_path / "whole")
    assert len(whole.table) == 48


def test_shards_make_the_run_of_one_process(tmp_path: Path) -> None:
    folders = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        run(PROTOCOL, execution(shard=f"{number}/3"), out=folder)
    plan = json.loads((folders[0] / "run.json").read_text())["plan"]
    run(PROTOCOL, execution(), out=tmp_path / "whole", config_plan=plan)
    merged = merge(folders, tmp_path / "merged")
    assert merged.run["status"] == "finished"
    assert tables_of(tmp_path / "merged") == tables_of(tmp_path / "whole")


def test_what_derives_from_an_attack_or_a_defence_shares_no_group_unless_it_says_so() -> None:
    class Twice(FGSM):
        name = "twice"

    class Darker(Adversarial):
        name = "darker"

    assert FGSM().takes_epsilons
    assert not Twice().takes_epsilons
    for defence, shares in (
        (Adversarial(FGSM()), True), (BatchCopies(FGSM()), True), (TRADES(), True), (Fast(), True),
        (Adversarial(Twice()), False), (BatchCopies(Twice()), False), (Darker(FGSM()), False),
    ):  # fmt: skip
        assert (defence.at(0.02).in_common == defence.at(0.3).in_common) is shares, defence
