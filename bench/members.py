"""The time of a training step by the number of members: against the best textbook loop, and a member's cost.

    python bench/members.py --dataset mnist --members 1,2,3,5,8 --json members.json
    python bench/members.py --dataset digits --seeds 0-9

With `--members`, atras and the loops of textbook.py train the same few candidates, taken evenly from the preset's
in order of cost; the exit status is 1 if atras is more than 5 % slower than the best loop for any number of them. With
`--seeds`, atras trains all candidates with one seed and with all of them: what does a member cost? Planning and set-up
are not counted; contestants take turns, and figures are medians of ratios within a turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atras.errors import InputError
from atras.experiment import parse_whole_numbers
from atras.networks import Network
from atras.planning import training_flops
from contest import GPU_STEPS, STEPS, Contest
from peers import Parser, make_population, take_steps
from population import Population

LOOPS = ("loop_fp32", "loop_fp32_channels_last", "loop_bf16")
SLOWEST = 0.95
"""Least ratio of the best loop's time to atras' that is not called slower."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="members.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", default="digits", help="digits, mnist, another name that atras knows, or a path")
    add("--preset", default="paper", help="preset of the protocol")
    add("--stem", help="auto, none, conv2 or conv4")
    add("--members", help="numbers of members to compare with the loops, such as 1,2,3,8")
    add("--seeds", help="such as 0-9: what a member costs with all of these, against with the first alone")
    add("--steps", type=int, help=f"timed steps of each contestant; default: {STEPS}, on a GPU {GPU_STEPS}")
    add("--rounds", type=int, default=5, help="turns that the steps are taken in; default: 5")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    if not options.members and not options.seeds:
        parser.error("expected --members, --seeds or both, got neither; write for example --members 1,2,3,8")
    if options.steps is not None and not 1 <= options.rounds <= options.steps:
        parser.error(f"steps (={options.steps}), rounds (={options.rounds}): expected 1 <= rounds <= steps")
    return options


def population(options: argparse.Namespace, seeds: str) -> Population:
    """The preset's candidates on the named data.

    Raises:
        InputError: if atras refuses an option.
    """
    own = vars(options) | {"seeds": seeds, "hidden": None, "precision": None, "engine": "auto", "device": "auto"}
    made = make_population(argparse.Namespace(**own))
    take_steps(options, made.device)
    return made


def spread(whole: Population, count: int) -> Population:
    """The population of so many candidates, evenly from the cheapest to the dearest."""
    order = sorted(whole.protocol.candidates, key=lambda c: training_flops(Network(whole.spec, c)))
    return whole.of([order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)])


def against_loops(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row a number of members: atras, the best loop, and the median of their ratios."""
    whole = population(options, "0")
    counts = parse_whole_numbers(options.members, "members", "1,2,3,8")
    if not all(1 <= count <= len(whole.members) for count in counts):
        raise InputError(f"members (={options.members!r}): expected numbers from 1 to {len(whole.members)}")
    rows = []
    for count in counts:
        say(f"{count} members")
        contest = Contest(spread(whole, count), LOOPS)
        seconds = contest.times(options.steps, options.rounds, say).seconds
        ratios = {name: statistics.median(map(_ratio, seconds[name], seconds["atras"])) for name in LOOPS}
        best = min(ratios, key=lambda name: ratios[name])
        plan = contest.population.plan
        rows.append({
            "members": count, "engine": plan.engine, "precision": plan.precision,
            "atras_seconds": statistics.median(seconds["atras"]), "best_loop": best,
            "best_loop_seconds": statistics.median(seconds[best]), "ratio": ratios[best],
        })  # fmt: skip
    return rows


def cost_a_member(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds a step and member with the first seed and with all, and the median of their ratios."""
    many = population(options, options.seeds)
    few = population(options, str(many.protocol.seeds[0]))
    sides = [(Contest(one, ()), len(one.members)) for one in (few, many)]
    seconds: list[list[float]] = [[], []]
    for number in range(options.rounds):
        for side, (contest, members) in enumerate(sides):
            taken = contest.times(-(-options.steps // options.rounds), 1, lambda _: None).seconds["atras"]
            seconds[side].append(taken[0] / members)
        say(f"round {number + 1} of {options.rounds} done")
    return {
        "members": [members for _, members in sides],
        "seconds_a_step_and_member": [statistics.median(own) for own in seconds],
        "ratio": statistics.median(map(_ratio, seconds[1], seconds[0])),
    }


def _ratio(above: float, below: float) -> float:
    return above / below


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as text."""
    text = []
    if rows := figures.get("against_loops"):
        text.append(f"{'members':>7} {'atras s/step':>13} {'best loop':>24} {'s/step':>9} {'ratio':>6}")
        text += [
            f"{row['members']:>7} {row['atras_seconds']:>13.5f} {row['best_loop']:>24} "
            f"{row['best_loop_seconds']:>9.5f} {row['ratio']:>6.2f}"
            for row in rows
        ]
    if cost := figures.get("cost_a_member"):
        few, many = (f"{1e6 * value:.0f} us" for value in cost["seconds_a_step_and_member"])
        text.append(
            f"a step and member: {few} with {cost['members'][0]} members, {many} with {cost['members'][1]}; "
            f"ratio {cost['ratio']:.3f}"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    figures: dict[str, Any] = {}
    try:
        if options.members:
            figures["against_loops"] = against_loops(options, say)
        if options.seeds:
            figures["cost_a_member"] = cost_a_member(options, say)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except (InputError, OSError) as error:
        say(f"members.py: {error}")
        return 2
    print("\n".join(lines(figures)))
    return int(any(row["ratio"] < SLOWEST for row in figures.get("against_loops", [])))


if __name__ == "__main__":
    sys.exit(main())
