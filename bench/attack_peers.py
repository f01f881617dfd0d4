"""Attacks of other libraries, each as a function of a network, images, labels, epsilon and budget.

Every library is imported when it is asked for, so that those that are not installed are passed over by name. Random
numbers are torch's and numpy's, seeded by the caller; where an attack has a seed of its own it is that one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Budget:
    """What an attack may spend, alike for all: see `attack_verdicts.py --help`."""

    steps: int
    targets: int
    queries: int
    cw_steps: int


@dataclass(frozen=True)
class Case:
    """One attack on one network: images [B, C, H, W] of pixels in [0, 1], labels int64 [B], largest change, seed."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float
    seed: int
    budget: Budget

    @property
    def classes(self) -> int:
        return int(self.network(self.images[:1]).shape[1])


Call = Callable[[Case], Tensor]
Attacks = dict[tuple[str, str], Call]
"""By the attack's name here and the norm: the adversarial images [B, C, H, W]."""

UPPER = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def authors(package: str) -> Attacks:
    """The official code, and its copy under another name."""

    def part(module: str) -> Any:
        return importlib.import_module(f"{package}.{module}")

    def apgd(case: Case, norm: str, loss: str) -> Tensor:
        kind = part("autopgd_base").APGDAttack
        attack = kind(
            case.network, n_iter=case.budget.steps, norm=UPPER[norm], n_restarts=1, eps=case.epsilon, seed=case.seed,
            loss=loss, device="cpu", use_largereps=norm == "l1",
        )  # fmt: skip
        return attack.perturb(case.images, case.labels)

    def apgd_t(case: Case, norm: str) -> Tensor:
        attack = part("autopgd_base").APGDAttack_targeted(
            case.network, n_iter=case.budget.steps, norm=UPPER[norm], n_restarts=1, eps=case.epsilon, seed=case.seed,
            device="cpu", n_target_classes=min(case.budget.targets, case.classes - 1), use_largereps=norm == "l1",
        )  # fmt: skip
        return attack.perturb(case.images, case.labels)

    def fab_t(case: Case, norm: str) -> Tensor:
        attack = part("fab_pt").FABAttack_PT(
            case.network, norm=UPPER[norm], n_restarts=1, n_iter=case.budget.steps, eps=case.epsilon, seed=case.seed,
            targeted=True, device="cpu", n_target_classes=min(case.budget.targets, case.classes - 1),
        )  # fmt: skip
        return attack.perturb(case.images, case.labels)

    def square(case: Case, norm: str) -> Tensor:
        attack = part("square").SquareAttack(
            case.network, norm=UPPER[norm], n_queries=case.budget.queries, eps=case.epsilon, p_init=0.8, n_restarts=1,
            seed=case.seed, resc_schedule=False, device="cpu",
        )  # fmt: skip
        return attack.perturb(case.images, case.labels)

    found: Attacks = {}
    for norm in UPPER:
        found["apgd", norm] = lambda case, norm=norm: apgd(case, norm, "ce")
        found["apgd-dlr", norm] = lambda case, norm=norm: apgd(case, norm, "dlr")
        found["apgd-t", norm] = lambda case, norm=norm: apgd_t(case, norm)
        found["fab-t", norm] = lambda case, norm=norm: fab_t(case, norm)
        if norm != "l1":
            found["square", norm] = lambda case, norm=norm: square(case, norm)
    return found


def torchattacks() -> Attacks:
    kinds = importlib.import_module("torchattacks")

    def called(name: str, **options: Callable[[Case], Any]) -> Call:
        def call(case: Case) -> Tensor:
            own = {option: value(case) for option, value in options.items()}
            return getattr(kinds, name)(case.network, **own)(case.images, case.labels)

        return call

    def steps(case: Case) -> int:
        return case.budget.steps

    def length(case: Case) -> float:
        return 2.5 * case.epsilon / case.budget.steps

    def epsilon(case: Case) -> float:
        return case.epsilon

    def classes(case: Case) -> int:
        return min(case.budget.targets, case.classes - 1) + 1

    def seed(case: Case) -> int:
        return case.seed

    found: Attacks = {
        ("pgd", "linf"): called("PGD", eps=epsilon, alpha=length, steps=steps, random_start=lambda _: False),
        ("pgd", "l2"): called("PGDL2", eps=epsilon, alpha=length, steps=steps, random_start=lambda _: False),
        ("cw", "l2"): called("CW", steps=lambda case: case.budget.cw_steps),
        ("deepfool", "l2"): called("DeepFool"),
    }
    for norm in ("linf", "l2"):
        shared: dict[str, Callable[[Case], Any]] = {
            "norm": lambda _, norm=norm: UPPER[norm],
            "eps": epsilon,
            "seed": seed,
        }
        found["apgd", norm] = called("APGD", **shared, steps=steps)
        found["apgd-dlr", norm] = called("APGD", **shared, steps=steps, loss=lambda _: "dlr")
        found["apgd-t", norm] = called("APGDT", **shared, steps=steps, n_classes=classes)
        found["fab-t", norm] = called("FAB", **shared, steps=steps, multi_targeted=lambda _: True, n_classes=classes)
        found["square", norm] = called(
            "Square", **shared, n_queries=lambda case: case.budget.queries, resc_schedule=lambda _: False
        )
    return found


def adv_lib() -> Attacks:
    if importlib.util.find_spec("visdom") is None:  # draws its progress, if it is asked to
        sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    kinds = importlib.import_module("adv_lib.attacks")
    found: Attacks = {
        ("cw", "l2"): lambda case: kinds.carlini_wagner_l2(
            case.network, case.images, case.labels, max_iterations=case.budget.cw_steps
        ),
        ("pgd", "linf"): lambda case: kinds.pgd_linf(
            case.network, case.images, case.labels, case.epsilon, steps=case.budget.steps, random_init=False,
            relative_step_size=2.5 / case.budget.steps,
        ),
    }  # fmt: skip

    def apgd(case: Case, norm: str, loss: str) -> Tensor:
        return kinds.apgd(
            case.network, case.images, case.labels, case.epsilon, ORDER[norm], n_iter=case.budget.steps,
            loss_function=loss, use_large_reps=norm == "l1",
        )  # fmt: skip

    def apgd_t(case: Case, norm: str) -> Tensor:
        return kinds.apgd_targeted(
            case.network, case.images, case.labels, case.epsilon, ORDER[norm], n_iter=case.budget.steps,
            use_large_reps=norm == "l1", num_targets=min(case.budget.targets, case.classes - 1),
        )  # fmt: skip

    def fab_t(case: Case, norm: str) -> Tensor:
        restarts = min(case.budget.targets, case.classes - 1)
        return kinds.fab(
            case.network, case.images, case.labels, ORDER[norm], n_iter=case.budget.steps, ε=case.epsilon,
            restarts=restarts, targeted_restarts=True,
        )  # fmt: skip

    for norm in UPPER:
        found["apgd", norm] = lambda case, norm=norm: apgd(case, norm, "ce")
        found["apgd-dlr", norm] = lambda case, norm=norm: apgd(case, norm, "dlr")
        found["apgd-t", norm] = lambda case, norm=norm: apgd_t(case, norm)
        found["fab-t", norm] = lambda case, norm=norm: fab_t(case, norm)
        found["fmn", norm] = lambda case, norm=norm: kinds.fmn(
            case.network, case.images, case.labels, ORDER[norm], steps=case.budget.steps
        )
        if norm != "l1":
            found["deepfool", norm] = lambda case, norm=norm: kinds.df(
                case.network, case.images, case.labels, norm=ORDER[norm], steps=50, return_unsuccessful=True
            )
    return found


def foolbox() -> Attacks:
    package = importlib.import_module("foolbox")
    kinds = package.attacks

    def made(attack: Callable[[Case], Any], bounded: bool) -> Call:
        def call(case: Case) -> Tensor:
            model = package.PyTorchModel(case.network, bounds=(0, 1), device="cpu")
            return attack(case)(model, case.images, case.labels, epsilons=case.epsilon if bounded else None)[1]

        return call

    def pgd(kind: str) -> Call:
        return made(
            lambda case: getattr(kinds, kind)(
                rel_stepsize=2.5 / case.budget.steps, steps=case.budget.steps, random_start=False
            ),
            bounded=True,
        )

    def fmn(kind: str) -> Call:
        return made(lambda case: getattr(kinds, kind)(steps=case.budget.steps), bounded=False)

    return {
        ("pgd", "linf"): pgd("LinfPGD"),
        ("pgd", "l2"): pgd("L2PGD"),
        ("fmn", "linf"): fmn("LInfFMNAttack"),
        ("fmn", "l2"): fmn("L2FMNAttack"),
        ("fmn", "l1"): fmn("L1FMNAttack"),
        ("deepfool", "l2"): made(lambda _: kinds.L2DeepFoolAttack(overshoot=0.02), bounded=False),
        ("deepfool", "linf"): made(lambda _: kinds.LinfDeepFoolAttack(overshoot=0.02), bounded=False),
        ("cw", "l2"): made(lambda case: kinds.L2CarliniWagnerAttack(steps=case.budget.cw_steps), bounded=False),
    }


def art() -> Attacks:
    kinds = importlib.import_module("art.attacks.evasion")
    estimators = importlib.import_module("art.estimators.classification")

    def made(kind: str, options: Callable[[Case], dict[str, Any]], **shared: Any) -> Call:
        def call(case: Case) -> Tensor:
            classifier = estimators.PyTorchClassifier(
                case.network, nn.CrossEntropyLoss(reduction="sum"), tuple(case.images.shape[1:]), case.classes,
                clip_values=(0.0, 1.0), device_type="cpu",
            )  # fmt: skip
            attack = getattr(kinds, kind)(
                classifier, **options(case), **shared, batch_size=len(case.images), verbose=False
            )
            labels = np.eye(case.classes, dtype=np.float32)[case.labels.numpy()]
            return torch.from_numpy(attack.generate(case.images.numpy(), y=labels))

        return call

    def pgd(case: Case) -> dict[str, Any]:
        steps = case.budget.steps
        return {"eps": case.epsilon, "eps_step": 2.5 * case.epsilon / steps, "max_iter": steps}

    def apgd(case: Case) -> dict[str, Any]:
        return {"eps": case.epsilon, "eps_step": 2 * case.epsilon, "max_iter": case.budget.steps}

    def apgd_t(case: Case, norm: str) -> Tensor:
        """One wrong class after the other, the likeliest first, on the images that are left."""
        best = case.images.clone()
        with torch.no_grad():
            others = case.network(case.images).scatter(1, case.labels[:, None], -torch.inf)
        call = made("AutoProjectedGradientDescent", apgd, norm=ORDER[norm], nb_random_init=1, targeted=True,
                    loss_type="difference_logits_ratio")  # fmt: skip
        for target in others.argsort(1, descending=True)[:, : min(case.budget.targets, case.classes - 1)].T:
            left = (case.network(best).argmax(1) == case.labels).nonzero()[:, 0]
            if len(left):
                best[left] = call(replace(case, images=case.images[left], labels=target[left]))
        return best

    found: Attacks = {
        ("cw", "l2"): made(
            "CarliniL2Method", lambda case: {"max_iter": case.budget.cw_steps}, binary_search_steps=9,
            initial_const=1e-3,
        ),
        ("deepfool", "l2"): made("DeepFool", lambda case: {"nb_grads": case.classes}, max_iter=50, epsilon=0.02),
    }  # fmt: skip
    for norm in ("linf", "l2"):
        order = ORDER[norm]
        found["pgd", norm] = made("ProjectedGradientDescent", pgd, norm=order, num_random_init=0)
        found["apgd", norm] = made("AutoProjectedGradientDescent", apgd, norm=order, nb_random_init=1,
                                   loss_type="cross_entropy")  # fmt: skip
        found["apgd-dlr", norm] = made("AutoProjectedGradientDescent", apgd, norm=order, nb_random_init=1,
                                       loss_type="difference_logits_ratio")  # fmt: skip
        found["apgd-t", norm] = lambda case, norm=norm: apgd_t(case, norm)
        found["square", norm] = made(
            "SquareAttack", lambda case: {"eps": case.epsilon, "max_iter": case.budget.queries}, norm=order
        )
    return found


@dataclass(frozen=True)
class Library:
    """A library: the package that is imported, its name in the registry, and its attacks."""

    module: str
    distribution: str | None
    attacks: Callable[[], Attacks]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """`unknown` for one that is no installed distribution."""
        try:
            return version(self.distribution) if self.distribution else "unknown"
        except PackageNotFoundError:
            return "unknown"


LIBRARIES = {
    "official": Library("autoattack", None, lambda: authors("autoattack")),
    "pyautoattack": Library("pyautoattack", "pyautoattack", lambda: authors("pyautoattack")),
    "torchattacks": Library("torchattacks", "torchattacks", torchattacks),
    "adv-lib": Library("adv_lib", "adv-lib", adv_lib),
    "foolbox": Library("foolbox", "foolbox", foolbox),
    "art": Library("art", "adversarial-robustness-toolbox", art),
}
