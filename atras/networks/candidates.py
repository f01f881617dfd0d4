"""Candidates and members: which networks there are, as data."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from atras.checks import plain
from atras.errors import InputError, shown

from .factories import Factory
from .layers import Dense, Layer, Own, begins_with_layer, parse_layers, spell_layers
from .layers.layer import MAX_UNITS
from .named import NETWORKS, network_name
from .variants import Variant

if TYPE_CHECKING:
    from torch import nn

_OWN: dict[str, Candidate] = {}
"""Modules of the user that this process has met, by name: what `Candidate.parse` makes of their names."""

MAX_LAYERS = 1000
"""Most layers accepted: past it a typing error is likelier than a wish."""


@dataclass(frozen=True)
class Candidate:
    """One network architecture: its layers between the run's stem and the logits, first to last.

    Args:
        layers: at least one; a whole number stands for a dense layer of so many units.

    Raises:
        InputError: if there is no layer, or one is out of range.
    """

    layers: tuple[Layer, ...]

    def __init__(self, layers: Sequence[Layer | int]) -> None:
        taken = plain(layers)
        given = taken if isinstance(taken, tuple) else ()
        if len(given) > MAX_LAYERS:
            raise InputError(f"hidden (={shown(layers)}): expected at most {MAX_LAYERS} layers, got {len(given)}")
        if not given or not all(isinstance(layer, Layer) or _is_width(layer) for layer in given):
            raise InputError(
                f"hidden (={shown(layers)}): expected one or more whole numbers from 1 to {MAX_UNITS}; "
                "write for example 24,192 for two hidden layers"
            )
        if len(given) > 1 and any(isinstance(layer, Layer) and layer.complete for layer in given):
            raise InputError(
                f"hidden (={shown(layers)}): expected a module of yours alone, which goes from images to logits, got "
                "other layers beside it"
            )
        object.__setattr__(self, "layers", tuple(x if isinstance(x, Layer) else Dense(x) for x in given))

    @property
    def depth(self) -> int:
        """Number of hidden layers; of a module of the user, layers with weights less the last."""
        return sum(layer.depth for layer in self.layers)

    @property
    def complete(self) -> bool:
        """Whether it is a module of the user: from images to logits, without a stem."""
        return self.layers[0].complete

    @property
    def name(self) -> str:
        """The name of a known network, or the layers in the paper's spelling, such as `24-192`."""
        return network_name(self.layers) or spell_layers(self.layers)

    @property
    def takes_stem(self) -> bool:
        """Whether a stem that was chosen by the images stands before it: it begins dense and is no known network."""
        return isinstance(self.layers[0], Dense) and network_name(self.layers) is None

    @property
    def widths(self) -> tuple[int, ...]:
        """Units or filters of each layer; 0 for a layer without a width."""
        return tuple(layer.width or 0 for layer in self.layers)

    @property
    def structure(self) -> tuple[Layer, ...]:
        """The layers less their widths: candidates of one structure can share a stack."""
        return tuple(layer.with_width(1) for layer in self.layers)

    @property
    def factory(self) -> Factory | None:
        """What makes the module of the user that it is; None for one of layers."""
        first = self.layers[0]
        return first.factory if isinstance(first, Own) else None

    @classmethod
    def own(cls, name: str, factory: Callable[[], nn.Module] | str | Factory) -> Candidate:
        """A module of the user as a candidate, which goes by this name from now on.

        Args:
            name: of letters, digits, dots and underscores.
            factory: a function or class without arguments that makes the module, or where it is: `mine.py:make`.

        Raises:
            InputError: if the name means something else, or there is no such function.
        """
        if not isinstance(factory, Factory):
            factory = Factory.parse(factory, name) if isinstance(factory, str) else Factory.of(name, factory)
        if _means_layers(factory.name):
            raise InputError(
                f"network (={shown(factory.name)}): expected a name that is no built-in network's; rename the "
                "function, or give another name in Python"
            )
        candidate = cls([Own(factory)])
        if factory.held is None:  # a finished module is its owner's to keep
            _OWN[factory.name] = candidate
        return candidate

    @classmethod
    def recall(cls, factory: Factory) -> Candidate:
        """The module of the user that a record is of: the one that this process knows, if it is the same.

        Args:
            factory: as recorded, which of a function in Python cannot make anything.
        """
        known = _OWN.get(factory.name)
        same = known is not None and known.factory is not None and known.factory.identity == factory.identity
        return known if known is not None and same and factory.sha256 else cls.own(factory.name, factory)

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `24,192`, `24-192`, `c32p2-64`, a known network's name, such as `madry-mnist`, or where a module of the
        user is made: `mine.py:make`, which is called `make` from then on.

        Raises:
            InputError: if the text is anything else; it suggests a name that is near.
        """
        text = text.strip()
        if ":" in text:
            return cls.own(text.rpartition(".")[2].rpartition(":")[2], text)
        if text in NETWORKS:
            return cls(NETWORKS[text])
        try:
            return cls(parse_layers(text))
        except InputError:
            if text in _OWN:
                return _OWN[text]
            if begins_with_layer(text):
                raise
        near = difflib.get_close_matches(text[:100], [*NETWORKS, *_OWN], n=1)
        hint = f"did you mean {near[0]}? Expected" if near else "expected"
        raise InputError(
            f"hidden (={shown(text)}): {hint} widths separated by commas, such as 24,192, layers, such as c32p2,64, "
            f"where a module of yours is made, such as mine.py:make, or the name of a network: {', '.join(NETWORKS)}"
        )


def _means_layers(text: str) -> bool:
    try:
        return text in NETWORKS or bool(parse_layers(text))
    except InputError:
        return False


def distinct_names(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates, modules of the user renamed where another one has the name: `make`, `make_2`."""
    taken: dict[str, Candidate] = {}
    found: list[Candidate] = []
    for candidate in candidates:
        name, number, factory = candidate.name, 1, candidate.factory
        while factory is not None and taken.get(name, candidate) != candidate:
            number += 1
            name = f"{candidate.name}_{number}"
        if factory is not None:
            candidate = Candidate.own(name, factory.renamed(name))
        taken[name] = candidate
        found.append(candidate)
    for candidate in found:
        if candidate.name in _OWN and candidate.factory is not None:  # of two of one name the first keeps it
            _OWN[candidate.name] = candidate
    return tuple(found)


def _is_width(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_UNITS


def widest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate whose layers are as wide as the widest of each: to it others of its structure are padded.

    Args:
        candidates: at least one, all of one structure.

    Raises:
        ValueError: if there is none, or their depths differ.
    """
    layers = zip(*(candidate.layers for candidate in candidates), strict=True)
    return Candidate([same[0].with_width(max(layer.width or 0 for layer in same)) for same in layers])


class Member(NamedTuple):
    """One trained network.

    Args:
        candidate: its layers.
        seed: of its weights, batch order and dropout masks, which do not depend on the variant.
        variant: in what it differs from members of the same candidate and seed.
    """

    candidate: Candidate
    seed: int
    variant: Variant = Variant()

    @property
    def name(self) -> str:
        """Hidden layers, seed and variant, such as `24-192/0` or `24-192/0 learning_rate=0.003`; tensors in files are
        named by it."""
        return member_name(self.candidate.name, self.seed, self.variant.name)

    def to_list(self) -> list[Any]:
        """The member as JSON values."""
        own = [self.variant.to_list()] if self.variant.settings else []
        return [self.candidate.name, self.seed, *own]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Member:
        """What `to_list` gave.

        Raises:
            InputError, TypeError, ValueError: if it is something else.
        """
        name, seed, *own = values
        (variant,) = map(Variant.from_list, own or [[]])
        return cls(Candidate.parse(name), seed, variant)


def member_name(candidate: str, seed: object, variant: str = "") -> str:
    """What a member is called in files: its candidate, seed and variant by their names, as frames have them."""
    return f"{candidate}/{seed} {variant}" if variant else f"{candidate}/{seed}"


def told_member(candidate: object, variant: object, seed: object, *more: object) -> str:
    """A member for people, by its names as frames have them: `24-192 (seed 0, learning_rate=0.003, defended)`."""
    return f"{candidate} ({', '.join(filter(None, [f'seed {seed}', str(variant or ''), *map(str, more)]))})"


def members_of(
    candidates: Iterable[Candidate], seeds: Sequence[int], variants: Sequence[Variant] = (Variant(),)
) -> tuple[Member, ...]:
    """Every candidate in each variant with each seed, in the order of the result table."""
    return tuple(Member(candidate, seed, variant) for candidate in candidates for variant in variants for seed in seeds)


def seeds_of(members: Iterable[Member]) -> tuple[list[int], list[int]]:
    """The different seeds of members, in their order, and for each member the place of its own among them."""
    own = [member.seed for member in members]
    seeds = list(dict.fromkeys(own))
    return seeds, [seeds.index(seed) for seed in own]


def with_depth(candidates: Sequence[Candidate], depths: Iterable[int]) -> tuple[Candidate, ...]:
    """The candidates whose number of hidden layers is one of `depths`, in their order.

    Raises:
        InputError: if none is left.
    """
    wanted = set(depths)
    left = tuple(candidate for candidate in candidates if candidate.depth in wanted)
    if not left:
        there = ", ".join(map(str, sorted({candidate.depth for candidate in candidates})))
        asked = ", ".join(map(shown, sorted(wanted)[:10]))
        raise InputError(f"depth (={asked}): no candidate has it; choose from {there}")
    return left
