"""Successive halving: what a budget buys, what is dropped and on which images, and that it repeats."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atras
from atras import cli
from atras.data import load
from atras.errors import InputError
from atras.progress import Reporter
from atras.protocol import Execution, Protocol
from atras.search import pareto_lines, plan_rounds, round_lines, search
from atras.space import Candidate, k_complete

SPACE = tuple(Candidate((width,)) for width in (4, 6, 8, 10, 12, 14))
PROTOCOL = Protocol(candidates=SPACE, epochs=8, adversarial_epochs=4, train_size=200, test_size=100)
CPU = Execution(device="cpu", engine="stack")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# The schedule


def test_a_large_budget_trains_all_in_full() -> None:
    # 40 candidates, 20 clean epochs and 20 on the doubled set: 60 candidate-epochs each.
    assert plan_rounds(Protocol(), 2400) == ((40, 20, 20, 2400),)
    assert len(plan_rounds(Protocol(), 2399)) > 1


def test_rounds_halve_and_share_the_budget_by_hand() -> None:
    # Two rounds would need 2 * 20 * 60 = 2,400, three 3 * 10 * 60 = 1,800; so 600 a round: 5, 10 and 20 epochs.
    assert plan_rounds(Protocol(), 1800) == ((40, 5, 5, 600), (20, 10, 10, 600), (10, 20, 20, 600))


def test_seeds_and_the_proportion_of_epochs_count() -> None:
    protocol = Protocol(seeds=(0, 1), adversarial_epochs=10)
    # 2 * 40 * (e + 2 * e / 2) a round, 40 in full.
    assert plan_rounds(protocol, 3200)[0] == (40, 20, 10, 3200)
    assert plan_rounds(protocol.replace(adversarial_epochs=0), 1600)[0] == (40, 20, 0, 1600)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 10_000))
def test_rounds_stay_within_the_budget_and_end_in_full(n: int, epochs: int, more: int, seeds: int, budget: int) -> None:
    candidates = tuple(Candidate((width,)) for width in range(1, n + 1))
    protocol = Protocol(candidates=candidates, seeds=tuple(range(seeds)), epochs=epochs, adversarial_epochs=more)
    try:
        rounds = plan_rounds(protocol, budget)
    except InputError as error:
        least = int(str(error).partition("at least ")[2].partition(" ")[0])
        assert least > budget
        assert plan_rounds(protocol, least)
        return
    assert sum(part.cost for part in rounds) <= budget
    assert (rounds[0].candidates, rounds[-1].epochs, rounds[-1].adversarial_epochs) == (n, epochs, more)
    for before, after in pairwise(rounds):
        assert after.candidates == -(-before.candidates // 2)
        assert 1 <= before.epochs <= after.epochs


def test_a_budget_that_does_not_reach_names_the_least() -> None:
    with pytest.raises(InputError, match=r"budget \(=100\): 40 candidates need at least 720 candidate-epochs"):
        plan_rounds(Protocol(), 100)
    with pytest.raises(InputError, match=r"budget \(=0\): expected a whole number from 1"):
        plan_rounds(Protocol(), 0)


def test_the_schedule_fits_80_columns() -> None:
    space = k_complete(range(1, 500), range(2, 30))
    lines = round_lines(Protocol(candidates=space), 10**5)
    assert max(map(len, lines)) <= 80
    assert lines[-2].endswith("test images, in full")
    assert lines[1].endswith("held-out training images")


# The search


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[atras.Results, Path]:
    folder = tmp_path_factory.mktemp("search") / "out"
    return search(PROTOCOL, CPU, 80, folder), folder


def test_each_round_is_a_run_of_the_better_half(found: tuple[atras.Results, Path]) -> None:
    results, folder = found
    summary = json.loads((folder / "search.json").read_text())
    sizes = [part.candidates for part in plan_rounds(PROTOCOL, 80)]
    assert sizes == [6, 3, 2, 1][: len(sizes)]
    assert len(sizes) == 4
    for number, size in enumerate(sizes, start=1):
        run = atras.read(folder / f"round-{number}")
        assert len(run.table) == size
        if number > 1:
            kept = set(run.table["hidden_layers"])
            before = summary["rounds"][number - 2]["ranking"]
            robust = dict(atras.read(folder / f"round-{number - 1}").table.select(
                "hidden_layers", "worst_case_accuracy_after").iter_rows())  # fmt: skip
            assert kept == set(before[:size])
            assert min(robust[name] for name in kept) >= max(robust[name] for name in before[size:])
    assert results.table.equals(atras.read(folder / f"round-{len(sizes)}").table)
    assert (summary["budget"], summary["protocol_hash"]) == (80, PROTOCOL.hash)
    assert summary["spent"] == sum(part.cost for part in plan_rounds(PROTOCOL, 80))


def test_selection_never_sees_the_test_images(found: tuple[atras.Results, Path]) -> None:
    results, folder = found
    data, parts = load("digits", train_size=200, test_size=100), np.load(folder / "selection.npz")
    expected = data.train.images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(parts["x_train"], expected[:160])
    assert np.array_equal(parts["x_test"], expected[160:])
    assert np.array_equal(np.concatenate([parts["y_train"], parts["y_test"]]), data.train.labels.numpy())
    for run in (atras.read(folder / "round-1"), results):
        taken = run.run["data"]
        assert (taken["train_size"], taken["test_size"]) == ((160, 40) if run is not results else (200, 100))
    assert results.dataset == "digits"
    assert results.run["protocol"]["epochs"] == 8


def test_the_same_search_finds_the_same(found: tuple[atras.Results, Path], tmp_path: Path) -> None:
    results, folder = found
    again = search(PROTOCOL, CPU, 80, tmp_path / "again")
    assert again.table.equals(results.table)
    first, second = (json.loads((where / "search.json").read_text()) for where in (folder, tmp_path / "again"))
    assert first == second


def test_a_budget_for_all_holds_nothing_out(tmp_path: Path) -> None:
    protocol = PROTOCOL.replace(candidates=SPACE[:2], epochs=1, adversarial_epochs=0)
    told: list[str] = []

    class Teller(Reporter):
        def note(self, message: str) -> None:
            told.append(message)

    results = search(protocol, CPU, 2, tmp_path / "out", reporter=Teller)
    assert len(results.table) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["round-1", "search.json"]
    assert told[0] == "round 1 of 1: 2 candidates, 1 epochs"


def test_a_folder_in_use_and_a_single_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder for a search"):
        search(PROTOCOL, CPU, 80, tmp_path)
    with pytest.raises(InputError, match="expected at least 2 images to hold some out"):
        search(PROTOCOL.replace(train_size=1), CPU, 80, tmp_path / "new")


def test_the_front_fits_80_columns(found: tuple[atras.Results, Path]) -> None:
    results, _ = found
    lines = pareto_lines(results)
    assert max(map(len, lines)) <= 80
    assert len(lines) >= 3


# The command


def execute(line: str) -> int:
    return cli.execute(cli.app, ["run", *line.split()], "atras")


def test_a_dry_run_prints_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("--search halving --budget 1800 --dry-run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out == round_lines(Protocol(), 1800)
    assert out[-1] == "1800 of 1800 candidate-epochs; 1 seed(s) a candidate"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--search random --budget 5", "search (='random'): expected one of halving"),
        ("--search halving", "budget: expected with --search, none came; add --budget N, in candidate-epochs"),
        ("--budget 5", "search (=None): expected one of halving"),
        ("--search halving --budget much", "budget (='much'): expected a whole number; write for example 10"),
        ("--search halving --budget 3", "budget (=3): 40 candidates need at least 720 candidate-epochs"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert execute(line) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1


def test_the_command_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--hidden 4 --hidden 8 --epochs 2 --adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu"
    assert execute(f"--search halving --budget 4 --out there --quiet {options}") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Pareto front")
    assert out[-1] == "results are in there"
    assert (tmp_path / "there" / "search.json").is_file()
