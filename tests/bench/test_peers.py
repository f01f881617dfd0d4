"""The comparison with textbook PyTorch: what it writes, what it refuses, and that unequal losses end it."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import contest
import peers
import population
import stacked
import textbook
from atras.networks import Candidate, Network, Spec, k_complete
from atras.planning import training_flops

FILE = Path(__file__).parents[2] / "bench" / "peers.py"
TINY = ["--dataset", "digits", "--hidden", "8", "--hidden", "8,16", "--steps", "2"]


def task(stem: str, image_shape: tuple[int, int, int], hidden: tuple[int, ...]) -> Any:
    return textbook.Task(image_shape, 10, stem, (textbook.Member(hidden, {}, 0),), 1e-3, True, torch.device("cpu"))


def test_the_command_checks_the_losses_and_writes_medians_and_ratios(tmp_path):
    file = tmp_path / "out.json"
    command = [sys.executable, str(FILE), *TINY, "--peer", "loop_fp32", "--peer", "vmap_bf16", "--json", str(file)]
    # One thread: a second one that waits for a core costs far more than it brings on networks this small.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found = json.loads(file.read_text())
    assert found["losses_equal"] is True
    assert found["protocol"]["candidates"] == ["8", "8-16"]
    assert min(found["gemm_peak_gflops"][precision] for precision in ("fp32", "bf16")) > 0
    assert {"seconds_per_step", "gflops", "engine", "precision"} <= set(found["atras"])
    assert set(found["peers"]) == set(found["ratios"]) == {"loop_fp32", "vmap_bf16"}
    assert set(found["loss_differences"]) == {"loop_fp32", "vmap_bf16", "atras"}
    for name, row in found["peers"].items():
        assert row["members"] == found["atras"]["members"] == 2
        assert row["gflops"] * row["seconds_per_step"] == pytest.approx(
            found["atras"]["gflops"] * found["atras"]["seconds_per_step"]
        )
        low, high = found["ratios_spread"][name]
        assert 0 < low <= found["ratios"][name] <= high
        assert name in run.stdout


def test_two_seeds_train_on_batches_of_their_own(tmp_path):
    file = tmp_path / "out.json"
    names = ["loop_fp32_channels_last", "loop_bf16", "vmap_fp32"]
    options = [part for name in names for part in ("--peer", name)]
    assert peers.main([*TINY, "--seeds", "0,3", *options, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert set(found["peers"]) == set(names)
    assert found["atras"]["members"] == 4


@pytest.fixture
def turns(monkeypatch):
    """The contestants that were timed so far, a step before their first turn included; all candidates take part."""
    taken: list[str] = []
    seconds = contest.Contest._seconds

    def counted(self: Any, name: str, *given: Any) -> float:
        taken.append(name)
        return seconds(self, name, *given)

    monkeypatch.setattr(contest.Contest, "_seconds", counted)
    monkeypatch.setattr(contest, "warm_up_steps", lambda *_: 1)
    monkeypatch.setattr(contest, "gemm_gflops", lambda *_: 1.0)
    monkeypatch.setattr(peers, "choose_candidates", lambda given, *_: given)
    return taken


def test_a_run_that_is_cut_off_leaves_the_ratios_of_its_rounds(turns, tmp_path, monkeypatch):
    file = tmp_path / "out.json"

    def cut(_: Any) -> None:
        if len(turns) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(contest, "synchronize", cut)
    with pytest.raises(KeyboardInterrupt):
        peers.main([*TINY, "--peer", "loop_fp32", "--peer", "vmap_fp32", "--json", str(file)])
    assert turns == [*sorted(["atras", "loop_fp32", "vmap_fp32"] * 2), "atras"]
    found = json.loads(file.read_text())
    assert {name: found["peers"][name]["rounds"] for name in found["ratios"]} == {"loop_fp32": 1, "vmap_fp32": 1}


@pytest.mark.parametrize(
    ("last", "rounds", "status"), [(8, {"loop_fp32": 2, "vmap_fp32": 1}, 0), (4, {"loop_fp32": 1}, 1)]
)
def test_no_turn_begins_behind_the_seconds(last, rounds, status, turns, tmp_path, monkeypatch, capsys):
    file = tmp_path / "out.json"
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) + (1e9 if len(turns) >= last else 0.0))
    monkeypatch.setattr(contest, "time", clock)
    assert peers.main([*TINY, "--peer", "loop_fp32", "--peer", "vmap_fp32", "--json", str(file)]) == status
    assert len(turns) == last
    found = json.loads(file.read_text())
    assert {name: row["rounds"] for name, row in found["peers"].items()} == rounds
    assert "480 s were too few for 2 rounds of each: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["atras", "vmap_fp32", "loop_bf16"])
def test_one_wrong_weight_ends_the_run(name, tmp_path, monkeypatch, capsys):
    file = tmp_path / "out.json"
    right = population.initial_weights

    def wrong(spec: Any, members: Any) -> Any:
        weights = right(spec, members)
        weights[1]["logits.bias"][3] = 0.5
        return weights

    if name == "atras":  # then it alone has the right weights: it does not start from those given to the peers
        monkeypatch.setattr(population, "initial_weights", wrong)
        options = ["--peer", "vmap_fp32"]
    else:

        class Wrong(contest.PEERS[name]):
            def __init__(self, task: Any) -> None:
                members = list(task.members)
                weights = {key: values.clone() for key, values in members[1].weights.items()}
                weights["logits.bias"][3] = 0.5
                members[1] = members[1]._replace(weights=weights)
                super().__init__(dataclasses.replace(task, members=tuple(members)))

        monkeypatch.setitem(contest.PEERS, name, Wrong)
        options = ["--peer", name]
    assert peers.main([*TINY, *options, "--json", str(file)]) == 1
    found = json.loads(file.read_text())
    assert found["losses_equal"] is False
    assert "ratios" not in found
    assert [key for key, difference in found["loss_differences"].items() if not difference["equal"]] == [name]
    assert f"losses differ from those of loop_fp32: {name};" in capsys.readouterr().err


def test_a_wrong_learning_rate_ends_the_run(monkeypatch, capsys):
    class Slow(stacked.Vmap):
        def __init__(self, task: Any) -> None:
            super().__init__(dataclasses.replace(task, learning_rate=0.9 * task.learning_rate))

    monkeypatch.setitem(contest.PEERS, "vmap_fp32", Slow)
    assert peers.main([*TINY, "--peer", "vmap_fp32"]) == 1
    assert "loop_fp32: vmap_fp32;" in capsys.readouterr().err


def test_not_a_number_is_not_equal():
    losses = torch.ones(10, 2)
    assert contest.Difference.of(losses, losses, "fp32").acceptable
    wrong = losses.clone()
    wrong[4, 1] = torch.nan
    for precision in ("fp32", "bf16"):
        assert not contest.Difference.of(wrong, losses, precision).acceptable


def test_tolerances_are_those_of_the_precision():
    losses = torch.ones(10, 40, dtype=torch.float64)

    def accepted(precision: str, steps: slice, members: slice, difference: float) -> bool:
        other = losses.clone()
        other[steps, members] += difference
        return contest.Difference.of(other, losses, precision).acceptable

    everything = slice(None)
    assert accepted("fp32", everything, everything, 0.9e-4)
    assert not accepted("fp32", slice(5, 10), everything, 2.2e-4)
    assert not accepted("fp32", slice(2, 3), slice(0, 1), 1.1e-4)
    assert accepted("fp32", slice(5, 10), slice(0, 6), 0.9e-2)
    assert not accepted("fp32", slice(5, 10), slice(0, 1), 1.1e-2)
    assert accepted("bf16", slice(3, 10), everything, 1.9e-2)
    assert not accepted("bf16", slice(5, 10), everything, 4.2e-2)
    assert not accepted("bf16", slice(2, 3), slice(0, 1), 2.1e-3)
    assert not accepted("bf16", slice(9, 10), slice(0, 1), 1.1e-1)


@pytest.mark.parametrize(("stem", "image_shape"), [("none", (1, 8, 8)), ("conv2", (1, 28, 28)), ("conv4", (3, 32, 32))])
def test_textbook_networks_are_those_of_atras(stem, image_shape):
    hidden = (24, 192)
    given = task(stem, image_shape, hidden)
    spec = Spec(image_shape, 10, stem)
    network, own = textbook.Network(given, hidden), Network(spec, Candidate(hidden))
    shapes = {name: tuple(values.shape) for name, values in network.layers.state_dict().items()}
    assert shapes == own.parameter_shapes
    assert textbook.training_flops(given, hidden) == training_flops(own)
    rates = [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [layer.rate256 / 256 for layer in spec.stem_layers if layer.rate256]
    assert not any(layer.rate256 for layer in population.without_dropout(spec).stem_layers)


def test_a_sample_spans_the_depths():
    paper = k_complete()
    assert population.every(paper, 1) == list(paper)
    for k in (2, 5, 40):
        chosen = population.every(paper, k)
        assert {candidate.depth for candidate in chosen} == {candidate.depth for candidate in paper}
        assert chosen == [candidate for candidate in paper if candidate in chosen]
    assert len(population.every(paper, 40)) == 8
    assert population.every([Candidate((8,))], 3) == [Candidate((8,))]


@pytest.mark.parametrize(
    ("device", "asked", "steps", "warm_up"),
    [("cpu", None, 20, 2), ("cuda", None, 500, 100), ("cuda", 7, 7, 2), ("cpu", 7, 7, 2)],
)
def test_a_gpu_is_timed_over_many_steps_behind_a_whole_round(device, asked, steps, warm_up):
    assert contest.timed_steps(asked, torch.device(device)) == steps
    assert contest.warm_up_steps(steps, 5, torch.device(device)) == warm_up


def test_every_peer_is_of_the_textbook():
    assert {peer.__module__ for peer in contest.PEERS.values()} == {"textbook", "stacked"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps (=0)"),
        (["--steps", "2", "--rounds", "3"], "rounds (=3)"),
        (["--seconds", "0"], "seconds (=0)"),
        (["--peer", "nothing"], "'nothing'"),
        (["--json", "nowhere/there/out.json"], "nowhere/there/out.json"),
        (["--nothing"], "--nothing"),
        (["--dataset", "nowhere/there.npz"], "nowhere/there.npz"),
        (["--preset", "nothing"], "preset (='nothing'): expected one of paper"),
        (["--hidden", "8,x"], "hidden (='8,x')"),
        (["--stem", "conv9"], "stem (='conv9')"),
        (["--stem", "c32p2"], "stem (='c32p2'): the peers have other stems"),
        (["--hidden", "c8,8"], "hidden (='c8-8'): the peers have dense layers alone"),
        (["--stem", "conv2", "--hidden", "8"], "stem (='conv2'): c64p2: expected an image of at least 4x4, got 3x3"),
        (["--seeds", "x"], "seeds (='x')"),
        (["--engine", "nothing"], "engine (='nothing')"),
        (["--device", "cuda:99"], "device (='cuda:99')"),
        (["--precision", "fp7"], "precision (='fp7')"),
        (["--hidden", "8", "--peer", "loop_cuda_graph", "--device", "cpu"], "expected a CUDA device"),
    ],
)
def test_bad_options_are_one_line(options, message, capsys):
    try:
        status = peers.main(options)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("peers.py: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_missing_jax_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers.main(["--hidden", "8", "--peer", "jax_vmap"]) == 2
    assert (
        capsys.readouterr().err
        == "peers.py: peer (='jax_vmap'): JAX is not installed; run pip install jax or leave it out\n"
    )
