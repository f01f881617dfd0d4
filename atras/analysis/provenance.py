"""The origin of figures: what is missing of a run, what its members do not share, and in what two runs differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atras.errors import InputError, printable
from atras.experiment import recorded_axes
from atras.results import Results, strengths
from atras.rounding import counted

_NAMES_ONLY = ("name", "source", "status")
"""What a record of data calls them, which makes no difference to their images."""


def require_whole(results: Results, partial: bool) -> None:
    """Refuse to draw a conclusion from a part of a run.

    Args:
        results: a run.
        partial: whether the part is asked for.

    Raises:
        InputError: if groups are missing and the part was not asked for.
    """
    missing = results.missing()
    if missing and not partial:
        where = results.directory or results.dataset
        raise InputError(
            f"{where}: expected a finished run, {missing}; go on with it by --resume, or add --partial (in Python "
            "partial=True) to take what is there"
        )


def notices(results: Results) -> list[str]:
    """What a reader of a run's figures must know first: how much is missing, and what its members do not share."""
    missing = results.missing()
    lines = [f"This run is not finished: {missing}. All that follows is of the others alone."] if missing else []
    texts = {
        "precision": "Networks were trained in several precisions",
        "backend": "Networks were computed by several engines",
    }
    for column, text in texts.items():
        members = results.metrics.select("hidden_layers", "seed", column).drop_nulls().unique(maintain_order=True)
        counts = members.group_by(column, maintain_order=True).len().rows()
        if len(counts) > 1:
            shown = ", ".join(f"{value} ({counted(count, 'member')})" for value, count in counts)
            lines.append(f"{text}: {printable(shown)}. Differences between them may come of that.")
    return [*lines, *filter(None, [not_compared(results)])]


def not_compared(results: Results) -> str:
    """That networks were attacked at several strengths, whose figures are not compared; empty where they were not."""
    found = strengths(recorded_axes(results.run["protocol"]) if not results.settings else results.settings)
    if not found:
        return ""
    return (
        f"Networks were attacked at several strengths ({', '.join(found)}): figures at different ones are not "
        "compared, and each has ranks and a first of its own."
    )


def data_differences(a: Results, b: Results) -> list[str]:
    """In what the images of two runs differ, a line each; none where they are the same, or a run does not tell."""
    left, right = _data(a), _data(b)
    if not left or not right:
        return []
    lines = []
    for part, changed in (("test", _changed(left, right, "test")), ("training", _changed(left, right, "train"))):
        if changed:
            lines.append(f"{part} images: other checksums ({', '.join(changed)})")
    alike = ["subset"] if all(_taken(a, part) == _taken(b, part) for part in ("train", "test")) else []
    known = [name for name in left if name in right and name not in (*_NAMES_ONLY, *alike, "sha256")]
    return lines + [f"{name}: {left[name]} and {right[name]}" for name in known if left[name] != right[name]]


def other_test_images(a: Results, b: Results) -> bool:
    """Whether two runs are known to have been measured on different test images."""
    left, right = _data(a), _data(b)
    if not left or not right:
        return False
    return bool(_changed(left, right, "test")) or _taken(a, "test") != _taken(b, "test")


def computing_differences(a: Results, b: Results) -> list[str]:
    """In what the computation of two runs differs, a line each: versions, precision, engine, device, instructions."""
    left, right = _computing(a), _computing(b)
    known = [name for name in left if left[name] is not None and right.get(name) is not None]
    return [f"{name}: {left[name]} and {right[name]}" for name in known if left[name] != right[name]]


def _data(results: Results) -> Mapping[str, Any]:
    return results.run.get("data") or {}


def _taken(results: Results, part: str) -> tuple[object, object]:
    """How many images of a part were taken, and how: of a part that was taken whole, it makes no difference."""
    data = _data(results)
    size = data.get(f"{part}_size")
    whole = size is not None and size == data.get(f"{part}_available")
    return size, None if whole else results.run["protocol"].get("subset")


def _changed(left: Mapping[str, Any], right: Mapping[str, Any], part: str) -> list[str]:
    """Names of the files or arrays of a part whose checksums differ."""
    sums = [{name: each for name, each in (data.get("sha256") or {}).items() if part in _parts(name)}
            for data in (left, right)]  # fmt: skip
    if not all(sums):
        return []
    # By content: the same file may go by several names.
    ours, theirs = (set(each.values()) for each in sums)
    return [name for name, each in {**sums[0], **sums[1]}.items() if each not in ours & theirs]


def _parts(name: str) -> Iterable[str]:
    """The parts of a data set that a file or array belongs to, by its name; both where that does not tell."""
    if "test" in name or "t10k" in name:
        return ("test",)
    return ("train",) if "train" in name or name.startswith("data_batch") else ("test", "train")


def _commit(name: object) -> str | None:
    """The beginning of a commit's name, which tells it from others and leaves room for two, and what follows it."""
    commit, *rest = str(name).split("-", 1)
    return None if name is None else "-".join([commit[:12], *rest])


def _computing(results: Results) -> dict[str, Any]:
    run = results.run
    plan, environment = run.get("plan") or {}, run.get("environment") or {}
    kernels = (environment.get("kernels") or {}).get("cpu") or {}

    def of_rows(column: str) -> str | None:
        return ", ".join(results.metrics[column].drop_nulls().unique().sort()) or None

    return {
        "version of atras": run.get("version"),
        "commit": _commit(environment.get("commit")),
        "precision": of_rows("precision") or plan.get("precision"),
        "engine": of_rows("backend") or plan.get("engine"),
        "device": environment.get("device"),
        "instructions": kernels.get("instructions"),
        **{name: version for name, version in (environment.get("versions") or {}).items() if name != "atras"},
    }
