"""What loggers write is the run's history: read back from event files, a local store of MLflow, and offline files."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atras.cli import program
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.loggers import LOGGERS
from atras.networks import Candidate
from atras.results import Results
from atras.running import Reporter, resume, run
from atras.search import search
from atras.testing import SMALL
from atras.training import epochs

pytestmark = pytest.mark.usefixtures("cache_of_module")

PROTOCOL = SMALL.replace(
    candidates=(Candidate.parse("8"), Candidate.parse("6-8")), seeds=(0,), precision="fp32",
    axes={"learning_rate": (1e-3, 3e-3)}, evaluate_every=2,
)  # fmt: skip
Points = dict[tuple[str, str, int], list[float]]
"""All values by member, name and step."""


def expected(results: Results) -> Points:
    """The points of a run, by its frames."""
    names = ("mean_loss", "running_accuracy")
    points: Points = {}
    for row in results.history.to_dicts():
        who = member_of(row)
        points |= {(who, f"{row['phase']}/{name}", row["epoch"]): [row[name]] for name in names}
    for row in results.metrics.drop_nulls("epoch").to_dicts():
        phase = {"trained": "train", "defended": "adversarial"}[row["phase"]]
        points[member_of(row), f"{phase}/test_accuracy", row["epoch"]] = [row["correct"] / row["n"]]
    for row in results.table.drop("learning_rate").to_dicts():
        own = {name: value for name, value in row.items() if "accuracy" in name and isinstance(value, float)}
        points |= {(member_of(row), f"final/{name}", 0): [value] for name, value in own.items()}
    return points


def member_of(row: dict[str, Any]) -> str:
    return f"{row['hidden_layers']} {row['variant']} seed {row['seed']}"


class Noting(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Results]:
    """A run that is interrupted in the midst of its training and goes on, with a logger."""

    def go(log: str) -> Results:
        monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
        folder, count = tmp_path / "runs" / "one", itertools.count()
        execution = Execution(engine="stack", device="cpu", checkpoint_every=1e6, log=(log,))
        with pytest.raises(Interrupted):
            run(PROTOCOL, execution, out=folder, stop=lambda: next(count) > 20)
        noted = Noting()
        results = resume(folder, reporter=noted)
        assert [line for line in noted.lines if line.startswith("log: ")] == []
        return results

    return go


def test_event_files_hold_the_history(interrupted: Callable[[str], Results]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    results = interrupted("tensorboard")
    assert results.directory is not None
    found: Points = {}
    folders = sorted((results.directory / "tensorboard").iterdir())
    for folder in folders:
        events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for scalar in events.Scalars(tag):
                found.setdefault((folder.name, tag, scalar.step), []).append(scalar.value)
    wanted = expected(results)
    assert [folder.name for folder in folders] == sorted({member for member, _, _ in wanted})
    # They hold float32.
    assert found == {place: pytest.approx(values, rel=1e-6) for place, values in wanted.items()}


@pytest.mark.filterwarnings("ignore")  # its dependencies deprecate one another
def test_a_store_of_mlflow_holds_the_history(interrupted: Callable[[str], Results], tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    store = f"sqlite:///{tmp_path}/store.db"
    results = interrupted(f"mlflow(experiment=mine, uri={store})")
    client = tracking.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("mine").experiment_id
    children = client.search_runs([experiment], "tags.`atras.member` != ''")
    parents = [each for each in client.search_runs([experiment]) if "atras.member" not in each.data.tags]
    found: Points = {}
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        params = child.data.params
        member = f"{params['hidden_layers']} {params['variant']} seed {params['seed']}"
        for name in child.data.metrics:
            for metric in client.get_metric_history(child.info.run_id, name):
                found.setdefault((member, name, metric.step), []).append(metric.value)
    assert found == expected(results)
    assert len(children) == len(results.table)
    assert {child.info.status for child in children} == {"FINISHED"}
    (parent,) = parents
    assert (parent.info.run_name, parent.info.status) == ("runs/one", "FINISHED")
    assert parent.data.params["candidates"] == "8, 6-8"
    assert parent.data.tags["atras.protocol_hash"] == PROTOCOL.hash


def test_offline_files_of_weights_and_biases_hold_the_history(
    interrupted: Callable[[str], Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    results = interrupted("wandb")
    wandb.teardown()  # its process has written all then
    assert results.directory is not None
    found: Points = {}
    runs, groups = set(), set()
    for file in sorted((results.directory / "wandb").glob("offline-run-*/*.wandb")):
        runs.add(file.stem)
        for record in records(file.read_bytes()):
            groups |= {record.run.run_group} if record.HasField("run") else set()
            values = {item.key or "/".join(item.nested_key): float(item.value_json) for item in record.history.item}
            for name in [each for each in values if each.count("/") == 2]:
                member, _, figure = name.partition("/")
                found.setdefault((member, figure, int(values["epoch"])), []).append(values[name])
            for item in record.summary.update:
                member, _, name = (item.key or "/".join(item.nested_key)).partition("/")
                if name.startswith("final/"):
                    found[member, name, 0] = [float(item.value_json)]
    # One that goes on is another run: synchronized, it would take the place of the first one.
    assert len(runs) == 2
    assert {min(runs, key=len)} == {f"run-{group}" for group in groups}
    assert found == expected(results)


def records(content: bytes) -> list[Any]:
    """The records of an offline file: blocks of 32 KiB; before each a checksum, its length, and whether it ends."""
    from wandb.proto import wandb_internal_pb2

    found, whole, at = [], b"", 7
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole, at = whole + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # all of it, or its end
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


@pytest.mark.parametrize("name", list(LOGGERS))
def test_a_package_that_is_missing_is_one_line_before_anything_is_computed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = LOGGERS.get(name).package
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    assert program.execute(program.app, ["run", "--hidden", "8", "--log", name, "--out", str(tmp_path)], "atras") == 2
    line = f"atras: log (={name}): expected the package {package}; run pip install 'atras[{name}]'\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


def test_event_files_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(Exception, match="expected a folder, got a run in memory"):
        run(PROTOCOL, Execution(log=("tensorboard",)))


def test_runs_have_folders_of_their_own_in_one_for_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    one = PROTOCOL.replace(candidates=PROTOCOL.candidates[:1], axes={})
    execution = Execution(engine="stack", device="cpu", log=(f"tensorboard(folder={tmp_path / 'all'})",))
    run(one, execution, out=tmp_path / "runs" / "one")
    run(one, execution)
    assert [path.name.rpartition(" ")[0] for path in sorted((tmp_path / "all").iterdir())] == ["digits", "runs_one"]
    assert [path.name for path in sorted((tmp_path / "all").glob("*/*"))] == ["8 seed 0"] * 2


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_search_in_memory_takes_no_logger_whose_files_would_be_gone(log: str) -> None:
    with pytest.raises(InputError, match=rf"log \(={log}\): expected a folder, got a search without one"):
        search(PROTOCOL, Execution(device="cpu", log=(log,)), 16)


def test_the_example_of_the_documents_tells_every_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    small = example.replace("Protocol(", "Protocol(train_size=60, test_size=20, ")
    exec(compile(small, "docs/loggers.md", "exec"), names)  # noqa: S102 (the document is ours)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names["results"].history) == 40 * 3
    assert " seed 0 train 1 2." in lines[0]
