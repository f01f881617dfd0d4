"""Exported networks: the engine's own logits, the table's own figures under other people's attacks, every format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import atras
from atras.analysis import ranking
from atras.analysis.export import _onnx as onnx_bytes
from atras.analysis.export import best_robust, export, export_pareto, first_seed, load
from atras.cli import program
from atras.data import load as load_data
from atras.data import pixels
from atras.engines import LoopEngine, StackEngine
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member, Spec
from atras.results.results import Results
from atras.running.orchestrator import run
from atras.training import weights

CPU = torch.device("cpu")
SMALL, LARGE = Candidate((24,)), Candidate((12, 16))
PROTOCOL = Protocol(
    candidates=(SMALL, LARGE), seeds=(3, 0), epochs=4, adversarial_epochs=2, learning_rate=0.01, head_dropout=0.25
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A short run on digits."""
    folder = tmp_path_factory.mktemp("run")
    return run(PROTOCOL, Execution(engine="stack", device="cpu"), out=folder)


def pictures() -> tuple[Tensor, Tensor]:
    test = load_data("digits").test
    return pixels(test.images, torch.float32), test.labels


def count(results: Results, candidate: Candidate, seed: int, column: str, n: int) -> int:
    share = results.table.filter(hidden_layers=candidate.name, seed=seed)[column].item()
    return round(share * n)


# The module


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
@pytest.mark.parametrize(
    ("stem", "shape"), [("none", (1, 8, 8)), ("conv2", (1, 28, 28)), ("conv4", (3, 32, 32)), ("conv4", (2, 17, 23))]
)
def test_a_module_gives_the_engines_logits(stem: str, shape: tuple[int, int, int], activation: str) -> None:
    spec = Spec(shape, 7, stem=stem, activation=activation, head_rate256=64)
    engine = LoopEngine(spec, [Member(Candidate((9, 5)), 1)], Protocol(precision="fp32"), CPU)
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    module = engine.networks[0].module(engine.get_parameters(0))
    assert not module.training
    # The same operations; the engine's images are channels last, so convolutions may add in another order.
    torch.testing.assert_close(module(images), engine.logits(images)[0], atol=1e-6, rtol=0)


def test_in_training_the_module_drops_as_many_units_as_the_engine() -> None:
    spec = Spec((3, 32, 32), 7, stem="conv4", head_rate256=128)
    engine = LoopEngine(spec, [Member(Candidate((9,)), 1)], Protocol(precision="fp32"), CPU)
    rates = [layer.p for layer in engine.networks[0].module(engine.get_parameters(0)) if isinstance(layer, nn.Dropout)]
    assert rates == [0.25, 0.25, 0.5]


# Files


@pytest.mark.parametrize(("candidate", "seed"), [(SMALL, 0), (LARGE, 3)])
@pytest.mark.parametrize(("phase", "clean"), [("trained", "test_accuracy"), ("defended", "adversarial_test_accuracy")])
def test_a_loaded_network_scores_what_the_table_says(
    finished: Results, tmp_path: Path, candidate: Candidate, seed: int, phase: str, clean: str
) -> None:
    module = atras.load(export(finished, candidate, tmp_path / "w.safetensors", seed=seed, phase=phase))
    images, labels = pictures()
    correct = int((module(images).argmax(-1) == labels).sum())
    # Stack and module add in another order; one image may sit on the fence.
    assert abs(correct - count(finished, candidate, seed, clean, len(labels))) <= 1


def test_the_file_says_what_it_holds(finished: Results, tmp_path: Path) -> None:
    metadata: Any = load(export(finished, LARGE, tmp_path / "w.safetensors", seed=0)).metadata
    assert metadata["hidden"] == "12-16"
    assert (metadata["seed"], metadata["phase"], metadata["dataset"]) == (0, "defended", "digits")
    assert metadata["epsilon"] == 0.05
    assert metadata["protocol_hash"] == PROTOCOL.hash
    assert metadata["spec"]["head_rate256"] == 64
    row = finished.table.filter(hidden_layers="12-16", seed=0).to_dicts()[0]
    assert metadata["accuracies"]["attacked_accuracy_after_white_box"] == row["attacked_accuracy_after_white_box"]


def test_the_file_says_who_else_may_be_as_good(finished: Results, tmp_path: Path) -> None:
    best = best_robust(finished)
    written: Any = load(export(finished, best, tmp_path / "best.safetensors")).metadata
    first = ranking(finished).row(0, named=True)
    assert written["rank"] == {
        "by": "white-box robust accuracy" if not finished.table["worst_case_accuracy_after"].count()
        else "worst-case robust accuracy",
        "of": len(finished.run["protocol"]["candidates"]),
        "low": first["rank_low"],
        "high": first["rank_high"],
        "not_distinguishable": first["tied"],
    }  # fmt: skip


def test_a_loaded_network_outlives_atras(finished: Results, tmp_path: Path) -> None:
    module = load(export(finished, SMALL, tmp_path / "w.safetensors"))
    del module.metadata
    torch.save(module, tmp_path / "module.pt")
    images, _ = pictures()
    torch.save(images[:5], tmp_path / "images.pt")
    code = (
        "import sys, torch\n"
        "module = torch.load('module.pt', weights_only=False)\n"
        "torch.save(module(torch.load('images.pt')), 'logits.pt')\n"
        "assert not any(name.split('.')[0] == 'atras' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), module(images[:5]))


def test_a_float64_network_stays_float64(tmp_path: Path) -> None:
    spec = Spec((1, 8, 8), 10)
    engine = StackEngine(spec, [Member(SMALL, 0)], Protocol(precision="fp64"), CPU)
    module = engine.networks[0].module(engine.get_parameters(0))
    assert {values.dtype for values in module.state_dict().values()} == {torch.float64}


def test_onnx_runs_in_onnxruntime_at_any_batch_size(finished: Results, tmp_path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(export(finished, LARGE, tmp_path / "w.onnx", seed=0).read_bytes())
    assert session.get_modelmeta().custom_metadata_map["phase"] == '"defended"'
    images, _ = pictures()
    expected = load(export(finished, LARGE, tmp_path / "w.safetensors", seed=0))
    for batch in (1, 2, 50):
        (found,) = session.run(["logits"], {"images": images[:batch].numpy()})
        # Another library's products: float32 rounding of sums of 64 terms near 1.
        np.testing.assert_allclose(found, expected(images[:batch]).detach().numpy(), atol=1e-5)


def test_onnx_takes_stems_too(tmp_path: Path) -> None:
    import onnxruntime

    spec = Spec((3, 32, 32), 10, stem="conv4", activation="gelu")
    engine = LoopEngine(spec, [Member(Candidate((8,)), 0)], Protocol(precision="fp32"), CPU)
    session = onnxruntime.InferenceSession(onnx_bytes(engine.networks[0], engine.get_parameters(0), {}))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(found, engine.logits(images)[0].numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's own reader
def test_pt2_runs_without_atras_at_any_batch_size(finished: Results, tmp_path: Path) -> None:
    extra = {"hidden": ""}
    program = torch.export.load(export(finished, LARGE, tmp_path / "w.pt2", seed=0), extra_files=extra)
    assert extra["hidden"] == '"12-16"'
    images, _ = pictures()
    expected = load(export(finished, LARGE, tmp_path / "w.safetensors", seed=0))
    for batch in (1, 50):
        torch.testing.assert_close(program.module()(images[:batch]), expected(images[:batch]), atol=1e-6, rtol=0)


# Other people's attacks


def with_art(module: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(images.shape[1:])
    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
    attack = FastGradientMethod(classifier, eps=epsilon, batch_size=len(images))
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def with_foolbox(module: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    return attack.run(model, images, labels, epsilon=epsilon)


@pytest.mark.parametrize("attack", [with_art, with_foolbox])
@pytest.mark.parametrize(
    ("phase", "column"),
    [("trained", "attacked_accuracy_before_true"), ("defended", "attacked_accuracy_after_white_box")],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attacked_by_others_it_scores_what_the_table_says(
    finished: Results, tmp_path: Path, phase: str, column: str, attack: Any
) -> None:
    images, labels = pictures()
    for member in ((SMALL, 0), (LARGE, 3)):
        candidate, seed = member
        module = load(export(finished, candidate, tmp_path / "w.safetensors", seed=seed, phase=phase))
        adversarial = attack(module, images, labels, 0.05)
        correct = int((module(adversarial).argmax(-1) == labels).sum())
        # A gradient that rounds to the other sign of zero may turn an image on the fence.
        assert abs(correct - count(finished, candidate, seed, column, len(labels))) <= 1


# Choice


def test_the_best_is_the_best_mean_and_its_first_trained_seed(finished: Results) -> None:
    means = finished.table.group_by("hidden_layers").agg(pl.col("attacked_accuracy_after_white_box").mean())
    best = means.sort("attacked_accuracy_after_white_box", descending=True)["hidden_layers"][0]
    assert best_robust(finished).name == best
    assert first_seed(finished, SMALL) == 3
    dead = pl.when(pl.col("seed") == 3).then(pl.lit("dead")).otherwise(pl.col("status")).alias("status")
    again = Results(
        finished.table.with_columns(dead), finished.metrics, finished.history, finished.timings, finished.run
    )
    assert first_seed(again, SMALL) == 0


def test_the_front_goes_into_a_folder(finished: Results, tmp_path: Path) -> None:
    paths = export_pareto(finished, tmp_path / "front", file_format="safetensors")
    assert paths[0].name == "12-16.safetensors"  # the smallest network is always on the front
    assert sorted(path.name for path in (tmp_path / "front").iterdir()) == sorted(path.name for path in paths)
    assert all(load(path)(pictures()[0][:2]).shape == (2, 10) for path in paths)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate": Candidate((7,))}, r"hidden \(='7'\): the run has no such candidate"),
        ({"seed": 9}, r"seed \(=9\): expected one of 3, 0"),
        ({"phase": "after"}, r"phase \(='after'\): expected one of trained, defended"),
        ({"file_format": "pickle"}, r"format \(='pickle'\): expected one of safetensors, pt2, onnx"),
        ({"path": "w.bin"}, r"format \(='bin'\): expected one of safetensors, pt2, onnx; add --format"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"candidate": SMALL, "path": "w.safetensors"} | changes
    with pytest.raises(InputError, match=message):
        export(finished, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_no_networks(finished: Results, tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    others = [tmp_path / "none.safetensors", tmp_path / "noise.safetensors"]
    assert finished.directory is not None
    others.append(next((finished.directory / weights.FOLDER).glob("trained-*.safetensors")))
    for path in others:
        with pytest.raises(InputError, match="expected a network written by atras export"):
            load(path)


def test_a_missing_package_is_named(finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"format \(='onnx'\): needs package onnxscript; pip install '.\[export\]'"):
        export(finished, SMALL, tmp_path / "w.onnx")


# The command


def execute(results: Results, *args: str) -> int:
    return program.execute(program.app, ["export", str(results.directory), *args], "atras")


def test_the_command_writes_the_file_it_names(
    finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(finished, "--hidden", "12,16", "--seed", "0", "--phase", "trained", "-o", "new/w.safetensors") == 0
    assert capsys.readouterr().out == "wrote new/w.safetensors\n"
    metadata: Any = load("new/w.safetensors").metadata
    assert (metadata["hidden"], metadata["seed"], metadata["phase"]) == ("12-16", 0, "trained")
    assert execute(finished, "--best", "robust", "-o", "best", "--format", "safetensors") == 0
    metadata = load("best").metadata
    assert Candidate.parse(metadata["hidden"]) == best_robust(finished)
    assert execute(finished, "--pareto", "-o", "front") == 0
    assert (tmp_path / "front" / "12-16.safetensors").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-o w.onnx", "export: expected one of --hidden, --best and --pareto; name the network in one way"),
        ("-o w.onnx --pareto --best robust", "export: expected one of --hidden, --best and --pareto"),
        ("-o w.onnx --hidden 8 --rank-by balanced", "rank_by: expected with --best or --pareto, which rank"),
        ("-o w.onnx --best robust --rank-by size", "rank_by (='size'): expected one of accuracy, balanced"),
        ("-o w.onnx --best clean", "best (='clean'): expected robust"),
        ("-o w.onnx --hidden 24 --seed one", "seed (='one'): expected a whole number"),
        ("-o w --hidden 24", "format (=''): expected one of safetensors, pt2, onnx; add --format"),
        ("--hidden 24", "missing option '-o' / '--out'"),
    ],
)
def test_bad_input_is_one_line(finished: Results, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert execute(finished, *line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"atras: {message}")
    assert err.count("\n") == 1
