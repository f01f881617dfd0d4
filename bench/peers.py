"""Atras and textbook PyTorch on the same training steps: first that they learn the same, then how long they take.

    python bench/peers.py --dataset mnist --preset paper --steps 20 --json out.json

The peers, in textbook.py and stacked.py, are what a user would write from the documentation of PyTorch (or JAX), each
in its fastest form; they know nothing of atras. population.py gives them the networks and batches of atras, contest.py
compares, and this file is the command. All start from the same weights and see the same batches. With dropout off, the
losses of the first steps must agree, or nothing is timed and the exit status is 1. Then, dropout on, all train in turn,
round after round, so that a busy machine slows them alike. A step is one training step of the whole population.

The file of figures is written anew after each contestant's turn, and no turn begins behind `--seconds`: a run that is
cut off leaves the ratios of the rounds that it had.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from atras.environment import describe
from atras.errors import InputError
from atras.experiment import PRESETS, Execution, Protocol, parse_seeds, select_candidates
from atras.networks import Dense
from atras.storage import write_file
from contest import (
    CHECK_STEPS,
    COMPILED,
    DEFAULT_PEERS,
    FIRST_STEPS,
    GPU_STEPS,
    ONE_A_DEPTH,
    PEERS,
    REFERENCE,
    STEPS,
    Contest,
    Times,
    timed_steps,
    warm_up_steps,
)
from population import Population, every
from textbook import STEMS


class Parser(argparse.ArgumentParser):
    """Errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="peers.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", default="digits", help="digits, mnist, another name that atras knows, or a path")
    add("--preset", default="paper", help="preset of the protocol")
    add("--stem", help="auto, none, conv2 or conv4")
    add("--hidden", action="append", metavar="N,N", help="a candidate; repeat for several; default: the preset's")
    add("--seeds", help="such as 0-4: every candidate is trained with each")
    add("--steps", type=int, help=f"timed steps of each contestant; default: {STEPS}, on a GPU {GPU_STEPS}")
    add(
        "--rounds", type=int, help="turns that the steps are taken in; default: 5, or fewer where there are fewer steps"
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--engine", default="auto", help="atras' engine; default: what its plan chooses")
    add("--precision", help="atras' precision")
    add("--peer", action="append", choices=["default", *PEERS], metavar="NAME", help=f"{', '.join(PEERS)}, or default")
    add(
        "--seconds", type=float, default=480.0, metavar="S",
        help="to fit in, by training fewer candidates; no turn begins behind them; default: 480",
    )  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures here, anew after each turn")
    options = parser.parse_args(argv)
    if options.rounds is None:
        options.rounds = 5 if options.steps is None else max(1, min(5, options.steps))
    if options.steps is not None and not 1 <= options.rounds <= options.steps:
        parser.error(f"steps (={options.steps}), rounds (={options.rounds}): expected 1 <= rounds <= steps")
    if not options.seconds > 0:
        parser.error(f"seconds (={options.seconds:g}): expected a number above 0")
    options.until = time.perf_counter() + options.seconds
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"json (={str(options.json)!r}): expected a file in a folder that exists; make the folder first")
    return options


def make_population(options: argparse.Namespace) -> Population:
    """The protocol that the options name, prepared.

    Raises:
        InputError: if atras refuses an option.
    """
    if options.preset not in PRESETS:
        raise InputError(f"preset (={options.preset!r}): expected one of {', '.join(PRESETS)}")
    given = {
        "stem": options.stem,
        "precision": options.precision,
        "candidates": select_candidates(options.hidden) if options.hidden else None,
        "seeds": None if options.seeds is None else parse_seeds(options.seeds),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    protocol = Protocol(**PRESETS[options.preset] | {"dataset": options.dataset} | changes)
    refuse_unknown_layers(protocol)
    return Population(protocol, Execution(engine=options.engine, device=options.device))


def refuse_unknown_layers(protocol: Protocol) -> None:
    """Refuse networks that the peers do not have.

    Raises:
        InputError: if the stem has no name in textbook.py, or a candidate has another layer than dense ones.
    """
    if protocol.stem not in ("auto", *STEMS):
        raise InputError(
            f"stem (={protocol.stem!r}): the peers have other stems; write one of auto, {', '.join(STEMS)}"
        )
    for candidate in protocol.candidates:
        if not all(isinstance(layer, Dense) for layer in candidate.layers):
            raise InputError(f"hidden (={candidate.name!r}): the peers have dense layers alone; write widths")


def choose_peers(named: Sequence[str] | None, device: torch.device) -> tuple[str, ...]:
    """The peers to run: the named ones, or the default ones of the device.

    Raises:
        InputError: if one cannot run here.
    """
    default = (*DEFAULT_PEERS, "loop_cuda_graph") if device.type == "cuda" else DEFAULT_PEERS
    peers = [peer for name in named or ["default"] for peer in (default if name == "default" else (name,))]
    if "loop_cuda_graph" in peers and device.type != "cuda":
        raise InputError("peer (='loop_cuda_graph'): expected a CUDA device; leave it out or add --device cuda")
    if "jax_vmap" in peers and importlib.util.find_spec("jax") is None:
        raise InputError("peer (='jax_vmap'): JAX is not installed; run pip install jax or leave it out")
    return tuple(dict.fromkeys(peers))


def make_contests(options: argparse.Namespace, say: Callable[[str], None]) -> list[Contest]:
    """One contest of the peers that train all candidates, or what fits of them, and one of those that train few.

    Raises:
        InputError: if an option is refused.
    """
    population = make_population(options)
    take_steps(options, population.device)
    peers = choose_peers(options.peer, population.device)
    contests = []
    if usual := [peer for peer in peers if peer not in ONE_A_DEPTH]:
        contests.append(choose_candidates(Contest(population, usual), options, say))
    if slow := [peer for peer in peers if peer in ONE_A_DEPTH]:
        few = every(population.protocol.candidates, len(population.protocol.candidates))
        say(f"{', '.join(slow)}: one candidate a depth, {len(few)} in all; its ratio is to atras on the same ones")
        contests.append(Contest(population.of(few), slow))
    return contests


def take_steps(options: argparse.Namespace, device: torch.device) -> None:
    """The timed steps, as asked for or as the device needs them.

    Raises:
        InputError: if they are fewer than the rounds.
    """
    options.steps = timed_steps(options.steps, device)
    if not 1 <= options.rounds <= options.steps:
        raise InputError(f"rounds (={options.rounds}): expected 1 to {options.steps}, the timed steps; add --steps")


def choose_candidates(contest: Contest, options: argparse.Namespace, say: Callable[[str], None]) -> Contest:
    """The contest on every k-th candidate of each depth, for the smallest k that fits the seconds that are left."""
    population = contest.population
    candidates = population.protocol.candidates
    fewest = every(candidates, len(candidates))
    probe = Contest(population.of(fewest), contest.peers)
    steps = CHECK_STEPS + warm_up_steps(options.steps, options.rounds, population.device) + options.steps
    each = sum(probe.step_seconds().values()) * steps / len(fewest)
    left = options.until - time.perf_counter()
    k = next((k for k in range(1, len(candidates)) if each * len(every(candidates, k)) <= left), len(candidates))
    chosen = every(candidates, k)
    cut = f"one candidate in {k} of each depth, {len(chosen)} of {len(candidates)}" if k > 1 else "all candidates"
    say(f"{cut}: about {each * len(chosen):.0f} s ({left:.0f} s are left of {options.seconds:g})")
    return contest if len(chosen) == len(candidates) else Contest(population.of(chosen), contest.peers)


def compete(
    contest: Contest, options: argparse.Namespace, say: Callable[[str], None], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The contest's figures as JSON values: losses first, and times only if those are equal.

    Args:
        contest: whose.
        options: of the command line.
        say: told lines for people.
        keep: given the figures so far after each contestant's turn.
    """
    differences = contest.differences(say)
    figures: dict[str, Any] = {
        "asked": list(contest.peers),
        "losses_equal": all(difference.acceptable for difference in differences.values()),
        "loss_differences": {
            name: difference._asdict() | {"equal": difference.acceptable} for name, difference in differences.items()
        },
    }
    say(f"losses of {CHECK_STEPS} steps, dropout off, relative to {REFERENCE} (first {FIRST_STEPS}, middle, largest):")
    for name, difference in differences.items():
        say(
            f"  {name:<24} {difference.first:.0e} {difference.middle:.0e} {difference.largest:.0e}"
            + " WRONG" * (not difference.acceptable)
        )
    keep(figures)
    if not figures["losses_equal"]:
        return figures
    options.warm_up = warm_up_steps(options.steps, options.rounds, contest.population.device)
    for times in contest.turns(options.steps, options.rounds, options.until, say):
        figures |= timed(contest, times)
        keep(figures)
    return figures


def timed(contest: Contest, times: Times) -> dict[str, Any]:
    """The figures of the turns that were taken, of rounds that atras and a peer both have."""
    plan, ours = contest.population.plan, times.seconds["atras"]
    ratios = {
        name: [theirs / own for theirs, own in zip(seconds, ours, strict=False)]
        for name, seconds in times.seconds.items()
        if name != "atras" and seconds
    }
    return {
        "gemm_peak_gflops": times.peaks,
        "atras": contest.figures("atras", times) | {"engine": plan.engine, "precision": plan.precision},
        "peers": {name: contest.figures(name, times) for name in ratios},
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios_spread": {name: [min(values), max(values)] for name, values in ratios.items()},
    }


def merged(contests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all contests in one: atras' own are those of the first."""
    figures = dict(contests[0])
    for other in contests[1:]:
        figures["losses_equal"] &= other["losses_equal"]
        figures["asked"] = [*figures["asked"], *other["asked"]]
        for key in ("loss_differences", "peers", "ratios", "ratios_spread"):
            figures[key] = other.get(key, {}) | figures.get(key, {})
    return figures


def table(figures: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The figures as text."""
    environment, protocol, peaks = figures["environment"], figures["protocol"], figures["gemm_peak_gflops"]
    where = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]["model"]
    lines = [
        f"{protocol['dataset']}, stem {protocol['stem']}, {len(protocol['candidates'])} candidates x "
        f"{len(protocol['seeds'])} seeds, batch {protocol['batch_size']}; {where}, "
        f"{environment['cpu']['threads']} threads, torch {environment['versions']['torch']}",
        f"atras: engine {figures['atras']['engine']}, {figures['atras']['precision']}; GEMM peak "
        f"fp32 {peaks['fp32']:.0f}, bf16 {peaks['bf16']:.0f} GFLOP/s",
        f"medians of {figures['atras']['rounds']} rounds in turn, of {options.steps / options.rounds:g} steps; not "
        f"counted: planning, set-up and the first {options.warm_up} steps",
        f"{'':<24} members {'s/step':>9} {'[min .. max]':>20} {'GFLOP/s':>8} {'x atras':>8} {'[min .. max]':>15}",
    ]
    for name, row in {"atras": figures["atras"], **figures["peers"]}.items():
        low, high = row["seconds_spread"]
        line = f"{name:<24} {row['members']:>7} {row['seconds_per_step']:>9.4f} {f'[{low:.4f} .. {high:.4f}]':>20}"
        line += f" {row['gflops']:>8.1f}"
        if name != "atras":
            low, high = figures["ratios_spread"][name]
            line += f" {figures['ratios'][name]:>8.2f} {f'[{low:.2f} .. {high:.2f}]':>15}"
        lines.append(line)
    return lines + [
        f"{name}: its first step, which compiles, took {figures['peers'][name]['compile_seconds']:.1f} s"
        for name in COMPILED
        if name in figures["peers"]
    ]


def competed(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of all contests as JSON values, in their file at every moment.

    Raises:
        InputError: if an option is refused, or the file cannot be written.
    """
    contests = make_contests(options, say)
    population = contests[0].population
    shown = population.protocol.to_dict()
    shown |= {"hash": population.protocol.hash, "stem": population.spec.stem_name}
    common = {"protocol": shown, "environment": describe(population.device)}
    done: list[dict[str, Any]] = []

    def keep(own: dict[str, Any]) -> None:
        if options.json:
            figures = common | merged([*done, own])
            write_file(options.json, [json.dumps(figures, indent=1).encode(), b"\n"])

    for contest in contests:
        done += [compete(contest, options, say, keep)]
    return common | merged(done)


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        0; 1 where losses differ, or time did not suffice for a ratio of each peer; 2 for bad input.
    """
    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        figures = competed(options, say)
    except (InputError, OSError) as error:
        say(f"peers.py: {error}")
        return 2
    wrong = [name for name, difference in figures["loss_differences"].items() if not difference["equal"]]
    if wrong:
        say(f"peers.py: losses differ from those of {REFERENCE}: {', '.join(wrong)}; no times are compared")
        return 1
    if "atras" in figures:
        print("\n".join(table(figures, options)))
    peers = figures.get("peers", {})
    rounds = {name: peers[name]["rounds"] if name in peers else 0 for name in figures["asked"]}
    late = [f"{name} ({count})" for name, count in rounds.items() if count < options.rounds]
    if late:
        say(f"peers.py: {options.seconds:g} s were too few for {options.rounds} rounds of each: {', '.join(late)}")
    return int(not all(rounds.values()))


if __name__ == "__main__":
    sys.exit(main())
