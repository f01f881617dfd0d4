"""The table of a run's settings, and which source of them outranks which.

`settings` are options as their user wrote them, by their keys: `hidden` for `candidates`, `memory` for `memory_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atras.errors import InputError, shown
from atras.networks import PAPER_CANDIDATES, Candidate

from .kinds import CANDIDATES, TEXT
from .option import Option, Setting, by_key, settings_of
from .protocol import PRESETS, Execution, Protocol
from .selection import SELECTION, select_candidates

PRESET = Setting(
    "preset",
    Option(
        "protocol to start from; paper is a reconstruction of what the paper leaves open", kind=TEXT,
        metavar="|".join(PRESETS), default="paper",
    ),
    str,
    panel="Population",
)  # fmt: skip

SETTINGS: dict[str, Setting] = by_key(
    [PRESET, *settings_of(Protocol).values(), *SELECTION.values(), *settings_of(Execution).values()]
)
"""Everything that a file and the command line may set, by its key."""

REMOVED = {
    "attack_steps": ("attack", "pgd(steps=40)"),
    "step_size": ("attack", "pgd(step_size=2/255)"),
    "restarts": ("attack", "pgd(restarts=5)"),
    "train_attack": ("defence", "batch(pgd(steps=7))"),
    "defence_source": ("defence", "copies(source=smallest)"),
}
"""Settings of former versions: the option that says it now, and an example of its value."""


@dataclass(frozen=True)
class Loaded:
    """The content of a configuration file: fields of `Protocol` and `Execution`, a preset's name, a recorded plan."""

    protocol_fields: dict[str, Any] = field(default_factory=dict)
    execution_fields: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    preset: str | None = None


def combine(loaded: Loaded, settings: Mapping[str, Any]) -> tuple[Protocol, Execution, dict[str, Any] | None]:
    """Defaults, then the preset, then a file, then the command line: the later one wins.

    Args:
        loaded: what the file says; `Loaded()` where there is none.
        settings: what the command line says, and a preset's name under `preset`.

    Returns:
        The protocol, the execution, and the file's recorded plan, or None if the command line changed anything that a
        plan depends on.

    Raises:
        InputError: if a value cannot be read or is out of range.
    """
    low = preset_fields(settings.get("preset", loaded.preset)) | loaded.protocol_fields
    fields = low | protocol_fields(settings, low.get("candidates", PAPER_CANDIDATES))
    places = loaded.execution_fields | execution_fields(settings)
    protocol, execution = Protocol(**fields), Execution(**places)
    for name in [axis.field for axis in protocol.axes if settings_of(Protocol)[axis.field].key in settings]:
        raise InputError(f"{name}: expected either one value or an axis of several, got both; leave one out")
    same_machine = all(
        getattr(execution, name) == getattr(Execution(**loaded.execution_fields), name)
        for name in ("engine", "device", "memory_bytes")
    )
    keep = loaded.plan is not None and protocol == Protocol(**low) and same_machine and not execution.recalibrate
    return protocol, execution, loaded.plan if keep else None


def preset_fields(name: str | None) -> dict[str, Any]:
    """The protocol fields that a preset sets; none without a preset."""
    if name is None:
        return {}
    if name not in PRESETS:
        raise InputError(f"preset (={shown(name)}): expected one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def protocol_fields(settings: Mapping[str, Any], candidates: Sequence[Candidate] = PAPER_CANDIDATES) -> dict[str, Any]:
    """The fields of `Protocol` that settings name, parsed; other keys are passed over.

    Args:
        settings: options as written.
        candidates: what `depth` filters where no other key chooses candidates.

    Raises:
        InputError: if a value cannot be read; ranges are left to `Protocol`.
    """
    # Candidates come first: attacks may name modules of the user among them.
    chosen = {name: settings[name] for name in ("hidden", *SELECTION) if name in settings}
    selected = {"candidates": select_candidates(**chosen, start=candidates)} if chosen else {}
    fields = selected | {
        setting.name: setting.read(settings[setting.key])
        for setting in settings_of(Protocol).values()
        if setting.key in settings and setting.kind is not CANDIDATES
    }
    if "epochs" in fields:
        fields.setdefault("adversarial_epochs", fields["epochs"])
    return fields


def execution_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Execution` that settings name, parsed; other keys are passed over."""
    return {
        setting.name: setting.read(settings[setting.key])
        for setting in settings_of(Execution).values()
        if setting.key in settings
    }
