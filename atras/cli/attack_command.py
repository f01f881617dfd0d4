"""The command `attack`: finished networks are attacked into a result folder, like those that a run trains."""

from __future__ import annotations

from typing import Any

from atras.errors import InputError
from atras.experiment import SETTINGS, Loaded, combine, settings_of

from .command_options import AttackOptions
from .compute import compute
from .generated_options import command_class, with_options

_OWN = settings_of(AttackOptions)
_KEYS = (
    "dataset", "test_size", "subset", "channels", "image_size", "seeds", "stem", "activation", "epsilon", "attacks",
    "epsilons", "transfer", "transfer_attacks", "transfer_seeds", "transfer_sources", "transfer_targets", "outcomes",
    "engine", "executor", "device", "memory", "data_dir", "download", "recalibrate", "checkpoint_every",
)  # fmt: skip
"""The settings of an experiment that decide something about networks that are not trained."""
ASKED = {key: SETTINGS[key] for key in _KEYS}

FINISHED: dict[str, Any] = {
    "epochs": 0,
    "adversarial_epochs": 0,
    "defence": "none",
    "precision": "fp32",
    "stem": "none",
}
"""The fields of a protocol that trains nothing."""

AttackCommand = command_class(ASKED.values())
"""The class of the command, which shows its help."""


@with_options([*ASKED.values(), *_OWN.values()])
def attack(**given: Any) -> None:
    """Attack networks that are finished, and write what became of them into a folder like a run's.

    For example: atras attack --network mine.py:make --weights w.pth --dataset mnist --attack autoattack --epsilon 0.3
    """
    written = {name: value for name, value in given.items() if value is not None and value != []}
    command = AttackOptions(**{name: value for name, value in written.items() if name in _OWN})
    settings = {name: value for name, value in written.items() if name in ASKED}
    if command.resume is not None:
        _refuse_beside_resume(written)
        from atras.running import recorded

        protocol, execution, _ = combine(recorded(command.resume), settings)
        if protocol.trains:
            raise InputError(
                f"resume (={command.resume!r}): expected the folder of finished networks, got one that trains its own; "
                "go on with atras run --resume"
            )
        compute(protocol, execution, command)
        return
    from atras.running import finished_networks, shared_spec

    candidates, weights = finished_networks(command.network, command.weights)
    fields = (
        FINISHED | shared_spec(weights) | {"candidates": candidates, "weights": tuple(each.sha256 for each in weights)}
    )
    protocol, execution, _ = combine(Loaded(fields), settings)
    compute(protocol, execution, command, weights=weights)


def _refuse_beside_resume(written: dict[str, Any]) -> None:
    for name in ("network", "weights", "out", "dry_run"):
        if name in written:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"resume and {option} exclude each other: a run goes on where and as it began")
