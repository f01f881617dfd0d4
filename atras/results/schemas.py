"""Every column of every result frame: its type and its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from atras.version import SCHEMA


class Column(NamedTuple):
    """Type and meaning of one column."""

    dtype: type[pl.DataType]
    text: str


_DATASET = Column(pl.String, "data set, by name or path")
_HIDDEN_LAYERS = Column(
    pl.String, "the candidate: widths of its hidden layers, first to last, such as `24-192`; or a name"
)
_DEFENCE = Column(pl.String, "how the second training defends, as it is spelled: `copies`, `batch(pgd(steps=7))`")
_NORM = Column(
    pl.String,
    "in which the change is bounded, or measured: `linf` (of one pixel), `l2` (Euclidean length) or `l1` (sum of all); "
    "null without an attack",
)
_VARIANT = Column(
    pl.String,
    "settings of the run's axes, such as `learning_rate=0.003 defence=copies`; empty in a run without axes. Behind it "
    "stands a column for each axis, such as `learning_rate`, unless the frame has one of that name: there `epsilon`, "
    "`label_source` and `target` are the attack's",
)
_SEED = Column(pl.Int64, "seed of this member's weights, batch order and dropout")

SCHEMAS: dict[str, dict[str, Column]] = {
    "table": {
        "dataset": _DATASET,
        "hidden_layers": _HIDDEN_LAYERS,
        "depth": Column(
            pl.Int64, "number of hidden layers; of a module of yours, submodules with weights less the last"
        ),
        "parameters": Column(pl.Int64, "trained weights and biases, the stem's included"),
        "variant": _VARIANT,
        "seed": _SEED,
        "defence": _DEFENCE,
        "status": Column(
            pl.String,
            "`trained`; `dead`: one class predicted for all test images after the defence; `diverged`: a loss that is "
            "not finite, accuracies null from there on",
        ),
        "majority_share": Column(
            pl.Float64,
            "share of the most frequent class among the test images: the accuracy of always answering it, a baseline",
        ),
        "train_accuracy": Column(pl.Float64, "trained model, clean training images"),
        "test_accuracy": Column(pl.Float64, "trained model, clean test images"),
        "attacked_accuracy_before": Column(pl.Float64, "trained model, test images attacked at the run's label source"),
        "attacked_accuracy_before_true": Column(pl.Float64, "trained model, test images attacked at the true label"),
        "adversarial_train_accuracy": Column(pl.Float64, "defended model, clean and adversarial training images"),
        "adversarial_test_accuracy": Column(pl.Float64, "defended model, clean test images"),
        "attacked_accuracy_after_static": Column(
            pl.Float64, "defended model, the very images of attacked_accuracy_before"
        ),
        "attacked_accuracy_after_white_box": Column(
            pl.Float64, "defended model, test images attacked anew, at the true label"
        ),
        "worst_case_accuracy_before": Column(
            pl.Float64,
            "trained model, test images that no attack of the run, made on it, turns with a change of at most epsilon",
        ),
        "worst_case_accuracy_after": Column(pl.Float64, "defended model, likewise"),
        "balanced_accuracy_after_white_box": Column(
            pl.Float64, "as attacked_accuracy_after_white_box, as mean over classes of the share of each that is right"
        ),
        "balanced_accuracy_after_worst_case": Column(pl.Float64, "as worst_case_accuracy_after, likewise"),
        "recovery_static": Column(pl.Float64, "attacked_accuracy_after_static - attacked_accuracy_before"),
        "recovery_white_box": Column(pl.Float64, "attacked_accuracy_after_white_box - attacked_accuracy_before_true"),
    },
    "metrics": {
        "dataset": _DATASET,
        "hidden_layers": _HIDDEN_LAYERS,
        "variant": _VARIANT,
        "seed": _SEED,
        "defence": _DEFENCE,
        "phase": Column(pl.String, "evaluated model: `trained` or `defended`"),
        "epoch": Column(pl.Int64, "epoch after which it was evaluated; null after the last"),
        "split": Column(pl.String, "evaluated images: `train`, `test` or `train+adversarial`"),
        "attack": Column(
            pl.String,
            "`none`, or the attack as it is spelled, such as `fgsm`, `pgd(steps=40)`, `deepfool(norm=linf)`; "
            "`worst(fgsm, pgd; partly deepfool)`: an image counts as correct only where none of these turns it with a "
            "change of at most the run's epsilon in every pixel. Those before the semicolon are bounded by it, at the "
            "run's epsilon or a smaller one that is written; of those after it, only the images count that happen to "
            "be within",
        ),
        "norm": _NORM,
        "epsilon": Column(
            pl.Float64,
            "largest change in that norm, in pixels of [0, 1]; null for attacks without a bound, such as `deepfool`",
        ),
        "label_source": Column(pl.String, "label the attack moves away from: `predicted` or `true`; null without one"),
        "target": Column(pl.String, "`none`, `random`, `least-likely` or `class:N`; null without an attack"),
        "source": Column(
            pl.String, "candidate on whose network the images were made; null for the evaluated one's own"
        ),
        "mode": Column(
            pl.String,
            "`clean`; `static`: attack made on the model before its defence; `white-box`: made on the model evaluated",
        ),
        "n": Column(pl.Int64, "images evaluated"),
        "correct": Column(pl.Int64, "images classified correctly; a diverged model has no rows"),
        "accuracy": Column(pl.Float64, "correct / n"),
        "ci_low": Column(pl.Float64, "lower end of the Wilson 95 % interval of the accuracy"),
        "ci_high": Column(pl.Float64, "upper end of that interval"),
        "balanced_accuracy": Column(
            pl.Float64,
            "mean over classes of the share of their images that is classified correctly (recall); classes without "
            "images left out",
        ),
        "majority_share": Column(
            pl.Float64,
            "share of the most frequent class among the images evaluated: the accuracy of always answering it",
        ),
        "zero_gradient_fraction": Column(
            pl.Float64, "share of pixels whose loss gradient is zero, over all steps; null where none was taken"
        ),
        "nan_gradients": Column(
            pl.Int64, "pixels whose loss gradient is NaN, left unchanged, over all steps; null likewise"
        ),
        "zero_gradient_images": Column(
            pl.Int64,
            "images whose loss gradient is zero in every pixel and at every step: nothing to follow; in attacks by "
            "lists of pairs, such as APGD, where one of their runs began; null where none was followed",
        ),
        "unfinished_images": Column(
            pl.Int64,
            "images that APGD did not turn though its objective rose so fast to the end that ten times the rise over "
            "its last tenth of steps would have reached the boundary; null for other attacks",
        ),
        "blindly_turned_images": Column(
            pl.Int64,
            "images that only a part without gradients turned, Square in `autoattack`; null without such a part",
        ),
        "saturated_images": Column(
            pl.Int64,
            "images whose label has, before the attack, a probability that float32 rounds to 1 (log-odds against it "
            "below -25 log 2): there a cross-entropy in float32 has no gradient, log-odds have; null likewise",
        ),
        "attacked": Column(
            pl.Int64,
            "images that the network classifies correctly as they are and that the attack changed: over these are the "
            "next four; null for clean images, and for static ones, which were made on another network",
        ),
        "mean_linf": Column(pl.Float64, "mean of the largest change of a pixel; null without attacked images"),
        "median_linf": Column(pl.Float64, "median of it"),
        "mean_l2": Column(pl.Float64, "mean of the Euclidean length of the change; null likewise"),
        "median_l2": Column(pl.Float64, "median of it"),
        "backend": Column(pl.String, "engine and backend of the attack, such as `stack/cpu`"),
        "precision": Column(
            pl.String,
            "arithmetic of the training behind it: `fp32`, `tf32` or `bf16` (attacks and evaluation in fp32, or to "
            "about its error), or "
            "`fp64`; `bf16+fp32`: begun in the first, gone on with in the second by a run that was resumed elsewhere",
        ),
        "version": Column(pl.String, "version of atras"),
        "protocol_hash": Column(pl.String, "hash of the protocol in run.json"),
    },
    "history": {
        "dataset": _DATASET,
        "hidden_layers": _HIDDEN_LAYERS,
        "variant": _VARIANT,
        "seed": _SEED,
        "phase": Column(pl.String, "`train` or `adversarial`"),
        "epoch": Column(pl.Int64, "epoch of that phase, from 1"),
        "steps": Column(pl.Int64, "optimizer steps in the epoch"),
        "mean_loss": Column(pl.Float64, "mean training loss over the epoch's images, while it trained"),
        "running_accuracy": Column(pl.Float64, "accuracy on the epoch's own batches, while it trained"),
        "validation_robust_accuracy": Column(
            pl.Float64,
            "accuracy under PGD of ten steps on training images held out; null without `--select robust`, and where "
            "logits were not finite",
        ),
        "selected": Column(pl.Boolean, "whether the network of this epoch was kept; null where none was selected"),
        "train_accuracy_under_fgsm": Column(
            pl.Float64,
            "accuracy after the epoch on 100 training images under FGSM at the run's epsilon; null but for defences "
            "that make their images batch by batch",
        ),
        "train_accuracy_under_pgd": Column(
            pl.Float64,
            "on the same images under PGD of ten steps; where it is far below that under FGSM, the network overfits "
            "catastrophically",
        ),
    },
    "timings": {
        "group": Column(pl.Int64, "number of the group in the plan, from 0; null for what concerns all"),
        "phase": Column(pl.String, "part of the work"),
        "members": Column(pl.Int64, "(candidate, seed) pairs in the group"),
        "seconds": Column(
            pl.Float64, "wall time; of the transfer, added up over its tasks, of which workers compute several at once"
        ),
        "steps": Column(pl.Int64, "optimizer steps"),
    },
    "transfer": {
        "dataset": _DATASET,
        "phase": Column(pl.String, "model that is given the adversarial test images: `trained` or `defended`"),
        "source_phase": Column(pl.String, "model on which they were made; null for an ensemble of both"),
        "source_hidden_layers": Column(
            pl.String, "candidate on which they were made; those of an ensemble joined by `+`, such as `24+40-80`"
        ),
        "source_seed": Column(pl.Int64, "its seed; null for an ensemble of several"),
        "target_hidden_layers": Column(pl.String, "candidate that is given them"),
        "variant": Column(pl.String, "of both: members of other variants do not meet"),
        "seed": Column(pl.Int64, "its seed"),
        "attack": Column(pl.String, "as in `metrics`, without its surrogate"),
        "surrogate": Column(
            pl.String, "how an attack of the run spells what it is made on: `independent`; null for `--transfer`"
        ),
        "norm": Column(pl.String, "as in `metrics`"),
        "epsilon": Column(pl.Float64, "as in `metrics`"),
        "label_source": Column(pl.String, "as in `metrics`"),
        "target": Column(pl.String, "as in `metrics`"),
        "n": Column(pl.Int64, "images evaluated"),
        "correct": Column(pl.Int64, "images that the target classifies correctly"),
        "accuracy": Column(pl.Float64, "correct / n"),
        "ci_low": Column(pl.Float64, "lower end of the Wilson 95 % interval of the accuracy"),
        "ci_high": Column(pl.Float64, "upper end of that interval"),
        "protocol_hash": Column(pl.String, "hash of the protocol in run.json"),
    },
    "examples": {
        "dataset": _DATASET,
        "hidden_layers": _HIDDEN_LAYERS,
        "variant": _VARIANT,
        "seed": _SEED,
        "phase": Column(pl.String, "attacked model: `trained` or `defended`"),
        "attack": Column(pl.String, "as in `metrics`"),
        "norm": Column(pl.String, "as in `metrics`"),
        "epsilon": Column(
            pl.Float64, "as in `metrics`: the run's, or the largest that the attack is measured at, where it lacks that"
        ),
        "label_source": Column(pl.String, "as in `metrics`"),
        "target": Column(pl.String, "as in `metrics`"),
        "source": Column(pl.String, "as in `metrics`"),
        "image": Column(pl.Int64, "number of the test image, from 0"),
        "label": Column(pl.Int64, "its true class"),
        "clean_prediction": Column(pl.Int64, "the model's class for the clean image"),
        "attacked_prediction": Column(pl.Int64, "the model's class for the adversarial image"),
        "pixels": Column(pl.Binary, "the clean image, uint8 [C, H, W]"),
        "change": Column(pl.Binary, "the adversarial image less the clean one, pixels of [0, 1] as float16 [C, H, W]"),
    },
    "outcomes": {
        "dataset": _DATASET,
        "hidden_layers": _HIDDEN_LAYERS,
        "variant": _VARIANT,
        "seed": _SEED,
        "defence": _DEFENCE,
        "phase": Column(pl.String, "evaluated model: `trained` or `defended`"),
        "mode": Column(pl.String, "as in `metrics`"),
        "attack": Column(pl.String, "as in `metrics`; `none` for the clean image"),
        "norm": Column(pl.String, "as in `metrics`"),
        "epsilon": Column(pl.Float64, "as in `metrics`"),
        "label_source": Column(pl.String, "as in `metrics`"),
        "target": Column(pl.String, "as in `metrics`"),
        "source": Column(pl.String, "as in `metrics`"),
        "image": Column(pl.UInt32, "number of the test image, from 0"),
        "correct": Column(pl.Boolean, "whether the model's class for the image as the attack left it is the true one"),
        "prediction": Column(pl.UInt32, "that class"),
        "change": Column(pl.Float32, "norm of the image's change, in the attack's own norm; 0 for a clean image"),
        "queries": Column(
            pl.UInt32,
            "forward passes of the image that the attack asked for, those with a gradient left out, and the one that "
            "evaluates what it made; it asks no more once the image is fooled, where it drops such",
        ),
        "gradients": Column(pl.UInt32, "gradients of the image that it asked for, likewise"),
        "made_at": Column(
            pl.Float64,
            "epsilon at which the image was made: below `epsilon` where one that fooled at a smaller epsilon of the "
            "run is carried up, at no cost; null without a bound",
        ),
        "counts": Column(
            pl.Boolean,
            "whether the worst case over attacks counts it: the attack is among those that `worst` names in `metrics`, "
            "and is bounded by the run's epsilon, or changed no pixel by more",
        ),
        "part": Column(
            pl.String,
            "which attack of those that this one is made of turned the image, such as `fab-t` of `autoattack`; null "
            "where none did, where the model's class was wrong before, and for attacks without parts",
        ),
    },
}
"""Every column of every frame. The only place where they are listed."""

FRAMES: dict[str, str] = {
    "table": "A row a candidate, variant and seed, in that order. Also written as `table.csv`.",
    "metrics": "Tidy: a row for every evaluated number, with its provenance.",
    "history": "A row a member and epoch, collected while it trained.",
    "timings": "A row a group and phase. Times stand nowhere else, so that equal runs give equal tables.",
    "transfer": "A row for every network, or ensemble, and every network that is given its adversarial test images: "
    "all pairs of `--transfer`, and attacks on a surrogate. Only of a run that was asked for either.",
    "examples": "Test images, the first ones of every class in turn, under each attack on each member of the first "
    "seed: eight, or as many as keep all pictures of the run below 256 MiB (of 256 x 256 colour pixels and one attack "
    "eight up to 28 candidates, none from 228).",
    "outcomes": "A row a member, phase, figure and test image: of clean images, of every attack and every epsilon. "
    "Only where they are kept (`--outcomes`).",
}
"""The meaning of a row of each frame."""

VERSION = SCHEMA
"""Number of this schema, in `run.json`."""

OPTIONAL = ("transfer", "examples", "outcomes")
"""Frames whose file is written only where it has rows."""

STATUSES = ("trained", "dead", "diverged")
ACCURACIES = tuple(name for name in SCHEMAS["table"] if "accuracy" in name)
PAPER_COLUMNS = {
    "train_accuracy": "train_accuracy",
    "test_accuracy": "test_accuracy",
    "attacked_accuracy_before": "attacked_accuracy_before",
    "adversarial_train_accuracy": "adversarial_train_accuracy",
    "adversarial_test_accuracy": "adversarial_test_accuracy",
    "attacked_accuracy_after": "attacked_accuracy_after_static",
}
"""The paper's name of each of its accuracies, and ours."""

COMPUTED = ("accuracy", "ci_low", "ci_high")
"""Columns of `metrics` that follow from n and correct."""

PYTHON_TYPES: dict[type[pl.DataType], tuple[type, ...]] = {
    pl.String: (str,),
    pl.Int64: (int,),
    pl.Float64: (float, int),
    pl.Binary: (bytes,),
    pl.Boolean: (bool,),
    pl.UInt32: (int,),
    pl.Float32: (float, int),
}


def describe_schemas() -> str:
    """The schemas as Markdown: one heading and one table a frame."""
    parts = []
    for frame, columns in SCHEMAS.items():
        rows = [f"| `{name}` | {column.dtype.__name__} | {column.text} |" for name, column in columns.items()]
        parts.append(
            "\n".join(
                [f"### {frame}.parquet", "", FRAMES[frame], "", "| column | type | meaning |", "|---|---|---|", *rows]
            )
        )
    return "\n\n".join(parts) + "\n"


def dtypes(frame: str, axes: Mapping[str, type[pl.DataType]] = MappingProxyType({})) -> dict[str, type[pl.DataType]]:
    """Types of a frame's columns, in their order.

    Args:
        frame: in SCHEMAS.
        axes: types of the settings of a run's axes: columns behind `variant`, where the frame has none of their names.
    """
    types: dict[str, type[pl.DataType]] = {}
    for name, column in SCHEMAS[frame].items():
        types[name] = column.dtype
        if name == "variant":
            types |= {axis: dtype for axis, dtype in axes.items() if axis not in SCHEMAS[frame]}
    return types
