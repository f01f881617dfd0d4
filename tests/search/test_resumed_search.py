"""A search that goes on where it ended, and records that are damaged."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atras
from atras.engines import has_bf16
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.kernels import backends
from atras.running import orchestrator
from atras.search import resume, search
from atras.storage import atomic_write
from searches import CPU, PROTOCOL, change, replace_writes, told


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


def test_what_is_left_of_a_search_may_train_in_another_precision(stopped: Path) -> None:
    record = json.loads((stopped / "search.json").read_text())
    with pytest.raises(InputError, match="expected the recorded protocol, got another precision"):
        resume(stopped, PROTOCOL.replace(precision="fp64"))
    resume(stopped, PROTOCOL.replace(precision="fp32"))
    content = json.loads((stopped / "search.json").read_text())
    assert (content["status"], content["protocol"]) == ("finished", record["protocol"])
    asked = [atras.read(stopped / f"round-{number}").run["protocol"]["precision"] for number in range(1, 5)]
    assert asked == ["auto", "fp32", "fp32", "fp32"]


@pytest.mark.skipif(not has_bf16(), reason="no bf16 in this processor")
def test_a_search_in_bf16_goes_on_where_there_is_no_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, execution = PROTOCOL.replace(precision="bf16"), Execution(device="cpu", engine="fused")
    asked = itertools.count()
    with pytest.raises(Interrupted):
        search(protocol, execution, 80, tmp_path, stop=lambda: next(asked) > 2)
    lacking = backends.Bf16(False, False, "this processor has neither AVX512-BF16 nor AMX")
    monkeypatch.setattr(backends, "bf16_on_cpu", lambda *_: lacking)
    results = resume(tmp_path)
    assert results.metrics["precision"].unique().to_list() == ["fp32"]
    assert json.loads((tmp_path / "search.json").read_text())["status"] == "finished"


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
    with pytest.raises(InputError, match=r"digits: expected the data that the run began with, .*found others in"):
        resume(stopped)


def test_a_search_that_was_moved_goes_on_in_the_midst_of_a_round(
    stopped: Path, found: tuple[atras.Results, Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        resume(stopped, stop=lambda: True)
    (round_,) = stopped.glob("round-2")
    assert json.loads((round_ / "run.json").read_text())["status"] == "interrupted"
    there = stopped.rename(tmp_path / "there")
    assert resume(there).table.equals(found[0].table)


def test_a_search_on_a_file_goes_on_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    (home / "d").mkdir(parents=True)
    away.mkdir()
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    np.savez(home / "d" / "m.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    protocol = PROTOCOL.replace(dataset="d/m.npz", train_size="all", test_size="all", epochs=4, adversarial_epochs=0)
    monkeypatch.chdir(home)
    for budget in (24, 48):  # of one round, and of two
        with pytest.raises(Interrupted):
            search(protocol, CPU, budget, f"out-{budget}", stop=lambda: True)
        monkeypatch.chdir(away)
        assert resume(home / f"out-{budget}").run["status"] == "finished"
        monkeypatch.chdir(home)


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
        replace_writes(patch, full)
        with pytest.raises(InputError, match=r"no space.*; the search goes on with --resume ") as caught:
            start(stopped)
    folder = Path(str(caught.value).rpartition(" ")[2])
    assert json.loads((folder / "search.json").read_text())["status"] == "failed"
    assert resume(folder).run["status"] == "finished"
