"""Networks that the field knows by name, as layers. A new one is a function here under `@_known(name)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .layers import Conv, Dense, Layer

_NETWORKS: dict[str, tuple[Layer, ...]] = {}
_TEXTS: dict[str, str] = {}

NETWORKS: Mapping[str, tuple[Layer, ...]] = MappingProxyType(_NETWORKS)
"""Name -> layers before the logits, first to last. They are whole networks, which a stem that is chosen by the images
does not stand before."""

NETWORK_TEXTS: Mapping[str, str] = MappingProxyType(_TEXTS)
"""Name -> its line in `--help`."""

Layers = Callable[[], tuple[Layer, ...]]


def network_name(layers: tuple[Layer, ...]) -> str | None:
    """The name of a network's layers; None where they have none."""
    return next((name for name, own in _NETWORKS.items() if own == layers), None)


def _known(name: str) -> Callable[[Layers], Layers]:
    def keep(layers: Layers) -> Layers:
        _NETWORKS[name] = layers()
        _TEXTS[name] = (layers.__doc__ or "").partition("\n")[0].rstrip(".")
        return layers

    return keep


def _same(filters: int, kernel: int, pool: int = 0) -> Conv:
    return Conv(filters, kernel, padding="same", pool=pool)


@_known("madry-mnist")
def madry_mnist() -> tuple[Layer, ...]:
    """Two convolutions and a dense layer for MNIST, the network of the MNIST challenge.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018), section 5, and
    `model.py` of github.com/MadryLab/mnist_challenge: 5x5 convolutions of 32 and 64 filters with 2x2 max-pools, 1,024
    units.
    """
    return (_same(32, 5, 2), _same(64, 5, 2), Dense(1024))


@_known("wong-mnist")
def wong_mnist() -> tuple[Layer, ...]:
    """Two strided convolutions and a dense layer for MNIST, of provable defences.

    Source: Wong and Kolter, "Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope"
    (ICML 2018), section 4; `mnist_model` of github.com/locuslab/convex_adversarial: 4x4 convolutions of 16 and 32
    filters, stride 2, padding 1; 100 units. Also of Wong, Rice and Kolter, "Fast is better than free" (ICLR 2020).
    """
    return (Conv(16, 4, 2, 1), Conv(32, 4, 2, 1), Dense(100))
