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
        "adversarial": (
            "atras.defences.adversarial:Adversarial",
            "adversarial images alone, from scratch: adversarial(pgd(steps=7))",
        ),
        "trades": ("atras.defences.trades:TRADES", "accuracy and an answer that stays within the ball: trades(beta=6)"),
        "mart": ("atras.defences.mart:MART", "adversarial images, misclassified ones foremost: mart(beta=5)"),
        "fast": ("atras.defences.fast:Fast", "one step of FGSM from a random start"),
        "free": ("atras.defences.free:Free", "a perturbation that moves on with every step: free(replays=8)"),
        "fosc": ("atras.defences.fosc:FOSC", "PGD that ends where it has converged enough, more so every epoch"),
        "ensemble": (
            "atras.defences.ensemble:EnsembleTraining",
            "copies made on other networks of the run too: ensemble(k=3)",
        ),
        "logit-pairing": (
            "atras.defences.logit_pairing:LogitPairing",
            "image and adversarial image are to have equal logits; weight=0.5",
        ),
    },
    base=Defence,
    group="atras.defences",
)
