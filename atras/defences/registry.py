"""The defences by name. A new one is a file and a line here; an installed package adds its own by an entry point."""

from __future__ import annotations

from atras.registry import Registry

from .defence import Defence

DEFENCES: Registry[Defence] = Registry(
    "defence",
    {
        "copies": (
            "atras.defences.copies:Copies",
            "the paper's: a copy of every image, made once; copies(source=smallest)",
        ),
        "none": ("atras.defences.none:NoDefence", "no second training: networks are measured once, as they are"),
        "batch": ("atras.defences.batch:BatchCopies", "copies made anew in every batch: batch(pgd(steps=7))"),
    },
    base=Defence,
    group="atras.defences",
)
