"""A winner on fresh seeds: what is measured, that it is what a run of its own measures, and that it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import atras
from atras.analysis import confirmed, ranking, summary_lines, to_confirm, winner_sentences
from atras.cli import program
from atras.errors import InputError, Interrupted
from atras.experiment import Protocol
from atras.search import confirm, resume, search
from searches import CPU, PROTOCOL

SMALL = PROTOCOL.replace(epochs=2, adversarial_epochs=1, seeds=(0, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> atras.Results:
    """A run of six networks on two seeds, its first ones on two fresh ones."""
    results = atras.run(SMALL, CPU, out=tmp_path_factory.mktemp("runs") / "run", confirm_seeds=(5, 6))
    return confirm(results)


def test_the_first_and_those_not_told_apart_are_measured_as_in_a_run_of_their_own(run: atras.Results) -> None:
    frame = confirmed(run)
    ranked = ranking(run)
    assert frame["hidden_layers"].to_list() == to_confirm(run)
    assert frame["hidden_layers"][0] == ranked["hidden_layers"][0]
    assert 1 <= len(frame) <= 5
    assert set(frame["hidden_layers"][1:]) <= set(ranked["tied"][0])
    means = dict(ranked.select("hidden_layers", "mean").rows())
    assert frame["chosen"].to_list() == [means[name] for name in to_confirm(run)]
    candidates = tuple(run.candidate(name) for name in frame["hidden_layers"])
    own = ranking(atras.run(SMALL.replace(candidates=candidates, seeds=(5, 6)), CPU))
    figures = {row["hidden_layers"]: row for row in own.to_dicts()}
    for row in frame.to_dicts():
        assert [row[key] for key in ("mean", "low", "high")] == [
            figures[row["hidden_layers"]][key] for key in ("mean", "low", "high")
        ]


def test_the_confirmed_figure_stands_beside_the_one_that_chose(run: atras.Results) -> None:
    first = confirmed(run).row(0, named=True)
    told = winner_sentences(run)[-1]
    assert told.startswith(f"Confirmed on fresh seeds, which did not choose it: {first['hidden_layers']} has ")
    assert f"{first['mean']:.4f}" in told
    assert f"{abs(first['mean'] - first['chosen']):.4f}" in told or "as much as" in told
    for width in (60, 80):
        lines = summary_lines(run, width)
        assert max(map(len, lines)) <= width
        assert "on fresh seeds (5, 6)" in " ".join(" ".join(lines).split())
    assert run.directory is not None
    kept = json.loads((run.directory / "run.json").read_text())["confirmed"]
    assert kept["seeds"] == [5, 6]
    assert kept["networks"] == confirmed(run).to_dicts()
    assert atras.read(run.directory / "confirm").run["protocol"]["seeds"] == [5, 6]


def test_seeds_that_chose_and_a_second_draw_are_refused(run: atras.Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"confirm_seeds \(=1,2\): expected fresh seeds, got 1, with which the run"):
        confirm(run, (1, 2))
    with pytest.raises(InputError, match=r"the better of two draws is luck again; say --confirm-seeds 5,6"):
        confirm(run, (7, 8))
    assert confirm(run).run == run.run  # nothing is measured twice
    with pytest.raises(InputError, match="expected each seed once"):
        atras.run(SMALL, CPU, out=tmp_path / "twice", confirm_seeds=(5, 5))
    with pytest.raises(InputError, match="expected fresh seeds, got none"):
        confirm(atras.run(SMALL.replace(candidates=SMALL.candidates[:1]), CPU, out=tmp_path / "none"))
    assert not (tmp_path / "twice").exists()


def command(line: str) -> int:
    return program.execute(program.app, ["run", *line.split()], "atras")


OPTIONS = "--hidden 4 --hidden 8 --epochs 2 --adversarial-epochs 1 --train-size 100 --test-size 50 --device cpu --quiet"


def test_the_command_confirms_and_goes_on_where_it_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(f"{OPTIONS} --seeds 0-4 --confirm-seeds 3-6 --out no") == 2
    assert "expected fresh seeds, got 3, 4, with which the run trains" in capsys.readouterr().err
    assert not Path("no").exists()
    assert command(f"{OPTIONS} --confirm-seeds 5-6 --out whole") == 0
    assert "Confirmed on fresh seeds" in capsys.readouterr().out
    with monkeypatch.context() as patch:

        def interrupted(*_: Any, **__: Any) -> None:
            raise Interrupted

        patch.setattr(atras.search.confirmation.running, "confirming", interrupted)
        assert command(f"{OPTIONS} --confirm-seeds 5-6 --out part") == 130
    assert "go on with --resume part" in capsys.readouterr().err
    assert not (tmp_path / "part" / "confirm").exists()
    assert command("--resume part --quiet") == 0
    assert "Confirmed on fresh seeds" in capsys.readouterr().out
    whole, part = (atras.read(tmp_path / name) for name in ("whole", "part"))
    assert part.run["confirmed"] == whole.run["confirmed"]


def test_a_search_confirms_its_winner_also_when_asked_afterwards(tmp_path: Path) -> None:
    protocol: Protocol = SMALL.replace(candidates=SMALL.candidates[:2], seeds=(0,))
    first = search(protocol, CPU, 8, tmp_path / "at-once", confirm_seeds=(3, 4))
    assert not confirmed(first).is_empty()
    search(protocol, CPU, 8, tmp_path / "later")
    then = resume(tmp_path / "later", confirm_seeds=(3, 4))
    kept = [json.loads((tmp_path / name / "search.json").read_text()) for name in ("at-once", "later")]
    assert kept[0]["confirmed"] == kept[1]["confirmed"] == first.run["confirmed"] == then.run["confirmed"]
    assert resume(tmp_path / "later", confirm_seeds=(3, 4)).run["confirmed"] == then.run["confirmed"]
    with pytest.raises(InputError, match="expected fresh seeds, got 0"):
        search(protocol, CPU, 8, tmp_path / "old", confirm_seeds=(0, 1))
    assert not (tmp_path / "old").exists()


def test_of_a_run_with_axes_candidates_in_variants_are_measured_on_fresh_seeds(tmp_path: Path) -> None:
    axes = {"learning_rate": (1e-3, 1e-2), "defence": ("copies", "none")}
    protocol = SMALL.replace(candidates=SMALL.candidates[:2], axes=axes)
    run = confirm(atras.run(protocol, CPU, out=tmp_path / "run"), (5, 6))
    frame = confirmed(run)
    assert frame["hidden_layers"].to_list() == to_confirm(run)
    own = dict(ranking(atras.run(protocol.replace(seeds=(5, 6)), CPU)).select("hidden_layers", "mean").rows())
    assert frame["mean"].to_list() == [own[name] for name in frame["hidden_layers"]]
    assert "Confirmed on fresh seeds" in winner_sentences(run)[-1]
    assert confirmed(run.of_variant("learning_rate=0.01 defence=copies")).is_empty()


def test_undefended_variants_are_confirmed_by_the_figure_that_chose_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = SMALL.replace(candidates=SMALL.candidates[:1], axes={"defence": ("copies", "none")})
    run = atras.run(protocol, CPU, out=tmp_path / "run")
    name = f"{protocol.candidates[0].name} defence=none"
    monkeypatch.setattr("atras.search.confirmation.to_confirm", lambda *_: [name])
    monkeypatch.setattr(sys.modules["atras.analysis.confirmed"], "to_confirm", lambda *_: [name])
    found = confirmed(confirm(run, (5, 6)))
    solo = ranking(atras.run(protocol.replace(axes=(), defence="none", seeds=(5, 6)), CPU))
    assert found["mean"].to_list() == solo["mean"].to_list()


@pytest.mark.parametrize("defence", ["ensemble(k=1)", "copies(source=smallest)"])
def test_a_defence_that_needs_the_other_candidates_is_refused_before_anything_is_trained(
    defence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"confirm_seeds \(=5,6\): .* trains on images made on other") as refused:
        atras.run(SMALL.replace(defence=defence), CPU, out=tmp_path / "run", confirm_seeds=(5, 6))
    assert defence in str(refused.value)
    assert not (tmp_path / "run").exists()
