"""Runs of a user's own modules, beside built-in candidates: grouped, resumed bitwise, pickled, and tied to their "
"source."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import atras
from atras import Execution, InputError, Interrupted, Protocol, cli
from atras.analysis import export
from atras.experiment import Loaded, combine, config_lines, load_config
from atras.networks import Candidate, candidates
from atras.planning import Plan
from atras.running import GroupTask, make_plan, plan_lines
from atras.testing import tables_of
from atras.training import read_member

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, filters):
        super().__init__()
        self.convolution = nn.Conv2d(1, filters, 3, padding=1)
        self.norm = nn.BatchNorm2d(filters)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(filters * 64, 10)

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.norm(self.convolution(x))).flatten(1)))

def make():
    return Net(4)
"""
CPU = Execution(device="cpu", checkpoint_every=0)
ROOT = Path(__file__).parents[2]


class Flat(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def protocol(**changes) -> Protocol:
    fields = {
        "candidates": ("6-8", "mine.py:make"), "train_size": 60, "test_size": 30, "epochs": 2, "adversarial_epochs": 1,
        "batch_size": 16, "precision": "fp32", "attacks": ("fgsm", "pgd(steps=2)"), "transfer": True,
    }  # fmt: skip
    return Protocol(**(fields | changes))


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}


def stopping(calls: int):
    """Asked for the so-manieth time, says that the run is to stop."""
    count = itertools.count(1)
    return lambda: next(count) >= calls


def test_a_mixed_run_is_grouped_and_goes_on_bitwise_wherever_it_is_stopped(tmp_path):
    attacks = ("fgsm", "pgd(steps=2)", "pgd(steps=2, surrogate=make)")
    whole = atras.run(protocol(attacks=attacks), CPU, networks={"flat": Flat}, out=tmp_path / "whole")
    groups = {group["members"][0][0]: group["engine"] for group in whole.run["plan"]["groups"]}
    assert groups == {"6-8": groups["6-8"], "make": "modules", "flat": "modules"}
    assert groups["6-8"] != "modules"
    table = {row["hidden_layers"]: row for row in whole.table.iter_rows(named=True)}
    assert {name: (row["depth"], row["parameters"]) for name, row in table.items()} == {
        "6-8": (2, 6 * 65 + 8 * 7 + 10 * 9),
        "make": (1, 4 * 10 + 8 + 10 * 257),
        "flat": (1, 12 * 65 + 24 + 10 * 13),
    }
    assert whole.transfer["source_hidden_layers"].n_unique() == 3
    stops = 0
    with pytest.raises(Interrupted):
        atras.run(protocol(attacks=attacks), CPU, networks={"flat": Flat}, out=tmp_path / "run", stop=stopping(9))
    for calls in itertools.count(10, 14):
        try:
            atras.resume(tmp_path / "run", networks={"flat": Flat}, stop=stopping(calls))
            break
        except Interrupted:
            stops += 1
    assert stops >= 2
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    _, found = read_member(tmp_path / "run", Candidate.parse("flat"), 0, "defended")
    assert found["2.num_batches_tracked"] == 2 * 4 + 8
    assert found["2.running_var"].shape == (12,)


def test_another_source_or_a_missing_function_is_refused(tmp_path, mine, monkeypatch):
    with pytest.raises(Interrupted):
        atras.run(protocol(), CPU, networks={"flat": Flat}, out=tmp_path / "run", stop=stopping(9))
    folder = tmp_path / "run"
    recorded = json.loads((folder / "run.json").read_text())["protocol"]["networks"]
    assert recorded["make"] == {"function": "make", "file": str(mine), "sha256": recorded["make"]["sha256"]}
    monkeypatch.setattr(candidates, "_OWN", {})  # as in another process
    with pytest.raises(InputError, match=r"flat: it was given in Python \(Flat\); give it again, as networks="):
        atras.resume(folder)
    with pytest.raises(InputError, match=r"flat: its source was [0-9a-f]{16} .SHA-256. and is [0-9a-f]{16}; restore"):
        atras.resume(folder, networks={"flat": nn.Identity})
    with pytest.raises(InputError, match=r"networks \(='other'\): the run has make, flat"):
        atras.resume(folder, networks={"flat": Flat, "other": Flat})
    mine.write_text(SOURCE.replace("Net(4)", "Net(5)"))
    with pytest.raises(
        InputError, match=r"mine.py:make'\): its source was .* and is .*; restore it, or start a new run"
    ):
        atras.resume(folder, networks={"flat": Flat})
    mine.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        atras.resume(folder, networks={"flat": Flat})
    mine.write_text(SOURCE)
    moved = mine.rename(tmp_path / "moved.py")
    given = {"flat": Flat, "make": f"{moved}:make"}
    assert len(atras.resume(folder, networks=given).table) == 3


ELSEWHERE = """
import pickle, sys
from atras.running.surroundings import surroundings_of
task = pickle.load(sys.stdin.buffer)
pickle.dump(task.run(surroundings_of(task)).table, sys.stdout.buffer)
"""


def test_a_task_is_computed_in_another_process(tmp_path, monkeypatch):
    tasks: list[bytes] = []
    forget = GroupTask.forget
    monkeypatch.setattr(GroupTask, "forget", lambda task: (tasks.append(pickle.dumps(task)), forget(task))[1])
    defended = protocol(candidates=("mine.py:make",), transfer=False, defence="copies(source=make)")
    results = atras.run(defended, CPU)
    child = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=tasks[0], cwd=ROOT, capture_output=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr.decode()
    (row,) = pickle.loads(child.stdout)  # noqa: S301 (our own child's)
    assert {name: row[name] for name in results.table.columns} == results.table.row(0, named=True)


def test_a_plan_says_who_computes_what():
    both = protocol(attacks=("fgsm",), transfer=False)
    lines = plan_lines(both, CPU)
    assert any(line.endswith("; your modules: engine modules in fp32") for line in lines)
    assert any(line.startswith("depth 1: make") for line in lines)
    plan = make_plan(both, CPU)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict())), both).groups == plan.groups
    assert plan.groups[1].flops == 3 * 2 * (64 * 9 * 4 + 256 * 10) * (2 * 60 + 120)


@pytest.mark.parametrize(("changes", "engine", "said"), [
    ({}, "loop", "engine .=loop.: it computes layers that atras has, not the module make.*use --engine auto"),
    ({}, "modules", "engine .=modules.: it computes modules of yours, not 6-8"),
    ({"precision": "bf16"}, "auto", "engine modules computes modules of yours in fp32 or fp64"),
    ({"train_size": 33}, "auto", "network flat: .* fails on one of a single image, which the last batch of 33"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_anything_is_trained(changes, engine, said):
    both = protocol(**changes)
    if "train_size" in changes:
        both = both.replace(candidates=(*both.candidates, Candidate.own("flat", Flat)))
    with pytest.raises(InputError, match=said):
        make_plan(both, Execution(engine=engine, device="cpu"))


def test_shards_of_own_modules_are_merged_by_another_process(tmp_path):
    own = protocol(transfer=False)
    for number in (1, 2):
        atras.run(own, Execution(device="cpu", checkpoint_every=0, shard=f"{number}/2"), out=f"part-{number}")
    command = [sys.executable, "-m", "atras", "merge", "part-1", "part-2", "-o", "whole"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    atras.run(own, CPU, out="alone")
    assert tables_of(tmp_path / "whole") == tables_of(tmp_path / "alone")


def test_a_frozen_module_can_be_attacked_but_not_trained(tmp_path, mine):
    mine.write_text(
        SOURCE
        + "\ndef frozen():\n    return Net(4).requires_grad_(False)\n"
        + """
class Blind(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

def blind():
    return Blind(4)
"""
    )
    with pytest.raises(
        InputError, match=r"network frozen: expected logits that depend on trainable parameters.*attack"
    ):
        make_plan(protocol(candidates=("mine.py:frozen",)), CPU)
    torch.save(Candidate.parse("mine.py:frozen").factory.make(0).state_dict(), "w.pth")
    line = "attack --network mine.py:frozen --weights w.pth --test-size 20 --device cpu --out out --quiet"
    assert cli.execute(cli.app, line.split(), "atras") == 0
    assert atras.read("out").table["test_accuracy"][0] is not None
    line = line.replace("frozen", "blind").replace("out --quiet", "out2 --quiet") + " --attack square(queries=20)"
    assert cli.execute(cli.app, line.split(), "atras") == 0
    assert any("gradients with respect to the images" in text for text in atras.read("out2").run["warnings"])


def test_a_run_of_stacks_gives_the_figures_of_modules_one_by_one(tmp_path):
    own = protocol(candidates=(Candidate.own("flat", Flat),), seeds=(0, 1), precision="fp64", transfer=False)
    alone = atras.run(own, CPU)
    together = atras.run(own, Execution(engine="modules-stack", device="cpu"), out=tmp_path / "run")
    assert [group["engine"] for group in together.run["plan"]["groups"]] == ["modules-stack"]
    counts = ["hidden_layers", "seed", "phase", "split", "attack", "correct"]
    assert together.metrics.select(counts).equals(alone.metrics.select(counts))


class Failing(Flat):
    """Fails on what it has never seen: a batch of another size than those of its inspection."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) == 12:
            raise KeyError("the last batch")
        return super().forward(images)


def test_a_module_that_fails_later_ends_the_run_in_one_line(tmp_path):
    with pytest.raises(
        InputError, match=r"failing: it failed on images \[12, 1, 8, 8\]: KeyError: 'the last batch' \("
    ):
        atras.run(protocol(candidates=(Candidate.own("failing", Failing),)), CPU, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_run_says_what_misleads(tmp_path):
    soft = lambda: nn.Sequential(Flat(), nn.Softmax(1))  # noqa: E731
    results = atras.run(protocol(candidates=("8",), transfer=False, epochs=1), CPU, networks={"soft": soft})
    assert any("soft: its outputs look like probabilities" in line for line in results.run["warnings"])


def test_files_hold_where_a_module_is_made(tmp_path, mine):
    both = protocol()
    written = tmp_path / "run.toml"
    written.write_text("\n".join(config_lines(both, CPU)))
    assert Protocol(**load_config(written).protocol_fields) == both
    written.write_text('network = ["mine.py:make", "24"]')
    found = Protocol(**load_config(written).protocol_fields)
    assert [candidate.name for candidate in found.candidates] == ["make", "24"]
    settings = {"attacks": "pgd(surrogate=make)", "hidden": ["mine.py:make", "24"]}
    assert combine(Loaded(), settings)[0].attacks[0].surrogate == "make"
    before = both.hash
    mine.rename(tmp_path / "other.py")
    assert protocol(candidates=("6-8", "other.py:make")).hash == before
    (tmp_path / "other.py").write_text(SOURCE + "# changed\n")
    assert protocol(candidates=("6-8", "other.py:make")).hash != before


def test_weights_can_be_exported_after_the_source_has_changed(tmp_path, mine, monkeypatch, capsys):
    small = protocol(candidates=("mine.py:make",), transfer=False)
    results = atras.run(small, CPU, out=tmp_path / "run")
    candidate = results.candidate("make")
    whole = export(results, candidate, tmp_path / "before.safetensors").read_bytes()
    mine.write_text(SOURCE + "# seen again\n")
    monkeypatch.setattr(candidates, "_OWN", {})  # as in another process
    line = f"export {tmp_path / 'run'} --hidden make -o"
    assert cli.execute(cli.app, [*line.split(), str(tmp_path / "after.safetensors")], "atras") == 0
    assert "its source was" in capsys.readouterr().out
    assert (tmp_path / "after.safetensors").read_bytes() == whole
    assert cli.execute(cli.app, [*line.split(), str(tmp_path / "after.pt2")], "atras") == 2
    assert "its source was" in capsys.readouterr().err
