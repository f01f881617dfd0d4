"""The tutorial on finished networks runs as it is written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from atras.analysis import Robustness
from atras.results import Results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "attack_your_network.md"


def test_the_tutorial_on_finished_networks_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)  # noqa: S102
    sys.modules.pop("mine", None)
    results, robust = names["results"], names["found"]
    assert isinstance(results, Results)
    assert isinstance(robust, Robustness)
    assert (results.run["status"], results.trains, results.defends) == ("finished", False, False)
    assert robust.accuracy() > 0.8
    assert robust.accuracy("pgd(steps=40)") < robust.accuracy("fgsm") < robust.accuracy()
    left = dict(results.metrics.select("attack", "accuracy").iter_rows())
    assert left["autoattack"] <= left["pgd(steps=10)"] < left["fgsm"] < left["none"]
    assert (tmp_path / "runs" / "mine.html").stat().st_size > 50_000
