"""The command line's options: which field each sets, and which source outranks which."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from atras import cli
from atras.attacks import FGSM, PGD, DeepFool
from atras.cli.command_options import CommandOptions
from atras.cli.run_command import run
from atras.defences import BatchCopies, Copies
from atras.experiment import SETTINGS, Execution, Protocol, settings_of
from atras.networks import PAPER_CANDIDATES, Candidate, grid, k_complete, with_depth
from atras.schedules import Cosine
from atras.version import SCHEMA

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("--dataset mnist", {"dataset": "mnist"}),
    ("--data-dir there", {"data_dir": "there"}),
    ("--no-download", {"download": False}),
    ("--train-size 500", {"train_size": 500}),
    ("--test-size all", {"test_size": "all"}),
    ("--subset stratified", {"subset": "stratified"}),
    ("--channels first", {"channels": "first"}),
    ("--image-size 64", {"image_size": 64}),
    ("--augment crop,flip", {"augment": "crop,flip"}),
    ("--preset paper", {}),
    ("--hidden 40 --hidden 24,192", {"candidates": (Candidate((40,)), Candidate((24, 192)))}),
    (
        "--network wong-mnist --hidden 24,192 --network c40",
        {"candidates": tuple(map(Candidate.parse, ("wong-mnist", "24-192", "c40")))},
    ),
    ("--family conv", {"candidates": k_complete(kind="conv")}),
    ("--family conv --base-widths 8,16 --depth 2", {"candidates": with_depth(k_complete([8, 16], kind="conv"), [2])}),
    ("--family grid --widths 8,16 --depths 1-3 --kernels 3,5", {"candidates": grid([8, 16], [1, 2, 3], [3, 5])}),
    ("--depth 1,2", {"candidates": with_depth(PAPER_CANDIDATES, [1, 2])}),
    ("--depth 1 --depth 2", {"candidates": with_depth(PAPER_CANDIDATES, [1, 2])}),
    ("--base-widths 8,16", {"candidates": k_complete([8, 16])}),
    ("--factors 2,4", {"candidates": k_complete(factors=[2, 4])}),
    ("--max-width 512", {"candidates": k_complete(max_width=512)}),
    ("--seeds 0-4", {"seeds": (0, 1, 2, 3, 4)}),
    ("--seeds 0,3,7", {"seeds": (0, 3, 7)}),
    (
        "--axis learning_rate=1e-3,3e-3 --axis defence=copies,batch(pgd(steps=7))",
        {"axes": ("learning_rate=0.001,0.003", "defence=copies,batch(pgd(steps=7))")},
    ),
    ("--stem conv2", {"stem": "conv2"}),
    ("--activation gelu", {"activation": "gelu"}),
    ("--initialisation he", {"initialisation": "he"}),
    ("--head-dropout 0.5", {"head_dropout": 0.5}),
    ("--epochs 3", {"epochs": 3, "adversarial_epochs": 3}),
    ("--adversarial-epochs 5", {"adversarial_epochs": 5}),
    ("--batch-size 32", {"batch_size": 32}),
    ("--optimizer sgd --momentum 0.9", {"optimizer": "sgd", "momentum": 0.9}),
    ("--learning-rate 1e-4", {"learning_rate": 1e-4}),
    ("--optimizer adamw --weight-decay 1e-4", {"optimizer": "adamw", "weight_decay": 1e-4}),
    ('--schedule "cosine(warmup=2)"', {"schedule": Cosine(warmup=2)}),
    ("--clip-gradient 1", {"clip_gradient": 1.0}),
    ("--label-smoothing 0.1", {"label_smoothing": 0.1}),
    ("--average 0.999", {"average": 0.999}),
    ("--select robust --validation-size 500", {"select": "robust", "validation_size": 500}),
    ("--epsilon 8/255", {"epsilon": 8 / 255}),
    ("--epsilon 0.1", {"epsilon": 0.1}),
    ("--label-source true", {"label_source": "true"}),
    ("--targeted class:3", {"target": "class:3"}),
    ("--attack fgsm --attack pgd", {"attacks": (FGSM(), PGD())}),
    ('--attack "pgd(steps=40, restarts=5)" --attack deepfool', {"attacks": (PGD(steps=40, restarts=5), DeepFool())}),
    ('--attack "fgsm,pgd(steps=3)"', {"attacks": (FGSM(), PGD(steps=3))}),
    ('--attack "pgd(step_size=2/255)"', {"attacks": (PGD(step_size=2 / 255),)}),
    ("--epsilons 0,0.1,8/255", {"epsilons": (0.0, 0.1, 8 / 255)}),
    ('--defence "batch(pgd(steps=7))"', {"defence": BatchCopies(PGD(steps=7))}),
    ('--defence "copies(fgsm, source=smallest)"', {"defence": Copies(source="smallest")}),
    ('--defence "copies(source=24-192)"', {"defence": Copies(source="24-192")}),
    ("--transfer", {"transfer": True}),
    (
        "--transfer --transfer-attack fgsm --transfer-attack pgd(steps=3)",
        {"transfer": True, "transfer_attacks": ("fgsm", "pgd(steps=3)")},
    ),
    ("--transfer --transfer-seeds all", {"transfer": True, "transfer_seeds": "all"}),
    ("--transfer --transfer-source 24,192", {"transfer": True, "transfer_sources": (Candidate((24, 192)),)}),
    ("--transfer --transfer-target 40", {"transfer": True, "transfer_targets": (Candidate((40,)),)}),
    ("--precision fp64", {"precision": "fp64"}),
    ("--outcomes none", {"outcomes": "none"}),
    ("--evaluate-every 2", {"evaluate_every": 2}),
    ("--engine loop", {"engine": "loop"}),
    ("--executor local", {"executor": "local"}),
    ("--executor ray --ray-address 10.0.0.1:6379", {"executor": "ray", "ray_address": "10.0.0.1:6379"}),
    ("--axis learning_rate=1e-3,3e-3", {"axes": {"learning_rate": (1e-3, 3e-3)}}),
    ("--device cuda:1", {"device": "cuda:1"}),
    ("--shard 3/16", {"shard": "3/16"}),
    ("--memory 4GiB", {"memory_bytes": 4 * 2**30}),
    ("--recalibrate", {"recalibrate": True}),
    ("--checkpoint-every 5", {"checkpoint_every": 5.0}),
    ('--log tensorboard --log "mlflow(experiment=mine)"', {"log": ("tensorboard", "mlflow(experiment=mine)")}),
]


def execute(line: str) -> int:
    return cli.execute(cli.app, ["run", *shlex.split(line)], "atras")


@pytest.mark.parametrize(("line", "changed"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_each_option_sets_its_field_and_no_other(schedule: Any, line: str, changed: dict[str, Any]) -> None:
    assert execute(line) == 0
    names = {field.name for field in dataclasses.fields(Protocol)}
    (call,) = schedule.calls
    assert call.protocol == Protocol(**{name: value for name, value in changed.items() if name in names})
    assert call.execution == Execution(**{name: value for name, value in changed.items() if name not in names})


def test_every_field_has_an_option_and_every_option_is_tried_above() -> None:
    fields = {field.name for kind in (Protocol, Execution) for field in dataclasses.fields(kind)}
    recorded = {name for name, setting in SETTINGS.items() if setting.option.recorded}
    assert {name for _, changed in OPTIONS for name in changed} == fields - recorded
    command = typer.main.get_command(cli.app).commands["run"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    tried = {word for line, _ in OPTIONS for word in line.split() if word.startswith("--")}
    others = {"--out", "--config", "--resume", "--dry-run", "--fail-on-diverged", "--quiet", "--version", "--download"}
    searching = {"--search", "--budget", "--rank-by"}  # tests/search/test_search.py
    printing = {"--json", "--print-config"}  # tests/cli/test_inspect_commands.py
    others |= {"--take-over", "--confirm-seeds"}  # tests/faults/test_disk.py, tests/search/test_confirmation.py
    pricing = {"--machines", "--machine-speed"}  # tests/running/test_elsewhere.py
    assert known - tried == others | searching | printing | pricing


def test_options_outrank_the_file_and_the_file_the_defaults(schedule: Any) -> None:
    Path("run.toml").write_text('epochs = 4\nbatch-size = 7\ndownload = false\ndevice = "cpu"\n')
    assert execute("--config run.toml --batch-size 9 --download") == 0
    (call,) = schedule.calls
    assert call.protocol == Protocol(epochs=4, adversarial_epochs=4, batch_size=9)
    assert call.execution == Execution(device="cpu", download=True)


@pytest.mark.parametrize(
    ("line", "plan"), [("", {"groups": []}), ("--quiet --out x", {"groups": []}), ("--epochs 3", None)]
)
def test_a_run_json_repeats_its_plan_unless_an_option_changes_it(schedule: Any, line: str, plan: Any) -> None:
    content = {
        "schema": SCHEMA,
        "protocol": Protocol(dataset="mnist").to_dict(),
        "execution": {},
        "plan": {"groups": []},
    }
    Path("run.json").write_text(json.dumps(content))
    assert execute(f"--config run.json {line}") == 0
    assert schedule.calls[0].protocol.dataset == "mnist"
    assert schedule.calls[0].config_plan == plan


def test_the_command_takes_what_the_tables_say_and_no_more() -> None:
    asked = {name for name, setting in SETTINGS.items() if not setting.option.recorded}
    names = {*asked, *settings_of(CommandOptions), "version"}
    assert set(inspect.signature(run).parameters) == names
