"""The price of a run on machines that are not here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from atras import cli
from atras.errors import InputError
from atras.experiment import Execution
from atras.networks import Candidate
from atras.planning import GPUS, Machines, Speed, schedule
from atras.running import lines_elsewhere, make_plan
from atras.running.elsewhere import price
from atras.running.speeds import Speeds
from atras.testing import SMALL

PROTOCOL = SMALL.replace(candidates=tuple(map(Candidate.parse, ("8", "12", "16-8", "24-8"))), seeds=range(8))


@pytest.fixture(autouse=True)
def _speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of known speed, on which nothing is measured."""
    monkeypatch.setattr(Speeds, "of", lambda *_: Speed(1e-4, 1e9, 1e9, 1e9))


def told(machines: str, **options: object) -> str:
    execution = Execution(engine=options.pop("engine", "fused"), memory_bytes=options.pop("memory_bytes", None))
    return " ".join(lines_elsewhere(PROTOCOL, execution, Machines.parse(machines), **options))


@pytest.mark.parametrize(("text", "count", "kind", "threads", "gpu"), [
    ("64xcpu:2", 64, "cpu", 2, None), ("1xcpu:128", 1, "cpu", 128, None), ("8xcuda:h100", 8, "cuda", 1, "h100"),
])  # fmt: skip
def test_machines_are_read(text: str, count: int, kind: str, threads: int, gpu: str | None) -> None:
    machines = Machines.parse(text)
    assert (machines.count, machines.kind, machines.threads, machines.gpu) == (count, kind, threads, gpu)
    assert f"{count}x{machines.name}" == text


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "cuda:h100", "0xcpu:2", "-1xcpu:2", "8xcpu", "8xcpu:0", "8xcpu:x", "8xcuda:tpu", "8xtpu:4"]
)
def test_machines_that_nobody_knows_are_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(InputError, match=r"machines \(=.*known are cpu:THREADS, cuda:h100") as caught:
        Machines.parse(text)
    assert all(f"cuda:{gpu}" in str(caught.value) for gpu in GPUS)


def test_it_is_said_what_a_speed_is_based_on() -> None:
    assert "speed: 0.5 TFLOP/s as told by --machine-speed" in told("4xcpu:2", told=5e11)
    assert "the data sheet's (NVIDIA, H100 SXM" in told("4xcuda:h100")
    assert "unknown: give --machine-speed" in told("4xcuda:h100")
    assert re.search(r"this machine's, measured with \d+ threads, times 96/\d+", told("4xcpu:96"))


def test_memory_is_that_of_the_machines_or_as_asked_for() -> None:
    assert "may 48.0 GiB (of its memory)" in told("4xcuda:h100")
    assert "may 1.0 GiB (as asked for by --memory)" in told("4xcuda:h100", memory_bytes=2**30)
    assert "give --memory" in told("4xcpu:2")


def test_more_machines_take_less_time_and_more_data() -> None:
    found = [told(f"{count}xcpu:1") for count in (1, 2, 4)]
    makespans = [float(re.search(r"makespan ([\d.]+) s", text)[1]) for text in found]  # type: ignore[index]
    assert makespans == sorted(makespans, reverse=True)
    assert makespans[2] < 0.5 * makespans[0]
    moved = [re.search(r"to each machine, (\S+) MiB in all", text)[1] for text in found]  # type: ignore[index]
    assert float(moved[2]) == pytest.approx(4 * float(moved[0]), abs=0.2)


def test_a_price_is_that_of_its_groups() -> None:
    plan = make_plan(PROTOCOL, Execution(engine="stack", device="cpu"))
    groups = [dataclasses.replace(group, predicted_transfer_seconds=0.0) for group in plan.groups]
    groups[0] = dataclasses.replace(groups[0], predicted_seconds=10.0, predicted_transfer_seconds=4.0)
    groups[1] = dataclasses.replace(groups[1], predicted_seconds=6.0, predicted_transfer_seconds=3.0)
    found = price(tuple(groups), 2, PROTOCOL, 1000, 90)
    times = schedule([6.0, 3.0, *(group.predicted_seconds or 0.0 for group in groups[2:])], 2)
    assert (found.makespan, found.ideal, found.tail, found.transfer) == (*times[:2], times.tail, 4.0)
    assert price(tuple(groups), 1, PROTOCOL, 1000, 90).transfer == 7.0
    assert found.weight_bytes == 2 * 4 * sum(group.parameters for group in groups)
    assert found.data_bytes == 1000
    more = PROTOCOL.replace(epochs=PROTOCOL.epochs + 10)
    assert price(tuple(groups), 2, more, 1000, 90).row_bytes > found.row_bytes


@pytest.mark.parametrize(("arguments", "message"), [
    (["--machines", "2xcpu:1"], "machines: expected with --dry-run"),
    (["--machine-speed", "1", "--dry-run"], "machine_speed: expected with --machines"),
    (["--machines", "2xcpu:1", "--dry-run", "--machine-speed", "fast"], "machine_speed .='fast'.: expected TFLOP/s"),
    (["--machines", "2xcpu:1", "--dry-run", "--machine-speed", "-1"], "machine_speed .=-1.0.: expected a number"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(cli.run_app, arguments, "atras") == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_prints_the_price_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "--depth",
        "1",
        "--train-size",
        "90",
        "--test-size",
        "90",
        "--dry-run",
        "--machines",
        "16xcpu:2",
        "--quiet",
    ]
    assert cli.execute(cli.run_app, options, "atras") == 0
    shown = capsys.readouterr().out
    assert "16 x cpu:2" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert not list(tmp_path.iterdir())
