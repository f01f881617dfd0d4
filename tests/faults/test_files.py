"""Whatever files of data, results and caches hold: success, or one line; and memory that the file's size bounds."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import resource
import shutil
import signal
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.io
import torch
from hypothesis import strategies as st
from PIL import Image

from atras.analysis.summary_table import summary_lines
from atras.data import Split, file_contents, load
from atras.data.cifar_file import read_cifar
from atras.data.idx_file import IDX_FILES, read_idx
from atras.data.image_file import FORMATS, BrokenImageError, decode
from atras.data.npz_file import read_npz
from atras.data.svhn_file import read_svhn
from atras.engines import LoopEngine
from atras.errors import InputError
from atras.evaluation import Rows
from atras.experiment import Execution, Protocol, load_config
from atras.networks import Spec
from atras.networks import members_of as members_of_group
from atras.planning import Speed, calibration, calibration_cache
from atras.results import frames
from atras.results.results import read
from atras.results.schemas import SCHEMAS
from atras.results.writer import Writer
from atras.running import orchestrator
from atras.storage import checksum, safetensors_file
from atras.testing import SMALL, damage
from atras.training import read_member
from atras.training.weights import file_name

Fuzz = Callable[..., None]
MIB = 2**20
FIRST = members_of_group(SMALL.candidates[:2], SMALL.seeds)
RANDOMS = st.randoms(use_true_random=False)
ARRAYS = {
    "x_train": np.random.default_rng(0).integers(0, 256, (6, 5, 5), dtype=np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.random.default_rng(1).integers(0, 256, (4, 5, 5), dtype=np.uint8),
    "y_test": np.arange(4) % 3,
}


def npz(save: Any = np.savez, **changes: np.ndarray) -> bytes:
    target = io.BytesIO()
    save(target, **(ARRAYS | changes))
    return target.getvalue()


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return target.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as read_from:
        return {name: read_from.read(name) for name in read_from.namelist()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(fuzz: Fuzz, tmp_path: Path, save: Any) -> None:
    path, whole = tmp_path / "mine.npz", npz(save)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        load(str(path))

    fuzz(check, RANDOMS.map(lambda random: damage(whole, random)))
    # Damage below the archive's checksums: the headers and values of one array.
    members = members_of(whole)
    inside = st.tuples(st.sampled_from(sorted(members)), RANDOMS)
    fuzz(check, inside.map(lambda at: archive(members | {at[0]: damage(members[at[0]], at[1])})))


def test_headers_of_arrays(fuzz: Fuzz, tmp_path: Path) -> None:
    path, members = tmp_path / "mine.npz", members_of(npz())
    sizes = st.lists(st.sampled_from(["6", "5", "150", "0", "-6", "2**9", "10**18", "9" * 60, "True", "1.5", "None"]))
    odd = ["6", "()", "(6, 5, 5)", "'x'", "((6,),)"]
    shapes = sizes.map(lambda drawn: f"({', '.join(drawn)},)") | st.sampled_from(odd)
    dtypes = ["|u1", ">i8", "<f4", "<c8", "|O", "|S9", "<M8[s]", "|V5", "|b1", "<f2", "<i4", "zz", "", [("a", "|u1")]]
    written = st.sampled_from(dtypes) | st.text(max_size=9)
    descriptions = written.map(repr) | st.just("-" * 9000)
    order = st.sampled_from(["True", "False", "None", "1if 1else 2"])
    body = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}\n".format
    headers = st.builds(body, descriptions, order, shapes)

    def check(drawn: tuple[str, int, bytes]) -> None:
        header, version, values = drawn
        text = header.encode("latin1", "replace")
        length = len(text).to_bytes(2 if version == 1 else 4, "little")
        made = b"\x93NUMPY" + bytes((version, 0)) + length + text + values
        path.write_bytes(archive(members | {"x_train.npy": made}))
        load(str(path))

    fuzz(check, st.tuples(headers, st.sampled_from([1, 1, 2, 3]), st.sampled_from([150, 0, 600, 1200]).map(bytes)), 300)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(fuzz: Fuzz, tmp_path: Path, suffix: str) -> None:
    packed = {
        file: gzip.compress(idx(ARRAYS[name]), mtime=0) if suffix else idx(ARRAYS[name])
        for name, file in IDX_FILES.items()
    }

    def check(at: tuple[str, Random]) -> None:
        for file, content in packed.items():
            (tmp_path / f"{file}{suffix}").write_bytes(damage(content, at[1]) if file == at[0] else content)
        load(str(tmp_path))

    fuzz(check, st.tuples(st.sampled_from(sorted(packed)), RANDOMS))


@pytest.mark.parametrize("packed", [False, True])
def test_matlab(fuzz: Fuzz, tmp_path: Path, packed: bool) -> None:
    variables = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]], np.uint8)}
    for part in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", variables, do_compression=packed)
    path = tmp_path / "train_32x32.mat"
    # Only the parts that say something: 6,144 zeros between them would take nearly all the damage.
    whole = path.read_bytes()

    def check(random: Random) -> None:
        at = random.choice((0, 0, 1)) * max(len(whole) - 200, 0)
        path.write_bytes(whole[:at] + damage(whole[at : at + 250], random) + whole[at + 250 :])
        load("svhn", data_dir=tmp_path, download=False)

    fuzz(check, RANDOMS)


def finished_run(folder: Path) -> Path:
    """A run's folder with one row a frame."""
    protocol = {"dataset": "digits", "candidates": ["40"], "seeds": [0]}
    writer = Writer(folder, {"protocol": protocol, "protocol_hash": "0123456789abcdef", "version": "0.1.0"})
    row: dict[str, Any] = {
        "dataset": "digits",
        "hidden_layers": "40",
        "variant": "",
        "depth": 1,
        "parameters": 9,
        "seed": 0,
        "defence": "copies",
    }
    accuracies = {
        name: 0.5 for name in SCHEMAS["table"] if any(word in name for word in ("accuracy", "recovery", "share"))
    }
    writer.append(Rows(table=[row | {"defence": "copies", "status": "trained"} | accuracies]))
    writer.finish({})
    return folder


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run, with networks."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        orchestrator.run(SMALL, Execution(engine="stack", device="cpu"), out=folder / "run")
    return folder / "run"


@pytest.mark.parametrize("name", ["table.parquet", "history.parquet", "run.json", file_name("trained", FIRST)])
def test_no_damage_to_a_file_of_a_run_goes_unseen(
    fuzz: Fuzz, long: bool, small_run: Path, tmp_path: Path, name: str, count: Callable[..., None]
) -> None:
    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    whole = (folder / name).read_bytes()
    draw = Random(0)  # noqa: S311

    def check(content: bytes) -> None:
        (folder / name).write_bytes(content)
        # Two contents may come within one tick of the file system's clock.
        safetensors_file._checked.cache_clear()
        (read(folder), read_member(folder, SMALL.candidates[0], 0, "trained"))

    check(whole)
    for place in draw.sample(range(len(whole)), min(2000 if long else 100, len(whole))):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        with pytest.raises(InputError, match=f"{name}: expected .* found a damaged or foreign file"):
            check(bytes(changed))
        count("flips detected")
    fuzz(check, RANDOMS.map(lambda random: damage(whole, random)))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage, and of sizes that are checked here
@pytest.mark.parametrize("kind", FORMATS)
def test_images(fuzz: Fuzz, kind: str) -> None:
    stored = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(stored, kind)

    def check(content: bytes) -> None:
        with suppress(BrokenImageError):  # which is counted, and left out
            assert decode(content, "x", 8).pixels.shape[1:] == (8, 8)

    fuzz(check, RANDOMS.map(lambda random: damage(stored.getvalue(), random)))


def test_what_a_run_json_says(fuzz: Fuzz, tmp_path: Path) -> None:
    """Damage below the checksum."""
    folder = finished_run(tmp_path / "run")
    whole = json.dumps(read(folder).run | {"sha256": checksum.BLANK}, indent=2).encode()

    def check(content: bytes) -> None:
        with suppress(ValueError):  # the damage is to the checksum's place
            content = b"".join(checksum.with_checksum(checksum.JSON_MARK, content))
        (folder / "run.json").write_bytes(content)
        (repr(read(folder)), summary_lines(read(folder)))

    fuzz(check, RANDOMS.map(lambda random: damage(whole, random)))


def test_calibration_cache(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1e-3, 1e9, 1e9, 1e9))
    spec, part = Spec((1, 8, 8), 10, stem="none"), Split(torch.rand(4, 1, 8, 8), torch.arange(4))

    def asked() -> Speed:
        return calibration.speed(LoopEngine, spec, Protocol(), part)

    asked()
    path = tmp_path / "atras" / "calibration.json"
    whole = path.read_bytes()
    (key,) = json.loads(whole)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = asked()
        assert math.isfinite(found.step_seconds)
        assert found.flops_per_second > 0
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    values = st.lists(st.floats() | st.integers() | st.text() | st.booleans() | st.none(), max_size=3) | st.text()
    fuzz(check, values.map(lambda value: json.dumps({key: value, "other": value}).encode()), examples=80)
    fuzz(check, RANDOMS.map(lambda random: damage(whole, random)), examples=50)
    for content in (b"[" * 10**5, b"{" * 10**5, b'{"a":' * 10**5, b"\0" * 2 * calibration_cache.MAX_BYTES):
        check(content)


# Files that say little and mean much


@pytest.fixture
def within_mib() -> Callable[[Callable[[], object]], None]:
    """Call what must be refused, and fail if Python's memory grew by more than 8 MiB meanwhile."""

    def measure(call: Callable[[], object]) -> None:
        tracemalloc.start()
        try:
            call()
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()

    return measure


ZEROS = bytes(64 * MIB)
BOMBS = {
    "declares little": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.faults
@pytest.mark.parametrize("kind", BOMBS)
def test_an_archive_unpacks_to_no_more_than_it_declares(
    tmp_path: Path, within_mib: Any, kind: str, count: Callable[..., None]
) -> None:
    # More values than are unpacked to see the header.
    path = tmp_path / "mine.npz"
    members = members_of(npz(x_train=np.zeros((600, 5, 5), np.uint8), y_train=np.arange(600) % 3))
    declared = len(members["x_train.npy"])
    content = bytearray(archive(members | {"x_train.npy": members["x_train.npy"] + ZEROS}, BOMBS[kind]))
    # The uncompressed size, in the local header and in the directory at the end.
    long = (declared + len(ZEROS)).to_bytes(4, "little")
    assert content.count(long) == 2
    path.write_bytes(content.replace(long, declared.to_bytes(4, "little")))

    def refused() -> None:
        with pytest.raises(InputError, match=r"mine\.npz: expected"):
            load(str(path))

    within_mib(refused)
    count("bombs refused")


@pytest.mark.faults
def test_an_archive_that_declares_too_much_is_refused_unread(
    tmp_path: Path, within_mib: Any, count: Callable[..., None]
) -> None:
    path, members = tmp_path / "mine.npz", members_of(npz())
    content = bytearray(archive(members))
    size = len(members["x_train.npy"]).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (2**32 - 2).to_bytes(4, "little")))

    def refused() -> None:
        with pytest.raises(InputError, match=r"its arrays unpack to .* bytes, of which"):
            load(str(path))

    within_mib(refused)
    count("bombs refused")


@pytest.mark.faults
def test_compressed_idx_and_matlab_unpack_to_no_more_than_is_allowed(
    tmp_path: Path, within_mib: Any, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    monkeypatch.setattr(file_contents, "MAX_UNPACKED_BYTES", MIB)
    images = tmp_path / "images.gz"
    images.write_bytes(gzip.compress(idx(ARRAYS["x_train"]) + ZEROS))
    matlab = tmp_path / "train_32x32.mat"
    scipy.io.savemat(matlab, {"X": np.zeros((32, 32, 3, 20_000), np.uint8)}, do_compression=True)

    def refused() -> None:
        with pytest.raises(InputError, match="the file holds more"):
            read_idx(images, 3)
        with pytest.raises(InputError, match="unpacks to more than"):
            read_svhn(matlab)

    within_mib(refused)
    count("bombs refused", 2)


@pytest.mark.faults
def test_a_frame_of_countless_equal_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[..., None]
) -> None:
    folder = finished_run(tmp_path / "run")
    path = folder / "table.parquet"
    many = pl.read_parquet(path.read_bytes()).select(pl.all().first().repeat_by(frames.MAX_ROWS // 10).explode())
    path.write_bytes(frames.parquet(many))
    monkeypatch.setattr(frames, "MAX_ROWS", frames.MAX_ROWS // 10 - 1)
    with pytest.raises(InputError, match=r"table\.parquet: expected at most 999999 rows, found 1000000"):
        read(folder)
    count("bombs refused")


@pytest.mark.faults
def test_a_file_with_more_bytes_than_memory_is_not_begun(tmp_path: Path, count: Callable[..., None]) -> None:
    path = tmp_path / "mine.npz"
    with path.open("wb") as file:
        file.truncate(2**42)  # it has no blocks on the disk
    assert path.stat().st_blocks == 0
    with pytest.raises(InputError, match=r"mine\.npz: expected an \.npz file, got one that cannot be read"):
        load(str(path))
    count("bombs refused")


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ends a test that hangs."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.mark.faults
@pytest.mark.usefixtures("alarm")
def test_what_is_no_regular_file_is_neither_waited_for_nor_read(tmp_path: Path, count: Callable[..., None]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    readers: list[Callable[[Path], object]] = [
        load_config,
        lambda path: read_idx(path, 3),
        read_npz,
        lambda path: read_cifar(path, frozenset({"0" * 32}), "labels"),
        read_svhn,
        lambda path: frames.read_frame(path, "table", missing=False),
    ]
    for name, reason in (("fifo", "no regular file"), ("zero", "no regular file"), ("loop", "symbolic links")):
        for reader in readers:
            with pytest.raises(InputError, match=f"{name}: .*{reason}"):
                reader(tmp_path / name)
            count("irregular files refused")


@pytest.mark.faults
@pytest.mark.usefixtures("alarm")
def test_a_run_toml_takes_time_in_proportion_to_its_size(tmp_path: Path, count: Callable[..., None]) -> None:
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for text in ("a." * 500_000 + "b = 1", "[" + "a." * 500_000 + "b]", "x = {" + "a." * 500_000 + "b = 1}"):
        (tmp_path / "run.toml").write_text(text)
        with pytest.raises(InputError, match="dots on a line"):
            load_config(tmp_path / "run.toml")
        count("bombs refused")
    # Measured at 0.01 s; the parser alone takes 15 s for a sixteenth of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - start < 2
