"""How much memory and how many processors this process may use, and what says so.

A container or a batch system gives a process less than its machine has: control groups (version 1 and 2, each group
within its parents), resource limits, and an affinity. Groups above a namespace's root cannot be seen from within.

Source: Linux, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ROOT = Path("/")
_MEMORY_FILES = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}


class Limit(NamedTuple):
    """Bytes or processors, and what limits them: `this machine`, or a file, a resource limit or an affinity."""

    amount: int
    source: str


def memory(root: Path = ROOT) -> Limit:
    """Bytes of main memory that this process may use at the most.

    Args:
        root: of the file system that has `proc` and `sys`.
    """
    limits = [Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine")]
    for name in ("RLIMIT_AS", "RLIMIT_DATA") if resource else ():
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            limits.append(Limit(soft, name))
    for folder, version in _control_groups(root, "memory"):
        for file in _MEMORY_FILES[version]:
            text = _first_line(folder / file)
            if text.isdigit():
                limits.append(Limit(int(text), _seen(folder / file, root)))
    return min(limits, key=lambda limit: limit.amount)


def processors(root: Path = ROOT) -> Limit:
    """Number of processors that this process may keep busy, at least 1: its affinity and the quotas of its groups.

    A quota of 2.5 processors counts as 2: a third thread would be stopped for half of its time, and others wait for it.

    Args:
        root: as for `memory`.
    """
    limits = [Limit(os.cpu_count() or 1, "this machine")]
    if hasattr(os, "sched_getaffinity"):
        limits.append(Limit(len(os.sched_getaffinity(0)), "this process's affinity"))
    for folder, version in _control_groups(root, "cpu"):
        file = folder / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")
        quota, _, period = _first_line(file).partition(" ")
        period = period if version == 2 else _first_line(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(Limit(max(1, int(quota) // int(period)), _seen(file, root)))
    return min(limits, key=lambda limit: limit.amount)


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folder and version of each control group that this process is in, from its own up to the mount's root."""
    paths = dict(_own_groups(root, controller))
    for version, top, point in _mounts(root, controller):
        inside = _below(paths.get(version, "/"), top)
        # A path that the mount does not reach, as in some namespaces: the mount's own folder is what there is.
        folder = point.joinpath(*inside)
        yield from ((each, version) for each in (folder, *folder.parents[: len(inside)]))


def _own_groups(root: Path, controller: str) -> Iterator[tuple[int, str]]:
    """Version and path of this process's groups."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            yield 1, path
        elif number == "0" and not names:
            yield 2, path


def _mounts(root: Path, controller: str) -> list[tuple[int, str, Path]]:
    """Version, topmost group and folder of each mounted hierarchy; the usual places where nothing is said."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            version = 2 if kind[0] == "cgroup2" else 1
            found.append((version, _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")))
    usual = root / "sys/fs/cgroup"
    return found or [(2, "/", usual), (1, "/", usual / controller)]


def _below(path: str, top: str) -> tuple[str, ...]:
    """The names that lead from a mount's topmost group to a group; none where it is not below."""
    parts, above = Path(path).parts, Path(top).parts
    inside = parts[len(above) :] if parts[: len(above)] == above else ()
    return () if ".." in inside else inside


def _unescaped(text: str) -> str:
    """A path of mountinfo, which writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _seen(file: Path, root: Path) -> str:
    return f"/{file.relative_to(root)}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()
