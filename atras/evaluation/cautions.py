"""Figures that need a second look: members that did not train, gradients that mislead, attacks that were only learned.

Source: Athalye, Carlini, Wagner 2018, section 3.1 (signs of masked gradients); Wong, Rice, Kolter 2020, section 5.4
(catastrophic overfitting).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atras.registry import name_of

from .recorder import Row, Rows

NOISE = 0.01
"""Share of the images by which FGSM may be better than PGD without a word: a random start may miss a few."""

WIDE = 0.5
"""Epsilon from which on FGSM can make any image unreadable."""

NO_GRADIENT = 0.01
"""Share of the images that may have no gradient at all without a word: FGSM counts each of them as it is."""

SATURATED = 0.1
"""Share of the images from which on a cross-entropy in float32 would mislead other tools by as much."""

OVERFITTED = 0.2
"""Accuracy under FGSM less that under PGD that tells of catastrophic overfitting; other training stays within 0.1."""

NAMED = 5
"""Most members that one caution names."""


def cautions(rows: Rows, classes: int) -> list[str]:
    """Cautions about a group's figures, a line each.

    Args:
        rows: the group's, complete.
        classes: of the data set.
    """
    members: dict[str, dict[str, None]] = {}
    found = (*_of_table(rows.table), *_of_attacks(rows.metrics, classes), *_of_epochs(rows.metrics))
    for meaning, row in found:
        members.setdefault(meaning, {})[f"{row['hidden_layers']} (seed {row['seed']})"] = None
    for meaning, row, images in _of_gradients(rows.metrics):
        name = f"{row['hidden_layers']} (seed {row['seed']}, {row['phase']}: {images} of {row['n']})"
        members.setdefault(meaning, {})[name] = None
    return [f"{meaning}: {_listed(list(names))}" for meaning, names in members.items()]


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
            yield meanings[str(row["status"])], row
        for clean, attacked in (
            ("test_accuracy", "attacked_accuracy_before_true"),
            ("adversarial_test_accuracy", "attacked_accuracy_after_white_box"),
        ):
            if _number(row[attacked]) > _number(row[clean]):
                yield "more accurate under attack than without, weak gradients?", row


def _of_attacks(metrics: Sequence[Row], classes: int) -> Iterator[tuple[str, Row]]:
    """Signs of masked gradients, from the attacks made on the model evaluated, after its last epoch."""
    fresh = _fresh(metrics)
    fgsm = _by_fgsm(fresh)
    weaker = {(_who(row), row["epsilon"]): row for row in fgsm}
    for row in fresh:
        if row["label_source"] != "true" or row.get("target", "none") != "none":
            continue  # towards a target it is another attack, not a stronger one
        rival = weaker.get((_who(row), row["epsilon"]))
        if name_of(str(row["attack"])) == "pgd" and rival is not None and _accuracy(row) > _accuracy(rival) + NOISE:
            yield "FGSM turns more images than PGD, masked gradients?", row
    widest: dict[object, Row] = {}
    for row in fgsm:
        if _number(row["epsilon"]) >= _number(widest.get(_who(row), {"epsilon": WIDE})["epsilon"]):
            widest[_who(row)] = row
    for row in widest.values():
        if _accuracy(row) > 2 / classes:
            yield f"more than twice chance at epsilon {row['epsilon']:g}, masked gradients?", row


def _of_gradients(metrics: Sequence[Row]) -> Iterator[tuple[str, Row, object]]:
    """Numbers of test images without a gradient, and of those where float32 would have lost that of a cross-entropy.

    A gradient does not depend on the epsilon: the first row of a member and phase speaks for all.
    """
    once: dict[object, Row] = {}
    for row in _by_fgsm(_fresh(metrics)):
        once.setdefault(_who(row), row)
    for row in once.values():
        if _number(row["zero_gradient_images"]) > NO_GRADIENT * _number(row["n"]):
            meaning = "images without any gradient, which no attack by gradients moves, masked gradients?"
            yield meaning, row, row["zero_gradient_images"]
        if _number(row["saturated_images"]) > SATURATED * _number(row["n"]):
            meaning = (
                "images whose label float32 takes for certain (atras follows the log-odds; attacks elsewhere, along a "
                "float32 cross-entropy, may look weaker)"
            )
            yield meaning, row, row["saturated_images"]


def _fresh(metrics: Sequence[Row]) -> list[Row]:
    """Rows of attacks made on the model evaluated, after its last epoch, on test images."""
    return [row for row in metrics if row["mode"] == "white-box" and row["epoch"] is None and row["split"] == "test"]


def _by_fgsm(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["attack"] == "fgsm" and row["label_source"] == "true"]


def _of_epochs(metrics: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Catastrophic overfitting: FGSM and PGD part while the copies are made in every batch."""
    sample = [row for row in metrics if row["epoch"] is not None and row["split"] == "train"]
    fgsm = {(_who(row), row["epoch"]): row for row in sample if row["attack"] == "fgsm"}
    for row in sample:
        rival = fgsm.get((_who(row), row["epoch"]))
        if (
            name_of(str(row["attack"])) == "pgd"
            and rival is not None
            and _accuracy(rival) - _accuracy(row) > OVERFITTED
        ):
            yield f"robust to FGSM but not to PGD by more than {OVERFITTED:g}, catastrophic overfitting", row


def _who(row: Row) -> tuple[object, ...]:
    return row["hidden_layers"], row["seed"], row["phase"]


def _accuracy(row: Row) -> float:
    return _number(row["correct"]) / _number(row["n"])


def _number(value: object) -> float:
    """A figure, or NaN, of which no comparison holds."""
    return float(value) if isinstance(value, int | float) else float("nan")
