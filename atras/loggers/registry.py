"""The loggers by name. A new one is a file and a line here; an installed package adds its own by an entry point."""

from __future__ import annotations

from typing import Any

from atras.errors import InputError, shown
from atras.registry import Registry, split_outside

from .logger import Logger

LOGGERS: Registry[Logger] = Registry(
    "log",
    {
        "tensorboard": ("atras.loggers.tensorboard:TensorBoard", "event files, a folder for each member"),
        "mlflow": ("atras.loggers.mlflow:MLflow", "a run of MLflow, with a run below it for each member"),
        "wandb": ("atras.loggers.wandb:WandB", "a run of Weights & Biases, offline unless mode=online"),
    },
    base=Logger,
    group="atras.loggers",
)


def loggers_of(value: Any) -> Any:
    """Loggers as they are spelled, in place of what Python or a file may give: texts such as `mlflow(experiment=mine)`,
    or objects; all else as it is.

    Raises:
        InputError: if a text spells none, or one came twice.
    """
    each = value if isinstance(value, tuple | list) else (value,)
    texts = [part for one in each for part in (split_outside(one) if isinstance(one, str) else [one])]
    spelled = tuple(_spelled(one) for one in texts)
    for one in spelled:
        if spelled.count(one) > 1:
            raise InputError(f"log (={shown(one)}): expected each logger once; name it once")
    return spelled


def _spelled(value: object) -> str:
    if isinstance(value, str):
        return str(LOGGERS.parse(value))
    if isinstance(value, Logger):
        return str(value)
    raise InputError(f"log (={shown(value)}): expected one of {', '.join(LOGGERS)}")
