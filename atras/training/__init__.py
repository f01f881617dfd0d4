"""The stages of a group: train, attack, adversarially train, attack again; snapshots of where a group stands, as
files; and trained networks as files. Knows engines, defences and evaluation; nothing of plans or of the run's folder
but its place."""

from . import checkpoint
from .checkpoint import Checkpoint
from .first import FIRST_PHASE, First, begun_with, is_first, joined_first, train_first, training_signs
from .selection import kept_epochs, selects_in
from .snapshot import DONE, STAGES, TRAINED, Snapshot
from .stages import run_group
from .steps import first_steps, steps_done, steps_of
from .watcher import Watcher
from .weights import FOLDER, Networks, files_of, read_member

__all__ = [
    "DONE",
    "FIRST_PHASE",
    "FOLDER",
    "STAGES",
    "TRAINED",
    "Checkpoint",
    "First",
    "Networks",
    "Snapshot",
    "Watcher",
    "begun_with",
    "checkpoint",
    "files_of",
    "first_steps",
    "is_first",
    "joined_first",
    "kept_epochs",
    "read_member",
    "run_group",
    "selects_in",
    "steps_done",
    "steps_of",
    "train_first",
    "training_signs",
]
