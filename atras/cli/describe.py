"""Every option of a run as Markdown: the generated part of docs/options.md."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from atras.attacks import ATTACKS
from atras.defences import DEFENCES
from atras.experiment import ENGINES, EXECUTORS, REMOVED, SETTINGS, Setting, settings_of
from atras.loggers import LOGGERS
from atras.registry import Registry, spell_value, spelled_fields

from .attack_command import ASKED
from .command_options import AttackOptions, CommandOptions
from .generated_options import PANELS

_REGISTERS: dict[str, tuple[str, Registry[Any]]] = {
    "Attacks": ("--attack", ATTACKS),
    "Defences": ("--defence", DEFENCES),
    "Engines": ("--engine", ENGINES),
    "Executors": ("--executor", EXECUTORS),
    "Loggers": ("--log", LOGGERS),
}
_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def describe_options() -> str:
    """The options of a run: a heading and a table for each panel, each kind of choice, and what was renamed."""
    own = settings_of(CommandOptions)
    settings = [*SETTINGS.values(), *own.values()]
    settings = [each for each in settings if not each.option.recorded]
    parts = [_panel(panel, [each for each in settings if each.panel == panel], own) for panel in PANELS]
    parts += [_register(title, flag, register) for title, (flag, register) in _REGISTERS.items()]
    parts.append(_attack_command())
    rows = [[f"`{name}`", f"`--{option}`", f"`{example}`"] for name, (option, example) in REMOVED.items()]
    return "\n\n".join([*parts, _section("Former options", ["former key", "option now", "example"], rows)]) + "\n"


def _attack_command() -> str:
    """The own options of the command `attack`, and which of the others it takes."""
    rows = []
    for name in ("network", "weights"):
        setting = settings_of(AttackOptions)[name]
        meaning = f"{setting.option.help[:1].upper()}{setting.option.help[1:]}. {setting.option.meaning}"
        rows.append([f"`{setting.flag}`", f"`{setting.option.metavar}`", setting.shown_default, meaning])
    others = ", ".join(f"`{setting.flag}`" for setting in ASKED.values())
    text = (
        "`atras attack` attacks networks that are finished. Of the options above it takes "
        f"{others}, `--resume`, `--dry-run`, `--out`, `--json` and `--quiet`; a stem is none unless it is named or a "
        "file says it."
    )
    return f"## The command attack\n\n{text}\n\n{_table(['option', 'value', 'default', 'meaning'], rows)}"


def _panel(panel: str, settings: Iterable[Setting], own: dict[str, Setting]) -> str:
    """A heading of `--help` as a table."""
    rows = []
    for setting in settings:
        key = "" if setting.key in own else f"`{setting.key}`"
        option = setting.option
        meaning = f"{option.help}. {option.meaning}" if option.meaning else option.help
        meaning = f"{meaning[:1].upper()}{meaning[1:]}"
        rows.append(
            [
                ", ".join(f"`{flag}`" for flag in setting.flags),
                key,
                _value(setting, bool(key)),
                setting.shown_default,
                meaning,
            ]
        )
    return _section(panel, ["option", "key in a file", "value", "default", "meaning"], rows)


def _value(setting: Setting, in_files: bool) -> str:
    """The values that a setting may have, in words."""
    if setting.words:
        return ", ".join(f"`{word}`" for word in setting.words)
    if setting.option.choices is not None:
        return f"{', '.join(f'`{word}`' for word in setting.option.besides)}, a name from below".removeprefix(", ")
    return setting.expected if in_files or setting.type is bool else f"`{setting.option.metavar}`"


def _register(title: str, flag: str, register: Registry[Any]) -> str:
    """The classes that go by a name, each with its options."""
    parts = [f"## {title}", f"Names for `{flag}`."]
    for name, line in register.texts().items():
        choice = register.get(name)
        parts.append(f"### {name}\n\n{line[:1].upper()}{line[1:]}." if line[-1:] != "." else f"### {name}\n\n{line}")
        meanings = _meanings(choice)
        defaults = {field.name: field.default for field in dataclasses.fields(choice)} if spelled_fields(choice) else {}
        rows = [
            [f"`{field}`", _type(kind), f"`{_default(defaults[field])}`", meanings.get(field, "")]
            for field, kind in spelled_fields(choice).items()
        ]
        parts += [_table(["option", "value", "default", "meaning"], rows)] if rows else []
    return "\n\n".join(parts)


def _type(kind: Any) -> str:
    """A field's type in words."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return " or ".join(
        "`none`" if each is types.NoneType else _TYPES.get(each, each.__name__.lower()) for each in kinds
    )


def _default(value: object) -> str:
    return "none" if value is None else spell_value(value)


def _meanings(choice: type) -> dict[str, str]:
    """The meaning of each option, from the docstrings of a class and of its base classes."""
    meanings: dict[str, str] = {}
    for base in reversed(choice.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        block = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, flags=re.MULTILINE)
        for names, meaning in re.findall(
            r"^    ([\w, ]+): (.*(?:\n     +.*)*)", block[1] if block else "", re.MULTILINE
        ):
            meanings |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return meanings


def _section(title: str, header: list[str], rows: list[list[str]]) -> str:
    return f"## {title}\n\n{_table(header, rows)}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([re.sub(r"([|<])", r"\\\1", cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
