"""Options: a field of a dataclass, annotated once with how it is written, checked, shown in `--help` and explained.

From these annotations come the checks of `Protocol` and `Execution`, the keys of files, the command line and
docs/options.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, MISSING, dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, Self

from atras.checks import one_of, plain, text, truth
from atras.errors import InputError, shown
from atras.registry import Registry

from .kinds import BY_TYPE, TEXT, TRUTH, Kind

Check = Callable[[str, Any], None]
"""From a field's name and its value; raises an InputError that names it."""


@dataclass(frozen=True)
class Option:
    """The setting of a field by its user; values left out follow from the field's name, type and default.

    Args:
        help: its line in `--help`.
        check: of the value; where None it follows from the type (text, True or False, one of a Literal's words) or from
            the names of `choices`.
        kind: how it is written.
        meaning: what the documents say beyond `help`.
        panel: heading in `--help`; that of its class where empty.
        metavar: stands for the value in `--help`.
        default: the default in words.
        key: its name among settings and in files.
        flag: its name on the command line.
        also: a second name of it, there and in files.
        repeat: whether the command line takes it several times.
        accept: turns what Python may also give, such as texts, into the value, before it is checked.
        path: whether it may name a file or folder: then `~` is the user's home, and Python may give a `Path`.
        choices: the register that its values come from.
        besides: further values, and the line of each in `--help`; or all that have a name, where there is no register.
        recorded: whether it stands in `run.json` alone, and is no option of the command `run`.
    """

    help: str
    check: Check | None = None
    _: KW_ONLY
    kind: Kind | None = None
    meaning: str = ""
    panel: str = ""
    metavar: str = ""
    default: str = ""
    key: str = ""
    flag: str = ""
    also: str = ""
    repeat: bool = False
    accept: Callable[[Any], Any] | None = None
    path: bool = False
    choices: Registry[Any] | None = None
    besides: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False

    @property
    def named(self) -> dict[str, str]:
        """The values that go by a name, and the line of each in `--help`."""
        return {**self.besides, **(self.choices.texts() if self.choices is not None else {})}


class Setting(NamedTuple):
    """An option as a field has it.

    Args:
        name: of the field.
        option: its annotation.
        type: of the field, without `None`.
        default: of the field; None where that is made anew for each object.
        panel: heading in `--help`.
        optional: whether None is a value of the field.
    """

    name: str
    option: Option
    type: Any
    default: Any = None
    panel: str = ""
    optional: bool = False

    @property
    def key(self) -> str:
        """Its name among settings and in files."""
        return self.option.key or self.name

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.option.flag or f"--{self.key.replace('_', '-')}"

    @property
    def flags(self) -> tuple[str, ...]:
        """All its names on the command line."""
        return (self.flag, f"--{self.option.also}") if self.option.also else (self.flag,)

    @property
    def names(self) -> set[str]:
        """Every name that a file may use for it."""
        return {self.key, self.name, *(flag.removeprefix("--").replace("-", "_") for flag in self.flags)}

    @property
    def kind(self) -> Kind:
        """The way in which its values are written."""
        return self.option.kind or BY_TYPE.get(self.type, TEXT)

    @property
    def words(self) -> tuple[str, ...]:
        """The values it may have, where they are a few words."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def shown_default(self) -> str:
        """The default in words; empty where there is nothing to say."""
        if self.option.default or self.default is None or self.kind is TRUTH:
            return self.option.default
        return str(self.default)

    @property
    def takes_none(self) -> bool:
        """Whether its default is written `none`: it is None, or the number that turns the setting off."""
        return self.type is float and self.option.default == "none"

    @property
    def expected(self) -> str:
        """What a file should hold, for messages."""
        return f'{self.kind.expected}, or "none"' if self.takes_none else self.kind.expected

    def fits(self, value: object) -> bool:
        """Whether a value out of a file has one of the types."""
        return (self.takes_none and value == "none") or self.kind.fits(value)

    def read(self, value: Any) -> Any:
        """The field's value from what is written on the command line, in a file or in an axis.

        Raises:
            InputError: if it cannot be read; its range is left to `check`.
        """
        return self.default if self.takes_none and value == "none" else self.kind.read(value, self.key)

    def accept(self, value: Any) -> Any:
        """A value as Python or a file may give it, in the field's own form, so that equal experiments are equal.

        Args:
            value: as `checks.plain` takes it; where a file may hold a text for the option, as such a text too.

        Raises:
            InputError: if it is a text of another form; all else is left to `check`.
        """
        value = plain(value)
        if self.option.path:
            value = os.fspath(value) if isinstance(value, os.PathLike) else value
            value = os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111 (it stays as written)
        if self._is_text(value):
            value = self.read(value)
        return value if self.option.accept is None else self.option.accept(value)

    def _is_text(self, value: object) -> bool:
        """Whether a value is text that stands for a value of another type, or has such text in it."""
        if isinstance(value, str):
            return (self.takes_none and value == "none") or (self.type is not str and str in self.kind.types)
        texts = isinstance(value, tuple) and any(isinstance(item, str) for item in value)
        return texts and self.option.accept is None and str in self.kind.items

    def check(self, value: object) -> None:
        """Refuse a value out of range.

        Raises:
            InputError: if it is one.
        """
        if value is None and self.optional:
            return
        if self.option.check is not None:
            self.option.check(self.name, value)
        elif self.words:
            one_of(self.name, value, self.words)
        elif self.option.choices is not None:
            one_of(self.name, value, self.option.named)
        else:
            (truth if self.type is bool else text)(self.name, value)


class Options:
    """Base of dataclasses whose fields are annotated with an `Option` each."""

    panel: ClassVar[str] = ""
    """Heading of the fields in `--help`."""

    def __new__(cls, *_: object, **given: object) -> Self:
        """A new object, once all names are known.

        Raises:
            InputError: if there is no option of a name.
        """
        kind: Any = cls
        names = settings_of(kind)
        for name in given.keys() - names.keys():
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            raise InputError(f"{cls.__name__}: unknown option {shown(name)}; {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, setting in settings_of(kind).items():
            value = setting.accept(getattr(self, name))
            setting.check(value)
            object.__setattr__(self, name, _as_floats(setting.type, value))


def _as_floats(kind: Any, value: Any) -> Any:
    """A number as a float where the option is one, so that equal experiments have equal records and hashes."""
    if kind is float and value is not None:
        return float(value) + 0.0  # of which -0.0 is 0.0
    return tuple(float(item) + 0.0 for item in value) if kind == tuple[float, ...] else value


@cache
def settings_of(options: type) -> dict[str, Setting]:
    """The options of a class by the names of their fields, in the order of the fields."""
    fields = {each.name: each for each in dataclasses.fields(options)}
    settings: dict[str, Setting] = {}
    for base in reversed(options.__mro__):
        hints = inspect.get_annotations(base, eval_str=True)
        for name in fields.keys() & hints.keys():
            annotation, option = typing.get_args(hints[name])
            parts = typing.get_args(annotation)
            optional = types.NoneType in parts
            default = None if fields[name].default is MISSING else fields[name].default
            panel = option.panel or vars(base).get("panel", "")
            settings[name] = Setting(name, option, parts[0] if optional else annotation, default, panel, optional)
    return {name: settings[name] for name in fields}


def by_key(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Options by their names among settings."""
    return {setting.key: setting for setting in settings}
