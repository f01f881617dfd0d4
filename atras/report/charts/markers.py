"""Shapes of the markers: they tell series apart where colours do not."""

from __future__ import annotations

import math

from markupsafe import Markup

from .style import STYLES


def _polygon(corners: int, turn: float, inner: float = 1.0) -> tuple[tuple[float, float], ...]:
    count = corners if inner == 1.0 else 2 * corners
    angles = [turn + 2 * math.pi * index / count for index in range(count)]
    radii = [inner if inner != 1.0 and index % 2 else 1.0 for index in range(count)]
    return tuple(
        (radius * math.sin(angle), -radius * math.cos(angle)) for angle, radius in zip(angles, radii, strict=True)
    )


_SHAPES = (
    (),
    _polygon(4, math.pi / 4),
    _polygon(3, 0.0),
    _polygon(4, 0.0),
    _polygon(3, math.pi),
    _polygon(4, math.pi / 4, 0.45),
    _polygon(5, 0.0, 0.45),
    _polygon(6, math.pi / 6),
)
"""Unit outline of each style; none for a circle."""


def marker(style: int, x: float, y: float, radius: float) -> Markup:
    """The marker of a style.

    Args:
        style: number of colour and shape; any whole number.
        x, y: its middle.
        radius: that of a circle of the same area.

    Returns:
        The markup.
    """
    outline = _SHAPES[style % STYLES]
    if not outline:
        return Markup('<circle class="f c{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(style, x, y, radius)
    # Corners reach further than a circle of equal area.
    radius *= 1.25
    corners = "L".join(f"{x + radius * dx:.1f} {y + radius * dy:.1f}" for dx, dy in outline)
    return Markup('<path class="f c{}" d="M{}z"/>').format(style % STYLES, corners)
