"""Runs whose data, folder or working directory are others when they go on: checksums decide, not paths."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from atras.cli import program
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.running import resume, run
from atras.testing import SMALL, tables_of

STACK = Execution(engine="stack", device="cpu", checkpoint_every=0, download=False, data_dir=None)
PROTOCOL = SMALL.replace(dataset="d/m.npz", train_size="all", test_size="all", epochs=1)


def write_images(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(40) % 3, x_test=images[:20], y_test=np.arange(20) % 3)


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a run on them that was stopped, and what a whole one leaves; one stands elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ATRAS_DATA", raising=False)
    home = tmp_path / "home"
    write_images(home / "d" / "m.npz")
    monkeypatch.chdir(home)
    run(PROTOCOL, STACK, out="runs/whole")
    with pytest.raises(Interrupted):
        run(PROTOCOL, STACK, out="runs/stopped", stop=lambda: True)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return home


def test_a_run_goes_on_from_another_working_directory(home: Path) -> None:
    # What is here under the same name is not what the run began with.
    write_images(Path("d/m.npz"), seed=1)
    resume(home / "runs" / "stopped")
    assert tables_of(home / "runs" / "stopped") == tables_of(home / "runs" / "whole")


def test_a_run_and_its_data_may_be_moved_together(home: Path, tmp_path: Path) -> None:
    there = home.rename(tmp_path / "there")
    found = resume(there / "runs" / "stopped")
    assert tables_of(there / "runs" / "stopped") == tables_of(there / "runs" / "whole")
    assert found.run["data_places"][0] == [str(there / "d" / "m.npz"), "../../d/m.npz"]


@pytest.mark.parametrize("options", [["--dataset", "n/other.npz"], ["--data-dir", "n"], ["--data-dir", "deep"]])
def test_the_same_data_may_be_named_at_another_place(
    options: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "runs" / "stopped"
    for path in ("n/other.npz", "n/m.npz", "deep/d/m.npz"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "d" / "m.npz", path)
    (home / "d" / "m.npz").unlink()
    with pytest.raises(InputError, match=r"'d/m.npz'.*; name where it is by --dataset or --data-dir"):
        resume(folder)
    assert program.execute(program.app, ["run", "--resume", str(folder), *options, "--quiet"], "atras") == 0
    capsys.readouterr()
    assert tables_of(folder) == tables_of(home / "runs" / "whole")
    recorded = json.loads((folder / "run.json").read_text())
    assert recorded["protocol"]["dataset"] == "d/m.npz"
    assert Path(recorded["data_places"][0][0]).parent in {Path("n").absolute(), Path("deep/d").absolute()}
    assert recorded["data_places"][1][0] == str(home / "d" / "m.npz")


def test_a_place_that_was_named_once_is_found_again(home: Path) -> None:
    folder = home / "runs" / "stopped"
    (home / "d" / "m.npz").rename("moved.npz")
    with pytest.raises(Interrupted):
        resume(folder, PROTOCOL.replace(dataset="moved.npz"), stop=lambda: True)
    resume(folder)
    assert tables_of(folder) == tables_of(home / "runs" / "whole")


def test_other_data_are_refused_and_both_are_named(home: Path) -> None:
    folder = home / "runs" / "stopped"
    write_images(Path("other.npz"), seed=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        InputError,
        match=r"expected the data that the run began with, those of d/m.npz, found others in other.npz \(SHA-256 of "
        r"x_train has [0-9a-f]{12}, had [0-9a-f]{12}, x_test has",
    ):
        resume(folder, PROTOCOL.replace(dataset="other.npz"))
    write_images(home / "d" / "m.npz", seed=1)
    with pytest.raises(InputError, match=r"those of d/m.npz, found others in .*home/d/m.npz \(SHA-256"):
        resume(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(InputError, match=r"another epochs \(=7, recorded 1\)"):
        resume(folder, PROTOCOL.replace(epochs=7, dataset="other.npz"))


def test_a_data_folder_that_was_relative_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(Path(f"data/{part}-images-idx3-ubyte"), draw.integers(0, 256, (40, 28, 28)))
        write_idx(Path(f"data/{part}-labels-idx1-ubyte"), draw.integers(0, 10, 40))
    protocol = PROTOCOL.replace(dataset="mnist", stem="none")
    execution = Execution(engine="stack", device="cpu", checkpoint_every=0, download=False, data_dir="data")
    with pytest.raises(Interrupted):
        run(protocol, execution, out=tmp_path / "stopped", stop=lambda: True)
    monkeypatch.chdir("/")
    assert resume(tmp_path / "stopped").run["status"] == "finished"
