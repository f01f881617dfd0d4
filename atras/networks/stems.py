"""Stems: layers in front of the hidden ones that all candidates of a run share."""

from __future__ import annotations

from .layers import Conv, Layer, parse_layers, spell_layers

STEMS: dict[str, tuple[Layer, ...]] = {
    "none": (),
    "conv2": (Conv(32, pool=2), Conv(64, pool=2)),
    "conv4": (
        Conv(32, padding=1),
        Conv(32, pool=2, dropout=0.25),
        Conv(64, padding=1),
        Conv(64, pool=2, dropout=0.25),
    ),
}
"""The named stems. Source: docs/protocol.md, "Open in the paper"."""


def parse_stem(text: str) -> tuple[Layer, ...]:
    """The layers of a stem, by its name or spelling.

    Raises:
        InputError: if it is neither.
    """
    return STEMS[text] if text in STEMS else parse_layers(text, "stem")


def stem_name(layers: tuple[Layer, ...]) -> str:
    """The name of a stem's layers, or their spelling where they have none."""
    return {own: name for name, own in STEMS.items()}.get(layers) or spell_layers(layers)


def choose_stem(image_shape: tuple[int, int, int]) -> str:
    """The stem for images of this shape: none below 16x16, `conv2` for one channel, `conv4` for several.

    Args:
        image_shape: (C, H, W).
    """
    channels, height, width = image_shape
    if min(height, width) < 16:
        return "none"
    return "conv2" if channels == 1 else "conv4"
