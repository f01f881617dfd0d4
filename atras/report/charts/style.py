"""Colours of the charts, for light and dark paper."""

from __future__ import annotations

from markupsafe import Markup

STYLES = 8
BINS = 20
"""Colours of a heat map."""

# At least 3:1 against the paper, and apart from one another for colour-blind readers; shapes tell them apart as well.
_LIGHT = ("#1f5fa8", "#b3500b", "#18794e", "#a8323e", "#7046b8", "#0f7c8c", "#866200", "#ad2f86")
_DARK = ("#6ea8ea", "#f09a55", "#55c28e", "#f0808a", "#b79bf0", "#4cc4d4", "#d9b545", "#ea86c8")
_CIVIDIS = ((0, 32, 76), (49, 68, 107), (102, 105, 112), (149, 143, 120), (203, 186, 105), (255, 234, 70))

_SHARED_CSS = """text{font:12px system-ui,"Liberation Sans",Arial,sans-serif}
.tag{font-size:11px}.tag,.halo{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}.small{font-size:10px}.label{font-weight:600}.title{font-size:15px;font-weight:600}
.end{text-anchor:end}.mid{text-anchor:middle}
.l,.b,.grid,.axis,.tick,.zero,.join{fill:none}.join{stroke-width:3;opacity:.45}.l{stroke-width:1.8}.b{stroke-width:1.3;opacity:.55}
.dash{stroke-dasharray:5 4}.f{stroke-width:.8}"""


def _theme(colours: tuple[str, ...], ink: str, line: str, grid: str, paper: str) -> str:
    rules = [f".c{index}.f{{fill:{c}}}.c{index}.l,.c{index}.b{{stroke:{c}}}" for index, c in enumerate(colours)]
    rules.append(f"text{{fill:{ink}}}.axis,.tick,.zero,.join{{stroke:{line}}}.grid{{stroke:{grid}}}")
    return "".join([*rules, f".paper{{fill:{paper}}}.f,.tag,.halo{{stroke:{paper}}}.hnone{{fill:{grid}}}"])


def _heat() -> str:
    """The map cividis: it reads the same to colour-blind eyes, and on light and dark paper."""
    rules = []
    for index in range(BINS):
        place = index / (BINS - 1) * (len(_CIVIDIS) - 1)
        left = min(int(place), len(_CIVIDIS) - 2)
        mix = [round(a + (b - a) * (place - left)) for a, b in zip(_CIVIDIS[left], _CIVIDIS[left + 1], strict=True)]
        rules.append(f".h{index}{{fill:#{mix[0]:02x}{mix[1]:02x}{mix[2]:02x}}}")
    return "".join(rules)


def _differences() -> str:
    """From orange below 0 over grey to blue above, which colour-blind eyes tell apart."""
    ends, rules = ((179, 88, 6), (150, 154, 160), (33, 102, 172)), []
    for index in range(BINS):
        place = (2 * index + 1) / BINS  # 0 to 2, the middle of the bin
        left = min(int(place), 1)
        mix = [round(a + (b - a) * (place - left)) for a, b in zip(ends[left], ends[left + 1], strict=True)]
        rules.append(f".d{index}{{fill:#{mix[0]:02x}{mix[1]:02x}{mix[2]:02x}}}")
    return "".join(rules)


# Our own text: it is not escaped.
_LIGHT_CSS = _theme(_LIGHT, "#1b1f24", "#57606a", "#dfe3e8", "#ffffff")
STANDALONE_CSS = Markup(_SHARED_CSS + _LIGHT_CSS + _heat() + _differences())  # noqa: S704
"""Style of a chart in a file of its own, on light paper."""
_DARK_CSS = _theme(_DARK, "#e6e9ed", "#9aa4af", "#30363d", "#14181d")
PAGE_CSS = f"{STANDALONE_CSS}@media screen and (prefers-color-scheme:dark){{{_DARK_CSS}}}"
"""Style of the charts on a page that is light or dark, as its reader prefers; printed it is light."""
