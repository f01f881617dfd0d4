"""Options of training: the recipe by which networks are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from atras.errors import InputError, shown
from atras.schedules import SCHEDULES, Constant, Schedule

from .kinds import SCHEDULE, WHOLE
from .option import Option, Options
from .ranges import number_from, whole_from

Augment = Literal["none", "crop", "flip", "crop,flip"]
OptimizerName = Literal["adam", "adamw", "sgd"]
Select = Literal["last", "robust"]
Precision = Literal["auto", "fp32", "fp64", "tf32", "bf16"]

CONSTANT = Constant()


def _check_schedule(name: str, value: object) -> None:
    if not isinstance(value, Schedule):
        raise InputError(f"{name} (={shown(value)}): expected one of {', '.join(SCHEDULES)}")


def _schedule_of(value: Any) -> Any:
    """A schedule in place of the text that spells it."""
    return SCHEDULES.parse(value) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Training(Options):
    """The training of networks."""

    panel = "Training"

    epochs: Annotated[
        int,
        Option("passes over the training set, clean and then with attacks", whole_from(0, 10**6), metavar="N"),
    ] = 20
    adversarial_epochs: Annotated[
        int,
        Option(
            "passes over the set with attacks, if not the same", whole_from(0, 10**6), metavar="N", default="--epochs",
            meaning="They go over the doubled set: every image and its copy. In Python "
            "they are 20, whatever `epochs` is.",
        ),
    ] = 20  # fmt: skip
    batch_size: Annotated[
        int,
        Option(
            "images a step", whole_from(1, 10**6), metavar="N",
            meaning="The last, smaller batch of an epoch is kept; a number above that of an epoch's images means all "
            "of them.",
        ),
    ] = 128  # fmt: skip
    optimizer: Annotated[
        OptimizerName,
        Option(
            "update rule",
            meaning="`adam` has decay rates 0.9 and 0.999 and a denominator term of 1e-8; `adamw` is `adam` with "
            "decoupled weight decay.",
        ),
    ] = "adam"
    learning_rate: Annotated[
        float,
        Option("size of an update", number_from(0.0, 1e9), metavar="X", meaning="The highest one of a schedule."),
    ] = 1e-3
    schedule: Annotated[
        Schedule,
        Option(
            "learning rate over the steps of each training", _check_schedule, kind=SCHEDULE, metavar="NAME",
            accept=_schedule_of, choices=SCHEDULES,
            meaning="Of the first training over its steps, and anew of the defence's over its own; optimizer steps are "
            "counted. Lengths (`warmup`, `every`, `at`) are in epochs, places (`peak`) in shares of the training: "
            "docs/recipes.md.",
        ),
    ] = CONSTANT  # fmt: skip
    momentum: Annotated[
        float, Option("of sgd", number_from(0.0, 1.0), metavar="X", meaning="`adam` and `adamw` have none.")
    ] = 0.0
    weight_decay: Annotated[
        float,
        Option(
            "pull of all parameters towards 0", number_from(0.0, 1e6), metavar="X",
            meaning="Biases included. `adam` and `sgd` add so many times the parameter to its gradient; `adamw` takes "
            "so many times the parameter, times the learning rate of the step, from it (decoupled).",
        ),
    ] = 0.0  # fmt: skip
    clip_gradient: Annotated[
        float | None,
        Option(
            "longest gradient of a step, in the 2-norm", number_from(0.0, 1e9), metavar="X", default="none",
            meaning="Of all parameters of a network together; a longer one is shortened to it, before weight decay.",
        ),
    ] = None  # fmt: skip
    label_smoothing: Annotated[
        float,
        Option(
            "share of a label spread evenly over all classes", number_from(0.0, 1.0), metavar="X",
            meaning="Of the cross-entropy that is trained for. The training loss that is told stays the cross-entropy "
            "at the label itself.",
        ),
    ] = 0.0  # fmt: skip
    average: Annotated[
        float,
        Option(
            "decay of a moving average of weights, such as 0.999", number_from(0.0, 1.0), metavar="X", default="none",
            meaning="Exponential, a step of it every optimizer step; it begins anew with each training. What is "
            "evaluated, attacked, kept and exported is then the average; training goes on from the weights themselves.",
        ),
    ] = 0.0  # fmt: skip
    augment: Annotated[
        Augment,
        Option(
            "change training images at random", metavar="crop,flip",
            meaning="`crop` pads an eighth of the rows and columns with zeros on each side (4 of 32), and cuts the "
            "image's size out at random; `flip` mirrors left and right with probability one half. Anew in each epoch, "
            "alike for all candidates of a seed; nothing is changed in evaluation.",
        ),
    ] = "none"  # fmt: skip
    select: Annotated[
        Select,
        Option(
            "which epoch of the last training is kept",
            meaning="`last`, or the one that is the most accurate under PGD of ten steps at the run's epsilon, on "
            "training images that are held out for it: `robust`. Each network its own; of the defence's training, or "
            "where there is none, of the first: docs/recipes.md.",
        ),
    ] = "last"  # fmt: skip
    validation_size: Annotated[
        int | None,
        Option(
            "training images that --select robust holds out", whole_from(1, 10**6), metavar="N",
            default="a tenth, at most 1000", kind=WHOLE,
            meaning="Every class has its share of them; nothing is trained on them. They are drawn once for the run, "
            "and never from the test images.",
        ),
    ] = None  # fmt: skip
    precision: Annotated[
        Precision,
        Option(
            "of training", panel="Execution",
            meaning="`bf16` (and `tf32`, on a GPU) is for matrix products in training alone: weights, attacks and "
            "evaluation stay fp32. `fp64` is for engines loop and stack, and for all they do. `auto` is bf16 where the "
            "engine has it and the processor is good at it (AMX, AMD's AVX512-BF16, a GPU of capability 8.0), else "
            "fp32: that is a rule, never a measured time, and `--dry-run` says which part of it applied.",
        ),
    ] = "auto"  # fmt: skip
