"""A new attack, defence, layer, engine, executor, file format and report section: each a class and one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import atras
import atras.data
from atras.attacks import ATTACKS, Attack, Attacked, Passes, Start
from atras.data import FILE_FORMATS, FileFormat, Reading, SourceArrays
from atras.defences import DEFENCES, Batch, Defence
from atras.engines import ENGINES, LoopEngine
from atras.experiment import EXECUTORS, Protocol
from atras.networks import LAYERS, Layer, Member, Network, Spec, StepResult, Trainable, register_layer
from atras.report import register_section, unregister_section, write
from atras.report.section import Section
from atras.running import LocalExecutor, make_plan
from atras.testing import tables_of


@dataclass(frozen=True, repr=False)
class Darken(Attack):
    """every pixel darker by a share of epsilon"""

    share: float = 1.0

    name = "darken"
    uses_gradients = False

    def cost(self, classes: int) -> Passes:
        return Passes(forward=1)

    def __call__(self, networks: Any, images: Any, labels: Any, *, start: Start = Start()) -> Attacked:
        members = len(networks.members)
        darker = (images - self.share * self.strength).clamp(*self.bounds)
        none = torch.zeros(members, dtype=torch.int64, device=images.device)
        return Attacked(
            images=images,
            clipped=darker.expand(members, *images.shape[-4:]),
            labels=labels.expand(members, images.shape[-4]),
            clean_logits=networks.logits(images) if start.clean_logits is None else start.clean_logits,
            nan_gradients=none,
            zero_gradients=none,
            gradients=0,
        )


@dataclass(frozen=True, repr=False)
class Smoothed(Defence):
    """training with labels that are smoothed by a share: any objective, through its cotangent"""

    share: float = 0.1

    name = "smoothed"
    copies = False

    def cost(self, classes: int) -> Passes:
        return Passes()

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        def cotangent(logits: torch.Tensor) -> torch.Tensor:
            classes = logits.shape[-1]
            labels = batch.labels.expand(logits.shape[:2])
            wanted = nn.functional.one_hot(labels, classes) * (1 - self.share) + self.share / classes
            return (logits.softmax(-1) - wanted).to(logits.dtype) / logits.shape[1]

        return networks.step(batch.images, batch.labels, cotangent)


@dataclass(frozen=True)
class Scale(Layer):
    """Each feature times a trained number. Spelled `scale`."""

    kind = "scale"

    def __str__(self) -> str:
        return "scale"

    @classmethod
    def parse(cls, text: str) -> Scale | None:
        return cls() if text == "scale" else None

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"factor": shape}

    def initialise(self, parameters: Mapping[str, torch.Tensor], draw: torch.Generator, initialisation: str) -> None:
        parameters["factor"].fill_(1.0)

    def forward(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor, activate: Any) -> torch.Tensor:
        return x * parameters["factor"]

    def modules(self, shape: tuple[int, ...], activation: Any) -> Sequence[tuple[str, nn.Module]]:
        return [("", _ScaleModule(shape))]

    def multiplications(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape))

    def kept_values(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape))


class _ScaleModule(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Backwards(LocalExecutor):
    """the last group first"""

    name = "backwards"

    def map(self, tasks: Sequence[Any], place: Any) -> Iterator[Any]:
        return super().map(tasks[::-1], place)


class Renamed(LoopEngine):
    """the loop under another name"""

    name = "renamed"


class Stripes(FileFormat):
    """a .stripes file"""

    name = "stripes"
    suffixes = (".stripes",)

    def fits(self, path: Path) -> bool:
        return path.suffix == ".stripes" and path.is_file()

    def read(self, path: Path, reading: Reading) -> SourceArrays:
        draw = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for part, count in (("train", 40), ("test", 20)):
            arrays[f"y_{part}"] = np.arange(count) % 2
            noise = draw.integers(0, 100, (count, 8, 8))
            arrays[f"x_{part}"] = (noise + 150 * arrays[f"y_{part}"][:, None, None]).astype(np.uint8)
        return SourceArrays("stripes", str(path), arrays, {})


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registers: list[tuple[Any, Any]] = [
        (ATTACKS, Darken), (DEFENCES, Smoothed), (EXECUTORS, Backwards), (ENGINES, Renamed), (FILE_FORMATS, Stripes)
    ]  # fmt: skip
    for register, choice in registers:
        register.register(choice)
    register_layer(Scale)
    register_section("toy", lambda results: Section("toy", "A toy section", (f"{len(results.table)} rows, seen.",)))
    yield
    unregister_section("toy")
    del LAYERS["scale"]
    for register, choice in registers:
        register.unregister(choice.name)


OPTIONS: dict[str, Any] = {"train_size": 60, "test_size": 30, "epochs": 2, "adversarial_epochs": 2, "batch_size": 16}


def toy_protocol(**changes: Any) -> Protocol:
    candidates = tuple(map(atras.Candidate.parse, ("12", "8,scale", "scale,6", "8,4")))
    named = {"attacks": ("fgsm", "darken(share=0.5)"), "defence": "smoothed(share=0.2)", "candidates": candidates}
    return Protocol(**(OPTIONS | named | changes))


def test_each_is_found_by_its_name_everywhere(tmp_path: Path) -> None:
    protocol = toy_protocol()
    assert (repr(protocol.attacks[1]), str(protocol.attacks[1])) == ("Darken(share=0.5)", "darken(share=0.5)")
    assert str(protocol.defence) == "smoothed(share=0.2)"
    assert ATTACKS.texts()["darken"] == "every pixel darker by a share of epsilon"
    assert DEFENCES.texts()["smoothed"].startswith("training with labels that are smoothed")
    plain, priced = (make_plan(each, atras.Execution()) for each in (toy_protocol(attacks=("fgsm",)), protocol))
    cost = [sum(group.predicted_attack_seconds or 0 for group in plan.groups) for plan in (plain, priced)]
    assert cost[0] < cost[1]  # the plan prices the new attack

    execution = atras.Execution(executor="backwards")
    results = atras.run(protocol, execution, out=tmp_path / "run")
    assert results.table["hidden_layers"].to_list() == ["12", "8-scale", "scale-6", "8-4"]
    assert set(results.table["defence"]) == {"smoothed(share=0.2)"}
    darkened = results.metrics.filter(attack="darken(share=0.5)", phase="defended")
    assert darkened["n"].to_list() == [30] * 4
    assert set(results.metrics["attack"]) >= {"worst(fgsm, darken(share=0.5))"}
    assert np.allclose(darkened["mean_linf"].to_numpy(), 0.5 * protocol.epsilon, atol=0.02)  # dark pixels are clipped

    page = write(results, tmp_path / "page.html").read_text()
    assert "A toy section" in page
    assert "4 rows, seen." in page
    assert "darken(share=0.5)" in page


def test_an_attack_that_leaves_its_ball_gives_no_figures(tmp_path: Path) -> None:
    with pytest.raises(atras.InputError, match=(
        r"darken\(epsilon=0\.05, share=2\.0\): expected images within 0\.05 of the clean ones in linf, got 0\.1;"
    )):  # fmt: skip
        atras.run(toy_protocol(attacks=("darken(share=2)",)), out=tmp_path / "run")


def test_an_attack_that_leaves_its_ball_gives_no_figures_of_a_transfer_either() -> None:
    options = {"attacks": ("fgsm",), "transfer": True, "transfer_attacks": ("darken(share=2)",), "seeds": (0,)}
    with pytest.raises(atras.InputError, match=r"expected images within 0\.05 of the clean ones in linf, got 0\.1;"):
        atras.run(toy_protocol(**options, adversarial_epochs=0, defence="none"))


def test_the_order_of_an_executor_changes_no_figure(tmp_path: Path) -> None:
    for name in ("local", "backwards"):
        atras.run(toy_protocol(), atras.Execution(executor=name), out=tmp_path / name)
    assert tables_of(tmp_path / "local") == tables_of(tmp_path / "backwards")


@pytest.mark.parametrize("engine", ["loop", "stack"])
def test_a_new_layer_is_trained_and_leaves_as_a_plain_module(engine: str, tmp_path: Path) -> None:
    results = atras.run(toy_protocol(), atras.Execution(engine=engine), out=tmp_path / "run")
    from atras.analysis import export

    path = export(results, atras.Candidate.parse("8-scale"), tmp_path / "network.safetensors", phase="trained")
    module = atras.load(path)
    factor = module.get_parameter("scale1.factor")
    assert factor.shape == (8,)
    assert not torch.equal(factor, torch.ones(8))  # it was trained
    data = atras.data.load("digits", test_size=30)
    hits = int((module(data.test.images).argmax(-1) == data.test.labels).sum())
    row = results.metrics.filter(hidden_layers="8-scale", phase="trained", split="test", mode="clean")
    assert row["correct"].to_list() == [hits]


def test_a_new_layer_computes_alike_in_loop_and_stack() -> None:
    spec, protocol = Spec((1, 8, 8), 10), Protocol(precision="fp64", learning_rate=0.01)
    members = [Member(atras.Candidate.parse(name), 0) for name in ("8,scale,5", "6,scale,9")]
    images = torch.rand(10, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10)
    stack = ENGINES.get("stack")(spec, members, protocol, torch.device("cpu"))
    loops = [ENGINES.get("loop")(spec, [member], protocol, torch.device("cpu")) for member in members]
    for engine in (stack, *loops):
        engine.begin_phase("train")
        for _ in range(10):
            engine.step(images, labels)
    for index, loop in enumerate(loops):
        # Sums over padded units are taken in another order: ten steps in float64 part by far less than this.
        torch.testing.assert_close(stack.logits(images)[index], loop.logits(images)[0], atol=1e-9, rtol=0)
        assert list(stack.get_parameters(index)) == list(Network(spec, members[index].candidate).parameter_shapes)


def test_fused_refuses_a_layer_that_it_does_not_know() -> None:
    with pytest.raises(atras.InputError, match=r"engine \(=fused\): .* not scale"):
        make_plan(toy_protocol(), atras.Execution(engine="fused"))


def test_a_new_engine_is_planned_and_run(tmp_path: Path) -> None:
    chosen = atras.Execution(engine="renamed")
    assert make_plan(toy_protocol(), chosen).engine == "renamed"
    atras.run(toy_protocol(), chosen, out=tmp_path / "renamed")
    atras.run(toy_protocol(), atras.Execution(engine="loop"), out=tmp_path / "loop")
    renamed, loop = (atras.read(tmp_path / name).table for name in ("renamed", "loop"))
    assert renamed.equals(loop)


def test_a_new_file_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.stripes"
    path.touch()
    data = atras.data.load(str(path), train_size=32)
    assert (data.name, data.classes, data.image_shape, len(data.train)) == ("stripes", 2, (1, 8, 8), 32)
    with pytest.raises(atras.InputError, match=r"or a \.stripes file; there is none of that name"):
        atras.data.load(str(tmp_path / "other.stripes"))


PACKAGE = """
from dataclasses import dataclass
from atras.attacks import FGSM

@dataclass(frozen=True, repr=False)
class Brighten(FGSM):
    "a gradient step of a package"
    name = "brighten"
"""


def test_what_an_installed_package_adds_is_there(tmp_path: Path) -> None:
    info = tmp_path / "brighten-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brighten\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[atras.attacks]\nbrighten = brighten:Brighten\n[atras.defences]\nshade = brighten:Shade\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "160"}
    options: Any = {"env": environment, "capture_output": True, "text": True}

    (tmp_path / "brighten.py").write_text("raise AssertionError('--help imports no attack')\n")
    shown = subprocess.run([sys.executable, "-m", "atras.batched", "--help"], **options)
    assert shown.returncode == 0, shown.stderr
    assert "brighten" in shown.stdout
    assert "shade" in shown.stdout

    (tmp_path / "brighten.py").write_text(PACKAGE)
    arguments = ["--hidden", "8", "--epochs", "1", "--attack", "brighten", "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run([sys.executable, "-m", "atras.batched", *arguments], **options)
    assert done.returncode == 0, done.stderr
    assert "brighten" in set(atras.read(tmp_path / "run").metrics["attack"])
