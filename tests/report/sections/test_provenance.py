"""The record of a run in full: as JSON that reads back, on few lines."""

from __future__ import annotations

import dataclasses
import json

from atras.report.sections.provenance import LINE, provenance
from atras.testing.fake_run import make_run


def test_the_record_is_whole_and_a_member_takes_one_line() -> None:
    results = make_run()
    members = [[f"{width}-64", seed, [["defence", "copies"]]] for width in range(8, 40) for seed in range(3)]
    plan = {"groups": [{"members": members, "engine": "fused"}], "empty": [], "none": {}, "long": "x" * 2 * LINE}
    results = dataclasses.replace(results, run=results.run | {"plan": plan})
    (name, text) = provenance(results).code[0]
    assert name == "run.json"
    assert json.loads(text) == json.loads(json.dumps(results.run))
    assert sum('"copies"]]]' in line for line in text.splitlines()) == len(members)
    assert all(len(line) <= LINE + 2 for line in text.splitlines() if "xxx" not in line)
