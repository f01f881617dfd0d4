"""The options of an experiment, part by part, each described here and nowhere else. `Protocol` combines the parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from atras.attacks import ATTACKS, FGSM, Attack, check_target
from atras.checks import distinct, number, text, whole
from atras.defences import DEFENCES, Copies, Defence
from atras.errors import InputError, shown
from atras.networks import (
    NETWORK_TEXTS,
    PAPER_CANDIDATES,
    STEMS,
    Candidate,
    begins_with_layer,
    distinct_names,
    parse_stem,
)

from .axes import Axis, axes_of, check_axes, check_only
from .kinds import ATTACK_LIST, AXES, CANDIDATES, DEFENCE, EPSILON, EPSILONS, NAMES, SEEDS, SIZE, TEXTS, WHOLE
from .option import Option, Options
from .ranges import number_from, whole_from
from .readers import Channels, Size, Subset

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu", "elu", "leaky-relu", "softplus"]
Initialisation = Literal["glorot", "he", "lecun", "ntk", "pytorch"]
LabelSource = Literal["predicted", "true"]
TransferSeeds = Literal["same", "other", "all"]

PAPER_DEFENCE = Copies()


def _check_size(name: str, value: object) -> None:
    if value not in ("default", "all"):
        whole(name, value, 1, 10**9)


def _check_candidates(name: str, value: object) -> None:
    def one(candidate: object) -> None:
        if not isinstance(candidate, Candidate):
            raise InputError(
                f"{name} (={shown(candidate)}): expected a tuple of Candidate, such as Candidate((24, 192))"
            )

    distinct(name, value, one)


def _check_seeds(name: str, value: object) -> None:
    distinct(name, value, lambda seed: whole("seed", seed, 0, 2**63 - 1))


def _check_weights(name: str, value: object) -> None:
    digests = value if isinstance(value, tuple) else (None,)
    for digest in digests:
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(
                f"{name} (={shown(digest)}): expected a SHA-256 of each network; see `atras attack --help`"
            )


def _check_stem(name: str, value: str) -> None:
    text(name, value)
    if value != "auto" and value not in STEMS and not begins_with_layer(value):
        raise InputError(
            f"{name} (={shown(value)}): expected one of auto, {', '.join(STEMS)}, or layers, such as c32p2-c64p2"
        )
    if value != "auto":
        parse_stem(value)


def _check_target(name: str, value: str) -> None:
    text(name, value)
    check_target(value)


def _check_attacks(_: str, value: object) -> None:
    def one(attack: object) -> None:
        if not isinstance(attack, Attack):
            raise InputError(f"attack (={shown(attack)}): expected an attack, such as PGD(steps=40) or 'pgd(steps=40)'")
        if attack.bounds != (0.0, 1.0):
            raise InputError(
                f"attack (={attack!r}): expected bounds 0 to 1, which pixels of a run have; leave them out"
            )

    distinct("attack", value, one)


def _check_transferred(name: str, value: object) -> None:
    _check_attacks(name, value)
    for attack in value if isinstance(value, tuple) else ():
        if attack.surrogate is not None:
            raise InputError(
                f"{name} (={attack}): expected an attack without surrogate, as all sources make it; leave it out"
            )


def _check_chosen(name: str, value: object) -> None:
    if value != ():
        _check_candidates(name, value)


def _check_epsilons(name: str, value: object) -> None:
    if value != ():
        distinct(name, value, lambda epsilon: number(name, epsilon, 0.0, 1e6))


def _check_defence(name: str, value: object) -> None:
    if not isinstance(value, Defence):
        raise InputError(f"{name} (={shown(value)}): expected one of {', '.join(DEFENCES)}")


def _candidates_of(value: Any) -> Any:
    """Candidates in place of the texts that spell them, or of their layers; modules of the user get names of their
    own."""
    if not isinstance(value, tuple | list):
        return value
    found = tuple(_candidate_of(each) for each in value)
    return distinct_names(found) if all(isinstance(each, Candidate) for each in found) else found


def _candidate_of(value: Any) -> Any:
    if isinstance(value, str):
        return Candidate.parse(value)
    return Candidate(value) if isinstance(value, tuple | list) else value


def _attacks_of(value: Any) -> Any:
    """Attacks in place of the texts that spell them."""
    if not isinstance(value, tuple | list):
        return value
    return tuple(ATTACKS.parse(each) if isinstance(each, str) else each for each in value)


def _defence_of(value: Any) -> Any:
    """A defence in place of the text that spells it."""
    return DEFENCES.parse(value) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Data(Options):
    """The images that networks are trained and tested on."""

    panel = "Data"

    dataset: Annotated[
        str,
        Option(
            "data set: digits, mnist, fashion-mnist, kmnist, cifar10, cifar100, svhn, one of MedMNIST's, a folder of "
            "images, of Parquet or of IDX files, or an .npz file",
            metavar="NAME",
            path=True,
            meaning="MedMNIST's by name: pathmnist, bloodmnist, and so on.",
        ),
    ] = "digits"
    train_size: Annotated[
        Size,
        Option(
            "images to train on, or all", _check_size, kind=SIZE, metavar="N", default="5000 or fewer",
            meaning="Of the training part; `default` is 5,000 as in the paper, or all where the part has fewer; `all` "
            "is all.",
        ),
    ] = "default"  # fmt: skip
    test_size: Annotated[
        Size,
        Option(
            "images to test on, or all", _check_size, kind=SIZE, metavar="N", default="5000 or fewer",
            meaning="Of the test part, likewise.",
        ),
    ] = "default"  # fmt: skip
    subset: Annotated[
        Subset,
        Option(
            "which images, where not all are taken",
            meaning="`first` is the start of each part, as in the paper. `stratified` is a draw in which every class "
            "has its share, the same on every machine: for files that are sorted.",
        ),
    ] = "first"  # fmt: skip
    channels: Annotated[
        Channels,
        Option(
            "which axis of an .npz file's images has the channels",
            meaning="`first` for [N, C, H, W], `last` for [N, H, W, C]; `auto` is the one of both that has at most 4, "
            "and refuses where both have or neither. Images [N, H, W] have one channel.",
        ),
    ] = "auto"  # fmt: skip
    image_size: Annotated[
        int | None,
        Option(
            "side of the squares that image files are brought to", whole_from(1, 4096), metavar="N",
            default="as they are", kind=WHOLE,
            meaning="Of a folder of images or of Parquet files: resized by the shorter side (bilinear, antialiased), "
            "then cropped at the centre. It may be left out where all images have one size. Of MedMNIST: 28, 64, 128 "
            "or 224, whichever file is there.",
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Population(Options):
    """The members: each candidate once with each seed."""

    panel = "Population"

    candidates: Annotated[
        tuple[Candidate, ...],
        Option(
            "one candidate: its hidden layers, or the name of a network; may be repeated", _check_candidates,
            kind=CANDIDATES, key="hidden", also="network", repeat=True, metavar="24,192|NAME", default="the paper's 40",
            besides=NETWORK_TEXTS, accept=_candidates_of,
            meaning="The architectures, in the order of the result table. `24-192` are dense layers, behind the run's "
            "stem; `c40-c80` 3x3 convolutions, each with a 2x2 max-pool while the image has two rows and columns; "
            "docs/networks.md has the whole grammar. `mine.py:make` is what that function of that file makes: "
            "docs/own_networks.md.",
        ),
    ] = PAPER_CANDIDATES  # fmt: skip
    seeds: Annotated[
        tuple[int, ...],
        Option(
            "each candidate once with each: 0-4 or 0,3,7", _check_seeds, kind=SEEDS, metavar="0-4", default="0",
            meaning="Each (candidate, seed) pair is one member of the population.",
        ),
    ] = (0,)  # fmt: skip
    axes: Annotated[
        tuple[Axis, ...],
        Option(
            "several values of a setting: learning_rate=1e-3,3e-3; may be repeated", check_axes, kind=AXES,
            flag="--axis", repeat=True, metavar="NAME=V1,V2", default="none", accept=axes_of,
            meaning="Each candidate is trained with each seed once for every combination of values, which are written "
            "as those of the setting's own option: `defence=copies(fgsm),batch(pgd(steps=7))`. A value with a comma of "
            "its own stands in brackets: `augment=none,(crop,flip)`. Of settings of the model, the training, the "
            "attack and the defence, but for lists. In Python `axes={\"learning_rate\": (1e-3, 3e-3)}`; "
            "see docs/variants.md.",
        ),
    ] = ()  # fmt: skip
    only: Annotated[
        tuple[str, ...],
        Option(
            "the candidates in variants that there are, where not each is in each", check_only, kind=TEXTS,
            recorded=True,
            meaning="By their names in rankings, such as `24-192 learning_rate=0.003`; empty for all. A search trains "
            "what it kept.",
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    """Networks that are finished when a run begins: nothing is trained."""

    panel = "Population"

    weights: Annotated[
        tuple[str, ...],
        Option(
            "SHA-256 of the weights of each finished network", _check_weights, kind=TEXTS, recorded=True,
            meaning="In the order of the candidates; empty where the run trains them.",
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Model(Options):
    """The shared part of all networks: stem, activation, initialisation and dropout."""

    panel = "Model"

    stem: Annotated[
        str,
        Option(
            "convolutions before the hidden layers", _check_stem, metavar="auto|none|conv2|conv4",
            default="auto, by image",
            meaning="A name, or layers as they are spelled, such as `c32p2-c64p2`, before all candidates. `auto` goes "
            "by image shape, and is for those alone that begin with a dense layer and have no name of their own.",
        ),
    ] = "auto"  # fmt: skip
    activation: Annotated[
        Activation,
        Option(
            "of hidden units",
            meaning="The stem's included. The leaky ReLU's slope below 0 is 0.01. Engine `fused` has the first four.",
        ),
    ] = "relu"
    initialisation: Annotated[
        Initialisation,
        Option(
            "of weights",
            meaning="`glorot`, `he` and `lecun` are uniform, of variance 2 / (fan in + fan out), 2 / fan in and "
            "1 / fan in; `ntk` is normal, of variance 1 / fan in; `pytorch` is what its layers begin with, uniform, of "
            "variance 1 / (3 fan in), biases too. All others' biases start at zero.",
        ),
    ] = "glorot"
    head_dropout: Annotated[
        float,
        Option(
            "share of hidden units dropped in training", number_from(0.0, 0.99), metavar="X",
            meaning="In each hidden layer of a candidate; rounded to 1/256.",
        ),
    ] = 0.0  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Attacking(Options):
    """The paper's attack, and those that networks are also evaluated under."""

    panel = "Attack"

    epsilon: Annotated[
        float,
        Option(
            "largest change of a pixel in 0 to 1; 0.05 or 8/255", number_from(0.0, 1.0), kind=EPSILON, metavar="X",
            meaning="The strength of every attack without an epsilon of its own, in pixels of [0, 1].",
        ),
    ] = 0.05  # fmt: skip
    label_source: Annotated[
        LabelSource,
        Option(
            "whose label it moves away from",
            meaning="The attacked model's own prediction, or the true label; of the paper's attack.",
        ),
    ] = "predicted"  # fmt: skip
    target: Annotated[
        str,
        Option(
            "move towards class:3, random or least-likely", _check_target, flag="--targeted", metavar="CLASS",
            meaning="`none` for the untargeted attack. A targeted one moves towards that class, which makes the label "
            "source irrelevant to the direction.",
        ),
    ] = "none"  # fmt: skip
    attacks: Annotated[
        tuple[Attack, ...],
        Option(
            "also attack both models with this one; may be repeated", _check_attacks, kind=ATTACK_LIST,
            flag="--attack", repeat=True, metavar="NAME", default="fgsm", accept=_attacks_of, choices=ATTACKS,
            meaning="Both models are also attacked with each, made on the model attacked; FGSM at the true label "
            "always is. An attack without an epsilon of its own takes the run's, and those of `--epsilons`.",
        ),
    ] = (FGSM(),)  # fmt: skip
    epsilons: Annotated[
        tuple[float, ...],
        Option(
            "also measure attacks at these strengths", _check_epsilons, kind=EPSILONS, metavar="0,0.02,8/255",
            default="none",
            meaning="Every bounded attack that has no epsilon of its own, each in its own norm (in `linf`, up to 1); "
            "FGSM at the true label too. An attack in another norm than `linf` is measured at these alone.",
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Defending(Options):
    """The defence of networks by a second training."""

    panel = "Attack"

    defence: Annotated[
        Defence,
        Option(
            "how the second training defends", _check_defence, kind=DEFENCE, metavar="NAME", accept=_defence_of,
            choices=DEFENCES,
        ),
    ] = PAPER_DEFENCE  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Evaluation(Options):
    """The additional evaluations."""

    panel = "Output"

    transfer: Annotated[
        bool,
        Option(
            "evaluate every candidate on every other one's attack", panel="Attack",
            meaning="On its adversarial test images, seed by seed, or as the next four say.",
        ),
    ] = False  # fmt: skip
    transfer_attacks: Annotated[
        tuple[Attack, ...],
        Option(
            "attack to transfer; may be repeated", _check_transferred, kind=ATTACK_LIST, panel="Attack",
            flag="--transfer-attack", repeat=True, metavar="NAME", default="fgsm", accept=_attacks_of,
            meaning="Made on the sources, tried on the targets; spelled as in `--attack`, without a surrogate.",
        ),
    ] = (FGSM(),)  # fmt: skip
    transfer_seeds: Annotated[
        TransferSeeds,
        Option(
            "seeds of source and target", panel="Attack",
            meaning="`same`: both have one seed. `other`: they differ, so that copies of one candidate attack each "
            "other. `all`: every pair.",
        ),
    ] = "same"  # fmt: skip
    transfer_sources: Annotated[
        tuple[Candidate, ...],
        Option(
            "candidate to transfer attacks from; may be repeated", _check_chosen, kind=NAMES, panel="Attack",
            flag="--transfer-source", repeat=True, metavar="24-192", default="all",
        ),
    ] = ()  # fmt: skip
    transfer_targets: Annotated[
        tuple[Candidate, ...],
        Option(
            "candidate to transfer attacks to; may be repeated", _check_chosen, kind=NAMES, panel="Attack",
            flag="--transfer-target", repeat=True, metavar="24-192", default="all",
        ),
    ] = ()  # fmt: skip
    outcomes: Annotated[
        Literal["auto", "all", "none"],
        Option(
            "keep what became of every test image", metavar="auto|all|none",
            meaning="In frame `outcomes`, under every attack. `auto` keeps them up to 2,000,000 rows; `--dry-run` says "
            "how many there are, and their size.",
        ),
    ] = "auto"  # fmt: skip
    evaluate_every: Annotated[
        int,
        Option(
            "epochs between test accuracies; 0 for none", whole_from(0, 10**6), metavar="N",
            meaning="While it trains.",
        ),
    ] = 0  # fmt: skip
