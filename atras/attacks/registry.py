"""The attacks by name. A new one is a file and a line here; an installed package adds its own by an entry point."""

from __future__ import annotations

from atras.registry import Registry

from .attack import Attack

ATTACKS: Registry[Attack] = Registry(
    "attack",
    {
        "fgsm": ("atras.attacks.fgsm:FGSM", "one step along the sign of the loss gradient"),
        "random-fgsm": ("atras.attacks.pgd:RandomFGSM", "that step from a random start"),
        "pgd": (
            "atras.attacks.pgd:PGD",
            "many steps along the gradient, with random starts, inside the ball of epsilon",
        ),
        "apgd": ("atras.attacks.apgd:APGD", "PGD with momentum whose step size follows from its progress"),
        "apgd-t": ("atras.attacks.apgd:APGDT", "APGD towards one wrong class after the other"),
        "fab-t": ("atras.attacks.fab:FABT", "the smallest change that crosses the boundary with a wrong class"),
        "square": ("atras.attacks.square:Square", "random search with squares of pixels, without gradients"),
        "autoattack": ("atras.attacks.autoattack:AutoAttack", "APGD, APGD-T, FAB-T and Square, each on what is left"),
        "deepfool": (
            "atras.attacks.deepfool:DeepFool",
            "the smallest change it can find that crosses a class boundary",
        ),
        "cw": ("atras.attacks.cw:CW", "the smallest change in l2 that it can find, by Adam"),
        "fmn": ("atras.attacks.fmn:FMN", "the smallest change it can find, in a ball that follows its success"),
        "random-signs": (
            "atras.attacks.random_signs:RandomSigns",
            "every pixel by epsilon up or down, as chance has it: a control",
        ),
        "kl": ("atras.attacks.kl:KL", "steps away from the network's own answer, by their divergence: TRADES's"),
    },
    base=Attack,
    group="atras.attacks",
)
