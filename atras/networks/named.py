"""Networks that the field knows by name, as layers. A new one is a function here under `@_known(name)`.

Architectures alone: weights are drawn, and training is, as the run says. Shares of dropout are rounded to 1/256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .layers import Conv, Dense, DropoutLayer, InputNorm, Layer

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
    """Madry et al.'s for MNIST: two 5x5 convolutions with pools, 1,024 units.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018), section 5;
    `model.py` of github.com/MadryLab/mnist_challenge.
    """
    return (_same(32, 5, 2), _same(64, 5, 2), Dense(1024))


@_known("trades-mnist")
def trades_mnist() -> tuple[Layer, ...]:
    """The SmallCNN of TRADES for MNIST: four 3x3 convolutions, two pools, 200 and 200 units.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy" (ICML 2019), section 5,
    after Carlini and Wagner (2017), table I; `models/small_cnn.py` of github.com/yaodongyu/TRADES.
    """
    return (Conv(32), Conv(32, pool=2), Conv(64), Conv(64, pool=2), Dense(200), DropoutLayer(0.5), Dense(200))


@_known("wong-mnist")
def wong_mnist() -> tuple[Layer, ...]:
    """Wong and Kolter's for MNIST: two 4x4 convolutions of stride 2, 100 units.

    Source: Wong and Kolter, "Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope"
    (ICML 2018), section 4; `mnist_model` in `examples/problems.py` of github.com/locuslab/convex_adversarial. Also that
    of Wong, Rice and Kolter, "Fast is better than free" (ICLR 2020).
    """
    return (Conv(16, 4, 2, 1), Conv(32, 4, 2, 1), Dense(100))


@_known("wong-cifar")
def wong_cifar() -> tuple[Layer, ...]:
    """Wong et al.'s small one for CIFAR-10: as wong-mnist, behind an input normalisation.

    Source: Wong et al., "Scaling provable adversarial defenses" (NeurIPS 2018), section 4, "small"; `cifar_model` and
    `cifar_loaders` in `examples/problems.py` of github.com/locuslab/convex_adversarial, whose mean and standard
    deviation are ImageNet's.
    """
    return (InputNorm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), *wong_mnist())


@_known("tramer-a")
def tramer_a() -> tuple[Layer, ...]:
    """Tramèr et al.'s A for MNIST: two 5x5 convolutions of 64 filters, 128 units, dropout.

    Source: Tramèr et al., "Ensemble Adversarial Training: Attacks and Defenses" (ICLR 2018), appendix A, as are models
    B to D; `mnist.py` of github.com/ftramer/ensemble-adv-training.
    """
    return (Conv(64, 5), Conv(64, 5, dropout=0.25), Dense(128), DropoutLayer(0.5))


@_known("tramer-b")
def tramer_b() -> tuple[Layer, ...]:
    """Tramèr et al.'s B for MNIST: dropout of pixels, convolutions of 8x8, 6x6 and 5x5, dropout.

    Source: see `tramer_a`. Its padding "same" is 3 pixels on each side of 28x28 images.
    """
    return (DropoutLayer(0.2), Conv(64, 8, 2, 3), Conv(128, 6, 2), Conv(128, 5, dropout=0.5))


@_known("tramer-c")
def tramer_c() -> tuple[Layer, ...]:
    """Tramèr et al.'s C for MNIST: 3x3 convolutions of 128 and 64 filters, 128 units, dropout.

    Source: see `tramer_a`.
    """
    return (Conv(128), Conv(64, dropout=0.25), Dense(128), DropoutLayer(0.5))


@_known("tramer-d")
def tramer_d() -> tuple[Layer, ...]:
    """Tramèr et al.'s D for MNIST: four times 300 units, each with dropout.

    Source: see `tramer_a`.
    """
    return (Dense(300), DropoutLayer(0.5)) * 4
