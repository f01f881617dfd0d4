"""Weights of finished networks: every format, the names they may have, and what is refused in one line."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atras.errors import InputError
from atras.networks import Candidate, Network, Spec, fitted, read_weights, weights_of

SPEC = Spec((1, 8, 8), 10, stem="none")
CANDIDATE = Candidate.parse("c4k3-16")
SHAPES = Network(SPEC, CANDIDATE).parameter_shapes


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def logits_of(path: Path, images: torch.Tensor) -> torch.Tensor:
    weights = fitted(read_weights(path), SHAPES, CANDIDATE.name)
    return Network(SPEC, CANDIDATE).logits(weights.tensors, images)


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "as it is": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}},
    "model in model": lambda state: {"model": {"net": state}},
    "DataParallel": lambda state: {"net": {f"module.{name}": value for name, value in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "an attribute": lambda state: {f"layers.{name}": value for name, value in state.items()},
    "ours": lambda state: OrderedDict(zip(SHAPES, state.values(), strict=True)),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_a_checkpoint_gives_the_network_it_was_saved_from(tmp_path: Path, form: str) -> None:
    network, images = module(), torch.rand(5, 1, 8, 8)
    path = saved(tmp_path / "w.pth", WRAPPED[form](network.state_dict()))
    torch.testing.assert_close(logits_of(path, images), network(images), rtol=1e-5, atol=1e-6)  # float32 sums


def test_safetensors_and_what_atras_exported_are_read(tmp_path: Path) -> None:
    network, images = module(), torch.rand(5, 1, 8, 8)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    expected = network(images)
    torch.testing.assert_close(logits_of(tmp_path / "w.safetensors", images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_that_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in module().state_dict().items()}
    found = fitted(read_weights(saved(tmp_path / "w.pt", state)), SHAPES, "c4k3-16")
    assert {value.dtype for value in found.tensors.values()} == {torch.float32}
    assert torch.equal(found.tensors["logits.bias"], state["5.bias"].float())
    assert any("converted to float32" in note for note in found.notes)


def test_a_program_is_a_network_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).eval()
    example, batch = torch.zeros(2, 1, 8, 8), torch.export.Dim("batch")
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), tmp_path / "w.pt2")
    found, images = read_weights(tmp_path / "w.pt2"), torch.rand(3, 1, 8, 8)
    assert found.program is not None
    made = found.program()
    assert torch.equal(made.eval()(images), network(images))


def test_onnx_goes_through_onnx2torch_and_its_absence_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.onnx").write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(InputError, match=r"w.onnx: an ONNX file needs package onnx2torch; pip install '.\[onnx\]'$"):
        read_weights(tmp_path / "w.onnx")
    network = module()
    monkeypatch.setitem(sys.modules, "onnx", SimpleNamespace(load_from_string=lambda content: content))
    monkeypatch.setitem(sys.modules, "onnx2torch", SimpleNamespace(convert=lambda content: network))
    found = read_weights(tmp_path / "w.onnx")
    assert found.program is not None
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(found.program()(images), network(images))

    def unknown(content: bytes) -> nn.Module:
        raise NotImplementedError("Reshape, version 19")

    monkeypatch.setitem(sys.modules, "onnx2torch", SimpleNamespace(convert=unknown))
    with pytest.raises(InputError, match=r"Reshape, version 19\); write it by torch.onnx.export\(.*, or .* as .pt2$"):
        read_weights(tmp_path / "w.onnx")


class Code:
    """What a pickle must not bring along."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise AssertionError('it ran')",)


def _truncated(path: Path) -> None:
    saved(path, module().state_dict())
    path.write_bytes(path.read_bytes()[:1500])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a whole module": (lambda path: saved(path, module()), "objects that only running code could restore"),
    "code": (lambda path: saved(path, {"w": Code()}), r"code could restore.*save it anew by torch.save"),
    "truncated": (_truncated, "found a damaged or foreign file"),
    "empty": (lambda path: path.write_bytes(b""), "found a damaged or foreign file"),
    "text": (lambda path: path.write_text("hello"), "found a damaged or foreign file"),
    "two networks": (
        lambda path: saved(path, {"net": module().state_dict(), "ema": module().state_dict()}),
        "expected one state dict, found 'net', 'ema'",
    ),
    "a tensor": (lambda path: saved(path, torch.zeros(3)), "expected a state dict, found a Tensor"),
    "numbers": (lambda path: saved(path, {"epoch": 3}), "found dict with 'epoch'"),
    "no number": (lambda path: saved(path, {"w": torch.tensor([1.0, torch.nan])}), "'w': expected finite numbers"),
    "complex": (lambda path: saved(path, {"w": torch.zeros(1, dtype=torch.complex64)}), "found complex64"),
    "sparse": (lambda path: saved(path, {"w": torch.eye(2).to_sparse()}), "a quantised or sparse tensor"),
    "a view that would grow": (
        lambda path: saved(path, {"w": torch.ones(1).expand(10**13)}),
        "expected tensors of at most",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_checkpoint_is_one_line(tmp_path: Path, case: str) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "w.pth")
    with pytest.raises(InputError, match=message) as caught:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert "w.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"), [("w.h5", "ends in .pth, .pt"), ("none.pth", "No such file"), ("", "ends")]
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / name)


def test_missing_and_surplus_names_are_told_the_first_three_and_how_many(tmp_path: Path) -> None:
    state = {f"other{number}": torch.zeros(1) for number in range(5)}
    with pytest.raises(InputError) as caught:
        fitted(read_weights(saved(tmp_path / "w.pth", state)), SHAPES, "c4k3-16")
    assert str(caught.value).endswith(
        "expected the 6 tensors of network c4k3-16; missing are conv1.weight, conv1.bias, dense1.weight and 3 more, "
        "surplus are other0, other1, other2 and 2 more; name the network that the weights are of"
    )


def test_another_shape_is_named_with_both(tmp_path: Path) -> None:
    state = module().state_dict() | {"0.weight": torch.zeros(4, 1, 5, 5)}
    with pytest.raises(InputError, match=r"conv1.weight: expected shape 4x1x3x3 for network c4k3-16, found 4x1x5x5"):
        fitted(read_weights(saved(tmp_path / "w.pth", state)), SHAPES, "c4k3-16")


def test_layers_of_other_kinds_are_not_taken_in_their_order(tmp_path: Path) -> None:
    state = {f"{number}.weight": value for number, value in enumerate(module().state_dict().values())}
    with pytest.raises(InputError, match="missing are"):
        fitted(read_weights(saved(tmp_path / "w.pth", state)), SHAPES, "c4k3-16")


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "calls": (lambda text: text.replace("torch.ops.aten.linear.default", "torch.hub.os.system"), "none of torch's"),
    "pickles": (lambda text: text.replace('"use_pickle": false', '"use_pickle": true'), "pickled weights"),
    "evaluates": (lambda text: text.replace("positive=True", "positive=exec(chr(49))"), "no plain expression"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_that_would_run_code_is_refused(tmp_path: Path, change: str) -> None:
    network, batch = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.export.Dim("batch")
    plain = tmp_path / "plain.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)), plain)
    alter, message = CHANGES[change]
    old, out = zipfile.ZipFile(plain), io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, alter(content.decode()).encode() if entry.filename.endswith(".json") else content)
    (tmp_path / "w.pt2").write_bytes(out.getvalue())
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "w.pt2")


def test_the_digest_of_a_module_goes_by_names_types_and_numbers() -> None:
    network = module()
    first = weights_of(network).sha256
    assert first == weights_of(module()).sha256
    with torch.no_grad():
        network[0].bias[0] += 1
    assert weights_of(network).sha256 != first
    record = weights_of(network).record("mine")
    assert json.loads(json.dumps(record))["network"] == "mine"
