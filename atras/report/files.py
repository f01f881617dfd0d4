"""The files of a report: one page, a folder of images or a Markdown summary of one or several runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from atras.errors import InputError, shown
from atras.report.contents import Contents, contents, named_figures
from atras.report.markdown import markdown
from atras.report.page import page
from atras.report.searches import search_contents
from atras.report.section import Figure
from atras.results import Results
from atras.storage import expanded, refuse_special

Format = Literal["html", "png", "svg", "md"]
DEFAULT_PATHS: dict[str, str] = {"html": "report.html", "md": "report.md", "png": "report", "svg": "report"}


def write(runs: Results | Sequence[Results], path: str | Path | None = None, format: str = "html") -> Path:  # noqa: A002
    """Write the report of one or several runs.

    Args:
        runs: one run or several, which are then compared.
        path: the file (`html`, `md`) or the folder (`png`, `svg`); None for report.html, report.md or report.
            Files that are there are replaced.
        format: `html`: one page that needs no network; `md`: tables and sentences; `png`, `svg`: the charts as files.

    Returns:
        The path.

    Raises:
        InputError: if there is no run, the format is not one of these, `png` lacks its library, a section cannot be
            made, or a file cannot be written.
    """
    runs = [runs] if isinstance(runs, Results) else list(runs)
    if not runs:
        raise InputError("runs: expected at least one, got none; name the folder of a run")
    return _write(lambda: contents(runs), path, format)


def write_search(directory: str | Path, path: str | Path | None = None, format: str = "html") -> Path:  # noqa: A002
    """Write the report of a search: its rounds, what was dropped and why, then its last finished round.

    Args:
        directory: the search's folder.
        path, format: as in `write`.

    Returns:
        The path.

    Raises:
        InputError: as `write`, or if the folder holds no search or one without a finished round.
    """
    return _write(lambda: search_contents(directory), path, format)


def _write(make: Callable[[], Contents], path: str | Path | None, format: str) -> Path:  # noqa: A002
    if format not in get_args(Format):
        raise InputError(f"format (={format!r}): expected one of {', '.join(get_args(Format))}")
    target = expanded(DEFAULT_PATHS[format] if path is None else path)
    report = make()
    if format in ("html", "md"):
        _save(target, _in_utf8(page(report) if format == "html" else markdown(report)).encode())
    else:
        _write_images(report, target, format)
    return target


def _write_images(report: Contents, folder: Path, format: str) -> None:  # noqa: A002
    convert = _png_converter() if format == "png" else str.encode
    images = _images(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error, "a folder") from error
    for name, figure in images.items():
        _save(folder / f"{name}.{format}", convert(_in_utf8(figure.svg(standalone=True))))


def _images(report: Contents) -> dict[str, Figure]:
    """Every figure by the name of its file; those of several runs begin with the run's number."""
    if report.comparison is None:
        images = named_figures(report.runs[0])
    else:
        images = named_figures([*([report.search] if report.search else []), report.comparison])
        for index, sections in enumerate(report.runs, 1):
            images |= {f"{index}-{name}": figure for name, figure in named_figures(sections).items()}
    for name in images:
        # A name may come from a package, or from a foreign run's attack: it is no way out of the folder.
        if not re.fullmatch(r"[\w.=-]+", name):
            raise InputError(f"figure (={shown(name)}): expected letters, digits, ., = and - in its name")
    return images


def _in_utf8(text: str) -> str:
    """Text in which bytes of a folder's name that are none in UTF-8 are spelled out."""
    return text.encode(errors="backslashreplace").decode()


def _png_converter() -> Callable[[str], bytes]:
    try:
        from vl_convert import svg_to_png
    except ImportError as error:
        raise InputError(
            "format (='png'): expected the package vl-convert-python; run pip install 'atras[png]' or take svg"
        ) from error
    return lambda svg: svg_to_png(svg, scale=2)


def _save(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        refuse_special(path)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error, "a file") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _unwritable(path: Path, error: OSError, kind: str) -> InputError:
    return InputError(
        f"out (={str(path)!r}): expected {kind} to write to: {error.strerror or error}; name another place"
    )
