"""The register of report sections: which there are, their order, and the function that makes each.

A section of atras is a line in `BUILT_IN`, one of a program a call of `register_section`, and one of an installed
package an entry point of the group `atras.report_sections`. Nothing is imported before its section is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pkgutil import resolve_name

from atras.errors import InputError, shown
from atras.report.section import Section
from atras.results import Results

MakeSection = Callable[[Results], Section]

BUILT_IN = {
    "experiment": "atras.report.sections.experiment:experiment",
    "candidates": "atras.report.sections.candidates:candidates",
    "networks": "atras.report.sections.networks:networks",
    "clean_and_robust": "atras.report.sections.clean_and_robust:clean_and_robust",
    "recovery": "atras.report.sections.recovery:recovery",
    "attacks": "atras.report.sections.attacks:attacks",
    "attack_parts": "atras.report.sections.attack_parts:attack_parts",
    "masking": "atras.report.sections.masking:masking",
    "epsilons": "atras.report.sections.epsilons:epsilons",
    "transfer": "atras.report.sections.transfer:transfer",
    "black_box": "atras.report.sections.black_box:black_box",
    "pictures": "atras.report.sections.pictures:pictures",
    "training": "atras.report.sections.training:training",
    "claims": "atras.report.sections.claims:claims",
    "provenance": "atras.report.sections.provenance:provenance",
}
"""The sections of atras in the order of the report: key, and the function that makes it as `module:function`."""

OF_DEFENCE = ("candidates", "recovery", "black_box", "claims")
"""Sections that are about a defence: a run without one goes without them."""

OF_TRAINING = ("training",)
"""Sections that are about training: a run of finished networks goes without them."""

WITHOUT_DEFENCE = ("networks",)
"""Sections of a run without a defence alone."""

LAST = "provenance"
"""Section that stays last: one that names no place goes before it."""

ENTRY_POINT_GROUP = "atras.report_sections"
"""Group of entry points by which an installed package adds sections: key = "module:function"."""

_register: dict[str, str | MakeSection] | None = None
"""Key and maker of every section in their order; None until somebody asks, as entry points take time to find."""


def register_section(key: str, make: MakeSection | str, *, after: str | None = None, before: str | None = None) -> None:
    """Add a section to every report that is written from now on.

    Args:
        key: a new name of small letters, digits, `_` and `-`; the section that is made carries it as well.
        make: the function that makes the section of a run, or its place as `module:function`, imported only when used.
        after, before: key of the section that it follows or precedes, one of the two; without either it stands at the
            end, before `provenance`.

    Raises:
        InputError: if the key is taken or malformed, the place is unknown, or `make` is neither a function nor a name.
    """
    _add(_sections(), key, make, after, before)


def unregister_section(key: str) -> None:
    """Remove a section, to leave it out or to register another in its place.

    Args:
        key: its name.

    Raises:
        InputError: if there is none of this name.
    """
    sections = _sections()
    _known(sections, "key", key)
    del sections[key]


@contextmanager
def fresh_sections() -> Iterator[None]:
    """A register as in a new process for the length of a `with` block; the previous one is back when it ends."""
    global _register
    previous, _register = _register, None
    try:
        yield
    finally:
        _register = previous


def section_keys() -> tuple[str, ...]:
    """The keys of all sections in the order of the report.

    Raises:
        InputError: if an installed package adds a section that cannot be registered.
    """
    return tuple(_sections())


def make_section(key: str, results: Results) -> Section:
    """Make one section.

    Args:
        key: its name in the register.
        results: the run that it shows.

    Returns:
        The section.

    Raises:
        InputError: if there is none of this name, or its function cannot be imported or returns something else.
    """
    sections = _sections()
    _known(sections, "key", key)
    section = _maker(key, sections[key])(results)
    if not isinstance(section, Section) or section.key != key:
        returned = f"one with the key {section.key!r}" if isinstance(section, Section) else shown(section)
        raise InputError(f"section {key!r}: expected its function to return a Section with this key, got {returned}")
    return section


def make_sections(results: Results) -> tuple[Section, ...]:
    """Make every section of a run like this, those too for which it recorded nothing: they name what records it.

    Args:
        results: the run that they show.

    Returns:
        The sections in the order of the report.

    Raises:
        InputError: if a section cannot be made.
    """
    left_out = (
        *(WITHOUT_DEFENCE if results.defends else OF_DEFENCE),
        *(() if results.trains else OF_TRAINING),
    )
    return tuple(make_section(key, results) for key in section_keys() if key not in left_out)


def _sections() -> dict[str, str | MakeSection]:
    global _register
    if _register is None:
        sections: dict[str, str | MakeSection] = dict(BUILT_IN)
        for point in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
            try:
                _add(sections, point.name, f"{point.module}:{point.attr}", None, None)
            except InputError as error:
                package = point.dist.name if point.dist else "unknown"
                raise InputError(f"installed package {package}: {error}") from error
        _register = sections
    return _register


def _add(
    sections: dict[str, str | MakeSection], key: str, make: MakeSection | str, after: str | None, before: str | None
) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", key):
        raise InputError(f"key (={shown(key)}): expected small letters, digits, _ and -, such as weight_norms")
    if key in sections:
        there = ", ".join(sections)
        raise InputError(f"key (={key!r}): expected a new one, there are {there}; take another or unregister it first")
    if not (callable(make) or (isinstance(make, str) and re.fullmatch(r"[\w.]+:[\w.]+", make))):
        raise InputError(f"make (={shown(make)}): expected a function or its place as module:function")
    keys = list(sections)
    keys.insert(_place(sections, after, before), key)
    makers = {**sections, key: make}
    sections.clear()
    sections.update((name, makers[name]) for name in keys)


def _place(sections: dict[str, str | MakeSection], after: str | None, before: str | None) -> int:
    if after is not None and before is not None:
        raise InputError(f"after (={after!r}), before (={before!r}): expected one of the two; leave one out")
    keys = list(sections)
    if after is not None:
        _known(sections, "after", after)
        return keys.index(after) + 1
    if before is not None:
        _known(sections, "before", before)
        return keys.index(before)
    return keys.index(LAST) if LAST in keys else len(keys)


def _known(sections: dict[str, str | MakeSection], argument: str, key: str) -> None:
    if key not in sections:
        raise InputError(f"{argument} (={shown(key)}): expected one of {', '.join(sections)}")


def _maker(key: str, make: str | MakeSection) -> MakeSection:
    if not isinstance(make, str):
        return make
    try:
        function = resolve_name(make)
    except (ImportError, AttributeError) as error:
        raise InputError(f"section {key!r}: expected the function {make} to import, got: {error}") from error
    if not callable(function):
        raise InputError(f"section {key!r}: expected a function at {make}, got {shown(function)}")
    return function
