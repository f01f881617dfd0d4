"""The schedules by name. A new one is a file and a line here; an installed package adds its own by an entry point."""

from __future__ import annotations

from atras.registry import Registry

from .schedule import Schedule

SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "constant": ("atras.schedules.constant:Constant", "one rate; constant(warmup=2) rises to it over two epochs"),
        "step": ("atras.schedules.step:Step", "falls at certain epochs: step(every=10) or step(at=(100, 150))"),
        "cosine": ("atras.schedules.cosine:Cosine", "falls along half a cosine: cosine(warmup=2)"),
        "cyclic": ("atras.schedules.cyclic:Cyclic", "rises and falls along straight lines: cyclic(peak=0.4)"),
        "one-cycle": ("atras.schedules.one_cycle:OneCycle", "rises, then falls to nearly nothing"),
    },
    base=Schedule,
    group="atras.schedules",
)
