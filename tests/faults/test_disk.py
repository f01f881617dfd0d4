"""Disks that are full, broken or gone at any moment; folders that two want at once."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atras.errors import InputError
from atras.experiment import Execution
from atras.results import Results, read
from atras.results.results import run_json
from atras.running import orchestrator
from atras.storage import atomic_write
from atras.testing import SMALL, tables_of

pytestmark = pytest.mark.usefixtures("cache_of_module")

EXECUTION = Execution(engine="stack", device="cpu", checkpoint_every=0)
CALLS = {"write": os.write, "fsync": os.fsync, "replace": os.replace, "open": os.open}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    orchestrator.run(SMALL, EXECUTION, out=folder)
    return tables_of(folder)


class Disk:
    """Replaces the system's calls: from a call's n-th use on it fails, as it would on a full or dying disk."""

    def __init__(self, folder: Path, call: str, error: int, first: int | None) -> None:
        self.folder, self.call, self.error, self.first = folder, call, error, first
        self.uses = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.concerns(args[0]):
            self.uses += 1
            if self.first is not None and self.uses > self.first:
                raise OSError(self.error, os.strerror(self.error))
        return CALLS[self.call](*args, **options)

    def concerns(self, target: Any) -> bool:
        """Whether a path or descriptor belongs to the run; for an open file only Linux tells."""
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
        return str(path).startswith(str(self.folder))


def go(folder: Path) -> Results:
    if (folder / "run.json").exists():
        return orchestrator.resume(folder, execution=EXECUTION)
    return orchestrator.run(SMALL, EXECUTION, out=folder)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to tell whose a descriptor is")
@pytest.mark.parametrize(
    ("call", "error"),
    [("write", errno.ENOSPC), ("write", errno.EFBIG), ("fsync", errno.EIO), ("replace", errno.EROFS)],
)
def test_a_run_whose_disk_fails_goes_on_when_it_works_again(
    call: str,
    error: int,
    long: bool,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: Callable[..., None],
) -> None:
    counting = Disk(tmp_path, call, error, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, counting)
        orchestrator.run(SMALL, EXECUTION, out=tmp_path / "counted")
    assert counting.uses > 20
    # The lock's own text is the first write: it is not needed, and its failure is none.
    for first in range(1, counting.uses, 1 if long else counting.uses // 8):
        folder = tmp_path / str(first)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, Disk(tmp_path, call, error, first))
            with pytest.raises(InputError, match=os.strerror(error)) as caught:
                orchestrator.run(SMALL, EXECUTION, out=folder)
        assert "\n" not in str(caught.value)
        results = go(folder)
        assert results.run["status"] == "finished"
        assert tables_of(folder) == whole
        assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
        count("disk faults handled")


def refusing_sync(error: int, kind: Callable[[int], bool]) -> Callable[[int], None]:
    """A system that syncs no files, or no folders."""

    def fsync(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        CALLS["fsync"](descriptor)

    return fsync


@pytest.mark.faults
@pytest.mark.parametrize("error", sorted({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}), ids=errno.errorcode.get)
def test_a_file_system_that_syncs_no_folders_will_do(
    error: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "fsync", refusing_sync(error, stat.S_ISDIR))
    orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    assert tables_of(tmp_path) == whole
    count("disk faults handled")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errno.EINVAL, stat.S_ISREG),
        (errno.ENOTSUP, stat.S_ISREG),
        (errno.EIO, stat.S_ISDIR),
        (errno.EROFS, stat.S_ISDIR),
    ],
    ids=["file EINVAL", "file ENOTSUP", "folder EIO", "folder EROFS"],
)
def test_any_other_refused_sync_is_an_error(
    error: int, kind: Callable[[int], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing_sync(error, kind))
    with pytest.raises(InputError, match=os.strerror(error)):
        atomic_write.write_file(tmp_path / "file", [b"new"])


@pytest.mark.faults
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_flock_will_do(
    error: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(atomic_write.fcntl, "flock", flock)
    orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    assert tables_of(tmp_path) == whole
    assert not (tmp_path / atomic_write.LOCK).exists()


@pytest.mark.faults
def test_a_checkpoint_that_cannot_be_deleted_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    unlink = Path.unlink

    def refusing(path: Path, *args: Any, **options: Any) -> None:
        if path.match("group-*.safetensors"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        with pytest.raises(InputError, match=r"expected to delete it: Read-only file system.*--resume") as caught:
            orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    assert "\n" not in str(caught.value)
    assert orchestrator.resume(tmp_path, execution=EXECUTION).run["status"] == "finished"
    assert tables_of(tmp_path) == whole


@pytest.mark.faults
def test_writes_that_the_system_cuts_short_are_finished(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, bytes(content)[:1000]))
    orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    assert tables_of(tmp_path) == whole
    count("disk faults handled")


@pytest.mark.faults
def test_a_write_that_takes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write.write_file(path, [b"former"])
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(InputError, match="Input/output error"):
        atomic_write.write_file(path, [b"new"])
    assert path.read_bytes() == b"former"


@pytest.mark.faults
def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / ".table.parquet.partial").write_bytes(b"half")
    orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.faults
def test_a_second_writer_is_refused_and_the_first_ones_process_named(
    tmp_path: Path, count: Callable[..., None]
) -> None:
    orchestrator.run(SMALL, EXECUTION, out=tmp_path)
    run = read(tmp_path).run | {"status": "interrupted"}
    (tmp_path / "run.json").write_bytes(run_json(run))
    lock = atomic_write.Lock(tmp_path)
    for start in (lambda: orchestrator.run(SMALL, out=tmp_path), lambda: orchestrator.resume(tmp_path)):
        with pytest.raises(InputError, match=rf"found process {os.getpid()} on {platform.node()} at it; wait"):
            start()
        count("second writers refused")
    lock.release()
    assert orchestrator.resume(tmp_path).run["status"] == "finished"


HOLD = """
import pathlib, sys, time
from atras.storage.atomic_write import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.faults
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, count: Callable[..., None]) -> None:
    root = Path(orchestrator.__file__).parents[2]
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid}"):
            atomic_write.Lock(tmp_path)
        holder.kill()
    assert (tmp_path / atomic_write.LOCK).exists()
    atomic_write.Lock(tmp_path).release()
    assert not (tmp_path / atomic_write.LOCK).exists()
    count("stale locks taken over")


@pytest.mark.faults
def test_without_the_systems_locks_the_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    monkeypatch.setattr(atomic_write, "fcntl", None)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    path = tmp_path / atomic_write.LOCK
    for pid, host in ((os.getpid(), platform.node()), (int(gone.stdout), "elsewhere")):
        path.write_text(json.dumps({"pid": pid, "host": host}))
        with pytest.raises(InputError, match=f"process {pid} on {host}"):
            atomic_write.Lock(tmp_path)
    for text in (json.dumps({"pid": int(gone.stdout), "host": platform.node()}), "", "{", "[]"):
        path.write_text(text)
        atomic_write.Lock(tmp_path).release()
        assert not path.exists()
        count("stale locks taken over")


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder to write to: Not a directory"):
        orchestrator.run(SMALL, EXECUTION, out=tmp_path / "file" / "run")
    monkeypatch.setattr(os, "open", Disk(tmp_path, "open", errno.EROFS, 0))
    with pytest.raises(InputError, match="expected a folder to write to: Read-only file system"):
        orchestrator.run(SMALL, EXECUTION, out=tmp_path / "run")


@pytest.mark.faults
def test_a_lock_of_another_machine_counts_until_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    path = tmp_path / atomic_write.LOCK
    content = json.dumps({"pid": 7, "host": "elsewhere"})
    # The system's lock is free here, as where a network file system knows it on each machine alone.
    path.write_text(content)
    with pytest.raises(InputError, match=r"process 7 on elsewhere at it, last heard of \d s ago; .* --take-over"):
        atomic_write.Lock(tmp_path)
    os.utime(path, (0, time.time() - atomic_write.SECONDS_UNTIL_STALE - 1))
    atomic_write.Lock(tmp_path).release()
    path.write_text(content)
    atomic_write.Lock(tmp_path, take_over=True).release()
    # Without the system's locks silence alone is not enough.
    monkeypatch.setattr(atomic_write, "fcntl", None)
    path.write_text(content)
    os.utime(path, (0, time.time() - 1000))
    with pytest.raises(InputError, match="last heard of 10"):
        atomic_write.Lock(tmp_path)
    atomic_write.Lock(tmp_path, take_over=True).release()
    count("stale locks taken over", 3)


def test_the_holder_of_a_lock_renews_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "SECONDS_BETWEEN_SIGNS", 0.01)
    lock = atomic_write.Lock(tmp_path)
    os.utime(lock.path, (0, 0))
    begin = time.monotonic()
    while lock.path.stat().st_mtime == 0:
        assert time.monotonic() - begin < 60
        time.sleep(0.01)
    lock.release()
