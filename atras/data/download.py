"""The official data sets: their files and checksums, where they are looked for, and how they are downloaded."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import socket
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atras.errors import InputError
from atras.storage import expanded, is_file, is_folder, near_misses

from .idx_file import IDX_FILES

TIMEOUT_SECONDS = 30.0
"""Longest time, in seconds, that a download may stand still before it is given up."""

MAX_SECONDS = 3600.0
"""Longest time, in seconds, that a file may take: a server that sends a byte now and then never stands still."""

MAX_BYTES = 2**28
"""Most bytes of a file; the largest official one has 182 million."""


@dataclass(frozen=True)
class Official:
    """One official data set.

    Args:
        kind: the format of its files.
        torchvision: the class in `torchvision.datasets` that downloads it.
        folder: where that class keeps the files, below its root.
        files: the checksums that identify each file: an MD5 is of the file as it is downloaded, a SHA-256 of the
            uncompressed one.
        classes: number of classes.
    """

    kind: Literal["idx", "cifar", "svhn"]
    torchvision: str
    folder: str
    files: Mapping[str, frozenset[str]]
    classes: int = 10

    def suffixes(self) -> tuple[str, ...]:
        """Endings that may follow a file's name: first that of the form whose checksum is known, then the other."""
        if self.kind != "idx":
            return ("",)
        plain_is_known = all(any(len(checksum) == 64 for checksum in known) for known in self.files.values())
        return ("", ".gz") if plain_is_known else (".gz", "")


def _idx(torchvision: str, *checksums: tuple[str, ...]) -> Official:
    files = {file: frozenset(known) for file, known in zip(IDX_FILES.values(), checksums, strict=True)}
    return Official("idx", torchvision, f"{torchvision}/raw", files)


OFFICIAL = {
    "mnist": _idx(
        "MNIST",
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("d53e105ee54ea40749a09fcbcd1e9432", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("9fb629c4189551a2d022fa330f9573f3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("ec29112dd5afa0611ce80d1b7f02629c", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
    "fashion-mnist": _idx(
        "FashionMNIST",
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d",),
        ("25c81989df183df01b3e8a0aad5dffbe",),
        ("bef4ecab320f06d8554ea6380940ec79",),
        ("bb300cfdad3c16e7a12a480ee83cd310",),
    ),
    "kmnist": _idx(
        "KMNIST",
        ("bdb82020997e1d708af4cf47b453dcf7",),
        ("e144d726b3acfaa3e44228e80efcd344",),
        ("5c965bf0a639b31b8f53240b1b52f4d7",),
        ("7320c461ea6c1c855c0b718fb2a4b134",),
    ),
    "cifar10": Official(
        "cifar",
        "CIFAR10",
        "cifar-10-batches-py",
        {
            "data_batch_1": frozenset({"c99cafc152244af753f735de768cd75f"}),
            "data_batch_2": frozenset({"d4bba439e000b95fd0a9bffe97cbabec"}),
            "data_batch_3": frozenset({"54ebc095f3ab1f0389bbae665268c751"}),
            "data_batch_4": frozenset({"634d18415352ddfa80567beed471001a"}),
            "data_batch_5": frozenset({"482c414d41f54cd18b22e5b47cb7c3cb"}),
            "test_batch": frozenset({"40351d587109b95175f43aff81a1287e"}),
        },
    ),
    "cifar100": Official(
        "cifar",
        "CIFAR100",
        "cifar-100-python",
        {
            "train": frozenset({"16019d7e3df5f24257cddd939b257f8d"}),
            "test": frozenset({"f0ef6b0ae62326f3e7ffdfab6717acfc"}),
        },
        classes=100,
    ),
    "svhn": Official(
        "svhn",
        "SVHN",
        "",
        {
            "train_32x32.mat": frozenset({"e26dedcc434d2e4c54c9b2d4a06d8373"}),
            "test_32x32.mat": frozenset({"eb5a983be6a315427106f1b164d9cef3"}),
        },
    ),
}
"""The official data sets by name. Source of the MD5s: torchvision 0.29, `torchvision.datasets`."""


def cache_dir() -> Path:
    """The folder `atras` in the user's cache: `$XDG_CACHE_HOME`, or `~/.cache`.

    Raises:
        InputError: if there is neither.
    """
    try:
        return expanded(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atras"
    except RuntimeError:
        raise InputError("XDG_CACHE_HOME: expected a folder, as this user has no home; set it") from None


def recognise(checksums: Mapping[str, set[str]]) -> str | None:
    """The name of the official data set that has exactly these files, or None.

    Args:
        checksums: by file name, the MD5 or SHA-256 found, or both.
    """
    for name, official in OFFICIAL.items():
        same_names = checksums.keys() == official.files.keys()
        if same_names and all(checksums[file] & known for file, known in official.files.items()):
            return name
    return None


def locate(name: str, data_dir: str | Path | None, download: bool) -> dict[str, Path]:
    """Find the files of an official data set, and download them where they are missing.

    They are looked for in `data_dir`, then in the user's cache: in torchvision's layout, in a folder of the data set's
    name, and directly.

    Args:
        name: a key of `OFFICIAL`.
        data_dir: folder to look in first, or None.
        download: whether to download into the cache what is nowhere.

    Returns:
        The path of each file.

    Raises:
        InputError: if `data_dir` is no folder, or the files are nowhere and cannot be downloaded; the text says what
            was tried and where the files can be put by hand.
    """
    given = [] if data_dir is None else [expanded(data_dir)]
    for folder in given:
        if not is_folder(folder):
            raise InputError(
                f"data_dir (={str(data_dir)!r}): expected a folder, there is none; create it or leave it out"
                f"{near_misses(folder)}"
            )
    # Before the cache is asked for: a user without a home has none, and needs none where the files are given.
    paths = _search(name, given) or _search(name, [cache_dir()])
    if paths is None:
        reason = _fetch(name) if download else "download is off"
        paths = _search(name, [cache_dir()]) if not reason else None
        if paths is None:
            looked = " and ".join(map(str, [*given, cache_dir()]))
            raise InputError(f"{name}: not in {looked}; {reason or 'the download lacks files'}; {_by_hand(name)}")
    return paths


def files_in(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, Path] | None:
    """The path of each named file in a folder, under the first suffix it has; None where one is missing.

    Archives that were unpacked by some programs have a dot before `idx`.
    """
    files = {}
    for name in names:
        spellings = dict.fromkeys((name, name.replace("-idx", ".idx")))
        paths = (folder / f"{spelled}{suffix}" for suffix in suffixes for spelled in spellings)
        path = next(filter(is_file, paths), None)
        if path is None:
            return None
        files[name] = path
    return files


def _search(name: str, roots: list[Path]) -> dict[str, Path] | None:
    official = OFFICIAL[name]
    for root in roots:
        for below in (official.folder, f"{name}/{official.folder}", name, ""):
            paths = files_in(root / below, tuple(official.files), official.suffixes())
            if paths is not None:
                return paths
    return None


def _place(name: str) -> Path:
    """Where the cache keeps a data set's files."""
    return cache_dir() / (OFFICIAL[name].folder or name)


def _by_hand(name: str) -> str:
    official = OFFICIAL[name]
    form = " (plain or .gz)" if official.kind == "idx" else ""
    return f"to place the files by hand put {', '.join(official.files)}{form} into {_place(name)}"


def _fetch(name: str) -> str:
    """Download a data set into the cache; returns what went wrong, or nothing."""
    try:
        datasets = _torchvision_datasets()
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        return (
            f"the download needs torchvision, whose import failed ({_one_line(error)}), as it does beside a "
            "torch that it was not built for, such as a CPU-only one: install both from the same index"
        )
    dataset = getattr(datasets, OFFICIAL[name].torchvision)
    logging.getLogger(__name__).info("downloading %s into %s", name, _place(name))
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        # Below the cache, so that the finished files can be renamed into place. On NFS a file that is still open stays
        # under another name, with which the folder cannot be deleted: the data are there nevertheless.
        temporary = tempfile.TemporaryDirectory(prefix="download-", dir=cache_dir(), ignore_cleanup_errors=True)
        with temporary as folder:
            with _limited(), _quiet_off_a_terminal():
                _download(dataset, name, folder)
            _move_into_place(name, Path(folder))
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
        return f"tried to download {_urls(dataset, name)} and failed ({_one_line(error)})"
    return ""


def _torchvision_datasets() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchvision.datasets
    return torchvision.datasets


def _download(dataset: Any, name: str, folder: str) -> None:
    """Let torchvision download, compare the checksums and unpack."""
    if OFFICIAL[name].kind == "svhn":
        for split in ("train", "test"):
            dataset(folder, split=split, download=True)
    else:
        dataset(folder, download=True)


def _move_into_place(name: str, folder: Path) -> None:
    """Move the files that are read, each in one step; what else was downloaded goes with the temporary folder."""
    official = OFFICIAL[name]
    _place(name).mkdir(parents=True, exist_ok=True)
    for file in official.files:
        for suffix in official.suffixes():
            source = folder / official.folder / f"{file}{suffix}"
            if source.is_file():
                source.replace(_place(name) / source.name)


def _urls(dataset: Any, name: str) -> str:
    if OFFICIAL[name].kind == "idx":
        return " and ".join(dataset.mirrors)
    if OFFICIAL[name].kind == "svhn":
        return " and ".join(dataset.split_list[split][0] for split in ("train", "test"))
    return str(dataset.url)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Give this process's downloads limits: torchvision sets none to silence, time, size and redirections."""
    silence, opener = socket.getdefaulttimeout(), urllib.request._opener  # type: ignore[attr-defined]
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    urllib.request.install_opener(urllib.request.build_opener(_WebOnly, _Bounded))
    try:
        yield
    finally:
        urllib.request.install_opener(opener)
        socket.setdefaulttimeout(silence)


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to web servers, and to nothing else, such as a local file or FTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.URLError(f"redirected to {newurl}, which is no web address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Bounded(urllib.request.BaseHandler):
    """Ends an answer that is too large or takes too long."""

    def http_response(self, _request: Any, response: Any) -> Any:
        read, deadline, size = response.read1, time.monotonic() + MAX_SECONDS, 0

        def bounded(count: int = -1) -> bytes:
            nonlocal size
            # read1 returns what there is: read would wait for all of a count, for as long as bytes trickle in.
            content: bytes = read(count)
            size += len(content)
            if size > MAX_BYTES:
                raise OSError(f"more than {MAX_BYTES} bytes came")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {MAX_SECONDS:g} seconds")
            return content

        response.read = bounded
        return response

    https_response = http_response


def _quiet_off_a_terminal() -> contextlib.AbstractContextManager[Any]:
    """torchvision's progress bars are for terminals only."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
