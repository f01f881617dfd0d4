"""A file's SHA-256 inside the file: damage is seen before anything else reads it.

The digest is of the whole file, in which its own 64 digits count as zeros. It stands behind a mark: the bytes that a
format puts in front of that text. It shows accidents, not intent: whoever changes a file can compute the checksum anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from typing import Any

BLANK = "0" * 64
"""Zeros that stand in the place of the digest until the checksum is computed."""

JSON_MARK = b'\n  "sha256": "'
"""Stands once in an indented object: what lies deeper is indented more, and no text holds a line's end."""


def with_checksum(mark: bytes, first: bytes, *rest: bytes | memoryview) -> list[bytes | memoryview]:
    """Put its digest into a file's content.

    Args:
        mark: stands in `first`, followed by BLANK.
        first, rest: the content, one after the other.

    Returns:
        The same parts, with the checksum in its place.

    Raises:
        ValueError: if there is no mark with BLANK behind it.
    """
    start = _start(mark, first)
    if first[start : start + len(BLANK)] != BLANK.encode():
        raise ValueError("it holds a checksum's mark in another place")
    digest = hashlib.sha256(first)
    for part in rest:
        digest.update(part)
    return [first[:start] + digest.hexdigest().encode() + first[start + len(BLANK) :], *rest]


def check_checksum(mark: bytes, content: bytes | mmap.mmap) -> None:
    """Raise ValueError unless the content agrees with its checksum, to the last bit."""
    start = _start(mark, content)
    end = start + len(BLANK)
    with memoryview(content) as view:
        digest = hashlib.sha256(view[:start])
        digest.update(BLANK.encode())
        digest.update(view[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise ValueError("its checksum is wrong")


def json_with_checksum(document: Mapping[str, Any]) -> bytes:
    """A document as JSON text whose last key is its checksum; `check_checksum` takes it with JSON_MARK.

    Raises:
        TypeError, ValueError: if it holds what JSON has no form for.
    """
    text = json.dumps({**document, "sha256": BLANK}, indent=2, allow_nan=False)
    return b"".join(with_checksum(JSON_MARK, text.encode() + b"\n"))


def _start(mark: bytes, content: bytes | mmap.mmap) -> int:
    place = content.find(mark)
    if place < 0:
        raise ValueError("it has no checksum")
    return place + len(mark)
