"""PGD of atras and of textbook PyTorch on the same networks: first that they find the same, then how long they take.

    python bench/attacks.py --dataset mnist --members 8 --images 250 --json attacks.json

A few candidates of the preset, evenly from the cheapest to the dearest, are trained by atras for some steps. Then
atras, in one call for all of them, and the loops of textbook.py, one network after the other, attack the same test
images from the same random starts. A first step must move the same pixels the same way, and all steps must leave every
network the same accuracy, or nothing is timed and the exit status is 1. Then all attack in turn, round after round;
figures are medians, and a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atras.attacks import PGD, Start
from atras.data import pixels
from atras.environment import describe
from atras.errors import InputError
from atras.networks import Network
from atras.planning import forward_flops
from contest import gemm_gflops, synchronize
from members import spread
from peers import Parser, make_population
from population import Atras, Population
from textbook import Ascent, Loop, LoopChannelsLast, Member, pgd

LOOPS: dict[str, type[Loop]] = {"loop_fp32": Loop, "loop_fp32_channels_last": LoopChannelsLast}
FIRST_STEP = 0.999
"""Least share of pixels that a first step moves alike: rounding decides those whose gradient is next to nothing."""
ACCURACY = 0.02
"""Largest difference of a network's accuracy under attack: after a pixel has gone another way, so do later steps."""


class Case(NamedTuple):
    """What is attacked: the population, the engines of atras, their networks in PyTorch by the name of the loop,
    images [B, C, H, W], labels [B], and starts [B, C, H, W], uniform in [-1, 1)."""

    population: Population
    engines: list[Any]
    networks: dict[str, list[nn.Module]]
    images: Tensor
    labels: Tensor
    starts: Tensor


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="attacks.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", default="digits", help="digits, mnist, another name that atras knows, or a path")
    add("--preset", default="paper", help="preset of the protocol")
    add("--stem", help="auto, none, conv2 or conv4")
    add("--members", type=int, default=8, help="networks; default: 8")
    add("--images", type=int, default=250, help="test images that are attacked; default: 250")
    add("--epsilon", type=float, default=0.2, help="largest change of a pixel; default: 0.2")
    add("--attack-steps", type=int, default=20, help="gradient steps of an attack; default: 20")
    add("--train-steps", type=int, default=40, help="steps that the networks are trained for before; default: 40")
    add("--rounds", type=int, default=5, help="turns, of one attack each; default: 5")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    for name in ("members", "images", "attack_steps", "train_steps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"{name.replace('_', '-')} (={getattr(options, name)}): expected a whole number from 1 on")
    return options


def make_case(options: argparse.Namespace) -> Case:
    """The trained networks and what attacks them.

    Raises:
        InputError: if atras refuses an option, or there are fewer candidates or images.
    """
    own = {"seeds": "0", "hidden": None, "precision": "fp32", "engine": "auto", "device": "auto"}
    whole = make_population(argparse.Namespace(**vars(options) | own))
    test = whole.data.test
    for name, most in (("members", len(whole.members)), ("images", len(test.labels))):
        if getattr(options, name) > most:
            raise InputError(f"{name} (={getattr(options, name)}): expected a whole number from 1 to {most}")
    population = spread(whole, options.members)
    contestant = Atras(population, dropout=True)
    contestant.run(contestant.prepare(population.batches(options.train_steps)))
    images = pixels(test.images[: options.images], torch.float32)
    starts = 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device) - 1
    networks = {name: networks_of(population, contestant.engines, loop) for name, loop in LOOPS.items()}
    return Case(population, contestant.engines, networks, images, test.labels[: options.images], starts)


def networks_of(population: Population, engines: Sequence[Any], kind: type[Loop]) -> list[nn.Module]:
    """The engines' networks as the loop has them, in the order of the engines."""
    task = population.task(dropout=False)
    members = [
        Member(member.candidate.widths, engine.get_parameters(index), 0)
        for engine in engines
        for index, member in enumerate(engine.members)
    ]
    loop = kind(type(task)(**vars(task) | {"members": tuple(members)}))
    return [network.requires_grad_(False) for network in loop.networks]


def attack_by_atras(case: Case, ascent: Ascent) -> Tensor:
    """[M, B, C, H, W]."""
    attack = PGD(epsilon=ascent.epsilon, steps=ascent.steps, step_size=ascent.step_size)
    start = Start(draw=lambda _: case.starts)
    return torch.cat([attack(engine, case.images, case.labels, start=start).clipped for engine in case.engines])


def attack_by_loop(case: Case, ascent: Ascent, name: str) -> Tensor:
    """[M, B, C, H, W]."""
    layout = LOOPS[name].memory_format
    images, start = (x.contiguous(memory_format=layout) for x in (case.images, ascent.epsilon * case.starts))
    return torch.stack([pgd(network, images, case.labels, start, ascent) for network in case.networks[name]])


def contestants(case: Case, ascent: Ascent) -> dict[str, Callable[[], Tensor]]:
    """Each contestant's attack by its name, that of atras first."""
    loops = {name: lambda name=name: attack_by_loop(case, ascent, name) for name in LOOPS}
    return {"atras": lambda: attack_by_atras(case, ascent), **loops}


def differences(case: Case, ascent: Ascent) -> dict[str, dict[str, float | bool]]:
    """How alike each loop's adversarial images are to those of atras, by its name."""
    first = {name: attack() for name, attack in contestants(case, ascent._replace(steps=1)).items()}
    right = {name: accuracies(case, attack()) for name, attack in contestants(case, ascent).items()}
    found: dict[str, dict[str, float | bool]] = {}
    for name in LOOPS:
        moved_alike = ((first[name] - first["atras"]).abs() < 1e-5).float().mean().item()
        accuracy = (right[name] - right["atras"]).abs().max().item()
        equal = moved_alike >= FIRST_STEP and accuracy <= ACCURACY
        found[name] = {"first_step_alike": moved_alike, "largest_accuracy_difference": accuracy, "equal": equal}
    return found


def accuracies(case: Case, adversarial: Tensor) -> Tensor:
    """[M], of textbook networks, each on its own images."""
    networks = case.networks["loop_fp32"]
    with torch.no_grad():
        right = [network(x).argmax(-1) == case.labels for network, x in zip(networks, adversarial, strict=True)]
    return torch.stack(right).float().mean(1)


def times(case: Case, ascent: Ascent, rounds: int, say: Callable[[str], None]) -> tuple[dict[str, list[float]], float]:
    """Seconds of an attack by contestant and round, and the best matrix product in fp32, GFLOP/s."""
    attacks, device, peak = contestants(case, ascent), case.population.device, 0.0
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    for number in range(rounds):
        for name, attack in attacks.items():
            synchronize(device)
            start = time.perf_counter()
            attack()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
        peak = max(peak, gemm_gflops(torch.float32, device))
        say(f"round {number + 1} of {rounds} done")
    return seconds, peak


def figures_of(case: Case, ascent: Ascent, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Times and ratios as JSON values.

    FLOPs are those of two dense forward passes a step, one for the forward pass and one for the gradient of the images;
    zeros that are skipped count.
    """
    seconds, peak = times(case, ascent, rounds, say)
    networks = [Network(case.population.spec, member.candidate) for member in case.population.members]
    flops = 2 * ascent.steps * len(case.labels) * sum(map(forward_flops, networks))
    rows = {}
    for name, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(taken, seconds["atras"], strict=True)]
        rows[name] = {
            "seconds": statistics.median(taken), "seconds_spread": [min(taken), max(taken)],
            "gflops": flops / statistics.median(taken) / 1e9,
            "ratio": statistics.median(ratios), "ratio_spread": [min(ratios), max(ratios)],
        }  # fmt: skip
    return {"gemm_peak_gflops": peak, "contestants": rows}


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as text."""
    environment = figures["environment"]
    where = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]["model"]
    lines = [
        f"{', '.join(f'{key} {value}' for key, value in figures['case'].items())}",
        f"{where}, {environment['cpu']['threads']} threads, torch {environment['versions']['torch']}, matrix product "
        f"peak fp32 {figures['gemm_peak_gflops']:.0f} GFLOP/s",
        f"{'':<24} {'seconds':>8} {'[min .. max]':>18} {'GFLOP/s':>8} {'x atras':>8} {'[min .. max]':>15}",
    ]
    for name, row in figures["contestants"].items():
        (low, high), (least, most) = row["seconds_spread"], row["ratio_spread"]
        lines.append(
            f"{name:<24} {row['seconds']:>8.3f} {f'[{low:.3f} .. {high:.3f}]':>18} {row['gflops']:>8.1f} "
            f"{row['ratio']:>8.2f} {f'[{least:.2f} .. {most:.2f}]':>15}"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        case = make_case(options)
        ascent = Ascent(options.epsilon, options.attack_steps, 2.5 * options.epsilon / options.attack_steps)
        figures: dict[str, Any] = {
            "case": {
                "dataset": options.dataset, "stem": case.population.spec.stem_name, "members": options.members,
                "images": options.images, "steps": ascent.steps, "epsilon": ascent.epsilon,
                "engine": case.population.plan.engine,
            },
            "differences": differences(case, ascent),
            "environment": describe(case.population.device),
        }  # fmt: skip
        wrong = [name for name, found in figures["differences"].items() if not found["equal"]]
        if not wrong:
            figures |= figures_of(case, ascent, options.rounds, say)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except (InputError, OSError) as error:
        say(f"attacks.py: {error}")
        return 2
    if wrong:
        say(f"attacks.py: adversarial images differ from those of {', '.join(wrong)}; no times are compared")
        return 1
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
