"""The attacks by name. A new one is a file and a line here; an installed package adds its own by an entry point."""

from __future__ import annotations

from atras.registry import Registry

from .attack import Attack

ATTACKS: Registry[Attack] = Registry(
    "attack",
    {
        "fgsm": ("atras.attacks.fgsm:FGSM", "one step along the sign of the loss gradient"),
        "random-fgsm": ("atras.attacks.pgd:RandomFGSM", "that step from a random start"),
        "pgd": ("atras.attacks.pgd:PGD", "many steps along the sign, with random starts, inside the ball of epsilon"),
        "deepfool": (
            "atras.attacks.deepfool:DeepFool",
            "the smallest change it can find that crosses a class boundary",
        ),
    },
    base=Attack,
    group="atras.attacks",
)
