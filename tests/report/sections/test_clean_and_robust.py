"""Clean and robust accuracy: by the worst case, with the Pareto front and its names."""

from __future__ import annotations

from atras.analysis import pareto
from atras.report.sections.clean_and_robust import clean_and_robust
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_the_front_is_joined_and_named_and_judged_by_the_worst_case(full: Results) -> None:
    against_clean, against_size = clean_and_robust(full).figures
    assert against_clean.y.label == against_size.y.label == "worst-case robust accuracy"
    front = pareto(full)["hidden_layers"].to_list()
    (line,) = [series for series in against_size.series if series.label == "Pareto front"]
    assert [point.name for point in line.points] == front
    named = {point.label for series in against_size.series for point in series.points if point.label}
    assert named == set(front)
    svg = str(against_size.svg())
    assert all(f">{name}</text>" in svg for name in front)
    assert against_size.summary.startswith(
        f"{len(front)} of 4 networks are on the front: from {front[0]} to {front[-1]}"
    )


def test_one_network_alone_is_told_in_the_singular() -> None:
    _, against_size = clean_and_robust(make_run(names=("40",))).figures
    assert against_size.summary.startswith("40 is the most robust")
    assert "1 layers" not in str(against_size.svg())
