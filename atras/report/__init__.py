"""The report: one page, a folder of images or a Markdown summary of one or several runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from atras.errors import InputError
from atras.report.sections.comparison import comparison, labels
from atras.report.sections.contents import sections
from atras.report.sections.section import Figure
from atras.results.results import Results
from atras.storage import atomic_write

from .markdown import markdown
from .page import page

__all__ = ["Format", "figures", "write"]

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
        InputError: if there is no run, the format is not one of these, `png` lacks its library, or a file cannot be
            written.
    """
    runs = [runs] if isinstance(runs, Results) else list(runs)
    if not runs:
        raise InputError("runs: expected at least one, got none; name the folder of a run")
    if format not in get_args(Format):
        raise InputError(f"format (={format!r}): expected one of {', '.join(get_args(Format))}")
    target = Path(DEFAULT_PATHS[format] if path is None else path)
    if format in ("html", "md"):
        render = page if format == "html" else markdown
        _save(target, _in_utf8(render(runs)).encode())
    else:
        _write_images(runs, target, format)
    return target


def figures(results: Results) -> dict[str, Figure]:
    """The charts of a run by name; a notebook shows one that stands at the end of a cell."""
    return {figure.name: figure for section in sections(results) for figure in section.figures}


def _write_images(runs: Sequence[Results], folder: Path, format: str) -> None:  # noqa: A002
    convert = _png_converter() if format == "png" else str.encode
    images = {f"{name}.{format}": figure for run in runs[:1] for name, figure in figures(run).items()}
    if len(runs) > 1:
        images = {
            f"{index}-{name}.{format}": figure
            for index, run in enumerate(runs, 1)
            for name, figure in figures(run).items()
        }
        images |= {f"{figure.name}.{format}": figure for figure in comparison(runs, labels(runs)).figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error, "a folder") from error
    for name, figure in images.items():
        _save(folder / name, convert(_in_utf8(figure.svg(standalone=True))))


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
        atomic_write.refuse_special(path)
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
