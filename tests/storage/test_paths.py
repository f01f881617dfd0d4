"""Paths as people write them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atras.errors import InputError
from atras.experiment import load_config
from atras.results import read
from atras.storage import expanded, near_misses, new_folder
from atras.storage.paths import MAX_LISTED


def test_home_is_expanded_and_unknown_users_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == expanded(Path("~/x")) == tmp_path / "x"
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("a/~/x") == Path("a/~/x")


def test_folders_that_are_made_at_once_are_all_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(tmp_path / "runs" / "a-1"), range(24)))
    assert {path.name for path in made} == {"a-1", *(f"a-1-{number}" for number in range(2, 25))}
    assert all(path.is_dir() for path in made)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(InputError, match=f"{name}/new.*expected a folder to write to"):
            new_folder(tmp_path / name / "new")
    assert new_folder(tmp_path / "link").name == "link-2"


def test_near_misses_are_bounded_and_never_fail(tmp_path: Path) -> None:
    (tmp_path / "run-a").mkdir()
    assert near_misses(tmp_path / "run-b") == f"; did you mean {tmp_path / 'run-a'}?"
    assert near_misses(tmp_path / "run-b" / "run.json") == f"; did you mean {tmp_path / 'run-a'}?"
    assert near_misses(tmp_path / "qqqq") == ""
    assert near_misses(tmp_path / ("x" * 10**6)) == ""
    assert near_misses(Path("a\0b")) == ""
    assert MAX_LISTED < 10**6


def test_runs_and_configurations_that_are_not_there_are_named_nearly(tmp_path: Path) -> None:
    (tmp_path / "mnist-run").mkdir()
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(InputError, match=rf"did you mean {tmp_path / 'mnist-run'}\?"):
        read(tmp_path / "mnist-rnu")
    with pytest.raises(InputError, match=rf"did you mean {tmp_path / 'run.toml'}\?"):
        load_config(tmp_path / "runs.toml")
