"""What errors show of values and of foreign text, and files that are read without waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from atras.errors import MAX_MESSAGE, MAX_SHOWN, InputError, printable, shown
from atras.storage.bounded_read import read_regular


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("plain Ünïcode 名", "plain Ünïcode 名"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown_as):
    assert printable(text) == shown_as
    assert printable(text).isprintable()
    printable(text).encode()


def test_an_error_is_one_printable_line_of_bounded_length():
    assert str(InputError("first\nsecond\r\n\x1b[1mthird")) == r"first second \x1b[1mthird"
    long = str(InputError(f"start{'x' * 10**6}end"))
    assert (len(long) <= MAX_MESSAGE + 5, long[:5], long[-3:]) == (True, "start", "end")


def test_values_are_shown_short_and_whatever_they_are():
    assert shown("a\n") == r"'a\n'"
    assert len(shown("x" * 10**6)) <= MAX_SHOWN + 5
    assert shown(10**5000) == shown((10**5000,)) == "more digits than Python prints"


def test_a_regular_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, of which 4 are allowed"):
        read_regular(path, 4)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="such files stand in /proc")
def test_a_file_that_says_another_size_is_refused():
    # Files of /proc have content and a size of 0.
    with pytest.raises(OSError, match="it changed while it was read"):
        read_regular(Path("/proc/self/status"), 10**6)
