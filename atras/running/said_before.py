"""What a run says before it begins: cautions, and its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from atras.attacks import Attack
from atras.data import CHARACTERS, Dataset
from atras.errors import wrapped
from atras.evaluation import keeps_outcomes, outcomes_line
from atras.experiment import Execution, Protocol
from atras.networks import Weights, inspect_factory

from .data_place import DataPlace
from .given import fitted_weights
from .prepare import prepare
from .progress import Reporter


def plan_lines(
    protocol: Protocol,
    execution: Execution,
    config_plan: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    weights: Sequence[Weights] = (),
    width: int = 80,
) -> list[str]:
    """What a `run` with the same arguments says before it begins: cautions, and the plan.

    What its seconds take for granted stands below. The reporter is told of images that are decoded.

    Raises:
        InputError: as `run`.
    """
    load = partial(DataPlace.of(protocol, execution).load, progress=(reporter or Reporter()).decoding)
    prepared = prepare(protocol, execution, config_plan, load)
    fitted_weights(protocol, prepared.spec, weights)
    cautions = cautions_before(protocol, prepared.data)
    outcomes = outcomes_line(protocol, prepared.data.classes, len(prepared.data.test))
    more = [outcomes] if outcomes not in cautions else []
    attacks: list[Attack | None] = []
    for one in protocol.plain:
        attacks += [*one.stronger_attacks, *one.transferred_attacks, getattr(one.defence, "attack", None)]
    names = dict.fromkeys(attack.name for attack in attacks if attack is not None and attack.drops_fooled)
    if names:
        more.append(
            f"as if no image were fooled by {', '.join(names)}: one that is costs no more, so it may take far less; "
            "the time left that a run shows starts from the same figures and is corrected as images are fooled"
        )
    return [*wrapped(cautions, width), *prepared.plan.lines(width), *wrapped(more, width)]


def cautions_before(protocol: Protocol, data: Dataset) -> list[str]:
    """Cautions that are known before a run begins, a line each: about its data, its attacks on them, and outcomes that
    it leaves out by itself; about modules of the user."""
    made = [attack for one in protocol.plain for attack in (*one.stronger_attacks, *one.transferred_attacks)]
    attacks = dict.fromkeys(text for attack in made for text in attack.cautions(data.classes))
    left_out = protocol.outcomes == "auto" and not keeps_outcomes(protocol, len(data.test))
    outcomes = [outcomes_line(protocol, data.classes, len(data.test))] if left_out else []
    own = [inspect_factory(factory, data.image_shape).cautions for factory in protocol.factories.values()]
    modules = [text for texts in own for text in texts]
    augmentation = dict.fromkeys(text for one in protocol.plain for text in augmentation_cautions(one, data))
    return [*data.cautions, *augmentation, *attacks, *outcomes, *modules]


def augmentation_cautions(protocol: Protocol, data: Dataset) -> list[str]:
    """Cautions about augmentation that changes what images are of, a line each."""
    if "flip" not in protocol.augment.split(",") or data.name not in CHARACTERS:
        return []
    return [
        f"augment: mirrored images of {data.name} are often no longer of their class (a 2 is no 2 in a mirror); take "
        "--augment crop"
    ]
