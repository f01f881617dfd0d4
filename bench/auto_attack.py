"""AutoAttack of atras and of its authors on the same networks: first what each leaves, then how long it takes.

    export GOMP_SPINCOUNT=10000
    python bench/auto_attack.py runs/mnist --members 8 --images 500 --epsilon 0.1 --json autoattack.json
    python bench/auto_attack.py --network c16k4s2z1-c32k4s2z1-100 --weights model.pth --dataset mnist --epsilon 0.3

The networks are those of a finished run, undefended and defended, or one network of a file of parameters. The authors'
code (package `autoattack` of github.com/fra31/auto-attack, or `pyautoattack`) attacks one network after the other, in
the memory layout that is faster here, each attack the images that those before it left; atras attacks all of them at
once. Both take turns, network set after network set. The variable is what the command of atras sets, and slows neither.
Where atras leaves more than the authors' code by more than `--tolerance`, averaged over the networks, its times stand
for nothing, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atras.attacks import AutoAttack, Pairs, Start, Unwatched, starts
from atras.data import Split, load, pixels
from atras.engines import ENGINES, Engine
from atras.environment import describe
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Parameters, Spec
from atras.planning import training_flops
from atras.results import read
from atras.training import read_member
from peers import Parser

PACKAGES = ("autoattack", "pyautoattack")
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""As the authors name them, in their order."""
NORMS = {"linf": "Linf", "l2": "L2"}
BATCH = 250
"""Images that the authors' code attacks at once, as it does by default."""


class Networks(NamedTuple):
    """Networks that are attacked together: a name, what they are, and their parameters."""

    name: str
    spec: Spec
    members: list[Member]
    parameters: list[Parameters]


class Case(NamedTuple):
    """What is attacked: images [B, C, H, W] and labels [B], epsilon, norm, and how atras computes."""

    images: Tensor
    labels: Tensor
    attack: AutoAttack
    engine: str


class Outcome(NamedTuple):
    """Of one contestant: seconds of each attack, and which images bool [M, B] are right before and after each."""

    seconds: list[float]
    right: list[Tensor]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="auto_attack.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("run", nargs="?", type=Path, help="folder of a finished run, whose networks are attacked")
    add("--network", help="a network as atras spells it, in place of a run")
    add("--weights", type=Path, help="its state_dict, as torch.save writes it")
    add("--dataset", help="whose test images are attacked; default: the run's")
    add("--data-dir", help="where the data sets lie")
    add("--members", type=int, default=8, help="networks of the run, from the cheapest to the dearest; default: 8")
    add("--images", type=int, default=500, help="test images that are attacked; default: 500")
    add("--epsilon", type=float, default=0.1, help="largest change; default: 0.1")
    add("--norm", choices=tuple(NORMS), default="linf")
    add("--engine", default="fused", help="engine of atras; default: fused")
    add("--threads", type=int, default=torch.get_num_threads(), help="of both; default: all")
    add("--rounds", type=int, default=1, help="turns; default: 1")
    add("--tolerance", type=float, default=0.5, help="percentage points that atras may leave more; default: 0.5")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    if (options.run is None) == (options.network is None) or (options.network is None) != (options.weights is None):
        parser.error("expected the folder of a run, or --network and --weights; write for example runs/mnist")
    if options.network and not options.dataset:
        parser.error("expected --dataset for --network; write for example --dataset mnist")
    for name in ("members", "images", "threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"{name} (={getattr(options, name)}): expected a whole number from 1 on")
    return options


def networks_of_run(folder: Path, count: int) -> tuple[str, list[Networks]]:
    """The data set of a run and its networks, evenly from the cheapest to the dearest: trained, then defended."""
    results = read(folder)
    rows = results.table.filter(status="trained").select("hidden_layers", "seed").rows()
    if len(rows) < count:
        raise InputError(f"{folder}: expected at least {count} networks that trained, found {len(rows)}; see --members")
    members = [Member(Candidate.parse(hidden), seed) for hidden, seed in rows]
    spec = read_member(folder, members[0].candidate, members[0].seed, "trained")[0]
    members.sort(key=lambda member: training_flops(Network(spec, member.candidate)))
    members = [members[(2 * i + 1) * len(members) // (2 * count)] for i in range(count)]
    sets = []
    for phase in ("trained", "defended"):
        parameters = [read_member(folder, member.candidate, member.seed, phase)[1] for member in members]
        sets.append(Networks(phase, spec, members, parameters))
    return results.dataset, sets


def network_of_file(spelling: str, weights: Path, split: Split, classes: int) -> Networks:
    """One network, whose state_dict has the parameters in the order of its layers."""
    spec, candidate = Spec(tuple(split.images.shape[1:]), classes), Candidate.parse(spelling)
    values = torch.load(weights, weights_only=True, map_location="cpu")
    shapes = Network(spec, candidate).parameter_shapes
    if [tuple(value.shape) for value in values.values()] != list(shapes.values()):
        raise InputError(f"{weights}: expected the parameters of {spelling}, {list(shapes.values())}")
    return Networks(spelling, spec, [Member(candidate, 0)], [dict(zip(shapes, values.values(), strict=True))])


def by_atras(case: Case, networks: Networks) -> Outcome:
    """AutoAttack on all networks that the engine takes together, and so on."""
    parts = together(case.engine, networks.members)
    outcomes = [_by_engine(case, engine_of(case, networks, part)) for part in parts]
    seconds = [sum(times) for times in zip(*(outcome.seconds for outcome in outcomes), strict=True)]
    back = torch.tensor([place for part in parts for place in part]).argsort()
    rights = zip(*(outcome.right for outcome in outcomes), strict=True)
    return Outcome(seconds, [torch.cat(right)[back] for right in rights])


def together(engine: str, members: Sequence[Member]) -> list[list[int]]:
    """Places of the members that an engine takes together."""
    chosen, every = ENGINES.get(engine), range(len(members))
    if chosen.any_depths:
        return [list(every)]
    kinds = [place if chosen.one_by_one else members[place].candidate.depth for place in every]
    return [[place for place in every if kinds[place] == kind] for kind in dict.fromkeys(kinds)]


def engine_of(case: Case, networks: Networks, places: Sequence[int]) -> Engine:
    """The engine of atras with the networks at these places."""
    members = [networks.members[place] for place in places]
    candidates = tuple(member.candidate for member in members)
    protocol = Protocol(precision="fp32", candidates=candidates)
    engine = ENGINES.get(case.engine)(networks.spec, members, protocol, torch.device("cpu"))
    for index, place in enumerate(places):
        engine.set_parameters(index, networks.parameters[place])
    return engine


def _by_engine(case: Case, engine: Engine) -> Outcome:
    """As `AutoAttack` does it, attack by attack."""
    logits = engine.logits(case.images)
    right = logits.argmax(-1) == case.labels
    labels = case.labels.expand(right.shape)
    start = Start(draw=starts(engine, case.images, case.attack.name))
    outcome = Outcome([], [right])
    for number in range(len(case.attack.parts)):
        begin, left = time.perf_counter(), outcome.right[-1]
        if left.any():
            pairs = Pairs.where(engine, left, labels, start)
            clean = pairs.of(case.images.expand(len(left), *case.images.shape))
            found = case.attack.run(pairs, clean, logits[left], number, Unwatched())
            left = left.clone()
            left[outcome.right[-1]] = ~found.fooled
        outcome.seconds.append(time.perf_counter() - begin)
        outcome.right.append(left)
    return outcome


def by_authors(case: Case, networks: Networks) -> Outcome:
    """Their standard version, one network after the other."""
    outcome = Outcome([0.0] * len(ATTACKS), [])
    rights = []
    for module in modules(case, networks):
        right = [_right(module, case.images, case.labels)]
        for number, name in enumerate(ATTACKS):
            begin, left = time.perf_counter(), right[-1].clone()
            if left.any():
                images = _authors_attack(case, module, name, networks.spec.classes)(
                    case.images[left], case.labels[left]
                )
                left[right[-1]] = _right(module, images, case.labels[left])
            outcome.seconds[number] += time.perf_counter() - begin
            right.append(left)
        rights.append(right)
    return Outcome(outcome.seconds, [torch.stack(right) for right in zip(*rights, strict=True)])


def _authors_attack(case: Case, module: nn.Module, name: str, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """One attack with the settings of their version `standard`."""
    package = next(name for name in PACKAGES if importlib.util.find_spec(name))
    make = importlib.import_module(package).AutoAttack
    own: dict[str, Any] = (
        {"attacks_to_run": [name], "verbose": False} if package == PACKAGES[0] else {"attacks": [name]}
    )
    attack = make(
        module, norm=NORMS[case.attack.norm], eps=case.attack.strength, version="custom", seed=0, device="cpu", **own
    )
    attack.apgd.n_restarts = attack.fab.n_restarts = attack.apgd_targeted.n_restarts = 1
    attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(9, classes - 1)
    attack.square.n_queries = 5000
    size = {"bs" if package == PACKAGES[0] else "batch_size": BATCH}

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        found = attack.run_standard_evaluation(images, labels, **size)
        return found[0] if isinstance(found, tuple) else found  # pyautoattack gives their classes besides

    return attacked


def _right(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(part).argmax(-1) for part in images.split(BATCH)]) == labels


def modules(case: Case, networks: Networks) -> Iterator[nn.Module]:
    """The networks in PyTorch, each in the layout in which its gradient by the images takes less time."""
    for member, parameters in zip(networks.members, networks.parameters, strict=True):
        plain = Network(networks.spec, member.candidate).module(parameters).requires_grad_(False)
        channels_last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        yield min((plain, channels_last), key=lambda module: gradient_seconds(module, case.images[:BATCH]))


def gradient_seconds(module: nn.Module, images: Tensor) -> float:
    """Median of five."""
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        x = images.detach().requires_grad_()
        torch.autograd.grad(module(x).sum(), x)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[2:])


def compare(case: Case, networks: Networks, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both contestants' accuracies and seconds by attack, and the ratios of their times within each turn."""
    ours, theirs = [], []
    for number in range(rounds):
        ours.append(by_atras(case, networks))
        say(f"{networks.name}, round {number + 1} of {rounds}: atras {sum(ours[-1].seconds):.1f} s")
        theirs.append(by_authors(case, networks))
        say(f"{networks.name}, round {number + 1} of {rounds}: authors {sum(theirs[-1].seconds):.1f} s")
    gradients = [sum(b.seconds[:2]) / sum(a.seconds[:2]) for a, b in zip(ours, theirs, strict=True)]
    whole = [sum(b.seconds) / sum(a.seconds) for a, b in zip(ours, theirs, strict=True)]
    return {
        "networks": [member.candidate.name for member in networks.members],
        "atras": _summary(ours), "authors": _summary(theirs),
        "ratio_apgd": statistics.median(gradients), "ratio": statistics.median(whole),
        "disagreeing": int((ours[0].right[-1] != theirs[0].right[-1]).sum()),
    }  # fmt: skip


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracies in percent after each attack, the clean one first, averaged over the networks; median seconds."""
    seconds = zip(*(outcome.seconds for outcome in outcomes), strict=True)
    return {
        "accuracy": [100 * right.float().mean().item() for right in outcomes[0].right],
        "seconds": [statistics.median(each) for each in seconds],
    }


def table(name: str, figures: dict[str, Any]) -> list[str]:
    """The figures as text."""
    lines = [
        f"{name}: {len(figures['networks'])} networks {' '.join(figures['networks'])}",
        f"{'':<10} {'clean':>7}" + "".join(f" {attack:>15}" for attack in ATTACKS) + f" {'seconds':>9}",
    ]
    for who in ("atras", "authors"):
        clean, *left = figures[who]["accuracy"]
        shown = "".join(f" {a:>6.2f} {s:>6.1f} s" for a, s in zip(left, figures[who]["seconds"], strict=True))
        lines.append(f"{who:<10} {clean:>7.2f}{shown} {sum(figures[who]['seconds']):>9.1f}")
    lines.append(f"APGD {figures['ratio_apgd']:.2f} times as fast, all {figures['ratio']:.2f} times")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    torch.set_num_threads(options.threads)
    if not any(importlib.util.find_spec(name) for name in PACKAGES):
        say(f"auto_attack.py: expected package {' or '.join(PACKAGES)}, found neither; pip install pyautoattack")
        return 2
    try:
        dataset, sets = (options.dataset, []) if options.network else networks_of_run(options.run, options.members)
        data = load(options.dataset or dataset, data_dir=options.data_dir, train_size=1, test_size=options.images)
        if options.network:
            sets = [network_of_file(options.network, options.weights, data.test, data.classes)]
        attack = AutoAttack(epsilon=options.epsilon, norm=options.norm)
        case = Case(pixels(data.test.images, torch.float32), data.test.labels, attack, options.engine)
        figures: dict[str, Any] = {
            "case": {"images": len(case.labels), "attack": str(attack), "engine": options.engine},
            "environment": describe(torch.device("cpu")),
            "networks": {each.name: compare(case, each, options.rounds, say) for each in sets},
        }
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except (InputError, OSError) as error:
        say(f"auto_attack.py: {error}")
        return 2
    weak = []
    for name, found in figures["networks"].items():
        print("\n".join(table(name, found)))
        if found["atras"]["accuracy"][-1] > found["authors"]["accuracy"][-1] + options.tolerance:
            weak.append(name)
    if weak:
        say(f"auto_attack.py: atras leaves more than {options.tolerance:g} points more of {', '.join(weak)}")
    return int(bool(weak))


if __name__ == "__main__":
    sys.exit(main())
