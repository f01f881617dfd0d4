"""Records of another schema of atras are refused in one line, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atras import cli
from atras.errors import InputError
from atras.experiment import Execution, Protocol, load_config
from atras.networks import Candidate
from atras.results import Writer, read, read_run
from atras.results.schemas import VERSION
from atras.running import recorded as run_recorded
from atras.search import recorded as search_recorded
from atras.search.halving import Record
from atras.storage import json_with_checksum
from atras.version import SCHEMA

PROTOCOL = Protocol(candidates=(Candidate((8,)), Candidate((9,))), epochs=1)
FORMER = {"attacks": ["fgsm"], "attack_steps": 20, "step_size": None, "restarts": 1, "train_attack": "fgsm"}
"""Options of a protocol as an earlier schema had them."""
REFUSED = f"schema: expected {SCHEMA}, but this was written by {{}} of atras; run it again with its settings"


def rewrite(path: Path, **changes: Any) -> None:
    """A record with other values, and none where None is given, intact otherwise."""
    content = json.loads(path.read_text()) | changes
    content.pop("sha256", None)
    path.write_bytes(json_with_checksum({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has just begun."""
    info = {"protocol": PROTOCOL.to_dict(), "protocol_hash": PROTOCOL.hash, "version": "0"}
    with_execution = info | {"execution": Execution().to_dict(), "finished_groups": []}
    Writer(tmp_path / "run", with_execution).close()
    return tmp_path / "run"


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """The folder of a search that has just begun."""
    (tmp_path / "search").mkdir()
    Record.new(tmp_path / "search", PROTOCOL, Execution(), 100).write("interrupted")
    return tmp_path / "search"


def test_the_schema_stands_in_every_record(run: Path, search: Path) -> None:
    assert VERSION == 6
    assert read_run(run)["schema"] == VERSION
    assert Record.read(search).content["schema"] == VERSION
    assert json.loads((run / "run.json").read_text())["schema"] == VERSION
    assert json.loads((search / "search.json").read_text())["schema"] == VERSION


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"schema": None}, "an earlier schema"),
        ({"schema": None, "finished_groups": 3}, "an earlier schema"),
        ({"schema": None, "protocol": PROTOCOL.to_dict() | FORMER}, "an earlier schema"),
        ({"schema": 1}, "schema 1"),
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}"),
        ({"schema": str(SCHEMA)}, f"schema '{SCHEMA}'"),
        ({"schema": True}, "schema True"),
    ],
)
def test_a_run_of_another_schema_is_refused_in_one_line(run: Path, changes: dict[str, Any], found: str) -> None:
    path = run / "run.json"
    rewrite(path, **changes)
    for reader, argument in ((read_run, run), (read, run), (run_recorded, run), (load_config, path)):
        with pytest.raises(InputError) as caught:
            reader(argument)
        assert str(caught.value) == f"{path}: {REFUSED.format(found)}"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"schema": None}, "an earlier schema"),
        ({"schema": None, "protocol": PROTOCOL.to_dict() | FORMER}, "an earlier schema"),
        ({"schema": 1}, "schema 1"),
    ],
)
def test_a_search_of_another_schema_is_refused_in_one_line(search: Path, changes: dict[str, Any], found: str) -> None:
    rewrite(search / "search.json", **changes)
    with pytest.raises(InputError) as caught:
        search_recorded(search)
    assert str(caught.value) == f"{search / 'search.json'}: {REFUSED.format(found)}"


@pytest.mark.parametrize("line", ["run --resume {run}", "run --config {run}/run.json", "claims {run}", "report {run}"])
def test_the_command_line_refuses_it_in_one_line(run: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "run.json", schema=None)
    assert cli.execute(cli.app, line.format(run=run).split(), "atras") == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"atras: {run / 'run.json'}: {REFUSED.format('an earlier schema')}\n")
