"""Whatever options, candidates and configuration files hold: success, or one line and exit status 2."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import strategies as st

from atras.cli import program
from atras.data import download
from atras.experiment import SETTINGS, Execution, Protocol, load_config
from atras.experiment.options import combine, select_candidates
from atras.networks import Candidate
from atras.planning import Plan, Speed, calibration
from atras.running.prepare import make_plan
from atras.testing import damage
from atras.version import SCHEMA

Fuzz = Callable[..., None]

TOML = """
dataset = "digits"
train-size = 20
hidden = ["4,8", [8, 4]]
seeds = "0-2"
stem = "none"
head-dropout = 0.25
epochs = 3
optimizer = "sgd"
learning-rate = 1e-2
momentum = 0.9
epsilon = "8/255"
targeted = "class:3"
memory = "4GiB"
download = false
"""
WORDS = """
0 1 3 -1 1e3 0.5 8/255 8/0 nan inf -inf 1e999 all default none auto 0-4 4-0 0-9999 1-9999,1-9999 1,2 1,,2 24,192
8-16-32 65536 65537 99999999999999999999 fp64 bf16 stack loop fused cpu cuda cuda:0 cuda:999 conv2 conv4 sgd adam true
predicted class:3 class:999999 random 4GiB 1KiB 9999999999TiB 0.0000001B relu he digits mnist cifar10 svhn x.npz ~ ~x
/ .
""".split()  # noqa: SIM905 (a paragraph reads better than eighty quoted words)
TEXTS = st.sampled_from(WORDS) | st.text(max_size=30)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2**31, 2**63, 10**400, -1, 1e308])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2))


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no user's cache, no measuring."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ATRAS_DATA", raising=False)
    monkeypatch.setattr(download, "_fetch", lambda name: "no network here")
    monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1e-3, 1e9, 1e9, 1e9))


def small_data(path: Path) -> None:
    """A data set of twelve colour images for training and for testing."""
    images = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


def plan_of(path: Path) -> list[str]:
    """What a configuration file leads to, without the training."""
    protocol, execution, plan = combine(load_config(path), {})
    return make_plan(protocol, execution, plan).lines()


@pytest.mark.parametrize("kind", [Protocol, Execution])
def test_fields_of_protocol_and_execution(fuzz: Fuzz, kind: Any) -> None:
    names = st.sampled_from([field.name for field in dataclasses.fields(kind)])
    candidates = st.lists(st.builds(lambda n: Candidate((n,)), st.integers(1, 9)) | JUNK, max_size=3).map(tuple)
    values = st.dictionaries(names, JUNK | candidates | JUNK.map(lambda value: (value,)), max_size=3)

    def check(fields: dict[str, Any]) -> None:
        made = kind(**fields)
        json.dumps([made.to_dict(), getattr(made, "hash", "")])

    fuzz(check, values)


def test_texts_of_candidates(fuzz: Fuzz) -> None:
    text = st.text("0123456789,- ") | TEXTS
    fuzz(Candidate.parse, text)
    fuzz(Candidate, JUNK)
    names = st.sampled_from(["hidden", "depth", "base_widths", "factors", "max_width"])
    fuzz(lambda settings: select_candidates(**settings), st.dictionaries(names, text, max_size=2))


def test_the_command_line(fuzz: Fuzz, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "\x1b[2J\n.toml").write_text("epochs = 0")
    (tmp_path / "run.toml").write_text("epochs = 1")
    small_data(tmp_path / "x.npz")
    places = ["loop", "fifo", "\x1b[2J\n.toml", "run.toml", "x.npz", "/dev/zero", ".", "", "\udcff", "a" * 300]
    command = typer.main.get_command(program.app).commands["run"]  # type: ignore[attr-defined]
    options = sorted({name for option in command.params for name in option.opts + option.secondary_opts})
    option = st.tuples(st.sampled_from(options), TEXTS | st.sampled_from(places))
    arguments = st.lists(option | st.tuples(st.sampled_from(options)) | st.tuples(TEXTS), max_size=4)

    def check(drawn: list[tuple[str, ...]]) -> None:
        words = [word for group in drawn for word in group]
        # First, as an option that lacks its value would swallow what comes last.
        status = program.execute(program.app, ["run", "--dry-run", "--dataset", "x.npz", *words], "atras")
        out, err = capfd.readouterr()
        assert status in (0, 2), err
        assert bool(err) == (status == 2)
        assert all(line.isprintable() for line in (out + err).splitlines())
        if status:
            assert err.startswith("atras: ")
            assert err.count("\n") == 1

    fuzz(check, arguments, examples=150)


def test_run_toml(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        combine(load_config(path), {})

    fuzz(check, st.randoms(use_true_random=False).map(lambda random: damage(TOML.encode(), random)), examples=250)
    keys = st.sampled_from(sorted(SETTINGS))
    odd = ["0x" + "f" * 5000, "[[0x" + "f" * 5000 + "]]", "1979-05-27", "{}"]
    literal = TEXTS.map(json.dumps) | st.sampled_from(odd)
    line = st.tuples(keys, literal | NUMBERS.map(str)).map(" = ".join)
    fuzz(lambda lines: check("\n".join(lines).encode("utf-8", "replace")), st.lists(line, max_size=3))


def changed(document: Any, random: Random, junk: Any) -> Any:
    """The document with one of its values, however deep, replaced, left out or doubled."""
    if not isinstance(document, dict | list) or not document or random.random() < 0.15:
        return junk
    at = random.choice(sorted(document) if isinstance(document, dict) else range(len(document)))
    kept = document.copy()
    kind = random.randrange(8)
    if kind == 0:
        del kept[at]
    elif kind == 1 and isinstance(kept, list):
        kept.append(kept[at])
    else:
        kept[at] = changed(document[at], random, junk)
    return kept


def test_run_json(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    small_data(tmp_path / "x.npz")
    protocol = Protocol(dataset="x.npz", candidates=(Candidate((4, 8)), Candidate((8,))), seeds=(0, 3), stem="none")

    def recorded(engine: Any) -> dict[str, Any]:
        execution = Execution(device="cpu", engine=engine)
        plan = make_plan(protocol, execution).to_dict()
        Plan.from_dict(plan, protocol)
        return {"schema": SCHEMA, "protocol": protocol.to_dict(), "execution": execution.to_dict(), "plan": plan}

    documents = [recorded("loop"), recorded("stack")]
    whole = json.dumps(documents[0]).encode()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        plan_of(path)

    check(whole)
    randoms = st.randoms(use_true_random=False)
    fuzz(check, randoms.map(lambda random: damage(whole, random)), examples=120)
    mutants = st.builds(changed, st.sampled_from(documents), randoms, JUNK)
    fuzz(check, mutants.map(lambda document: json.dumps(document).encode()), examples=200)
