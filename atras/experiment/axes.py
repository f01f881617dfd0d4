"""Axes: settings of which a run has several values, so that each candidate and seed is trained in several variants."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atras.errors import InputError, shown
from atras.networks import Member, Variant
from atras.registry import spell_value, split_outside

from .option import Setting

EXAMPLE = "learning_rate=0.001,0.003"

MAX_VARIANTS = 1000
"""Most variants accepted: past it a typing error is likelier than a wish."""

AFTER_TRAINING = ("defence", "adversarial_epochs", "epsilon", "label_source", "target")
"""Settings that come into play behind the first training: whoever differs in these alone is trained alike."""


def trained_as(member: Member) -> Member:
    """A member as its first training knows it: without the settings that come into play behind it."""
    return member._replace(variant=member.variant.without(*AFTER_TRAINING))


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, one after the other.

    Args:
        field: of `Protocol`.
        values: as they are spelled, each once; as they were given until a `Protocol` has read them.
    """

    field: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The field, which makes axes differ."""
        return self.field

    def __str__(self) -> str:
        return f"{self.field}={','.join(map(_in_brackets, self.values))}"


def _in_brackets(value: str) -> str:
    """A value that has a comma outside its brackets in brackets of its own."""
    return f"({value})" if len(split_outside(value)) > 1 else value


def _out_of_brackets(value: str) -> str:
    """What stands in the brackets that are around a whole value."""
    inner = value[1:-1] if value.startswith("(") and value.endswith(")") else value
    return inner if inner == value or len(split_outside(inner)) > 1 else value


def axes_of(value: Any) -> Any:
    """Axes in place of what Python or a file may give: a mapping from fields to values, or texts such as
    `learning_rate=0.001,0.003`; all else as it is.

    Raises:
        InputError: if a text is no axis.
    """
    if isinstance(value, Mapping):
        return tuple(Axis(str(field).replace("-", "_"), _values_of(values)) for field, values in value.items())
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, tuple | list):
        return value
    return tuple(_parse(each) if isinstance(each, str) else each for each in texts)


def _values_of(values: Any) -> tuple[Any, ...]:
    if isinstance(values, str):
        return tuple(map(_out_of_brackets, split_outside(values)))
    return tuple(values) if isinstance(values, Sequence | Iterable) else (values,)


def _parse(text: str) -> Axis:
    field, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"\s*[A-Za-z_-]+\s*", field) or not values.strip():
        raise InputError(f"axis (={shown(text)}): expected a setting and its values; write for example {EXAMPLE}")
    return Axis(field.strip().replace("-", "_"), _values_of(values))


def check_axes(name: str, value: object) -> None:
    """Refuse anything but a tuple of axes of different fields."""
    if not isinstance(value, tuple) or not all(isinstance(axis, Axis) for axis in value):
        raise InputError(
            f"{name} (={shown(value)}): expected fields and their values, such as {{'learning_rate': (0.001, 0.003)}}"
        )
    fields = [axis.field for axis in value]
    for field in fields:
        if fields.count(field) > 1:
            raise InputError(f"axis: {field} came twice; give all its values in one axis")


def spelled(axis: Axis, settings: Mapping[str, Setting]) -> Axis:
    """An axis with its values read as those of its setting, and spelled in one form.

    Args:
        axis: as given.
        settings: those that may be an axis, by the names of their fields.

    Raises:
        InputError: if its setting is none of them, a value is none of the setting's, or one came twice.
    """
    known = {each: field for field, setting in settings.items() for each in (field, *setting.names)}
    if axis.field not in known:
        near = difflib.get_close_matches(axis.field[:100], known, n=1, cutoff=0.7)
        expected = "expected a setting that decides training or attack; one of"
        hint = f"did you mean {known[near[0]]}? There are" if near else expected
        raise InputError(f"axis (={shown(axis.field)}): {hint} {', '.join(settings)}")
    field = known[axis.field]
    values = tuple(spell_value(typed(value, settings[field])) for value in axis.values)
    if len(values) == 0:
        raise InputError(f"axis {field}: expected values, got none; write for example {EXAMPLE}")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"axis {field}: {value} came twice; name each value once")
    return Axis(field, values)


def typed(value: Any, setting: Setting) -> Any:
    """A value of a setting from its spelling, or as Python may give it.

    Raises:
        InputError: if it is none.
    """
    try:
        read = setting.kind.read(value, setting.key) if isinstance(value, str) else value
        read = setting.accept(read)
        setting.check(read)
    except InputError as error:
        raise InputError(f"axis: {error}") from None
    return float(read) + 0.0 if setting.type is float and read is not None else read


def check_only(name: str, value: object) -> None:
    """Refuse anything but a tuple of texts; what they name is known to a protocol alone."""
    if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
        raise InputError(
            f"{name} (={shown(value)}): expected names of candidates in variants, such as '24-192 learning_rate=0.003'"
        )


@functools.lru_cache(maxsize=16)  # each of a protocol's variants asks for them
def pairs_of(
    only: tuple[str, ...], candidates: tuple[str, ...], axes: tuple[Axis, ...]
) -> tuple[tuple[str, Variant], ...]:
    """Candidates in variants, each once, in the order of the table.

    Args:
        only: their names, as rankings have them; empty for every candidate in each variant.
        candidates: the names of all.
        axes: with their values spelled.

    Raises:
        InputError: if a name is none, one came twice, or a candidate is in no variant.
    """
    if not only:
        return tuple(itertools.product(candidates, variants_of(axes)))
    order = {name: place for place, name in enumerate(candidates)}
    places = [{value: place for place, value in enumerate(axis.values)} for axis in axes]
    found: dict[tuple[int, ...], tuple[str, Variant]] = {}
    for text in only:
        candidate, *settings = split_outside(text, " ")
        pairs = [tuple(setting.partition("=")[::2]) for setting in settings]
        known = [field for field, _ in pairs] == [axis.field for axis in axes] and candidate in order
        if not known or any(value not in values for (_, value), values in zip(pairs, places, strict=True)):
            raise InputError(
                f"only (={shown(text)}): expected a candidate of the run and a value of each axis, such as "
                f"{' '.join([candidates[0], *(f'{axis.field}={axis.values[0]}' for axis in axes)])}"
            )
        place = order[candidate], *(values[value] for (_, value), values in zip(pairs, places, strict=True))
        if place in found:
            raise InputError(f"only: {text} came twice; name it once")
        found[place] = candidate, Variant(tuple((str(field), str(value)) for field, value in pairs))
    if absent := [name for name in candidates if name not in {name for name, _ in found.values()}]:
        raise InputError(f"only: expected each candidate in a variant, {absent[0]} is in none; leave it out")
    return tuple(found[place] for place in sorted(found))


def variants_among(pairs: Iterable[tuple[Any, Variant]], axes: Sequence[Axis]) -> tuple[Variant, ...]:
    """The variants of some pairs, each once, the first axis slowest."""
    places = [{value: place for place, value in enumerate(axis.values)} for axis in axes]
    variants = dict.fromkeys(variant for _, variant in pairs)
    return tuple(
        sorted(variants, key=lambda one: [own[value] for own, (_, value) in zip(places, one.settings, strict=True)])
    )


def variants_of(axes: Sequence[Axis]) -> tuple[Variant, ...]:
    """Every combination of values, the first axis slowest; one without settings where there are no axes.

    Raises:
        InputError: if there are too many.
    """
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_VARIANTS:
        raise InputError(f"axis (={count} variants): expected at most {MAX_VARIANTS}; give fewer values")
    pairs = [[(axis.field, str(value)) for value in axis.values] for axis in axes]
    return tuple(Variant(combination) for combination in itertools.product(*pairs))
