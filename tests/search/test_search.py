"""Successive halving: what a budget buys, what is dropped and on which images, and that it repeats."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atras
from atras.cli import program
from atras.data import load
from atras.engines import FusedEngine
from atras.errors import InputError, Interrupted
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, k_complete
from atras.running import orchestrator
from atras.running.progress import Reporter
from atras.search import pareto_lines, resume, search
from atras.search.halving import plan_rounds, round_lines
from atras.storage import atomic_write, checksum
from atras.testing import tables_of
from atras.training import stages

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
    lines, teller = told()
    results = search(protocol, CPU, 2, tmp_path / "out", reporter=teller)
    assert len(results.table) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["round-1", "search.json"]
    assert lines[0] == "round 1 of 1: 2 candidates, 1 epochs"


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


# Going on


class Killed(BaseException):
    """Ends a process in the midst of its work."""


def told() -> tuple[list[str], type[Reporter]]:
    lines: list[str] = []

    class Teller(Reporter):
        def note(self, message: str) -> None:
            lines.append(message)

    return lines, Teller


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ended before its second round, of four."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    prepare, calls = orchestrator.prepare, iter(range(10))

    def dying(*args: Any) -> Any:
        if next(calls) == 1:
            raise Killed
        return prepare(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orchestrator, "prepare", dying)
        with pytest.raises(Killed):
            search(PROTOCOL, CPU, 80, folder)
    return folder


@pytest.fixture
def stopped(once_stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, which no round has begun to name by its path."""
    return Path(shutil.copytree(once_stopped, tmp_path / "stopped"))


def change(folder: Path, **values: Any) -> None:
    path = folder / "search.json"
    path.write_bytes(checksum.json_with_checksum(json.loads(path.read_text()) | values))


def test_a_search_goes_on_where_it_ended(stopped: Path, found: tuple[atras.Results, Path]) -> None:
    results, whole = found
    assert json.loads((stopped / "search.json").read_text())["status"] == "failed"
    before = (stopped / "round-1" / "run.json").stat().st_mtime_ns
    lines, teller = told()
    again = resume(stopped, reporter=teller)
    assert lines[0].startswith("round 2 of 4: 3 candidates")
    assert (stopped / "round-1" / "run.json").stat().st_mtime_ns == before
    assert again.table.equals(results.table)
    assert (stopped / "search.json").read_text() == (whole / "search.json").read_text()
    assert not (stopped / ".lock").exists()


def test_a_round_that_was_gone_on_with_by_hand_is_taken_as_it_is(
    stopped: Path, found: tuple[atras.Results, Path]
) -> None:
    for answers in ([False, True], [True]):
        asked = iter(answers)
        with pytest.raises(Interrupted):
            resume(stopped, stop=lambda asked=asked: next(asked))  # type: ignore[misc]
    assert json.loads((stopped / "search.json").read_text())["status"] == "interrupted"
    assert atras.read(stopped / "round-2").run["status"] == "interrupted"
    assert orchestrator.resume(stopped / "round-2").run["status"] == "finished"
    resume(stopped)
    assert (stopped / "search.json").read_text() == (found[1] / "search.json").read_text()


def test_a_finished_round_that_lost_its_table_is_refused(found: tuple[atras.Results, Path], tmp_path: Path) -> None:
    folder = tmp_path / "round"
    shutil.copytree(found[1] / "round-1", folder)
    assert orchestrator.resume(folder).run["status"] == "finished"
    (folder / "table.parquet").unlink()
    with pytest.raises(InputError, match=r"table\.parquet: expected a file of a run: No such file"):
        orchestrator.resume(folder)


def test_a_finished_search_says_so_and_shows_what_it_found(found: tuple[atras.Results, Path]) -> None:
    results, folder = found
    lines, teller = told()
    assert resume(folder, reporter=teller).table.equals(results.table)
    assert lines == [f"{folder}: this search is finished already"]


def test_a_search_that_did_all_but_say_so_ends_as_it_would_have(
    found: tuple[atras.Results, Path], tmp_path: Path
) -> None:
    results, whole = found
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    change(folder, status="interrupted")
    assert resume(folder).table.equals(results.table)
    assert (folder / "search.json").read_text() == (whole / "search.json").read_text()


def test_another_protocol_is_refused_and_another_execution_is_not(stopped: Path) -> None:
    with pytest.raises(InputError, match=r"another epsilon \(=0.5, recorded 0.05\); leave that out"):
        resume(stopped, PROTOCOL.replace(epsilon=0.5))
    results = resume(stopped, PROTOCOL, Execution(device="cpu", engine="loop"))
    assert results.run["plan"]["engine"] == "loop"


def test_a_second_process_is_refused(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for folder, start in ((stopped, resume), (tmp_path / "new", lambda at: search(PROTOCOL, CPU, 80, at))):
        lock = atomic_write.Lock(folder)
        with pytest.raises(InputError, match="expected a folder that no other run writes to"):
            start(folder)
        lock.release()


def test_the_lock_is_held_while_a_search_runs(tmp_path: Path) -> None:
    def stop() -> bool:
        with pytest.raises(InputError, match="no other run writes to"):
            atomic_write.Lock(tmp_path / "out")
        return True

    with pytest.raises(Interrupted):
        search(PROTOCOL, CPU, 80, tmp_path / "out", stop=stop)
    atomic_write.Lock(tmp_path / "out").release()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": "random"}, r"search \(='random'\): expected one of halving"),
        ({"status": 3}, r"status \(=3\): expected one of running, "),
        ({"budget": "80"}, r"budget \(='80'\): expected a whole number"),
        ({"budget": None}, r"budget \(=None\): expected a whole number"),
        ({"protocol": []}, "protocol: expected an object"),
        ({"protocol": {"epochs": 3}}, "protocol_hash"),
        ({"protocol_hash": None}, r"protocol_hash \(=None\): expected text"),
        ({"execution": {"engine": "steam"}}, r"engine \(='steam'\): expected one of"),
        ({"rounds": {}}, r"rounds \(=\{\}\): expected a list of at most 4"),
        ({"rounds": [{}] * 5}, "expected a list of at most 4"),
        ({"rounds": [None]}, "expected round 1 and a ranking of its 6 candidates"),
        ({"rounds": [{"ranking": ["4"] * 6}]}, "expected round 1 and a ranking of its 6 candidates"),
        ({"rounds": [{"ranking": [["4"]] * 6}]}, "expected round 1 and a ranking of its 6 candidates"),
    ],
)
def test_a_damaged_record_is_refused(stopped: Path, values: dict[str, Any], message: str) -> None:
    change(stopped, **values)
    with pytest.raises(InputError, match=rf"search\.json: .*{message}"):
        resume(stopped)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"search": NaN}', '{"a": 1, "a": 2}', "\ud800"])
def test_a_record_that_is_none_is_refused(stopped: Path, text: str) -> None:
    (stopped / "search.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=r"search\.json: (expected|key 'a' came twice)"):
        resume(stopped)


def test_any_changed_digit_of_a_record_is_seen(stopped: Path) -> None:
    text = (stopped / "search.json").read_text()
    (stopped / "search.json").write_text(text.replace('"cost": ', '"cost": 1', 1))
    with pytest.raises(InputError, match=r"search\.json: .*damaged or foreign file \(its checksum is wrong\)"):
        resume(stopped)


def test_a_ranking_that_lost_a_name_or_a_figure_is_refused(stopped: Path) -> None:
    [first] = json.loads((stopped / "search.json").read_text())["rounds"]
    for wrong in (first | {"ranking": first["ranking"][1:]}, first | {"cost": 1}, first | {"folder": "../elsewhere"}):
        change(stopped, rounds=[wrong])
        with pytest.raises(InputError, match="expected round 1 and a ranking of its 6 candidates"):
            resume(stopped)


def test_other_held_out_images_are_refused_and_lost_ones_made_anew(
    stopped: Path, found: tuple[atras.Results, Path]
) -> None:
    path = stopped / "selection.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match=r"selection\.npz: expected the images that the search held out") as caught:
        resume(stopped)
    assert str(caught.value).endswith(f"; the search goes on with --resume {stopped}")
    path.unlink()
    resume(stopped)
    assert path.read_bytes() == content
    assert (stopped / "search.json").read_text() == (found[1] / "search.json").read_text()


def test_other_data_under_the_same_name_are_refused(stopped: Path) -> None:
    change(stopped, data={"x_train": "0"})
    with pytest.raises(InputError, match="digits: expected the data that the search began with, found others"):
        resume(stopped)


def test_a_round_of_a_search_that_was_moved_is_refused(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        resume(stopped, stop=lambda: True)
    there = stopped.rename(tmp_path / "there")
    with pytest.raises(InputError, match=r"another dataset .* is no round of this search, or the search was moved"):
        resume(there)
    resume(there.rename(stopped))


def test_a_search_that_cannot_begin_leaves_the_folder_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="class:12") as caught:
        search(PROTOCOL.replace(target="class:12"), CPU, 80, out)
    assert "--resume" not in str(caught.value)
    assert not list(out.iterdir())


def test_a_disk_that_is_full_at_the_start_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic_write.write_file

    def full(path: Path, parts: Any) -> None:
        if path.name == "selection.npz":
            raise InputError(f"{path}: no space")
        write(path, parts)

    monkeypatch.setattr(atomic_write, "write", full)
    with pytest.raises(InputError, match=r"no space$"):
        search(PROTOCOL, CPU, 80, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("start", [resume, lambda folder: search(PROTOCOL, CPU, 80, folder.parent / "new")])
def test_a_search_that_fails_later_names_its_own_folder(
    start: Any, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic_write.write_file

    def full(path: Path, parts: Any) -> None:
        if path.parent.name == "round-2":
            raise InputError(f"{path}: no space")
        write(path, parts)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_write, "write", full)
        with pytest.raises(InputError, match=r"no space.*; the search goes on with --resume ") as caught:
            start(stopped)
    folder = Path(str(caught.value).rpartition(" ")[2])
    assert json.loads((folder / "search.json").read_text())["status"] == "failed"
    assert resume(folder).run["status"] == "finished"


def test_a_run_does_not_begin_in_a_searchs_folder(found: tuple[atras.Results, Path]) -> None:
    _, folder = found
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=r"expected a folder without a run, found search\.json"):
        orchestrator.run(Protocol(**orchestrator.recorded(folder / "round-1").protocol_fields), out=folder)
    assert sorted(folder.iterdir()) == before


def test_a_search_in_the_way_is_named(stopped: Path) -> None:
    with pytest.raises(InputError, match=r"found round-1; name another, or go on with it by --resume"):
        search(PROTOCOL, CPU, 80, stopped)


# The command


def execute(line: str) -> int:
    return program.execute(program.app, ["run", *line.split()], "atras")


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


SEARCH = (
    "--search halving --budget 12 --quiet --hidden 4 --hidden 6 --hidden 8 --hidden 10 --epochs 4 "
    "--adversarial-epochs 0 --train-size 100 --test-size 50 --device cpu --engine fused"
)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_search_that_can_be_gone_on_with(
    name: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert execute(f"{SEARCH} --out {out}") == 0
    shown = capsys.readouterr().out
    tables = [tables_of(folder) for folder in sorted(out.glob("round-*"))]
    record = (out / "search.json").read_bytes()
    shutil.rmtree(out)
    monkeypatch.setattr(stages, "CALL_SECONDS", 0)
    with monkeypatch.context() as patch:
        epoch, calls = FusedEngine.epoch, iter(range(10_000))

        def acting(self: FusedEngine, work: Any) -> Any:
            if next(calls) == 1:  # in the second round
                os.kill(os.getpid(), getattr(signal, name))
            return epoch(self, work)

        patch.setattr(FusedEngine, "epoch", acting)
        assert execute(f"{SEARCH} --out {out}") == status
    assert capsys.readouterr() == ("", f"atras: interrupted; go on with --resume {out}\n")
    assert json.loads((out / "search.json").read_text())["status"] == "interrupted"
    assert list((out / "round-2" / "checkpoint").iterdir())
    for _ in range(2):
        assert execute(f"--resume {out} --quiet") == 0
        assert capsys.readouterr() == (shown, "")
    assert len(tables) == 3
    assert [tables_of(folder) for folder in sorted(out.glob("round-*"))] == tables
    assert (out / "search.json").read_bytes() == record


def test_other_options_beside_the_resume_of_a_search_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (
        ("--budget 80", "resume and --budget exclude each other"),
        ("--search halving", "resume and --search exclude each other"),
        ("--epochs 3", "resume: expected the recorded protocol, got another epochs (=3, recorded 8)"),
    ):
        assert execute(f"--resume {stopped} {more}") == 2
        assert capsys.readouterr().err.startswith(f"atras: {message}")
    (stopped / "search.json").write_text("[" * 100_000)
    assert execute(f"--resume {stopped}") == 2
    assert capsys.readouterr().err.startswith(f"atras: {stopped}/search.json: expected JSON")


def test_a_diverged_member_fails_a_search_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = FusedEngine._build

    def wild(self: FusedEngine) -> None:
        build(self)
        self.learning_rates = tuple(1e38 for _ in self.learning_rates)

    monkeypatch.setattr(FusedEngine, "_build", wild)
    assert execute(f"{SEARCH} --out {tmp_path / 'out'}") == 0
    for options in (f"{SEARCH} --out {tmp_path / 'again'}", f"--resume {tmp_path / 'out'} --quiet"):
        capsys.readouterr()
        assert execute(f"{options} --fail-on-diverged") == 3
        assert re.fullmatch(r"atras: diverged: \d+ \(seed 0\)\n", capsys.readouterr().err)
