"""The options of the command `run` that are no settings of an experiment: which run it is, and what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from atras.experiment import Option, Options


@dataclass(frozen=True, kw_only=True)
class CommandOptions(Options):
    """The command's own options for an experiment. None of them may stand in a file."""

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
    resume: Annotated[
        str | None,
        Option("go on with the run or search in this folder; nothing else is needed", metavar="DIR", path=True),
    ] = None
    config: Annotated[
        str | None,
        Option("run.toml, or an earlier run's run.json; other options outrank it", metavar="FILE", path=True),
    ] = None
    dry_run: Annotated[bool, Option("show the plan and its cost, run nothing")] = False
    print_config: Annotated[bool, Option("print the settings as a file for --config, run nothing")] = False
    out: Annotated[
        str | None,
        Option("folder for the results", panel="Output", metavar="DIR", default="runs/<dataset>-<time>", path=True),
    ] = None
    fail_on_diverged: Annotated[bool, Option("exit with status 3 if a member diverged", panel="Output")] = False
    json: Annotated[bool, Option("print the results as JSON, for scripts", panel="Output")] = False
    quiet: Annotated[bool, Option("no progress, only the results and their cautions", panel="Output")] = False
