"""A study of Optuna over architecture and recipe at once: `python examples/with_optuna.py FOLDER`.

It needs `pip install 'atras[optuna]'`. Called again with the same folder it goes on; with more trials it goes further.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import optuna

import atras
from atras.search.optuna import optimize, protocol_of


def propose(trial: optuna.Trial) -> dict[str, Any]:
    """One network and its recipe."""
    depth = trial.suggest_int("depth", 1, 2)
    widths = [trial.suggest_int(f"width_{layer}", 8, 64, log=True) for layer in range(depth)]
    return {
        "candidate": "-".join(map(str, widths)),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-size", type=int, default=898)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    protocol = atras.Protocol(
        epochs=arguments.epochs, adversarial_epochs=arguments.epochs, attacks=("pgd",), train_size=arguments.train_size
    )
    study = optuna.create_study(
        study_name="atras",
        storage=f"sqlite:///{arguments.folder / 'study.db'}",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        load_if_exists=True,
    )
    optimize(study, protocol, propose, arguments.trials, arguments.folder / "trials", batch=arguments.batch)
    best = study.best_trial
    print(f"trial {best.number}: {best.value:.3f} on images held out of the training set; {best.params}")
    # The test images have chosen nothing so far.
    final = arguments.folder / "best"
    results = atras.read(final) if final.exists() else atras.run(protocol_of(best, protocol), out=final)
    print(results)


if __name__ == "__main__":
    main()
