"""Choices that go by a name: a register of classes, and how an object is spelled.

A choice is a frozen dataclass: its fields are its options, so `PGD(steps=40)` in Python is `pgd(steps=40)` in text, and
the first line of its docstring is its line in `--help`. A class is imported when it is asked for, and not before.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from .checks import plain
from .errors import InputError, shown

Choice = TypeVar("Choice")
ChoiceClass = TypeVar("ChoiceClass", bound=type)

MAX_TEXT = 1000
"""Most characters of a spelling: past it a mistake is likelier than a wish."""

UNSPELLED = {"spelled": False}
"""Metadata of a field that is for Python alone and has no spelling."""


_REGISTERS: dict[type, Registry[Any]] = {}
"""By the class of its choices, each register that reads options of that type."""


class Registry(Generic[Choice]):
    """The choices of one kind, by name.

    Args:
        kind: what they are, for messages: `attack`.
        known: by name, where the class is (`atras.attacks.pgd:PGD`) and its line for `--help`.
        base: class of all of them: an option of this type is read by this register.
        group: entry points by which installed packages add to them; None for none.
    """

    def __init__(
        self,
        kind: str,
        known: Mapping[str, tuple[str, str]],
        *,
        base: type[Choice] | None = None,
        group: str | None = None,
    ) -> None:
        self.kind, self.group = kind, group
        if base is not None:
            _REGISTERS[base] = self
        self._known: dict[str, tuple[str | type[Choice], str]] = dict(known)
        self._asked_packages = group is None

    def register(self, choice: ChoiceClass) -> ChoiceClass:
        """Add a class under its `name`; also as a class decorator.

        Raises:
            InputError: if the name is taken.
        """
        name = choice.name  # type: ignore[attr-defined]
        if name in self.texts():
            raise InputError(f"{self.kind} (={name!r}): expected a new name, there are {', '.join(self)}; rename it")
        self._known[name] = (choice, _first_line(choice))
        return choice

    def unregister(self, name: str) -> None:
        """Take a class out again."""
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts())

    def texts(self) -> dict[str, str]:
        """Names and their lines for `--help`; nothing is imported for it."""
        self._ask_packages()
        return {name: line for name, (_, line) in self._known.items()}

    def get(self, name: str) -> type[Choice]:
        """The class of a name.

        Raises:
            InputError: if there is none; it names those there are.
        """
        self._ask_packages()
        if name not in self._known:
            near = difflib.get_close_matches(name[:100], self._known, n=1)
            hint = f"did you mean {near[0]}? There are" if near else "expected one of"
            raise InputError(f"{self.kind} (={shown(name)}): {hint} {', '.join(self._known)}")
        where, line = self._known[name]
        if isinstance(where, str):
            where = self._imported(name, where)
            self._known[name] = (where, line)
        return where

    def parse(self, text: str) -> Choice:
        """The object that a text such as `pgd(steps=40, restarts=5)` spells.

        Raises:
            InputError: if the name or an option is unknown, or a value is out of range.
        """
        name, arguments = self._split(text)
        choice = self.get(name)
        options: dict[str, Any] = {}
        fields = spelled_fields(choice)
        in_place = [name for name, each in _fields_of(choice).items() if name in fields and not _by_keyword(each)]
        named = False
        for place, argument in enumerate(arguments):
            key, equals, value = argument.partition("=") if re.match(r"[\w-]+\s*=", argument) else ("", "", argument)
            named = named or bool(equals)
            in_order = place < len(in_place) and not named
            key = key.strip().replace("-", "_") if equals else (in_place[place] if in_order else "")
            if key not in fields or key in options:
                known = ", ".join(fields) or "none"
                what = f"option {key} twice" if key in options else f"unknown option {shown(argument)}"
                near = [] if key in options else difflib.get_close_matches(key[:100], fields, n=1)
                hint = f"; did you mean {near[0]}? Options" if near else "; options"
                raise InputError(f"{self.kind} (={shown(text)}): {what}{hint} of {name}: {known}")
            options[key] = _value(f"{name}: {key}", value.strip(), fields[key])
        return choice(**options)

    def _split(self, text: object) -> tuple[str, list[str]]:
        """Name and arguments of a spelling, split at the commas that are in no inner brackets."""
        example = next(iter(self._known), "name")
        match = re.fullmatch(r"\s*([a-z][\w-]*)\s*(?:\((.*)\))?\s*", text, re.DOTALL) if isinstance(text, str) else None
        if match is None or len(match[0]) > MAX_TEXT:
            raise InputError(
                f"{self.kind} (={shown(text)}): expected a name, such as {example}, or {example}(option=1)"
            )
        return match[1], [argument for argument in split_outside(match[2] or "") if argument]

    def _ask_packages(self) -> None:
        """Add what installed packages declare, once; names that are taken stay ours."""
        if self._asked_packages or self.group is None:
            return
        self._asked_packages = True
        if f"[{self.group}]" not in declared_groups():
            return
        import importlib.metadata

        for entry in importlib.metadata.entry_points(group=self.group):
            package = entry.dist.name if entry.dist is not None else entry.module
            self._known.setdefault(entry.name, (entry.value, f"from the package {package}"))

    def _imported(self, name: str, where: str) -> type[Choice]:
        module, _, attribute = where.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.kind} (={name!r}): expected to import {where}, got an error ({error}); install its package anew"
            ) from error


def split_outside(text: str, at: str = ",") -> list[str]:
    """A text cut at the commas, or another character, that stand in no brackets, without blanks around the parts.

    Raises:
        InputError: if brackets do not match.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == at and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise InputError(f"{shown(text)}: expected as many closing brackets as opening ones")
    return [part.strip() for part in parts]


@functools.cache
def declared_groups() -> frozenset[str]:
    """The lines of installed packages that begin a group of entry points of atras, such as `[atras.attacks]`.

    A look into their files, since `importlib.metadata` alone takes longer to import than `--help` may.
    """
    lines: set[str] = set()
    for folder in dict.fromkeys(sys.path):
        try:
            there = os.listdir(folder or ".")  # noqa: PTH208 (pathlib takes five times as long)
        except OSError:
            continue  # a zip archive, or a folder that is not there
        for name in (name for name in there if name.endswith((".dist-info", ".egg-info"))):
            try:
                with open(f"{folder or '.'}/{name}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123
                    lines.update(line.strip() for line in file if line.startswith("[atras."))
            except (OSError, UnicodeDecodeError):
                continue
    return frozenset(lines)


def spelled_fields(choice: type) -> Mapping[str, Any]:
    """Name and type of each option of a class; those that Python takes by keyword alone come last."""
    return _spelled(choice)


@functools.cache  # they are asked of every object that is made or shown, and take half a millisecond to find
def _spelled(choice: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(choice)
    fields = sorted(_fields_of(choice).values(), key=_by_keyword)
    return types.MappingProxyType({f.name: hints[f.name] for f in fields if f.metadata.get("spelled", True)})


def _fields_of(choice: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in (dataclasses.fields(choice) if dataclasses.is_dataclass(choice) else ())}


def _by_keyword(field: dataclasses.Field[Any]) -> bool:
    return field.kw_only is True


def accept_forms(choice: Any) -> None:
    """Bring the options of an object that is being made into their types: what Python may give for them, as `plain` has
    it, a fraction in text for a number, and a spelling for a choice such as an attack.

    Raises:
        InputError: if a text is no fraction, or no spelling.
    """
    for name, kind in spelled_fields(type(choice)).items():
        value = plain(getattr(choice, name))
        kinds = _kinds(kind)
        if isinstance(value, str):
            register = next((_REGISTERS[each] for each in kinds if each in _REGISTERS), None)
            if register is not None:
                value = register.parse(value)
            elif float in kinds and str not in kinds:
                value = read_fraction(name, value)
        object.__setattr__(choice, name, value)


def spell(choice: Any, leave_out: tuple[str, ...] = ()) -> str:
    """An object as text that `Registry.parse` reads: its name, and the options that are not as by default.

    Args:
        choice: an object with a `name`.
        leave_out: options not to be shown.
    """
    fields = list(spelled_fields(type(choice)))
    # A choice within a choice needs no name where it comes first: batch(pgd(steps=7)).
    options = [
        spell_value(value) if name == fields[0] and hasattr(value, "name") else f"{name}={spell_value(value)}"
        for name, value in changed(choice).items()
        if name not in leave_out
    ]
    return f"{choice.name}({', '.join(options)})" if options else str(choice.name)


def name_of(spelling: str) -> str:
    """The name in a spelling: `pgd` of `pgd(steps=40)`."""
    return spelling.partition("(")[0]


class Spelled:
    """A choice that is shown as it is spelled: base class of frozen dataclasses without a `repr` of dataclass's."""

    def __str__(self) -> str:
        return spell(self)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in changed(self).items())
        return f"{type(self).__name__}({options})"


def changed(choice: Any) -> dict[str, Any]:
    """The options of an object that are not as by default."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(choice)}
    values = {name: getattr(choice, name) for name in spelled_fields(type(choice))}
    return {name: value for name, value in values.items() if value != defaults[name]}


def spell_value(value: object) -> str:
    """A value of an option as text."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return f"({', '.join(map(spell_value, value))})"
    return repr(value) if isinstance(value, int | float) else str(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _value(name: str, text: str, kind: Any) -> Any:
    """A text as a value of an option's type."""
    kinds = _kinds(kind)
    if type(None) in kinds and text == "none":
        return None
    readers: dict[Any, Callable[[str, str], Any]] = {bool: _truth, int: _whole, float: read_fraction}
    for each in kinds:
        if each in _REGISTERS:
            return _REGISTERS[each].parse(text)
        if each in readers:
            return readers[each](name, text)
        if each == tuple[float, ...]:
            return tuple(read_fraction(name, part) for part in split_outside(text.strip("()")) if part)
    return text  # a choice among words: the class checks it


def _truth(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InputError(f"{name} (={shown(text)}): expected true or false")
    return text == "true"


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,19}", text, flags=re.ASCII):
        raise InputError(f"{name} (={shown(text)}): expected a whole number; write for example 10")
    return int(text)


def read_fraction(name: str, value: str | float) -> float:
    """A number, or a fraction such as `8/255`.

    Raises:
        InputError: if it is neither.
    """
    try:
        top, slash, bottom = str(value).partition("/")
        result = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        result = math.nan
    if isinstance(value, bool) or not math.isfinite(result):
        raise InputError(f"{name} (={shown(value)}): expected a number or a fraction; write for example 0.05 or 8/255")
    return result


def _first_line(choice: type) -> str:
    return (choice.__doc__ or "").strip().partition("\n")[0].rstrip(".") or choice.__name__
