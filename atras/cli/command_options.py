"""The options of commands that are no settings of an experiment: which run it is, and what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from atras.experiment import Option, Options


@dataclass(frozen=True, kw_only=True)
class Asked(Options):
    """The options of every command that computes a run."""

    panel = "Execution"

    resume: Annotated[
        str | None,
        Option("go on with the run or search in this folder; nothing else is needed", metavar="DIR", path=True),
    ] = None
    take_over: Annotated[
        bool,
        Option(
            "with --resume: go on although another machine may be at work there",
            meaning="For a machine that is gone, where the file system has no locks, or within a minute of its end.",
        ),
    ] = False
    dry_run: Annotated[bool, Option("show the plan and its cost, run nothing")] = False
    out: Annotated[
        str | None,
        Option("folder for the results", panel="Output", metavar="DIR", default="runs/<dataset>-<time>", path=True),
    ] = None
    json: Annotated[bool, Option("print the results as JSON, for scripts", panel="Output")] = False
    quiet: Annotated[bool, Option("no progress, only the results and their cautions", panel="Output")] = False


@dataclass(frozen=True, kw_only=True)
class CommandOptions(Asked):
    """The own options of the command `run`. None of them may stand in a file."""

    panel = "Execution"

    search: Annotated[
        str | None,
        Option("train all a little and the better half on, round by round", panel="Population", metavar="halving"),
    ] = None
    budget: Annotated[
        str | None, Option("most candidate-epochs that a search may take", panel="Population", metavar="N")
    ] = None
    rank_by: Annotated[
        str | None,
        Option(
            "what a search ranks candidates by: accuracy or balanced", panel="Population", metavar="NAME",
            default="accuracy", meaning="Robust accuracy, or its mean over classes, in which a frequent class counts "
            "no more than a rare one.",
        ),
    ] = None  # fmt: skip
    confirm_seeds: Annotated[
        str | None,
        Option(
            "fresh seeds on which the winner is measured after the run", panel="Population", metavar="5-9",
            meaning="The best of many is best also by luck. Seeds that did not choose it tell what it is worth: it and "
            "those not told apart from it, five at the most, are trained and measured once more, into the folder "
            "`confirm` of the run.",
        ),
    ] = None  # fmt: skip
    machines: Annotated[
        str | None,
        Option(
            "with --dry-run: the plan's price on machines that are not here", metavar="COUNTxKIND",
            default="this machine", meaning="`64xcpu:2` (threads of each) or `8xcuda:h100`; GPUs that are known: h100, "
            "h200, a100, l4.",
        ),
    ] = None  # fmt: skip
    machine_speed: Annotated[
        str | None,
        Option(
            "with --machines: TFLOP/s that one of them reaches", metavar="TFLOPS",
            default="this machine's, or the data sheet's",
        ),
    ] = None  # fmt: skip
    config: Annotated[
        str | None,
        Option("run.toml, or an earlier run's run.json; other options outrank it", metavar="FILE", path=True),
    ] = None
    print_config: Annotated[bool, Option("print the settings as a file for --config, run nothing")] = False
    fail_on_diverged: Annotated[bool, Option("exit with status 3 if a member diverged", panel="Output")] = False


def _anything(name: str, value: object) -> None:
    """Networks and their files are checked where they are read."""
    del name, value


@dataclass(frozen=True, kw_only=True)
class AttackOptions(Asked):
    """The own options of the command `attack`."""

    panel = "Population"

    network: Annotated[
        tuple[str, ...],
        Option(
            "a network: mine.py:make, a name or layers; may be repeated", _anything, metavar="NETWORK", repeat=True,
            default="what the file says",
            meaning="A function that makes a module (`file.py:function` or `package.module:function`), or layers as "
            "they are spelled, with those of the stem: `c16k4s2z1-c32k4s2z1-100`. Not needed where the file says what "
            "it is of.",
        ),
    ] = ()  # fmt: skip
    weights: Annotated[
        tuple[str, ...],
        Option(
            "its weights: a .pth, .safetensors, .pt2 or .onnx file; may be repeated", _anything, metavar="FILE",
            repeat=True, default="those that the module is made with",
            meaning="One for each `--network`, in their order. A state dict of `torch.save` (`.pth`, `.pt`, `.ckpt`), "
            "safetensors (those of `atras export` and of a run's folder `weights` too), a program of `torch.export` "
            "(`.pt2`) or an ONNX file, which needs `pip install '.[onnx]'`.",
        ),
    ] = ()  # fmt: skip
