"""Figures that need a second look: members that did not train, gradients that mislead, attacks that were only learned.

Source: Athalye, Carlini, Wagner 2018, section 3.1 (signs of masked gradients); Wong, Rice, Kolter 2020, section 5.4
(catastrophic overfitting).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from atras.attacks import ATTACKS
from atras.defences import NoDefence
from atras.networks import told_member
from atras.registry import name_of

from .recorder import Row, Rows
from .unselected import unselected

NOISE = 0.01
"""Share of the images by which a weaker attack, FGSM or one without gradients, may be better without a word: a random
start may miss a few."""

WIDE = 0.5
"""Epsilon from which on FGSM can make any image unreadable."""

NO_GRADIENT = 0.01
"""Share of the images that may have no gradient at all without a word: FGSM counts each of them as it is."""

STATIC = 0.2
"""Accuracy on static adversarial images less that under a new attack from which on the former misleads."""

SATURATED = 0.1
"""Share of the images from which on a cross-entropy in float32 would mislead other tools by as much."""

OVERFITTED = 0.2
"""Accuracy under FGSM less that under PGD that tells of catastrophic overfitting; other training stays within 0.1."""

CLEAR = 1.96
"""Standard errors above the majority share up to which an accuracy's 95 % interval reaches down to that share."""

BLIND = 3.0
"""Standard errors above the majority share that answers which do not depend on the images pass once in 740 figures."""

NAMED = 5
"""Most members that one caution names."""


def cautions(rows: Rows) -> list[str]:
    """Cautions about a group's figures, a line each.

    Args:
        rows: the group's, complete.
    """
    members: dict[str, dict[str, None]] = {}
    for meaning, row in (*unselected(rows), *_of_table(rows.table), *_of_clean(rows), *_of_attacks(rows.metrics)):
        members.setdefault(meaning, {})[_told(row)] = None
    for meaning, row, epochs in _of_epochs(rows.metrics):
        members.setdefault(meaning, {})[_told(row, epochs)] = None
    for meaning, row, images in _of_gradients(rows.metrics):
        members.setdefault(meaning, {})[_told(row, f"{row['phase']}: {images} of {row['n']}")] = None
    return [f"{meaning}: {_listed(list(names))}" for meaning, names in members.items()]


def transfer_cautions(transfer: Sequence[Row], metrics: Sequence[Row]) -> list[str]:
    """Cautions about networks that images made on others turn more often than those made on themselves, a line each.

    Args:
        transfer, metrics: rows of these frames, of all members.
    """
    white_box = {_attacked(row): _accuracy(row) for row in _untargeted(_fresh(metrics))}
    rows = [_with_target(row) for row in _untargeted(transfer)]
    white_box |= {_attacked(row): _accuracy(row) for row in rows if _alone(row)}
    members: dict[str, dict[str, None]] = {}
    for row in rows:
        if not _on_itself(row) and white_box.get(_attacked(row), math.nan) > _accuracy(row) + NOISE:
            meaning = f"{row['attack']} turns more images made on other networks than on itself, masked gradients?"
            members.setdefault(meaning, {})[_told(row, row["phase"])] = None
    return [f"{meaning}: {_listed(list(names))}" for meaning, names in members.items()]


def _with_target(row: Row) -> Row:
    """A row of frame `transfer` whose target stands where other frames have the member."""
    return row | {"hidden_layers": row["target_hidden_layers"]}


def _alone(row: Row) -> bool:
    """Whether the images of a transfer were made on its target alone."""
    return (
        _on_itself(row)
        and row["source_hidden_layers"] == row["target_hidden_layers"]
        and row["source_phase"] is not None
    )


def _on_itself(row: Row) -> bool:
    """Whether the target of a transfer is, or may be, among the networks that its images were made on."""
    names = str(row["source_hidden_layers"]).split("+")
    same = row["source_phase"] in (None, row["phase"]) and row["source_seed"] in (None, row["seed"])
    return same and row["target_hidden_layers"] in names


def _attacked(row: Row) -> tuple[object, ...]:
    return *_who(row), row["attack"], row["epsilon"]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _of_table(table: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    meanings = {
        "dead": "dead, predicts one class for every test image",
        "diverged": "diverged, a loss or a logit is not finite",
    }
    for row in table:
        if row["status"] in meanings:
            defended = row["status"] == "dead" and row.get("defence") != NoDefence.name
            yield meanings[str(row["status"])] + " after the defence" * defended, row
        gross = _number(row.get("attacked_accuracy_after_static")) - _number(row["attacked_accuracy_after_white_box"])
        if row["status"] == "trained" and gross > STATIC:
            yield (
                f"more accurate on the old adversarial images than under a new attack by more than {STATIC:g}: static "
                "figures say little here",
                row,
            )
        for clean, attacked in (
            ("test_accuracy", "attacked_accuracy_before_true"),
            ("adversarial_test_accuracy", "attacked_accuracy_after_white_box"),
        ):
            if _number(row[attacked]) > _number(row[clean]):
                if row["status"] == "dead":
                    yield (
                        "dead, and more accurate under attack than without: attacks move its one answer to other "
                        "classes, which is no robustness",
                        row,
                    )
                else:
                    yield "more accurate under attack than without, weak gradients?", row


def _of_clean(rows: Rows) -> Iterator[tuple[str, Row]]:
    """Members that tell classes apart no better than the one answer that is right most often."""
    told = {_member(row) for row in rows.table if row["status"] != "trained"}
    for row in rows.metrics:
        last = row["mode"] == "clean" and row["epoch"] is None and row["split"] == "test"
        if last and _member(row) not in told and _above_majority(row) <= CLEAR:
            when = "before the defence " if row["phase"] == "trained" else "after the defence "
            when = "" if row.get("defence") == NoDefence.name else when
            yield f"{when}not clearly more accurate than always answering the most frequent class", row


def _of_attacks(metrics: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Signs of masked gradients, from the attacks made on the model evaluated, after its last epoch."""
    fresh = _fresh(metrics)
    fgsm = _by_fgsm(fresh)
    weaker = {(_who(row), row["epsilon"], row.get("norm")): row for row in fgsm}
    for row in _untargeted(fresh):
        rival = weaker.get((_who(row), row["epsilon"], row.get("norm")))
        if name_of(str(row["attack"])) == "pgd" and rival is not None and _accuracy(row) > _accuracy(rival) + NOISE:
            yield "FGSM turns more images than PGD, masked gradients?", row
    yield from _of_blind_attacks(fresh)
    widest: dict[object, Row] = {}
    for row in fgsm:
        if _number(row["epsilon"]) >= _number(widest.get(_who(row), {"epsilon": WIDE})["epsilon"]):
            widest[_who(row)] = row
    for row in widest.values():
        if _above_majority(row) > BLIND:
            epsilon = f"{row['epsilon']:g}"
            yield f"more accurate than the most frequent class at epsilon {epsilon}, masked gradients?", row


def _of_blind_attacks(fresh: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Attacks without gradients that do better than all by gradients in their ball."""
    best: dict[object, float] = {}
    blind = []
    for row in _untargeted(fresh):
        if name_of(str(row["attack"])) not in ATTACKS:
            continue  # such as the worst case
        attack = ATTACKS.parse(str(row["attack"]))
        if not attack.bounded:
            continue
        ball = (_who(row), row["epsilon"], attack.norm)
        if attack.uses_gradients:
            best[ball] = min(best.get(ball, math.inf), _accuracy(row))
        else:
            blind.append((ball, attack.name, row))
    for ball, name, row in blind:
        if best.get(ball, math.nan) > _accuracy(row) + NOISE:
            yield (
                f"{name}, which follows no gradient, turns more images than attacks by gradients, masked gradients?",
                row,
            )


def _of_gradients(metrics: Sequence[Row]) -> Iterator[tuple[str, Row, object]]:
    """Numbers of test images without a gradient, and of those where float32 would have lost that of a cross-entropy.

    A gradient does not depend on the epsilon: the first row of a member and phase speaks for all.
    """
    once: dict[object, Row] = {}
    for row in _by_fgsm(_fresh(metrics)):
        once.setdefault(_who(row), row)
    for row in once.values():
        if _number(row["zero_gradient_images"]) > NO_GRADIENT * _number(row["n"]):
            yield "images without a gradient, masked gradients?", row, row["zero_gradient_images"]
        if _number(row["saturated_images"]) > SATURATED * _number(row["n"]):
            yield (
                "so sure of images that float32 rounds their probability to 1: the attacks here go on, those of tools "
                "that follow the cross-entropy stand still",
                row,
                row["saturated_images"],
            )
    yield from _of_ascents(metrics)


def _of_ascents(metrics: Sequence[Row]) -> Iterator[tuple[str, Row, object]]:
    """Attacks by lists of pairs that found no gradient where they began, or ended in the midst of a rise."""
    for row in _untargeted(_fresh(metrics)):
        if row.get("unfinished_images") is None:
            continue
        name, n = name_of(str(row["attack"])), _number(row["n"])
        if _number(row["zero_gradient_images"]) > NO_GRADIENT * n:
            yield f"images where {name} has no gradient, masked gradients?", row, row["zero_gradient_images"]
        if _number(row.get("blindly_turned_images")) > NOISE * n:
            images = row["blindly_turned_images"]
            yield f"images that in {name} only the part without gradients turned, masked gradients?", row, images
        if _number(row["unfinished_images"]) > NOISE * n:
            yield f"images that {name} was still turning at its end, take more steps", row, row["unfinished_images"]


def _fresh(metrics: Sequence[Row]) -> list[Row]:
    """Rows of attacks made on the model evaluated, after its last epoch, on test images."""
    return [row for row in metrics if row["mode"] == "white-box" and row["epoch"] is None and row["split"] == "test"]


def _untargeted(rows: Sequence[Row]) -> list[Row]:
    """Rows of attacks at the true label: towards a target it is another attack, not a stronger one."""
    return [row for row in rows if row["label_source"] == "true" and row.get("target", "none") == "none"]


def _by_fgsm(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["attack"] == "fgsm" and row["label_source"] == "true"]


def _of_epochs(metrics: Sequence[Row]) -> Iterator[tuple[str, Row, str]]:
    """Catastrophic overfitting: FGSM and PGD part while adversarial images are made in every batch; and after which
    epochs, from the first to the last."""
    parted: dict[object, list[Row]] = {}
    sample = [row for row in metrics if row["epoch"] is not None and row["split"] == "train"]
    fgsm = {(_who(row), row["epoch"]): row for row in sample if row["attack"] == "fgsm"}
    for row in sample:
        rival = fgsm.get((_who(row), row["epoch"]))
        if (
            name_of(str(row["attack"])) == "pgd"
            and rival is not None
            and _accuracy(rival) - _accuracy(row) > OVERFITTED
        ):
            parted.setdefault(_who(row), []).append(row)
    for rows in parted.values():
        epochs = sorted({int(_number(row["epoch"])) for row in rows})
        when = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        yield f"robust to FGSM but not to PGD by more than {OVERFITTED:g}, catastrophic overfitting", rows[0], when


def _member(row: Row) -> tuple[object, ...]:
    return row["hidden_layers"], row.get("variant", ""), row["seed"]


def _told(row: Row, *more: object) -> str:
    """A row's member for people."""
    return told_member(*_member(row), *more)


def _who(row: Row) -> tuple[object, ...]:
    return *_member(row), row["phase"]


def _accuracy(row: Row) -> float:
    return _number(row["correct"]) / _number(row["n"])


def _above_majority(row: Row) -> float:
    """Standard errors by which an accuracy is above the majority share of its images.

    A network that cannot see the images is right for the share of the class that it answers, or, where it draws its
    answers, for as much but for noise. This is the score test, of which Wilson's interval is the inversion.
    """
    share = _number(row["majority_share"])
    error = math.sqrt(share * (1 - share) / _number(row["n"]))
    return (_accuracy(row) - share) / error if error else _accuracy(row) - share


def _number(value: object) -> float:
    """A figure, or NaN, of which no comparison holds."""
    return float(value) if isinstance(value, int | float) else float("nan")
