"""Downloads from a local HTTP server: good files, wrong ones, cut connections, missing ones, silence, floods."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import hashlib
import io
import pickle
import socket
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io
import torchvision.datasets

from atras.data import download, load
from atras.data.download import OFFICIAL
from atras.data.idx_file import IDX_FILES
from atras.errors import InputError

# urllib leaves the socket of a refused answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def no_folder_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there already is not downloaded."""
    monkeypatch.delenv("ATRAS_DATA", raising=False)


FAMILY = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


WHOLE = gzip.compress(bytes(range(256)))
BROKEN_ARCHIVES = {
    "no gzip": b"\x1f\x8b no gzip",
    "gzip cut short": WHOLE[:-9],
    "gzip of nonsense": WHOLE[:10] + b"\xff" * 50,
}


ELSEWHERE = {"file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/{}", "circle": "/{}"}
REASONS = {
    "404": "404",
    "silent": "timed out",
    "endless": "more than 1048576 bytes came",
    "trickle": "not done after 0.5 seconds",
    "file": "not allowed",
    "ftp": "redirected to ftp:",
    "circle": "infinite loop",
}


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`.

    A path in `cut` loses its connection half-way, one in `silent` is never answered, one in `garbled` not in HTTP. One
    in `endless` never ends, one in `trickle` likewise a byte at a time, and one in `moved` is somewhere else.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.cut, self.silent, self.garbled, self.asked = {}, set(), set(), set(), []
        self.endless, self.trickle, self.moved = set(), set(), {}
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        """A client that hangs up is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if name in self.server.silent:
            self.server.released.wait(10)
            return
        if name in self.server.garbled:
            self.wfile.write(b"nonsense\r\n")
            return
        if name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[name])
            self.end_headers()
            return
        if name in self.server.endless | self.server.trickle:
            self.send_response(200)
            self.end_headers()
            while not self.server.released.wait(0.05 if name in self.server.trickle else 0):
                self.wfile.write(b"x" * (1 if name in self.server.trickle else 2**16))
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True, scope="module")
def _sockets_are_collected_here():
    """Another module's tests would take them for their own leak."""
    yield
    gc.collect()


def make_known(monkeypatch, name, known):
    files = {file: frozenset({checksum}) for file, checksum in known.items()}
    monkeypatch.setitem(OFFICIAL, name, dataclasses.replace(OFFICIAL[name], files=files))


def serve_idx(server, monkeypatch, name="mnist"):
    """Serve a small data set of this name as the official one; returns its training images."""
    rng = np.random.default_rng(0)
    contents = {}
    for key, file in IDX_FILES.items():
        shape = (6, 5, 5) if key[0] == "x" else (6,)
        array = rng.integers(0, 256 if key[0] == "x" else 10, shape, dtype=np.uint8)
        header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in shape)
        contents[f"{file}.gz"] = gzip.compress(header + array.tobytes())
        images = array if key == "x_train" else images  # noqa: F821 (x_train comes first)
    server.files |= contents
    dataset = getattr(torchvision.datasets, FAMILY[name])
    monkeypatch.setattr(dataset, "mirrors", [server.url])
    monkeypatch.setattr(dataset, "resources", [(file, md5(content)) for file, content in contents.items()])
    make_known(monkeypatch, name, {file.removesuffix(".gz"): md5(content) for file, content in contents.items()})
    return images


def cached(tmp_path):
    """Every file in the cache, by its path there."""
    root = tmp_path / "cache/atras"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def refused(name, *parts, **options):
    with pytest.raises(InputError) as caught:
        load(name, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
    return text


@pytest.mark.parametrize("name", FAMILY)
def test_a_good_download_is_official_and_kept(server, monkeypatch, tmp_path, name):
    images = serve_idx(server, monkeypatch, name)
    found = load(name)
    assert np.array_equal(found.train.images[:, 0].numpy(), images)
    assert found.status == "official"
    asked = len(server.asked)
    again = load(name, download=False)
    assert again.provenance() == found.provenance()
    assert len(server.asked) == asked
    assert {file.split("/")[0] for file in cached(tmp_path)} == {FAMILY[name]}


def test_nothing_is_downloaded_when_the_data_folder_has_it(server, monkeypatch, tmp_path):
    serve_idx(server, monkeypatch)
    folder = tmp_path / "data"
    folder.mkdir()
    for file, content in server.files.items():
        (folder / file).write_bytes(content)
    assert load("mnist", data_dir=folder).status == "official"
    assert server.asked == []


def test_nothing_is_downloaded_when_that_is_off(server, monkeypatch):
    serve_idx(server, monkeypatch)
    refused("mnist", "download is off", download=False)
    assert server.asked == []


@pytest.mark.parametrize("failure", [*REASONS, "wrong checksum", "cut", "garbled", *BROKEN_ARCHIVES])
def test_a_failed_download_says_what_was_tried_and_leaves_nothing(server, monkeypatch, tmp_path, failure):
    serve_idx(server, monkeypatch)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(download, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(download, "MAX_BYTES", 2**20)
    file = "t10k-images-idx3-ubyte.gz"
    if failure == "wrong checksum":
        server.files[file] = gzip.compress(b"another file")
    elif failure == "cut":
        server.cut.add(file)
    elif failure == "404":
        del server.files[file]
    elif failure == "silent":
        server.silent.add(file)
    elif failure in ("garbled", "endless", "trickle"):
        getattr(server, failure).add(file)
    elif failure in ELSEWHERE:
        server.moved[file] = ELSEWHERE[failure].format(file)
    else:
        server.files[file] = BROKEN_ARCHIVES[failure]
        resources = [(name, md5(server.files[name])) for name in server.files]
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    place = str(tmp_path / "cache/atras/MNIST/raw")
    start = time.monotonic()
    text = refused("mnist", f"tried to download {server.url} and failed", f"put {', '.join(IDX_FILES.values())}", place)
    assert time.monotonic() - start < 5
    assert REASONS.get(failure, "failed") in text
    assert cached(tmp_path) == []
    assert file in server.asked


def test_a_second_attempt_after_a_failure_works(server, monkeypatch):
    serve_idx(server, monkeypatch)
    server.cut.add("train-images-idx3-ubyte.gz")
    refused("mnist")
    server.cut.clear()
    assert load("mnist").status == "official"


def test_files_that_were_put_there_by_hand_are_completed(server, monkeypatch, tmp_path):
    serve_idx(server, monkeypatch)
    folder = tmp_path / "cache/atras/MNIST/raw"
    folder.mkdir(parents=True)
    file = "train-labels-idx1-ubyte.gz"
    (folder / file).write_bytes(server.files[file])
    (folder / "notes.txt").write_text("mine")
    assert load("mnist").status == "official"
    assert (folder / "notes.txt").read_text() == "mine"


def test_without_a_network_it_says_so(server, monkeypatch):
    serve_idx(server, monkeypatch)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{closed.getsockname()[1]}/"])
        refused("mnist", "Connection refused", "to place the files by hand")


def test_without_torchvision_it_says_why_and_what_to_do(server, monkeypatch):
    serve_idx(server, monkeypatch)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    refused("mnist", "import failed", "CPU-only", "same index", "to place the files by hand")
    assert server.asked == []


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    serve_idx(server, monkeypatch)
    (tmp_path / "cache").write_text("a file")
    refused("mnist", "failed", str(tmp_path / "cache/atras"))


def test_the_sockets_time_out_is_restored(server, monkeypatch):
    serve_idx(server, monkeypatch)
    server.cut.add("t10k-images-idx3-ubyte.gz")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(12.5)
    try:
        refused("mnist")
        assert socket.getdefaulttimeout() == 12.5
    finally:
        socket.setdefaulttimeout(before)


def test_no_progress_bar_is_written_off_a_terminal(server, monkeypatch, capfd):
    serve_idx(server, monkeypatch)
    load("mnist")
    assert capfd.readouterr() == ("", "")


def cifar_archive(name, folder, label_key):
    """A tar.gz of batches of two images each, and the MD5 of each file in it."""
    files = {}
    for at, file in enumerate(OFFICIAL[name].files):
        images = np.random.default_rng(at).integers(0, 256, (2, 3072), dtype=np.uint8)
        files[file] = pickle.dumps({"data": images, label_key: [at, 9]}, protocol=2)
    meta = torchvision.datasets.CIFAR10.meta if name == "cifar10" else torchvision.datasets.CIFAR100.meta
    files[meta["filename"]] = pickle.dumps({meta["key"]: ["a", "b"]}, protocol=2)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue(), {file: md5(content) for file, content in files.items()}


@pytest.mark.parametrize(("name", "label_key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_a_cifar_archive_is_downloaded_and_unpacked(server, monkeypatch, tmp_path, name, label_key):
    dataset = getattr(torchvision.datasets, OFFICIAL[name].torchvision)
    content, known = cifar_archive(name, OFFICIAL[name].folder, label_key)
    server.files[dataset.filename] = content
    names = list(OFFICIAL[name].files)
    monkeypatch.setattr(dataset, "url", server.url + dataset.filename)
    monkeypatch.setattr(dataset, "tgz_md5", md5(content))
    monkeypatch.setattr(dataset, "train_list", [[file, known[file]] for file in names[:-1]])
    monkeypatch.setattr(dataset, "test_list", [[names[-1], known[names[-1]]]])
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": known[dataset.meta["filename"]]})
    make_known(monkeypatch, name, {file: known[file] for file in names})
    found = load(name)
    assert (found.status, len(found.train), found.image_shape) == ("official", 2 * len(names) - 2, (3, 32, 32))
    assert cached(tmp_path) == sorted(f"{OFFICIAL[name].folder}/{file}" for file in names)

    server.cut.add(dataset.filename)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    refused(name, f"tried to download {dataset.url}", f"into {tmp_path / 'other/atras' / OFFICIAL[name].folder}")


def test_svhn_is_downloaded(server, monkeypatch, tmp_path):
    for part in ("train", "test"):
        images = np.zeros((32, 32, 3, 2), np.uint8)
        target = io.BytesIO()
        scipy.io.savemat(target, {"X": images, "y": np.array([[10], [1 if part == "train" else 2]], np.uint8)})
        server.files[f"{part}_32x32.mat"] = target.getvalue()
    known = {file: md5(content) for file, content in server.files.items()}
    listed = {file.split("_")[0]: [server.url + file, file, checksum] for file, checksum in known.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    make_known(monkeypatch, "svhn", known)
    found = load("svhn")
    assert (found.status, found.train.labels.tolist(), found.test.labels.tolist()) == ("official", [0, 1], [0, 2])
    assert cached(tmp_path) == ["svhn/test_32x32.mat", "svhn/train_32x32.mat"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_checksums_are_torchvisions(name):
    official = OFFICIAL[name]
    dataset = getattr(torchvision.datasets, official.torchvision)
    if official.kind == "idx":
        theirs = {file.removesuffix(".gz"): checksum for file, checksum in dataset.resources}
    elif official.kind == "cifar":
        theirs = dict(dataset.train_list + dataset.test_list)
        assert official.folder == dataset.base_folder
    else:
        theirs = {file: checksum for split, (_, file, checksum) in dataset.split_list.items() if split != "extra"}
    assert list(theirs) == list(official.files)
    assert all(theirs[file] in known for file, known in official.files.items())
