"""Adversarial training and TRADES of many networks: atras beside textbook loops, losses first, then time.

    python bench/robust_training.py --dataset mnist --json out.json

The networks are the paper's of two hidden layers behind its `conv2` stem. The loops, one network after the other, are
what a user would write from the papers: as it stands in fp32, and with its tensors channels-last and Adam fused. All
start from the same weights, see the same batches and begin their ascents at the same points. Losses of the first steps
must agree, or nothing is timed and the exit status is 1. Then all take their turns, round after round; a ratio is a
loop's seconds over atras' in one round, and medians over the rounds are told, with their range. `--processor` counts
the process's own seconds: where other programs compute too.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.data import pixels
from atras.defences import DEFENCES, Batch, Defence
from atras.engines import Engine, FusedEngine
from atras.environment import describe
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import PAPER_CANDIDATES, batch_starts, with_depth
from peers import Parser
from population import Population, every
from textbook import Member, Network, Task

DEFENCES_TIMED = {"trades": "trades(attack=kl(steps={}))", "adversarial": "adversarial(pgd(steps={}))"}
"""The one with the larger tensors first: once they are freed, the process keeps memory that the loops of the other
would else have mapped anew for every tensor, which nearly doubled their time."""
AGREE = {"fp32": 5e-4, "bf16": 5e-3}
"""Largest relative difference of a network's loss in the first steps: signs of gradients that are all but zero turn by
rounding, and pixels move by twice a step for it; bf16 rounds every factor of a product to 8 bits besides."""
FIRST = 3
"""Steps whose losses are compared."""


class Loop:
    """One network after the other, as its paper has the training."""

    memory_format: torch.memory_format = torch.contiguous_format
    fused = False

    def __init__(self, task: Task, members: Sequence[Member], seeds: Sequence[int], defence: str, ascent: Any) -> None:
        self.seeds, self.defence, self.ascent, self.networks = seeds, defence, ascent, []
        for member in members:
            network = Network(task, member.hidden)
            network.load_state_dict(dict(zip(network.state_dict(), member.weights.values(), strict=True)))
            network = network.to(memory_format=self.memory_format)
            rate = task.learning_rate
            self.networks.append((network, torch.optim.Adam(network.parameters(), lr=rate, fused=self.fused or None)))

    def step(self, number: int, images: Tensor, labels: Tensor) -> list[float]:
        """A step of every network; its loss."""
        x = images.contiguous(memory_format=self.memory_format)
        losses = []
        for seed, (network, optimizer) in zip(self.seeds, self.networks, strict=True):
            loss = getattr(self, self.defence)(network, x, labels, seed, number)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def adversarial(self, network: Network, x: Tensor, y: Tensor, seed: int, number: int) -> Tensor:
        """Madry et al. 2018, equation 2.1."""
        start = x + self.ascent.epsilon * batch_starts(seed, 1, number, "pgd", 0, len(x), tuple(x.shape[1:]))
        x_adv = self.climbed(network, x, self.within(start, x), lambda out: F.cross_entropy(out, y))
        return F.cross_entropy(network(x_adv), y)

    def trades(self, network: Network, x: Tensor, y: Tensor, seed: int, number: int) -> Tensor:
        """Zhang et al. 2019, algorithm 1."""
        natural = F.softmax(network(x), dim=1).detach()
        uniform = batch_starts(seed, 1, number, "kl", 0, len(x), tuple(x.shape[1:]))
        start = x + 0.001 * torch.special.ndtri((uniform.double() + 1) / 2).float()

        def divergence(out: Tensor) -> Tensor:
            return F.kl_div(F.log_softmax(out, dim=1), natural, reduction="sum")

        x_adv = self.climbed(network, x, start, divergence)
        out, out_adv = network(x), network(x_adv)
        robust = F.kl_div(F.log_softmax(out_adv, dim=1), F.softmax(out, dim=1), reduction="sum") / len(x)
        return F.cross_entropy(out, y) + 6.0 * robust

    def climbed(self, network: Network, x: Tensor, x_adv: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Projected gradient steps up a loss."""
        for _ in range(self.ascent.steps):
            x_adv = x_adv.detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(network(x_adv)), x_adv)
            x_adv = self.within(x_adv.detach() + self.ascent.size * slope.sign(), x)
        return x_adv.detach()

    def within(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest image of the ball."""
        epsilon = self.ascent.epsilon
        return torch.min(torch.max(x_adv, x - epsilon), x + epsilon).clamp(0, 1)


class ChannelsLast(Loop):
    """The same with channels last and Adam fused: the loop's fastest form in fp32."""

    memory_format = torch.channels_last
    fused = True


class Ascent:
    """Steps of the attack in training."""

    def __init__(self, epsilon: float, steps: int) -> None:
        self.epsilon, self.steps, self.size = epsilon, steps, 2.5 * epsilon / steps


class Atras:
    """Engine `fused` under a defence."""

    def __init__(self, population: Population, precision: str, defence: Defence) -> None:
        protocol = population.protocol.replace(precision=precision, defence=defence)
        self.engine: Engine = FusedEngine(population.spec, population.members, protocol, population.device)
        self.engine.begin_phase("adversarial")
        self.defence = defence
        self.kept: dict[str, Tensor] = {}

    def step(self, number: int, images: Tensor, labels: Tensor) -> list[float]:
        """As of `Loop`."""
        copied = torch.zeros(len(labels), dtype=torch.bool)
        found = self.defence.step(self.engine, Batch(images, labels, copied, 1, number, None, 1, self.kept))
        return [float(loss) for loss in found.losses.flatten()]


def compared(contestants: dict[str, Any], batches: Sequence[tuple[Tensor, Tensor]], views: int) -> float:
    """Largest relative difference of atras' losses of the first steps from the loop's, or of its own where they are of
    other things: TRADES' loop tells its objective, atras the cross-entropy of what was seen."""
    worst = 0.0
    for number, (images, labels) in enumerate(batches[:FIRST]):
        losses = {name: each.step(number, images, labels) for name, each in contestants.items()}
        for ours, loops in zip(losses["atras"], losses["loop"], strict=True):
            if views == 1:
                worst = max(worst, abs(ours - loops) / loops)
    if views > 1:  # what the updates left says it as well
        images, labels = batches[FIRST]
        engine, networks = contestants["atras"].engine, contestants["loop"].networks
        for ours, (network, _) in zip(engine.logits(images), networks, strict=True):
            with torch.no_grad():
                one, two = F.cross_entropy(ours, labels), F.cross_entropy(network(images), labels)
            worst = max(worst, float((one - two).abs() / two))
    return worst


def timed(
    contestants: dict[str, Any], batches: Sequence[tuple[Tensor, Tensor]], options: Any
) -> dict[str, list[float]]:
    """Seconds a step of each contestant, round by round."""
    clock = time.process_time if options.processor else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(options.rounds):
        for name, each in contestants.items():
            began = clock()
            for number in range(options.steps):
                each.step(FIRST + number, *batches[FIRST + number])
            seconds[name].append((clock() - began) / options.steps)
        print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return seconds


def raced(options: Any, name: str) -> dict[str, Any]:
    """One defence: what was compared and the ratios."""
    candidates = every(with_depth(PAPER_CANDIDATES, [2]), options.every)
    protocol = Protocol(dataset=options.dataset, candidates=tuple(candidates), stem="conv2", epsilon=options.epsilon)
    population = Population(protocol, Execution(engine="fused", data_dir=options.data_dir))
    precision = options.precision or population.plan.precision
    defence = DEFENCES.parse(DEFENCES_TIMED[name].format(options.attack_steps)).at(options.epsilon)
    task, data = population.task(dropout=False), population.data.train
    size, count = population.batch_size, FIRST + options.steps
    batches = [
        (pixels(data.images[first : first + size], torch.float32), data.labels[first : first + size])
        for first in range(0, count * size, size)
    ]
    seeds = [member.seed for member in population.members]
    ascent = Ascent(options.epsilon, options.attack_steps)
    contestants: dict[str, Any] = {"atras": Atras(population, precision, defence)}
    for loop, kind in (("loop", Loop), ("channels-last", ChannelsLast)):
        contestants[loop] = kind(task, task.members, seeds, name, ascent)
    apart = compared(contestants, batches, defence.views)
    result: dict[str, Any] = {"networks": len(candidates), "precision": precision, "apart": apart}
    print(f"{name}, {len(candidates)} networks, atras in {precision}: losses {apart:.1e} apart in {FIRST} steps")
    result["ok"] = apart <= AGREE[precision]
    if not result["ok"]:
        print(f"more than {AGREE[precision]:.0e}: nothing is timed")
        return result
    seconds = timed(contestants, batches, options)
    result["seconds"] = seconds
    for loop in ("loop", "channels-last"):
        ratios = [theirs / ours for ours, theirs in zip(seconds["atras"], seconds[loop], strict=True)]
        result[loop] = statistics.median(ratios)
        print(f"{loop}: {result[loop]:.2f} times atras' seconds ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"atras: {statistics.median(seconds['atras']):.3f} s a step")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and time.

    Returns:
        0; 1 where losses differ; 2 for bad input.
    """
    parser = Parser("robust_training.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", default="mnist", help="a data set's name, or a path; default: mnist")
    parser.add_argument("--data-dir", metavar="DIR", help="where data sets are")
    parser.add_argument("--defence", choices=DEFENCES_TIMED, action="append", help="default: both")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th network alone")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--attack-steps", type=int, default=7, metavar="N")
    parser.add_argument("--precision", choices=AGREE, help="of atras; default: what auto takes")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="in a turn")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor in place of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    results: dict[str, Any] = {"environment": describe(torch.device("cpu"))}
    try:
        for name in options.defence or DEFENCES_TIMED:
            results[name] = raced(options, name)
    except InputError as error:
        print(f"robust_training.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=str))
    return int(any(not each["ok"] for each in results.values() if "ok" in each))


if __name__ == "__main__":
    sys.exit(main())
