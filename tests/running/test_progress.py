"""What a run tells while it runs."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

import atras
from atras.attacks import PGD
from atras.networks import Candidate
from atras.running import progress, task, time_left, transfer_task
from atras.running.live_progress import LiveReporter, choose_reporter
from atras.running.progress import PlainReporter, Reporter
from atras.running.time_left import Overall, Work


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(reporter: Reporter) -> None:
    reporter.plan(["device cpu", "group  members"])
    reporter.note("stem [none] for 8x8")
    for done in (0, 60, 120):
        reporter.decoding(done, 120)
    reporter.group_started(0, 2, "depth 1: 40 .. 64", 4, 200)
    reporter.progress(0, "train", 100, 0.5, 0.75)
    reporter.group_finished(0, 61.2)
    reporter.group_started(1, 2, "depth 2: 8-128", 1, 100)
    reporter.progress(1, "adversarial", 100, None, None)
    reporter.group_finished(1, 1.25)
    reporter.close()
    reporter.close()


def test_plain_output_is_a_line_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    tell(PlainReporter(stream))
    assert stream.getvalue().splitlines() == [
        "device cpu",
        "group  members",
        "stem [none] for 8x8",
        "decoding 120 images, 0 %",
        "decoding 120 images, 50 %",
        "decoding 120 images, 100 %",
        "group 1/2, depth 1: 40 .. 64, 4 members, 200 steps",
        "group 1/2, depth 1: 40 .. 64, 50 % train loss 0.500 acc 0.750",
        "group 1/2, depth 1: 40 .. 64, finished in 1 min 1 s",
        "group 2/2, depth 2: 8-128, 1 member, 100 steps",
        "group 2/2, depth 2: 8-128, 100 % adversarial",
        "group 2/2, depth 2: 8-128, finished in 1.2 s",
    ]


def test_plain_progress_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    for now in (0.0, 1.0, 2.0, 7.0):
        reporter.decoding(10 * int(now), 1000)
    assert stream.getvalue().splitlines() == ["decoding 1000 images, 0 %", "decoding 1000 images, 7 %"]
    stream.truncate(stream.seek(0))
    now = 0.0
    reporter.group_started(0, 1, "depth 1", 2, 1000)
    for step in range(1000):
        now = step * 0.02
        reporter.progress(0, "train", step, 0.1, 0.9)
    percents = re.findall(r"(\d+) %", stream.getvalue())
    assert percents == ["25", "50", "75"]


def test_live_output_shows_a_bar_a_group_on_one_line_of_80_columns() -> None:
    stream = Terminal()
    reporter = LiveReporter(Console(file=stream, width=80, height=24, force_terminal=True, color_system=None))
    reporter.group_started(15, 16, "depth 5: 8-..-128 .. 64-..-1024", 18, 1000)
    reporter.progress(15, "train", 370, 0.1234, 0.9)
    reporter._progress.refresh()
    reporter.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    frames = [frame.strip() for frame in re.split(r"[\r\n]", text) if "37%" in frame]
    assert frames
    assert re.fullmatch(
        r"16/16 depth 5: 8-\.\.-128 \.\. 64-\.\.-1024 x18 \S+ +37% loss 0\.123 acc 0\.900 \S+", frames[-1]
    )
    assert len(frames[-1]) <= 80


def test_live_output_keeps_a_line_and_no_bar_of_each_finished_group() -> None:
    stream = Terminal()
    reporter = LiveReporter(Console(file=stream, width=80, height=24, force_terminal=True, color_system=None))
    tell(reporter)
    assert reporter._progress.tasks == []
    text = stream.getvalue()
    assert "stem [none] for 8x8" in text
    assert "1/2 depth 1: 40 .. 64 x4, finished in 1 min 1 s" in text
    assert "2/2 depth 2: 8-128 x1, finished in 1.2 s" in text


def test_decoding_has_a_bar_that_becomes_a_line() -> None:
    stream = Terminal()
    reporter = LiveReporter(Console(file=stream, width=80, height=24, force_terminal=True, color_system=None))
    reporter.decoding(0, 22_000)
    reporter.decoding(8_140, 22_000)
    reporter._progress.refresh()
    assert re.search(r"decoding 22000 images \S+ +37%", stream.getvalue())
    reporter.decoding(22_000, 22_000)
    assert reporter._progress.tasks == []
    assert "decoded 22000 images" in stream.getvalue()
    reporter.close()


def test_the_stream_decides_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(choose_reporter(stream=Terminal())) is LiveReporter
    assert type(choose_reporter(stream=io.StringIO())) is PlainReporter
    assert type(choose_reporter(quiet=True, stream=Terminal())) is Reporter
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose_reporter(stream=Terminal())) is PlainReporter


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    tell(choose_reporter())
    assert capsys.readouterr().out == ""


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tell(choose_reporter(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_reporters_import_without_rich() -> None:
    code = (
        "import sys; from atras.running import choose_reporter as choose; choose(True); choose(stream=sys.stdout); "
        "sys.exit('rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(atras.__file__).parents[1], capture_output=True, check=False
    )
    assert done.returncode == 0


HOSTILE = "[bold]data\x1b[2J\u202e\udcff[/bold]"


@pytest.mark.parametrize("live", [False, True])
def test_names_are_shown_and_not_obeyed(live: bool) -> None:
    stream = Terminal()
    # rich would hide a bare surrogate's failure to be encoded only on a stream without an encoding.
    reporter = LiveReporter(Console(file=stream, width=100)) if live else PlainReporter(stream)
    reporter.note(HOSTILE)
    reporter.close()
    assert r"[bold]data\x1b[2J\u202e\udcff[/bold]" in stream.getvalue()


def test_a_resumed_group_tells_what_it_had_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.group_started(0, 1, "depth 1", 2, 200)
    reporter.group_resumed(0, 150)
    reporter.progress(0, "train", 160, None, None)
    assert stream.getvalue().splitlines()[1:] == [
        "group 1/1, depth 1, goes on from 75 % of its training",
        "group 1/1, depth 1, 80 % train",
    ]
    console = Console(file=Terminal(), force_terminal=True, width=80)
    live = LiveReporter(console)
    live.group_started(0, 1, "depth 1", 2, 200)
    live.group_resumed(0, 150)
    (task,) = live._progress.tasks
    assert (task.completed, task.speed) == (150, None)
    live.close()


def test_a_log_has_a_line_a_percent_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.group_started(0, 1, "depth 1", 2, 100_000)
    for step in range(0, 100_000, 10):
        reporter.progress(0, "train", step, 0.5, 0.5)
    assert len(stream.getvalue().splitlines()) == 1 + 100


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error"), ValueError("closed")])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_is_gone_stops_no_run(terminal: bool, error: Exception) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

        def isatty(self) -> bool:
            return terminal

    tell(choose_reporter(stream=Gone()))


def test_attacks_are_told_by_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.group_started(0, 1, "depth 1", 2, 200)
    for share in (0.25, 0.2501, 0.5):
        reporter.attacking(0, "trained", "autoattack", share)
    assert stream.getvalue().splitlines()[1:] == [
        "group 1/1, depth 1, trained networks under attack, 25 % of the attacks, autoattack",
        "group 1/1, depth 1, trained networks under attack, 50 % of the attacks, autoattack",
    ]


def test_the_bar_is_that_of_the_attacks_while_they_last() -> None:
    live = LiveReporter(Console(file=Terminal(), force_terminal=True, width=80))
    live.group_started(0, 1, "depth 1", 2, 200)
    live.progress(0, "train", 100, 0.5, 0.75)
    (task,) = live._progress.tasks
    live.attacking(0, "trained", "autoattack", 0.25)
    assert (task.percentage, task.fields["figures"]) == (25, "autoattack, trained")
    live.progress(0, "adversarial", 150, 0.5, 0.75)
    assert task.percentage == 75
    live.attacking(0, "defended", "square", 0.1)
    live.attacking(0, "defended", "square", 0.75)
    assert (task.percentage, task.fields["figures"]) == (75, "square, defended")
    live.group_finished(0, 1.0)
    assert live._progress.tasks == []
    live.attacking(0, "defended", "square", 1.0)
    live.close()


def test_what_an_attack_costs_is_not_asked_at_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What AutoAttack costs is the sum of its parts', which takes as long as a step of a small network."""
    asked, cost = [], PGD.cost
    monkeypatch.setattr(PGD, "cost", lambda self, classes: asked.append(self.steps) or cost(self, classes))
    for steps in (3, 30):
        protocol = atras.Protocol(
            candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1, test_size=40, attacks=(PGD(steps=steps),)
        )
        atras.run(protocol)
    assert asked.count(3) == asked.count(30) > 0


def test_a_run_tells_of_its_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Listener(Reporter):
        def attacking(self, index: int, phase: str, attack: str, share: float, work: float = 1.0) -> None:
            told.append((index, phase, attack, share))
            assert work == pytest.approx(1.0)  # neither attack drops what is fooled

    monkeypatch.setattr(task, "SECONDS_BETWEEN_TELLS", 0.0)
    protocol = atras.Protocol(
        candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1, test_size=40, attacks=(PGD(steps=5),)
    )
    atras.run(protocol, reporter=Listener())
    for phase in ("trained", "defended"):
        names, shares = zip(*((name, share) for _, of, name, share in told if of == phase), strict=True)
        assert {"fgsm", "pgd"} <= set(names)
        assert list(shares) == sorted(shares)
        assert 0 <= shares[0] < 0.5 < shares[-1] <= 1


def test_the_time_that_a_whole_run_has_left_follows_the_work_that_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now)
    overall = Overall({0: Work(6.0, 2.0), 2: Work(1.0, 1.0)}, after=10.0)
    assert overall.seconds_left() is None
    now = 103.0
    overall.trained(0, 0.5)
    assert overall.share == pytest.approx(3 / 20)
    assert overall.seconds_left() == pytest.approx(17.0)
    overall.attacked(0, "trained", 1.0)
    overall.finished(2)
    assert overall.share == pytest.approx(6 / 20)
    overall.finished(0)
    overall.part(0.5)
    assert overall.share == pytest.approx(15 / 20)
    overall.part(1.0)
    assert (overall.share, overall.seconds_left()) == (1.0, None)


def test_the_time_left_is_corrected_by_what_attacks_turn_out_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now)
    undefended = Overall({0: Work(0.0, 40.0, phases=1)}, after=0.0)
    now = 102.0
    assert undefended.attacked(0, "trained", 0.5) == 0.5
    assert undefended.seconds_left() == pytest.approx(2.0)  # it has no second phase to wait for
    overall = Overall({0: Work(10.0, 100.0), 1: Work(10.0, 100.0)}, after=0.0)
    now = 112.0
    overall.trained(0, 1.0)
    overall.attacked(0, "trained", 0.5, work=0.1)
    # Of 50 for each group's first phase 5 are left, of the other phases nothing is known: 12.5 of 2 x (10 + 5 + 50).
    assert overall.seconds_left() == pytest.approx(10 * (130 - 12.5) / 12.5)
    overall.attacked(0, "defended", 0.2, work=0.2)
    assert overall.attacked(0, "defended", 0.1, work=0.2) == 0.2  # it does not go back
    assert overall.share == pytest.approx((10 + 2.5 + 2) / (2 * (10 + 5 + 10)))
    overall.finished(0)
    assert overall.share == pytest.approx(0.5)


def test_what_was_done_before_an_interruption_took_none_of_the_seconds_since(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now)
    overall = Overall({0: Work(50.0, 50.0, phases=1)}, after=0.0)
    overall.resumed(0, 1.0)
    overall.attacked(0, "trained", 0.2)  # the first step here tells what was done there
    now = 110.0
    assert overall.seconds_left() is None
    overall.attacked(0, "trained", 0.4)
    assert overall.seconds_left() == pytest.approx(10 * 30 / 10)


def test_plain_lines_and_live_bars_tell_the_time_left_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now)
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.expect({0: Work(1.0, 0.0), 1: Work(1.0, 0.0)}, after=2.0)
    reporter.group_started(0, 2, "depth 1", 2, 200)
    now = 60.0
    reporter.group_finished(0, 60.0)
    reporter.group_finished(1, 1.0)
    reporter.part("transfer", 0.25)
    assert stream.getvalue().splitlines()[1:] == [
        "group 1/2, depth 1, finished in 1 min 0 s; about 3 min 0 s left in all",
        "group 2, finished in 1.0 s; about 1 min 0 s left in all",
        "transfer, 25 %; about 36.0 s left in all",
    ]
    live = LiveReporter(Console(file=Terminal(), force_terminal=True, width=60))
    live.expect({0: Work(1.0, 0.0), 1: Work(1.0, 0.0)}, after=2.0)
    live.group_started(0, 2, "depth 1", 2, 200)
    live.progress(0, "train", 100, None, None)
    whole = next(task for task in live._progress.tasks if task.description == "all")
    assert whole.percentage == 12.5
    live.group_finished(0, 1.0)
    live.part("transfer", 0.5)
    assert whole.percentage == 50
    assert [task.percentage for task in live._progress.tasks if task.description == "transfer"] == [50]
    live.close()
    assert "all" not in [task.description for task in live._progress.tasks]


def test_a_run_tells_what_it_expects_and_how_far_its_transfer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    expected = []

    class Listener(Reporter):
        width = 60

        def plan(self, lines: list[str]) -> None:
            assert max(map(len, lines)) <= 60

        def expect(self, works: Mapping[int, Work], after: float) -> None:
            expected.append((dict(works), after))

        def part(self, name: str, share: float) -> None:
            assert name == "transfer"
            shares.append(share)

    monkeypatch.setattr(transfer_task, "SECONDS_BETWEEN_TELLS", 0.0)
    protocol = atras.Protocol(
        candidates=(Candidate((8,)), Candidate((4, 4))), epochs=1, adversarial_epochs=1, test_size=40, transfer=True
    )
    results = atras.run(protocol, reporter=Listener())
    ((works, after),) = expected
    assert set(works) == set(range(len(results.run["plan"]["groups"])))
    assert after > 0
    assert all(work.training > 0 and work.attacks > 0 for work in works.values())
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(0 < share < 0.99 for share in shares)


def test_a_narrow_terminal_shows_the_time_left_whole() -> None:
    stream = Terminal()
    reporter = LiveReporter(Console(file=stream, width=60, height=24, force_terminal=True, color_system=None))
    assert reporter.width == 60
    reporter.group_started(15, 16, "depth 5: 8-..-128 .. 64-..-1024", 18, 1000)
    reporter.progress(15, "train", 370, 0.1234, 0.9)
    reporter._progress.refresh()
    reporter.close()
    frames = [frame for frame in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())) if frame]
    assert frames[-1].rstrip().endswith("--:--")
    assert len(frames[-1]) <= 60
