"""Successive halving: many candidates for a few epochs, the better part of them for more, the last ones in full.

What is dropped is decided on images held out of the training set, never on the test set: each round but the last trains
on the first 80 % of the training images and is attacked on the rest. The last round is the protocol itself, on all
training images and the test set, so its figures are as honest as those of any run.

Every round is an ordinary run in a folder of its own, planned anew, so that groups are full whatever was dropped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import files
from .data import Dataset, load
from .errors import InputError
from .progress import Reporter
from .protocol import Execution, Protocol, whole
from .results import Results
from .schedule import run
from .statistics import pareto, ranking

TRAIN_SHARE = 0.8
"""Of the training images, those that rounds train on; on the others they are ranked."""

SELECTION = "selection.npz"
SUMMARY = "search.json"


class Round(NamedTuple):
    """One round: how many candidates, for how long, and what that costs in candidate-epochs."""

    candidates: int
    epochs: int
    adversarial_epochs: int
    cost: int


def plan_rounds(protocol: Protocol, budget: int) -> tuple[Round, ...]:
    """The rounds that a budget buys, each with half the candidates of the one before and an equal share of it.

    A candidate-epoch is one member's pass over the training set; a pass over the doubled set counts two. The last
    round has the protocol's own epochs; the fewest rounds are taken whose shares suffice.

    Args:
        protocol: all candidates, seeds, and the epochs of the last round.
        budget: candidate-epochs, at least 1.

    Returns:
        At least one round; together they cost at most `budget`.

    Raises:
        InputError: if the budget does not reach; it names the least that does.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016).
    """
    whole("budget", budget, 1, 10**12)
    counts = _halved(len(protocol.candidates))
    least = budget
    for rounds in range(1, len(counts) + 1):
        need = rounds * max(_cost(protocol, counts[rounds - 1], protocol.epochs), _cost(protocol, counts[0], 1))
        if need <= budget:
            return _rounds(protocol, counts[:rounds], budget // rounds)
        least = need if rounds == 1 else min(least, need)
    raise InputError(
        f"budget (={budget}): {len(protocol.candidates)} candidates need at least {least} candidate-epochs; raise it, "
        "or lower --epochs"
    )


def round_lines(protocol: Protocol, budget: int) -> list[str]:
    """The rounds as plain text within 80 columns."""
    rounds = plan_rounds(protocol, budget)
    lines = [f"{'round':<6} {'candidates':>10} {'epochs':>7} {'adversarial':>11} {'cost':>9}  ranked on"]
    for number, part in enumerate(rounds, start=1):
        data = "test images, in full" if number == len(rounds) else "held-out training images"
        lines.append(
            f"{number:<6} {part.candidates:>10} {part.epochs:>7} {part.adversarial_epochs:>11} {part.cost:>9}  {data}"
        )
    spent = sum(part.cost for part in rounds)
    return [*lines, f"{spent} of {budget} candidate-epochs; {len(protocol.seeds)} seed(s) a candidate"]


def search(
    protocol: Protocol,
    execution: Execution,
    budget: int,
    out: str | Path,
    *,
    reporter: Callable[[], Reporter] = Reporter,
) -> Results:
    """Successive halving over the protocol's candidates.

    Args:
        protocol: the whole space, and how the last round trains.
        execution: where and how.
        budget: candidate-epochs, as in `plan_rounds`.
        out: new folder: round-1, round-2, ... are runs; search.json says what was kept and why.
        reporter: makes the reporter of a round.

    Returns:
        The last round's results.

    Raises:
        InputError: as `plan_rounds` and `schedule.run`; or if the folder holds a search already.
    """
    rounds, folder = plan_rounds(protocol, budget), Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"out (={str(out)!r}): expected a new or empty folder for a search; name another")
    held_out = _hold_out(protocol, execution, folder) if len(rounds) > 1 else None
    chosen, history = protocol.candidates, []
    for number, part in enumerate(rounds, start=1):
        name = f"round-{number}"
        changes: dict[str, Any] = {"candidates": chosen}
        if held_out is not None and number < len(rounds):
            changes |= {"dataset": str(held_out), "train_size": "all", "test_size": "all"}
            changes |= {"epochs": part.epochs, "adversarial_epochs": part.adversarial_epochs}
        teller = reporter()
        teller.note(f"round {number} of {len(rounds)}: {part.candidates} candidates, {part.epochs} epochs")
        results = run(protocol.replace(**changes), execution, out=folder / name, reporter=teller)
        ranked = ranking(results)["hidden_layers"].to_list()
        if number < len(rounds):
            best = set(ranked[: rounds[number].candidates])
            chosen = tuple(candidate for candidate in chosen if candidate.name in best)
        history.append({"folder": name, **part._asdict(), "ranking": ranked})
        files.write(folder / SUMMARY, [_summary(protocol, budget, history)])
    return results


def pareto_lines(results: Results) -> list[str]:
    """The Pareto front of a run as plain text within 80 columns."""
    front = pareto(results)
    lines = [
        "Pareto front: parameters against robust accuracy, with 95 % intervals",
        f"{'hidden layers':<40} {'parameters':>11} {'robust':>7} {'low':>7} {'high':>7}",
    ]
    for row in front.iter_rows(named=True):
        name = row["hidden_layers"]
        lines += [name[start : start + 80] for start in range(0, len(name), 80)] if len(name) > 40 else []
        figures = " ".join(f"{row[figure]:>7.4f}" for figure in ("mean", "low", "high"))
        lines.append(f"{name if len(name) <= 40 else '':<40} {row['parameters']:>11} {figures}")
    return lines


def _halved(count: int) -> list[int]:
    counts = [count]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // 2))
    return counts


def _adversarial(protocol: Protocol, epochs: int) -> int:
    """Epochs on the doubled set, in the protocol's proportion; at least one where it has any."""
    return min(1, protocol.adversarial_epochs) and max(1, round(epochs * protocol.adversarial_epochs / protocol.epochs))


def _cost(protocol: Protocol, candidates: int, epochs: int) -> int:
    return candidates * len(protocol.seeds) * (epochs + 2 * _adversarial(protocol, epochs))


def _rounds(protocol: Protocol, counts: list[int], share: int) -> tuple[Round, ...]:
    rounds = []
    for count in counts:
        affordable = [e for e in range(1, protocol.epochs + 1) if _cost(protocol, count, e) <= share]
        epochs = protocol.epochs if count == counts[-1] else affordable[-1]
        rounds.append(Round(count, epochs, _adversarial(protocol, epochs), _cost(protocol, count, epochs)))
    return tuple(rounds)


def _hold_out(protocol: Protocol, execution: Execution, folder: Path) -> Path:
    """Write the training images, split in two, as a data set of its own, so that each round can be repeated."""
    data = load(
        protocol.dataset,
        train_size=protocol.train_size,
        test_size=protocol.test_size,
        data_dir=execution.data_dir,
        download=execution.download,
    )
    cut = math.floor(TRAIN_SHARE * len(data.train))
    if not 0 < cut < len(data.train):
        raise InputError(f"train_size (={len(data.train)}): expected at least 2 images to hold some out; raise it")
    path = folder.absolute() / SELECTION
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **_arrays(data, cut))
    except OSError as error:
        raise InputError(
            f"out (={str(folder)!r}): expected a folder to write to: {error.strerror or error}; name another folder"
        ) from error
    return path


def _arrays(data: Dataset, cut: int) -> dict[str, Any]:
    images, labels = data.train.images.permute(0, 2, 3, 1).numpy(), data.train.labels.numpy()
    parts = {"train": slice(cut), "test": slice(cut, None)}
    arrays = {f"x_{part}": images[where] for part, where in parts.items()}
    return arrays | {f"y_{part}": labels[where] for part, where in parts.items()}


def _summary(protocol: Protocol, budget: int, history: list[dict[str, Any]]) -> bytes:
    content = {
        "search": "halving",
        "budget": budget,
        "spent": sum(part["cost"] for part in history),
        "train_share": TRAIN_SHARE,
        "protocol": protocol.to_dict(),
        "protocol_hash": protocol.hash,
        "rounds": history,
    }
    return json.dumps(content, indent=2).encode() + b"\n"
