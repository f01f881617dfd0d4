"""Candidates and members: which networks there are, as data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atras.checks import plain
from atras.errors import InputError, shown

from .layers import Dense, Layer, parse_layers, spell_layers
from .layers.layer import MAX_UNITS
from .named import NETWORKS, network_name

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
                f"other "
                "layers beside it"
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

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `24,192`, `24-192`, `c32p2-64`, or a known network's name, such as `madry-mnist`.

        Raises:
            InputError: if the text is anything else; it suggests a name that is near.
        """
        known = NETWORKS.get(text.strip())
        if known is not None:
            return cls(known)
        try:
            return cls(parse_layers(text))
        except InputError:
            near = difflib.get_close_matches(text.strip()[:100], NETWORKS, n=1)
            if not near:
                raise
            raise InputError(f"network (={shown(text)}): did you mean {near[0]}?") from None


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
        seed: of its weights, batch order and dropout masks.
    """

    candidate: Candidate
    seed: int

    @property
    def name(self) -> str:
        """Hidden layers and seed, such as `24-192/0`; tensors in files are named by it."""
        return f"{self.candidate.name}/{self.seed}"


def members_of(candidates: Iterable[Candidate], seeds: Sequence[int]) -> tuple[Member, ...]:
    """Every (candidate, seed) pair, in the order of the result table."""
    return tuple(Member(candidate, seed) for candidate in candidates for seed in seeds)


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
