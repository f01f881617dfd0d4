"""A search: what is dropped and on which images, and that it repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atras
from atras.analysis import pareto_lines
from atras.data import load
from atras.errors import InputError, Interrupted
from atras.experiment import Protocol
from atras.running import orchestrator
from atras.search import search
from atras.search.halving import plan_rounds
from atras.storage import atomic_write
from searches import CPU, PROTOCOL, SPACE, replace_writes, told


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


def test_images_with_their_channels_first_keep_them_in_every_round(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = {f"x_{part}": rng.integers(0, 256, (60, 13, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "mine.npz", **images, y_train=labels, y_test=labels)
    protocol = PROTOCOL.replace(
        dataset=tmp_path / "mine.npz", channels="first", stem="none", train_size="all", test_size="all", epochs=4,
        adversarial_epochs=4, candidates=SPACE[:4],
    )  # fmt: skip
    search(protocol, CPU, 36, tmp_path / "out")
    rounds = sorted((tmp_path / "out").glob("round-*"))
    assert len(rounds) > 1
    assert {tuple(atras.read(folder).run["data"]["image_shape"]) for folder in rounds} == {(13, 8, 8)}


def test_selection_never_sees_the_test_images(found: tuple[atras.Results, Path]) -> None:
    results, folder = found
    data, parts = load("digits", train_size=200, test_size=100), np.load(folder / "selection.npz")
    images = data.train.images.permute(0, 2, 3, 1).numpy()
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(images, data.train.labels, strict=True))
    held = [(parts[f"x_{part}"], parts[f"y_{part}"]) for part in ("train", "test")]
    found_images = [(image.tobytes(), int(label)) for x, y in held for image, label in zip(x, y, strict=True)]
    assert sorted(found_images) == expected
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
    assert lines[0] == "round 1 of 1: 2 candidates, 1 epoch"


def test_a_folder_in_use_and_a_single_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder for a search"):
        search(PROTOCOL, CPU, 80, tmp_path)
    with pytest.raises(InputError, match="expected at least 2 images of a class to hold some out"):
        search(PROTOCOL.replace(train_size=1), CPU, 80, tmp_path / "new")


def test_the_front_fits_the_terminal(found: tuple[atras.Results, Path]) -> None:
    results, _ = found
    for width in (60, 80, 120):
        assert max(map(len, pareto_lines(results, width=width))) <= width
    lines = pareto_lines(results)
    assert len(lines) >= 3


def test_the_lock_is_held_while_a_search_runs(tmp_path: Path) -> None:
    def stop() -> bool:
        with pytest.raises(InputError, match="no other run writes to"):
            atomic_write.Lock(tmp_path / "out")
        return True

    with pytest.raises(Interrupted):
        search(PROTOCOL, CPU, 80, tmp_path / "out", stop=stop)
    atomic_write.Lock(tmp_path / "out").release()


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

    replace_writes(monkeypatch, full)
    with pytest.raises(InputError, match=r"no space$"):
        search(PROTOCOL, CPU, 80, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_run_does_not_begin_in_a_searchs_folder(found: tuple[atras.Results, Path]) -> None:
    _, folder = found
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=r"expected a folder without a run, found search\.json"):
        orchestrator.run(Protocol(**orchestrator.recorded(folder / "round-1").protocol_fields), out=folder)
    assert sorted(folder.iterdir()) == before


def test_a_search_in_the_way_is_named(stopped: Path) -> None:
    with pytest.raises(InputError, match=r"found round-1; name another, or go on with it by --resume"):
        search(PROTOCOL, CPU, 80, stopped)
