"""Files that are whole at every moment, in a folder that one process writes to."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import threading
import time
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path

from atras.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
BUSY = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems that sync no folders answer, as some network ones do; of a file it is an error like any other."""

SECONDS_BETWEEN_SIGNS = 5.0
"""How often the holder of a lock says that it is alive."""

SECONDS_UNTIL_STALE = 60.0
"""Without such a sign for so long, the holder is gone, if the system's lock says so too."""

PARTIAL = ".partial"
_HOST = zlib.crc32(platform.node().encode())
SEARCH = "search.json"
"""The record of a search: where it lies is no place for a run."""


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace a file in one step: a reader, or a crash, finds the former content or the new one.

    Args:
        path: the file; its folder is made if need be.
        parts: the content, one after the other.

    Raises:
        InputError: if it cannot be written; the former content stays.
    """
    # Of a name that no other process writes to: a worker that its run has given up may not know of it yet.
    partial = path.with_name(f".{path.name}.{_HOST:x}-{os.getpid():x}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(path)
        with partial.open("wb", buffering=0) as file:
            for part in parts:
                _write_all(file.fileno(), memoryview(part))
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: expected to write it: {error.strerror or error}; make room or name another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def refuse_special(path: Path) -> None:
    """Raise OSError if a device, a pipe or a folder has this name: renaming a file to it would delete a device."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def remove_partials(*folders: Path) -> None:
    """Delete what a killed process left half written."""
    for folder in folders:
        for path in folder.glob(f".*{PARTIAL}"):
            with contextlib.suppress(OSError):
                path.unlink()


def _write_all(descriptor: int, content: memoryview) -> None:
    # The system may take a part of it, and says so only in what it returns.
    while content:
        taken = os.write(descriptor, content)
        if taken == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        content = content[taken:]


def remove_file(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        InputError: if it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: expected to delete it: {error.strerror or error}; make its folder writable"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Have the system keep a rename; a file system that syncs no folders is left to do so in its own time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def take_folder(folder: Path) -> Lock:
    """Make a folder if need be, and lock it.

    Raises:
        InputError: if its name is not UTF-8 (safetensors opens no others), or as `Lock`.
    """
    try:
        str(folder).encode()
        folder.mkdir(parents=True, exist_ok=True)
    except UnicodeEncodeError:
        raise InputError(f"out (={str(folder)!r}): expected a name in UTF-8; name another folder") from None
    except OSError as error:
        raise unwritable(folder, error) from error
    return Lock(folder)


def new_folder(path: Path) -> Path:
    """Make a folder that no other process makes too.

    Returns:
        The path; where something of its name is there already, with the first free number behind it: `name-2`.

    Raises:
        InputError: if it cannot be made.
    """
    for name in itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2))):
        folder = path.with_name(name)
        try:
            folder.mkdir(parents=True)
            break
        except OSError as error:
            # Something of this name may be there, or, in the place of a folder above it, a file.
            if not (isinstance(error, FileExistsError) and os.path.lexists(folder)):
                raise unwritable(folder, error) from error
    return folder


def unwritable(folder: Path, error: OSError) -> InputError:
    """The error for a folder that cannot be used."""
    return InputError(
        f"out (={str(folder)!r}): expected a folder to write to: {error.strerror or error}; name another folder"
    )


class FolderBusyError(InputError):
    """Another process holds the lock of a folder."""


class Lock:
    """The right to write to a folder, held until `release`, or until the process ends, however it ends.

    The system's own lock (flock) is what counts on one machine: it goes with its process, so none is ever stale.
    Network file systems may know it on each machine alone, or not at all. So its holder also renews the file every few
    seconds: one of another machine that was renewed lately is held, whatever the system says. One that was not renewed
    for a minute is nobody's where the system's lock is free, and taken over on request where there are no such locks.

    Args:
        folder: there already.
        take_over: take it although a process of another machine may hold it.

    Raises:
        FolderBusyError: if another process (or another run of this one) holds it.
        InputError: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, take_over: bool = False) -> None:
        self.path = folder / LOCK
        self._take_over = take_over
        try:
            descriptor = self._take()
        except OSError as error:
            raise unwritable(folder, error) from error
        # A full disk may refuse this, but not the lock.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_holding()).encode(), 0)
        ended = threading.Event()
        threading.Thread(target=_renew, args=(self.path, ended), daemon=True).start()
        self.release = weakref.finalize(self, _release, self.path, descriptor, os.getpid(), ended)

    def _take(self) -> int:
        for _ in range(100):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if self._locked(descriptor) and _same(descriptor, self.path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            # Its former holder removed the file between our opening and our locking it.
            os.close(descriptor)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _locked(self, descriptor: int) -> bool:
        there = True
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                raise self._refusal(descriptor) from None
            there = False
        if self._alive(descriptor, there):
            raise self._refusal(descriptor)
        return True

    def _alive(self, descriptor: int, locks: bool) -> bool:
        """Whether the process that the file names may still run.

        Args:
            descriptor: of the file.
            locks: whether the system's lock is ours; False where it has none.
        """
        pid, host = _holder(descriptor)
        if pid is None:
            return False
        if host != platform.node():
            return not self._take_over and (not locks or _age(descriptor) < SECONDS_UNTIL_STALE)
        if not locks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return True
        return False

    def _refusal(self, descriptor: int) -> FolderBusyError:
        pid, host = _holder(descriptor)
        who = "another process" if pid is None else f"process {pid} on {host}"
        more = ""
        if pid is not None and host != platform.node():
            more = f", last heard of {_age(descriptor):.0f} s ago; if {host} is gone, add --take-over"
        return FolderBusyError(
            f"out (={str(self.path.parent)!r}): expected a folder that no other run writes to, found {who} at it"
            f"{more}; wait for it, or name another folder"
        )


def _holding() -> dict[str, object]:
    """What a lock says of its holder; the token tells two locks apart that one process takes."""
    return {"pid": os.getpid(), "host": platform.node(), "token": os.urandom(8).hex()}


def _renew(path: Path, ended: threading.Event) -> None:
    """Say every few seconds that the holder is alive."""
    while not ended.wait(SECONDS_BETWEEN_SIGNS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _age(descriptor: int) -> float:
    """Seconds since its holder last renewed a lock, by the clock of this machine; at least 0."""
    return max(0.0, time.time() - os.fstat(descriptor).st_mtime)


def _release(path: Path, descriptor: int, owner: int, ended: threading.Event) -> None:
    ended.set()
    # A child that was forked has the descriptor too, and must not remove its parent's lock.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _holder(descriptor: int) -> tuple[int, str] | tuple[None, None]:
    try:
        holder = json.loads(os.pread(descriptor, 1000, 0))
        return int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
