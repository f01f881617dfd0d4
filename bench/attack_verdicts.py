"""Attacks of atras and of other libraries on the same exported network: how many images each leaves.

    atras export runs/digits --best robust -o winner.safetensors
    python bench/attack_verdicts.py winner.safetensors --images 200 --json verdicts.json

Which libraries there are: `bench/attack_peers.py`; `bench/requirements-attack-peers.txt` says how to get them; those
that are not installed are named and passed over. Every attack has the same budget of steps, targets and queries
everywhere. An image counts as lost where its adversarial image is misclassified, inside the ball and inside [0, 1],
whatever the library says of it. Attacks that draw are made with several seeds, and an image is lost if it is with any
of them; PGD begins at the image itself, as all libraries can. Where atras leaves more images than another library by
more than `--tolerance` of them, the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from atras.analysis import load as load_network
from atras.attacks import ATTACKS, Attack
from atras.data import load, pixels
from atras.engines import LoopEngine
from atras.environment import describe
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec
from attack_peers import LIBRARIES, Attacks, Budget, Case
from peers import Parser

NORMS = ("linf", "l2", "l1")
EPSILONS = {"linf": "0.05,0.1,0.2", "l2": "0.3,0.6,1.2", "l1": "2,4,8"}
SPELLINGS = {
    "pgd": "pgd(norm={norm}, epsilon={epsilon}, steps={steps}, random_start=false)",
    "apgd": "apgd(norm={norm}, epsilon={epsilon}, steps={steps})",
    "apgd-dlr": "apgd(norm={norm}, epsilon={epsilon}, steps={steps}, loss=dlr)",
    "apgd-t": "apgd-t(norm={norm}, epsilon={epsilon}, steps={steps}, targets={targets})",
    "fab-t": "fab-t(norm={norm}, epsilon={epsilon}, steps={steps}, targets={targets})",
    "square": "square(norm={norm}, epsilon={epsilon}, queries={queries})",
    "deepfool": "deepfool(norm={norm})",
    "fmn": "fmn(norm={norm}, steps={steps})",
    "cw": "cw(steps={cw_steps})",
}
"""Of the attacks compared, by their name here, how atras spells them."""

DRAWN = ("apgd", "apgd-dlr", "apgd-t", "square")
"""Those that draw random numbers."""

UNBOUNDED = ("fab-t", "deepfool", "fmn", "cw")
"""Those that look for the smallest change, in one library at least: an image outside the ball is no fault of theirs."""

WITHOUT = {("pgd", "l1"), ("square", "l1"), ("deepfool", "l1"), ("cw", "linf"), ("cw", "l1")}

ROUNDING = 1e-5
"""By what share of epsilon a norm may be larger, and by how much a pixel may be out of range."""


class Lost(NamedTuple):
    """Of an attack with one epsilon: bool [B], lost images, and the number of images outside ball or range."""

    images: Tensor
    outside: int


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="attack_verdicts.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("network", type=Path, help="a file that atras export wrote as safetensors")
    add("--data-dir", help="where the data sets lie")
    add("--images", type=int, default=200, help="test images that are attacked; default: 200")
    add("--seeds", type=int, default=3, help="with which attacks that draw are made, from 0; default: 3")
    add("--steps", type=int, default=100, help="gradients of an attack, a target; default: 100")
    add("--targets", type=int, default=9, help="wrong classes that targeted attacks try; default: 9")
    add("--queries", type=int, default=1000, help="of Square; default: 1000")
    add("--cw-steps", type=int, default=200, help="of Carlini and Wagner's attack with each constant; default: 200")
    add("--attack", action="append", choices=tuple(SPELLINGS), help="one of the attacks; repeat; default: all")
    add("--library", action="append", choices=tuple(LIBRARIES), help="one of the libraries; repeat; default: all")
    for norm in NORMS:
        add(
            f"--{norm}", default=EPSILONS[norm], metavar="E,E", help=f"epsilons; default: {EPSILONS[norm]}; '' for none"
        )
    add("--tolerance", type=float, default=1 / 200, help="share of images that atras may leave more; default: 1/200")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(argv)
    for name in ("images", "seeds", "steps", "targets", "queries", "cw_steps"):
        if getattr(options, name) < 1:
            parser.error(f"{name.replace('_', '-')} (={getattr(options, name)}): expected a whole number from 1 on")
    for norm in NORMS:
        try:
            setattr(options, norm, [float(each) for each in getattr(options, norm).split(",") if each.strip()])
        except ValueError:
            parser.error(f"{norm} (={getattr(options, norm)!r}): expected numbers such as {EPSILONS[norm]}")
    return options


class Ours:
    """The attacks of atras, on a copy of the network for each seed."""

    def __init__(self, network: nn.Module, seeds: int) -> None:
        metadata: Any = network.metadata
        spec, candidate = Spec(**metadata["spec"]), Candidate.parse(metadata["hidden"])
        protocol, device = Protocol(precision="fp32"), torch.device("cpu")
        self.engines = [LoopEngine(spec, [Member(candidate, seed)], protocol, device) for seed in range(seeds)]
        for engine in self.engines:
            names, values = engine.get_parameters(0), network.state_dict().values()
            engine.set_parameters(0, dict(zip(names, values, strict=True)))

    def attacked(self, attack: Attack, images: Tensor, labels: Tensor, seeds: int) -> list[Tensor]:
        """The adversarial images of each seed."""
        return [attack(engine, images, labels).clipped[0] for engine in self.engines[:seeds]]


def norm_of(change: Tensor, norm: str) -> Tensor:
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(change.flatten(1).double(), ord=order, dim=1)


def lost(case: Case, adversarial: Tensor, norm: str) -> Lost:
    """What an attack turned, by a forward pass of ours."""
    adversarial = adversarial.detach().float()
    size = norm_of(adversarial - case.images, norm)
    inside = (size <= case.epsilon * (1 + ROUNDING)) & (adversarial.flatten(1).amin(1) >= -ROUNDING)
    inside &= adversarial.flatten(1).amax(1) <= 1 + ROUNDING
    with torch.no_grad():
        wrong = case.network(adversarial).argmax(1) != case.labels
        before = case.network(case.images).argmax(1) != case.labels
    return Lost(before | (wrong & inside), int((wrong & ~inside & ~before).sum()))


def worst(rounds: Sequence[Lost]) -> dict[str, Any]:
    """Images that are left with each seed, and with all of them."""
    all_lost = torch.stack([each.images for each in rounds]).any(0)
    counts = [int((~each.images).sum()) for each in rounds]
    return {"left": int((~all_lost).sum()), "by_seed": counts, "outside": sum(each.outside for each in rounds)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what other libraries print and warn of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def theirs(attacks: Attacks, name: str, norm: str, cases: Sequence[Case]) -> list[Lost]:
    """What a library's attack turned, a case after the other."""
    found = []
    for case in cases:
        torch.manual_seed(case.seed)
        np.random.seed(case.seed)
        with quiet():
            adversarial = attacks[name, norm](case)
        found.append(lost(case, adversarial, norm))
    return found


class Comparison:
    """The verdicts of all on one network.

    Args:
        network: as `atras.analysis.load` reads it.
        images, labels: [B, C, H, W] and [B].
        options: of the command line.
        say: told what is under way.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        options: argparse.Namespace,
        say: Callable[[str], None],
    ) -> None:
        self.network, self.images, self.labels, self.options, self.say = network, images, labels, options, say
        self.budget = Budget(options.steps, options.targets, options.queries, options.cw_steps)
        self.ours = Ours(network, options.seeds)
        chosen = options.library or list(LIBRARIES)
        self.libraries = {name: LIBRARIES[name].attacks() for name in chosen if LIBRARIES[name].installed}
        self.missing = [name for name in chosen if not LIBRARIES[name].installed]

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row an attack, norm, epsilon and library."""
        for norm in NORMS:
            for name in self.options.attack or SPELLINGS:
                if (name, norm) not in WITHOUT:
                    for epsilon in getattr(self.options, norm):
                        yield from self._rows(name, norm, epsilon)

    def _rows(self, name: str, norm: str, epsilon: float) -> Iterator[dict[str, Any]]:
        seeds = self.options.seeds if name in DRAWN else 1
        cases = [Case(self.network, self.images, self.labels, epsilon, seed, self.budget) for seed in range(seeds)]
        budget = vars(self.budget)
        attack = ATTACKS.parse(SPELLINGS[name].format(norm=norm, epsilon=epsilon, **budget))
        made = self.ours.attacked(attack, self.images, self.labels, seeds)
        own = worst([lost(case, adversarial, norm) for case, adversarial in zip(cases, made, strict=True)])
        shared = {"attack": name, "norm": norm, "epsilon": epsilon, "bounded": name not in UNBOUNDED}
        yield shared | {"library": "atras"} | own
        for library, attacks in self.libraries.items():
            if (name, norm) not in attacks:
                continue
            self.say(f"{name} {norm} {epsilon:g}: {library}")
            try:
                found = worst(theirs(attacks, name, norm, cases))
            except Exception as error:
                yield shared | {"library": library, "failed": f"{type(error).__name__}: {error}"[:200]}
            else:
                yield shared | {"library": library} | found | {"more_here": own["left"] - found["left"]}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Images that are left, a line an attack and library, a column an epsilon."""
    lines, written = [], set()
    for row in rows:
        key = (row["attack"], row["norm"], row["library"])
        if key in written:
            continue
        written.add(key)
        same = [each for each in rows if (each["attack"], each["norm"], each["library"]) == key]
        cells = [f"{each['epsilon']:g}: {each.get('left', 'failed')}" for each in same]
        outside = sum(each.get("outside", 0) for each in same if each["bounded"])
        note = f"  ({outside} outside)" if outside else ""
        lines.append(f"{key[0]:<9} {key[1]:<5} {key[2]:<13}" + "".join(f"{cell:>14}" for cell in cells) + note)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parse(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        network = load_network(options.network).requires_grad_(False)
        metadata: Any = network.metadata
        test = load(metadata["dataset"], data_dir=options.data_dir, train_size=1, test_size=options.images).test
        comparison = Comparison(network, pixels(test.images, torch.float32), test.labels, options, say)
        for name in comparison.missing:
            say(f"{name}: not installed, passed over; see bench/requirements-attack-peers.txt")
        figures: dict[str, Any] = {
            "case": {
                "network": metadata["hidden"], "dataset": metadata["dataset"], "images": len(test.labels),
                "seeds": options.seeds, **vars(comparison.budget),
            },
            "versions": {name: LIBRARIES[name].version for name in comparison.libraries},
            "missing": comparison.missing,
            "environment": describe(torch.device("cpu")),
            "rows": [],
        }  # fmt: skip
        rows = figures["rows"]
        for row in comparison.rows():
            rows.append(row)
            if options.json:  # each one, as all of them may take hours
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except (InputError, OSError) as error:
        say(f"attack_verdicts.py: {error}")
        return 2
    print("\n".join(table(rows)))
    weaker = [row for row in rows if row.get("more_here", 0) > options.tolerance * len(test.labels)]
    for row in weaker:
        say(f"atras leaves {row['more_here']} more: {row['attack']} {row['norm']} {row['epsilon']:g} {row['library']}")
    return 1 if weaker else 0


if __name__ == "__main__":
    sys.exit(main())
