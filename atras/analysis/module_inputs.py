"""What `atras.attack` and `atras.evaluate` are given, in one form, or a refusal in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from atras.attacks import ATTACKS, Attack
from atras.checks import number
from atras.errors import InputError, shown
from atras.networks import Factory
from atras.registry import read_fraction

Modules = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
"""One module, several (named by their classes), or several by name: from images [B, C, H, W] in [0, 1] to logits."""

Array = np.ndarray | Tensor
"""Images or labels, in numpy or torch."""


def named_modules(modules: Modules) -> dict[str, nn.Module]:
    """Modules by name."""
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.ModuleDict):
        return {type(modules).__name__: modules}
    if isinstance(modules, Mapping | nn.ModuleDict):
        named = dict(modules.items())
    elif isinstance(modules, Sequence | nn.ModuleList) and not isinstance(modules, str):
        named = {}
        for module in modules:
            name, number = type(module).__name__, 1
            while name in named:
                number += 1
                name = f"{type(module).__name__}_{number}"
            named[name] = module
    else:
        raise InputError(f"modules (={shown(modules)}): expected a torch.nn.Module, or several in a list or a dict")
    for name, module in named.items():
        Factory.holding(name, module)  # which refuses what is no module, or has no name
    if not named:
        raise InputError("modules: expected at least one, got none")
    return named


def chosen_attacks(attacks: str | Attack | Sequence[str | Attack], epsilon: float | str | None) -> list[Attack]:
    """Attacks, each with an epsilon where it needs one; a fraction in text will do, as on the command line."""
    listed = [attacks] if isinstance(attacks, str | Attack) else list(attacks)
    if isinstance(epsilon, str):
        epsilon = read_fraction("epsilon", epsilon)
    if epsilon is not None:
        number("epsilon", epsilon, 0.0, 1.0)
    found: list[Attack] = []
    for each in listed:
        made = ATTACKS.parse(each) if isinstance(each, str) else each
        if not isinstance(made, Attack):
            raise InputError(f"attacks (={shown(each)}): expected an attack, such as PGD(steps=40) or 'pgd(steps=40)'")
        if made.made_on is not None:
            raise InputError(f"attacks (={made}): expected no surrogate, which is a network of a run; leave it out")
        own = made if epsilon is None else made.at(epsilon)
        if own.bounded and own.epsilon is None:
            raise InputError(f"attacks (={own}): expected an epsilon, got none; give epsilon=8/255 for example")
        found.append(own)
    specs = [attack.spec for attack in found]
    for spec in specs:
        if specs.count(spec) > 1:
            raise InputError(f"attacks: {spec.attack} came twice; name each once")
    return found


def checked_images(images: Array) -> Tensor:
    """Images [N, C, H, W], uint8 or floats in [0, 1]."""
    given = torch.as_tensor(images) if isinstance(images, np.ndarray | Tensor) else None
    if given is None:
        raise InputError(f"images: expected an array of numpy or torch, got {type(images).__name__}")
    given = given.detach()
    if given.ndim != 4 or not given.numel():
        raise InputError(
            f"images: expected [N, C, H, W], got {list(given.shape)}; add an axis for the channels, or move it to "
            f"the front"
        )
    if given.dtype == torch.uint8:
        return given
    if not given.is_floating_point():
        raise InputError(f"images: expected uint8, or floats in [0, 1], got {str(given.dtype).removeprefix('torch.')}")
    low, high = given.min().item(), given.max().item()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images: expected pixels in [0, 1], got {low:.9g} to {high:.9g}; normalise inside the module, not "
            f"before it"
        )
    return given


def checked_labels(labels: Array | Sequence[int]) -> Tensor:
    """Labels int64 [N] on the CPU."""
    given = torch.as_tensor(labels)
    if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool:
        raise InputError(
            f"labels: expected whole numbers [N], got {str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        )
    return given.detach().to("cpu", torch.int64)
