"""Tensors as files: others can read them, equal content is equal bytes, and damage is seen."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from atras.storage import checksum, safetensors_file

TEXTS = {"format": "mine", "spec": json.dumps({"sha256": checksum.BLANK, "name": "ä\n"}), "z": "", "a": '"sha256":"'}
TENSORS = {
    "24-192/0/b": torch.tensor([math.nan, -0.0, math.inf]), "24-192/0/a": torch.arange(6.0).view(2, 3).t(),
    "40/0/steps": torch.tensor(2**40), "40/0/none": torch.zeros(0, 4, dtype=torch.float64),
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"".join(safetensors_file.pack_tensors(TEXTS, TENSORS)))
    return path


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0, equal_nan=True)


def test_what_goes_in_comes_out_here_and_elsewhere(path: Path) -> None:
    texts, tensors = safetensors_file.read_tensors(path, "mine")
    assert {name: texts[name] for name in TEXTS} == TEXTS
    equal(tensors, TENSORS)
    equal(safetensors.torch.load_file(path), TENSORS)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == texts


def test_a_part_is_read_by_its_prefix(path: Path) -> None:
    found = safetensors_file.read_some_tensors(path, "mine", "24-192/0/").tensors
    equal(found, {"a": TENSORS["24-192/0/a"], "b": TENSORS["24-192/0/b"]})
    assert safetensors_file.read_some_tensors(path, "mine", "24-192/1/").tensors == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_equal_content_gives_equal_bytes_in_every_process(seed: int, path: Path) -> None:
    texts, tensors = dict.fromkeys("abcdefgh", "x"), {name: torch.ones(3) for name in "abcdefgh"}
    program = f"""
import sys, torch
from atras.storage import safetensors_file
tensors = {{name: torch.ones(3) for name in set("abcdefgh")}}
sys.stdout.buffer.write(b"".join(safetensors_file.pack_tensors({texts}, tensors)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": str(seed)}
    )
    assert found.stdout == b"".join(safetensors_file.pack_tensors(texts, tensors))


def test_a_file_that_is_replaced_is_checked_anew(path: Path) -> None:
    safetensors_file.read_some_tensors(path, "mine", "")
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.with_name("new").write_bytes(whole)
    path.with_name("new").replace(path)
    with pytest.raises(ValueError, match="its checksum is wrong"):
        safetensors_file.read_some_tensors(path, "mine", "")


@pytest.mark.parametrize(
    "read", [safetensors_file.read_tensors, lambda path, name: safetensors_file.read_some_tensors(path, name, "")]
)
def test_other_files_are_refused(path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="format 'mine'"):
        read(path, "other")
    for content in (b"", b"{}", safetensors.torch.save({"one": torch.ones(3)}, {"format": "mine"})):
        path.write_bytes(content)
        with pytest.raises(safetensors_file.TENSOR_ERRORS):
            read(path, "mine")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        read(path, "mine")


def test_a_seal_covers_every_bit_and_has_one_place() -> None:
    parts = checksum.with_checksum(
        b"sum:", b"head sum:" + checksum.BLANK.encode() + b" tail", b"more", memoryview(b"and more")
    )
    whole = b"".join(parts)
    checksum.check_checksum(b"sum:", whole)
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            with pytest.raises(ValueError, match="checksum"):
                checksum.check_checksum(b"sum:", bytes(changed))
    for content in (b"", b"no mark", b"sum:" + 63 * b"0", b"sum: sum:" + checksum.BLANK.encode()):
        with pytest.raises(ValueError, match="checksum"):
            checksum.with_checksum(b"sum:", content)
