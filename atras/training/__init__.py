"""The stages of a group: train, attack, adversarially train, attack again; snapshots of where a group stands, as
files; and trained networks as files. Knows engines, defences and evaluation; nothing of plans or of the run's folder
but its place."""

from . import checkpoint
from .checkpoint import Checkpoint
from .selection import kept_epochs
from .stages import DONE, STAGES, TRAINED, Snapshot, Watcher, attack_source, run_group, steps_done, steps_of
from .weights import FOLDER, Networks, files_of, read_member

__all__ = [
    "DONE",
    "FOLDER",
    "STAGES",
    "TRAINED",
    "Checkpoint",
    "Networks",
    "Snapshot",
    "Watcher",
    "attack_source",
    "checkpoint",
    "files_of",
    "kept_epochs",
    "read_member",
    "run_group",
    "steps_done",
    "steps_of",
]
