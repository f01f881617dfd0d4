"""A run says what its seconds went to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from atras.running import stopwatch


def test_each_second_belongs_to_what_the_run_was_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0])
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    watch = stopwatch.Stopwatch(0.0)
    load = watch.loading(lambda value: value + 1)  # from 1 to 4
    assert load(1) == 2
    watch.begin("groups")  # at 9
    with pytest.raises(ZeroDivisionError), watch.within("writing"):  # from 16 to 25
        raise ZeroDivisionError
    own = {"start": 1.0, "data": 3.0, "plan": 5.0, "groups": 7.0 + 11.0, "transfer": 0.0, "writing": 9.0}
    assert watch.timings({}) == {"run_seconds": 36.0, "seconds_at": own}  # at 36
    before = {"startup_seconds": None, "run_seconds": 2.0, "seconds_at": {"groups": 2.0}}
    later = watch.timings(before)  # at 49
    assert later == {"run_seconds": 51.0, "seconds_at": own | {"groups": 7.0 + 11.0 + 13.0 + 2.0}}


def test_a_record_without_them_counts_its_whole() -> None:
    nothing = dict.fromkeys(stopwatch.AT, 0.0)
    assert stopwatch.added_up([{}, {"run_seconds": 3, "seconds_at": None}]) == {
        "run_seconds": 3.0,
        "seconds_at": nothing,
    }
