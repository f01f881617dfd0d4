"""A search over candidates in variants: pairs are dropped, and what is kept has the figures of its own solo run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atras
from atras.analysis import confirmed, ranking
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.report.searches import search_contents
from atras.running import orchestrator
from atras.search import confirm, plan_rounds, resume, search
from atras.testing import tables_of
from searches import PROTOCOL, SPACE, Killed

AXES = {"learning_rate": (1e-3, 1e-2), "defence": ("copies", "none")}
SMALL = PROTOCOL.replace(candidates=SPACE[1:4], epochs=6, adversarial_epochs=3, axes=AXES, train_size=120, test_size=60)
LOOP = Execution(device="cpu", engine="loop")
BUDGET = 110
FRESH = (7,)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests here, so that the machine's speed is measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[atras.Results, Path]:
    folder = tmp_path_factory.mktemp("variants") / "out"
    return search(SMALL, LOOP, BUDGET, folder, confirm_seeds=FRESH), folder


def test_each_round_keeps_the_first_half_of_the_pairs(whole: tuple[atras.Results, Path]) -> None:
    _, folder = whole
    rounds = json.loads((folder / "search.json").read_text())["rounds"]
    assert [len(each["ranking"]) for each in rounds] == [part.candidates for part in plan_rounds(SMALL, BUDGET)]
    assert len(rounds) > 1
    assert len(rounds[0]["ranking"]) == 3 * 2 * 2
    for before, after in itertools.pairwise(rounds):
        assert set(after["ranking"]) == set(before["ranking"][: len(after["ranking"])])
        trained = atras.read(folder / after["folder"]).flattened.table["hidden_layers"].to_list()
        assert sorted(trained) == sorted(after["ranking"])  # these alone, and no other of their settings


def test_each_finalist_has_the_figures_of_its_solo_run(whole: tuple[atras.Results, Path]) -> None:
    results, _ = whole
    columns = [name for name in results.table.columns if "accuracy" in name]
    for name, variant in results.table.select("hidden_layers", "variant").rows():
        own = next(each for each in SMALL.variants if each.name == variant)
        solo = orchestrator.run(SMALL.of(own).replace(candidates=(Candidate.parse(name),)), LOOP)
        row = results.table.filter(hidden_layers=name, variant=variant)
        assert row.select(columns).rows() == solo.table.select(columns).rows()


def test_one_that_was_killed_goes_on_to_the_same_end(
    whole: tuple[atras.Results, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = orchestrator.prepare, iter(range(10))

    def dying(*args: Any) -> Any:
        if next(calls) == 1:
            raise Killed
        return prepare(*args)

    with monkeypatch.context() as patch:
        patch.setattr(orchestrator, "prepare", dying)
        with pytest.raises(Killed):
            search(SMALL, LOOP, BUDGET, tmp_path / "out", confirm_seeds=FRESH)
    resume(tmp_path / "out")
    last = f"round-{len(plan_rounds(SMALL, BUDGET))}"
    assert tables_of(tmp_path / "out" / last) == tables_of(whole[1] / last)


def test_one_in_memory_finds_the_same_and_leaves_nothing(
    whole: tuple[atras.Results, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = search(SMALL, LOOP, BUDGET)
    assert results.directory is None
    assert results.table.equals(whole[0].table)
    assert not list(tmp_path.iterdir())


def test_fresh_seeds_measure_the_first_pairs_alone(whole: tuple[atras.Results, Path]) -> None:
    results, _ = whole
    chosen = confirmed(results)["hidden_layers"].to_list()
    assert results.directory is not None
    fresh = atras.read(results.directory / "confirm").flattened.table["hidden_layers"].to_list()
    assert sorted(fresh) == sorted(chosen)
    assert chosen[0] == ranking(results)["hidden_layers"][0]
    assert confirm(results) is results


def test_the_report_tells_of_every_pair(whole: tuple[atras.Results, Path]) -> None:
    results, folder = whole
    contents = search_contents(folder)
    assert contents.search is not None
    assert contents.comparison is not None
    assert len(contents.runs) == len(results.variants)
    rounds, pairs = contents.search.tables
    assert {row[0] for row in pairs.rows} == set(ranking(atras.read(folder / "round-1"))["hidden_layers"])
    assert rounds.rows[0][1] == "12"
    assert contents.search.text[0].startswith("12 networks in ")
    assert contents.overall is not None
    assert contents.overall.title.partition(",")[0] == f"Most robust: {ranking(results)['hidden_layers'][0]}"


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (("4 learning_rate=0.001",), "only: expected each candidate in a variant, 6 is in none"),
        (("4 learning_rate=1",), "expected a candidate of the run and a value of each axis, such as 4 learning_rate"),
        (("5 learning_rate=0.001",), "expected a candidate of the run"),
        (("4",), "expected a candidate of the run"),
        (("4 learning_rate=0.001", "4 learning_rate=0.001"), "only: 4 learning_rate=0.001 came twice"),
    ],
)
def test_pairs_that_a_run_cannot_have_are_refused(only: tuple[str, ...], message: str) -> None:
    axes = {"learning_rate": (0.001, 0.01)}
    with pytest.raises(InputError, match=message):
        Protocol(candidates=SPACE[:2], axes=axes, only=only)  # type: ignore[arg-type]


def test_all_pairs_are_the_experiment_without_that_choice_in_any_order() -> None:
    axes: Any = {"learning_rate": (0.001, 0.01)}
    every = Protocol(candidates=SPACE[:2], axes=axes)
    names = [f"{candidate.name} {variant.name}" for candidate, variant in every.pairs]
    assert every.replace(only=tuple(names[::-1])) == every
    some = every.replace(only=(names[3], names[0]))
    assert some == every.replace(only=(names[0], names[3]))
    assert some.only == (names[0], names[3])
    assert some.of(some.variants[0]).candidates == (SPACE[0],)
    assert [member.name for member in some.members] == [member.name for member in every.members][::3]


@pytest.mark.parametrize("engine", ["stack", "fused"])
def test_a_run_of_some_pairs_has_them_alone_and_can_be_read_again(engine: str, tmp_path: Path) -> None:
    names = (
        "6 learning_rate=0.01 defence=copies",
        "8 learning_rate=0.001 defence=none",
        "10 learning_rate=0.001 defence=none",
    )
    protocol = SMALL.replace(only=names)
    results = orchestrator.run(protocol, Execution(device="cpu", engine=engine), out=tmp_path / "run")
    assert results.flattened.table["hidden_layers"].to_list() == list(names)
    assert results.missing() == ""
    again = atras.read(tmp_path / "run")
    assert again.table.equals(results.table)
    part = again.of_variant("learning_rate=0.001 defence=none")
    assert part.run["protocol"]["candidates"] == ["8", "10"]
    assert orchestrator.recorded(tmp_path / "run").protocol_fields["only"] == names
