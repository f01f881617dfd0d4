"""Attacks on surrogates: figures by hand from the networks that a run keeps, whatever the engine, memory and seeds."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from atras.attacks import ATTACKS, Ensemble, Start, parse_surrogate, starts
from atras.data import load, pixels
from atras.engines import LoopEngine, why_not
from atras.errors import InputError
from atras.evaluation import Transfer, Trial, parts, transfer, transfer_cautions, trials_of
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member
from atras.planning import grouping
from atras.results import Results
from atras.running import make_plan, origins, plan_lines, resume, run, session
from atras.training.weights import read_member

pytestmark = pytest.mark.usefixtures("cache_of_module")

CPU = torch.device("cpu")
ATTACK = "pgd(steps=3)"
SPELLED = (
    "independent", "undefended", "undefended:independent", "8", "8/5", "16+12-8", "losses(independent+undefended)",
    "probabilities(16+12-8+8/4)",
)  # fmt: skip
PROTOCOL = Protocol(
    candidates=(Candidate((16,)), Candidate((12, 8)), Candidate((8,))), epochs=6, adversarial_epochs=2, seeds=(4, 0, 5),
    batch_size=32, learning_rate=0.01, precision="fp32", train_size=200, test_size=60,
    attacks=(ATTACK, *(f"pgd(steps=3, surrogate={text})" for text in SPELLED)),
)  # fmt: skip
DATA = load("digits", train_size=200, test_size=60)


class Killed(BaseException):
    """Ends a process, which has no time to say anything."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(PROTOCOL, Execution(engine="loop", device="cpu"), out=tmp_path_factory.mktemp("run"))


def network(folder: Path | None, phase: str, name: str, seed: int) -> LoopEngine:
    assert folder is not None
    candidate = Candidate.parse(name)
    spec, values = read_member(folder, candidate, seed, phase)
    engine = LoopEngine(spec, [Member(candidate, seed)], PROTOCOL, CPU)
    engine.set_parameters(0, values)
    return engine


def standing(text: str, phase: str, name: str, seed: int) -> list[tuple[str, str, int]]:
    """The networks that a surrogate names for a target, read in another way."""
    found = []
    for part in re.sub(r"\w+\((.*)\)", r"\1", text).split("+"):
        words = part.split(":")
        own_phase = "trained" if words[0] == "undefended" else phase
        who = words[-1]
        if who == "independent":
            found.append((own_phase, name, {4: 0, 0: 5, 5: 4}[seed]))
        elif who == "undefended":
            found.append((own_phase, name, seed))
        else:
            candidate, _, number = who.partition("/")
            found.append((own_phase, candidate, int(number or seed)))
    return list(dict.fromkeys(found))


def by_hand(folder: Path | None, text: str, row: dict[str, Any]) -> int:
    """Correct predictions of a row's target on the images made on the networks that the text names."""
    names = standing(text, row["phase"], row["target_hidden_layers"], row["seed"])
    sources = [network(folder, *each) for each in names]
    how = text.partition("(")[0] if "(" in text else "logits"
    images, labels = pixels(DATA.test.images, torch.float32), DATA.test.labels
    attacked: Any = sources[0] if len(sources) == 1 else Ensemble(sources, how)
    start = Start(draw=starts(attacked, images, "pgd"))
    made = ATTACKS.parse(ATTACK).at(0.05)(attacked, images, labels, start=start)
    target = network(folder, row["phase"], row["target_hidden_layers"], row["seed"])
    return int((target.logits(made.clipped[0])[0].argmax(-1) == labels).sum())


@pytest.mark.parametrize("text", SPELLED)
def test_figures_are_those_of_an_attack_on_the_networks_named(text: str, results: Results) -> None:
    rows = results.transfer.filter(pl.col("surrogate") == text)
    assert rows["attack"].unique().to_list() == [ATTACK]
    alone = {(r["phase"], r["target_hidden_layers"], r["seed"]) for r in rows.iter_rows(named=True)}
    phases = ("defended",) if "undefended" in text else ("trained", "defended")
    every = {(p, c.name, s) for p in phases for c in PROTOCOL.candidates for s in PROTOCOL.seeds}
    assert alone == {each for each in every if standing(text, *each) != [each]}  # nobody stands for itself
    for row in rows.iter_rows(named=True):
        if row["seed"] != 5:
            assert row["correct"] == by_hand(results.directory, text, row), row
        names = standing(text, row["phase"], row["target_hidden_layers"], row["seed"])
        assert row["source_hidden_layers"] == "+".join(dict.fromkeys(name for _, name, _ in names))
        assert row["source_seed"] == (names[0][2] if len({seed for *_, seed in names}) == 1 else None)
        assert row["source_phase"] == (names[0][0] if len({phase for phase, *_ in names}) == 1 else None)


@pytest.mark.parametrize(
    "engine",
    ["stack", pytest.param("fused", marks=pytest.mark.skipif(bool(why_not(CPU)), reason=f"fused: {why_not(CPU)}"))],
)
def test_engines_that_hold_many_members_attack_those_named_alone(engine: str, results: Results, tmp_path: Path) -> None:
    found = run(PROTOCOL, Execution(engine=engine, device="cpu"), out=tmp_path).transfer
    keys = pl.exclude("correct", "accuracy", "ci_low", "ci_high", "protocol_hash")
    assert found.select(keys).equals(results.transfer.select(keys))
    wanted = (pl.col("seed") == 0) & pl.col("surrogate").is_in(["8/5", "undefended", SPELLED[-2], SPELLED[-1]])
    for row in found.filter(wanted).iter_rows(named=True):
        # Another order of summation turns the sign of a pixel now and then: of 60 images one prediction.
        assert abs(row["correct"] - by_hand(tmp_path, row["surrogate"], row)) <= 1, row


def test_a_run_that_is_killed_among_its_surrogates_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "room_for", lambda source, *_: parts.Room(30, math.inf))
    small = PROTOCOL.replace(
        candidates=PROTOCOL.candidates[1:], seeds=(4, 0), epochs=1, adversarial_epochs=1,
        attacks=("pgd(steps=2, surrogate=independent)", "pgd(steps=2, surrogate=losses(8+undefended))"),
    )  # fmt: skip
    often = Execution(engine="stack", device="cpu", checkpoint_every=0)
    whole = run(small, Execution(engine="stack", device="cpu"))
    attacked, lives = transfer.Transfer._attacked, 1
    monkeypatch.setattr(session.Session, "leave", lambda *_: None)
    while True:
        left = iter(range(3))

        def dying(self: Any, *args: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise Killed
            return attacked(self, *args)

        monkeypatch.setattr(transfer.Transfer, "_attacked", dying)
        try:
            folder = tmp_path / "killed"
            found = run(small, often, out=folder) if lives == 1 else resume(folder)
            break
        except Killed:
            lives += 1
    # Two parts in two phases and one of ensembles for each part of targets, in two spans each.
    assert lives > 3
    assert found.transfer.equals(whole.transfer)
    assert not (folder / "checkpoint").exists()


def test_an_attack_longer_than_a_process_lives_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "room_for", lambda source, *_: parts.Room(60, math.inf))  # two batches of 30
    monkeypatch.setattr(grouping, "EVALUATION_BATCH", 30)
    small = PROTOCOL.replace(
        candidates=PROTOCOL.candidates[:2], seeds=(4,), epochs=2, adversarial_epochs=0,
        attacks=("apgd(steps=12, surrogate=losses(16+12-8))",),
    )  # fmt: skip
    often = Execution(engine="loop", device="cpu", checkpoint_every=0)
    whole = run(small, Execution(engine="loop", device="cpu"))
    gradient, lives, folder = Ensemble.gradient, 1, tmp_path / "killed"
    monkeypatch.setattr(session.Session, "leave", lambda *_: None)
    while lives < 99:
        left = iter(range(8))

        def dying(self: Any, *args: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise Killed
            return gradient(self, *args)

        monkeypatch.setattr(Ensemble, "gradient", dying)
        try:
            found = run(small, often, out=folder) if lives == 1 else resume(folder)
            break
        except Killed:
            lives += 1
    assert 5 < lives < 9  # 13 gradients of each of two batches, in both phases, of which a process lives for 8
    assert found.transfer.equals(whole.transfer)


def test_surrogates_stay_out_of_metrics_and_of_the_worst_case(results: Results) -> None:
    assert not results.metrics["attack"].str.contains("surrogate").any()
    plain = run(PROTOCOL.replace(attacks=(ATTACK,)), Execution(engine="loop", device="cpu"))
    assert plain.table.equals(results.table)
    assert plain.transfer.is_empty()


def test_the_division_of_origins_is_a_matter_of_memory_alone(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    made = origins.Origins.__call__

    def noted(self: Any, *args: Any) -> Any:
        for part in made(self, *args):
            sizes.append(len(part.origins) if part.phase == "" else 0)
            yield part

    monkeypatch.setattr(origins.Origins, "__call__", noted)
    whole = run(PROTOCOL, Execution(engine="stack", device="cpu"))
    assert max(sizes) > 1
    sizes.clear()
    monkeypatch.setattr(origins.Origins, "_joint_bytes", lambda *_: 2**60)
    divided = run(PROTOCOL, Execution(engine="stack", device="cpu"))
    assert max(sizes) == 1
    difference = (divided.transfer["correct"] - whole.transfer["correct"]).abs()
    assert difference.max() <= 1  # type: ignore[operator]  # rounding depends on who is beside


def test_members_that_diverged_stand_for_nobody() -> None:
    trials = trials_of(PROTOCOL)
    gone = Member(Candidate((8,)), 4)
    everyone = {Member(c, s) for c in PROTOCOL.candidates for s in PROTOCOL.seeds}
    work = Transfer(DATA, PROTOCOL, trials, {"trained": everyone - {gone}, "defended": everyone - {gone}})
    left = [trials[i] for by in work.left().values() for numbers in by.values() for i in numbers]
    met = {network.member for trial in left for network in (*trial.origin.networks, trial.target)}
    assert met == everyone - {gone}
    assert len(left) == sum(gone not in _members(trial) for trial in trials)


def _members(trial: Trial) -> set[Member]:
    return {network.member for network in (*trial.origin.networks, trial.target)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attacks": ("pgd(surrogate=independent)",)}, "attack (=pgd(surrogate=independent)): independent copies have"),
        ({"attacks": ("pgd(surrogate=40+8-16)",)}, "expected a candidate of this run as surrogate, got 8-16; add"),
        ({"attacks": ("pgd(surrogate=40/3)",)}, "expected a seed of this run for its surrogate, got 3; add it"),
        ({"transfer": True, "transfer_seeds": "other"}, "transfer_seeds (=other): expected at least two seeds"),
        ({"transfer": True, "transfer_sources": (Candidate((9,)),)}, "transfer_sources (=9): expected a candidate"),
        ({"transfer_attacks": ("pgd",)}, "transfer_attacks: expected a transfer, whose option it is; add --transfer"),
    ],
)  # fmt: skip
def test_networks_that_the_run_lacks_are_refused_before_anything_is_trained(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    protocol = Protocol(candidates=(Candidate((40,)),)).replace(**fields)
    for start in (make_plan, lambda *args: run(*args, out=tmp_path / "run")):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            start(protocol, Execution())
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["", "someone", "24+24", "losses(24", "24/x", "undefended:", "24-", "mean(24+40)", "independent/1", 3]
)
def test_what_spells_no_surrogate_is_refused(text: Any) -> None:
    with pytest.raises(InputError):
        parse_surrogate(text)


@pytest.mark.parametrize("text", [*SPELLED, "losses(c16k4s2z1-100+undefended:40)"])
def test_surrogates_are_spelled_as_they_are_read(text: str) -> None:
    assert str(parse_surrogate(f" {text} ")) == text
    attack = ATTACKS.parse(f"square(queries=10, surrogate={text})")
    assert ATTACKS.parse(str(attack)) == attack
    assert str(attack.without_surrogate()) == "square(queries=10)"
    with pytest.raises(InputError, match="expected no surrogate, which is a network of a run"):
        attack(network_stub(), torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64))


def network_stub() -> Any:
    """A call that refuses its surrogate looks at no network."""
    return None


def test_a_defence_makes_no_copies_on_surrogates() -> None:
    with pytest.raises(InputError, match="expected one made on the network that is trained; leave surrogate out"):
        Protocol(defence="batch(pgd(surrogate=independent))")
    with pytest.raises(InputError, match=r"only the run's own fgsm has a fixed set.* take batch\(fgsm\)"):
        Protocol(defence="copies(fgsm(surrogate=independent))")


def test_a_plan_prices_surrogates_and_counts_their_memory() -> None:
    def plan(*attacks: str, **fields: Any) -> Any:
        return make_plan(PROTOCOL.replace(attacks=("fgsm", *attacks), **fields), Execution(engine="loop"))

    def seconds(*attacks: str, **fields: Any) -> float:
        return sum(group.predicted_transfer_seconds or 0 for group in plan(*attacks, **fields).groups)

    assert seconds() == 0
    one = seconds("pgd(surrogate=undefended)")  # one phase, as many sources as targets
    assert seconds("pgd(surrogate=independent)") == pytest.approx(2 * one)
    assert one < seconds("pgd(steps=40, surrogate=undefended)") < 2.1 * one
    # The smaller candidate is attacked once a seed and phase, its images are tried on the two others.
    assert seconds("pgd(surrogate=8)") < one
    assert seconds("fgsm(surrogate=8+16)") > seconds("fgsm(surrogate=8)")
    assert plan("pgd(surrogate=8+16+12-8)").predicted_transfer_bytes > plan("pgd(surrogate=8)").predicted_transfer_bytes
    lines = plan_lines(PROTOCOL.replace(attacks=("square(surrogate=undefended)",)), Execution(engine="loop"))
    assert any("fooled by square" in line for line in lines)


def rows_of(**changes: Any) -> dict[str, Any]:
    row = {
        "phase": "defended", "source_phase": "trained", "source_hidden_layers": "8", "source_seed": 0,
        "surrogate": None, "target_hidden_layers": "8", "seed": 0, "attack": "pgd", "epsilon": 0.1,
        "label_source": "true", "target": "none", "n": 100, "correct": 40,
    }  # fmt: skip
    return row | changes


def test_a_transferred_attack_that_is_stronger_than_the_white_box_one_is_told() -> None:
    own = {
        "hidden_layers": "8", "seed": 0, "phase": "defended", "attack": "pgd", "epsilon": 0.1, "label_source": "true",
        "target": "none", "mode": "white-box", "epoch": None, "split": "test", "n": 100, "correct": 45,
    }  # fmt: skip
    line = "pgd turns more images made on other networks than on itself, masked gradients?: 8 (seed 0, defended)"
    assert transfer_cautions([rows_of()], [own]) == [line]
    assert transfer_cautions([rows_of(), rows_of(source_hidden_layers="9")], [own]) == [line]  # once a member
    for changes in (
        {"correct": 44}, {"attack": "fgsm"}, {"epsilon": 0.2}, {"label_source": "predicted"}, {"target": "random"},
        {"source_phase": "defended"}, {"source_phase": None, "source_hidden_layers": "9+8"}, {"phase": "trained"},
    ):  # fmt: skip
        assert transfer_cautions([rows_of(**changes)], [own]) == [], changes
    # Where the attack is not among the run's, the transfer has its figure on the network itself.
    diagonal = rows_of(source_phase="defended", correct=45)
    assert transfer_cautions([diagonal, rows_of(source_hidden_layers="9", source_phase="defended")], []) == [line]


def test_a_run_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "transfer_cautions", lambda rows, metrics: [f"{len(rows)} {len(metrics) > 0}"])
    small = PROTOCOL.replace(attacks=("fgsm(surrogate=undefended)",), seeds=(0,), epochs=1, adversarial_epochs=0)
    found = run(small, Execution(engine="loop", device="cpu"))
    assert "3 True" in found.run["warnings"]


def test_transfer_takes_attacks_seeds_sources_and_targets() -> None:
    small = PROTOCOL.replace(
        attacks=("fgsm",), transfer=True, transfer_attacks=("fgsm", ATTACK), transfer_seeds="other",
        transfer_sources=(Candidate((8,)),), transfer_targets=(Candidate((16,)), Candidate((8,))), seeds=(4, 0),
        epochs=1, adversarial_epochs=1,
    )  # fmt: skip
    rows = run(small, Execution(engine="loop", device="cpu")).transfer
    keys = ["attack", "phase", "source_hidden_layers", "source_seed", "target_hidden_layers", "seed"]
    assert rows.select(keys).rows() == [
        (attack, phase, "8", source_seed, target, seed)
        for attack in ("fgsm", ATTACK) for phase in ("trained", "defended") for target in ("16", "8")
        for source_seed, seed in ((0, 4), (4, 0))
    ]  # fmt: skip
    every = run(small.replace(transfer_seeds="all"), Execution(engine="loop", device="cpu")).transfer
    assert every.height == 2 * rows.height
    assert every.filter(pl.col("source_seed") != pl.col("seed"))["correct"].equals(rows["correct"])


def test_attacks_without_an_epsilon_of_their_own_are_made_at_each_of_the_run() -> None:
    protocol = PROTOCOL.replace(
        attacks=("fgsm", "pgd(surrogate=undefended)", "apgd(norm=l2, epsilon=1, surrogate=undefended)"),
        epsilon=0.05, epsilons=(0.0, 0.1, 0.2), transfer=True, transfer_attacks=("fgsm", "apgd"),
    )  # fmt: skip
    found = {(t.surrogate, t.attack.name, t.attack.epsilon) for t in trials_of(protocol)}
    assert found == {
        (None, "fgsm", 0.05), *((None, "apgd", epsilon) for epsilon in (0.05, 0.1, 0.2)),
        *(("undefended", "pgd", epsilon) for epsilon in (0.05, 0.1, 0.2)), ("undefended", "apgd", 1.0),
    }  # fmt: skip
    assert {attack.name for attack in protocol.stronger_attacks} == set()
