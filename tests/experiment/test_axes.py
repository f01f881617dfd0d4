"""Axes: how they are written, what they refuse, and the experiments that they make of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from atras.defences import BatchCopies
from atras.errors import InputError
from atras.experiment import Execution, Loaded, Protocol, combine, config_lines, load_config, recorded_axes
from atras.networks import Candidate, Member, Variant

TEXTS = ["learning_rate=1e-3,3e-3", "defence=copies(fgsm),batch(pgd(steps=7))", "augment=none,(crop,flip)"]
AXES = {
    "learning_rate": (0.001, 0.003),
    "defence": ("copies", BatchCopies("pgd(steps=7)")),  # type: ignore[arg-type]
    "augment": ["none", "crop,flip"],
}
SMALL = {"candidates": ("8", "16"), "seeds": (0, 1)}


def test_every_combination_is_a_variant_and_the_first_axis_is_slowest() -> None:
    protocol = Protocol(axes=AXES, **SMALL)  # type: ignore[arg-type]
    names = [variant.name for variant in protocol.variants]
    assert len(set(names)) == 8
    assert names[0] == "learning_rate=0.001 defence=copies augment=none"
    assert names[-1] == "learning_rate=0.003 defence=batch(pgd(steps=7)) augment=crop,flip"
    assert names[1] == "learning_rate=0.001 defence=copies augment=crop,flip"
    order = [(member.candidate.name, member.variant.name, member.seed) for member in protocol.members]
    assert order == [(name, variant, seed) for name in ("8", "16") for variant in names for seed in (0, 1)]


def test_a_variant_is_the_experiment_of_its_values() -> None:
    protocol = Protocol(axes=AXES, **SMALL)  # type: ignore[arg-type]
    solo = Protocol(learning_rate=0.003, defence="batch(pgd(steps=7))", augment="crop,flip", **SMALL)  # type: ignore[arg-type]
    assert protocol.of(protocol.variants[-1]) == solo
    assert protocol.of(protocol.variants[-1]).hash == solo.hash
    assert [one.hash for one in protocol.plain] == [protocol.of(variant).hash for variant in protocol.variants]
    plain = Protocol(**SMALL)  # type: ignore[arg-type]
    assert plain.plain == (plain,)
    assert plain.variants == (Variant(),)
    assert Member(Candidate.parse("8"), 0).name == "8/0"
    assert Member(Candidate.parse("8"), 0, protocol.variants[0]).name == f"8/0 {protocol.variants[0].name}"


def test_texts_files_and_python_say_the_same(tmp_path: Path) -> None:
    wanted = Protocol(axes=AXES)  # type: ignore[arg-type]
    assert Protocol(axes=TEXTS) == wanted  # type: ignore[arg-type]
    assert combine(Loaded(), {"axes": TEXTS})[0] == wanted
    lines = {
        "list": f"axes = {TEXTS}",
        "axis": f"axis = {TEXTS}",
        "table": '[axes]\nlearning-rate = [1e-3, 0.003]\ndefence = ["copies", "batch(pgd(steps=7))"]\n'
        'augment = "none,(crop,flip)"',
        "printed": "\n".join(config_lines(wanted, Execution())),
    }
    for name, content in lines.items():
        path = tmp_path / f"{name}.toml"
        path.write_text(content)
        assert combine(load_config(path), {})[0] == wanted, name
    assert Protocol(axes=wanted.to_dict()["axes"]).hash == wanted.hash
    assert (
        Protocol(axes={"learning_rate": (0.003, 0.001)}).hash != Protocol(axes={"learning_rate": (0.001, 0.003)}).hash
    )  # type: ignore[arg-type]


def test_what_is_off_by_default_may_be_off_in_a_variant(tmp_path: Path) -> None:
    protocol = Protocol(axes=["clip_gradient=none,1.0", "average=none,0.9"])  # type: ignore[arg-type]
    assert Protocol(axes={"clip_gradient": (None, 1), "average": (0, 0.9)}) == protocol  # type: ignore[arg-type]
    assert [(one.clip_gradient, one.average) for one in protocol.plain] == [(None, 0), (None, 0.9), (1, 0), (1, 0.9)]
    assert protocol.variants[0].name == "clip_gradient=none average=0.0"
    assert list(recorded_axes(protocol.to_dict()).values())[:3:2] == [
        {"clip_gradient": None, "average": 0.0}, {"clip_gradient": 1.0, "average": 0.0},
    ]  # fmt: skip
    path = tmp_path / "off.toml"
    path.write_text('clip_gradient = "none"\naverage = "none"')
    assert combine(load_config(path), {})[0] == Protocol()
    path.write_text("clip_gradient = 1.0")
    assert combine(load_config(path), {"clip_gradient": "none", "average": "none"})[0] == Protocol()
    with pytest.raises(InputError, match=r"learning_rate \(='none'\): expected a number"):
        Protocol(axes=["learning_rate=none"])  # type: ignore[arg-type]


def test_values_are_recorded_as_numbers_where_they_are_numbers() -> None:
    record = Protocol(axes=["epsilon=8/255", "epochs=3,5", "activation=tanh"]).to_dict()  # type: ignore[arg-type]
    assert list(recorded_axes(record).values()) == [
        {"epsilon": 8 / 255, "epochs": 3, "activation": "tanh"},
        {"epsilon": 8 / 255, "epochs": 5, "activation": "tanh"},
    ]
    assert recorded_axes({"axes": None}) == recorded_axes({}) == {"": {}}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["x=1,2"], "axis (='x'): expected a setting that decides training or attack"),
        (["lerning_rate=1,2"], "axis (='lerning_rate'): did you mean learning_rate? There are stem, activation"),
        (["seeds=1,2"], "axis (='seeds'): expected a setting"),
        (["dataset=mnist,digits"], "axis (='dataset'): expected a setting"),
        (["attacks=fgsm,pgd"], "axis (='attacks'): expected a setting"),
        (["learning_rate=fast"], "axis: learning_rate (='fast'): expected a number"),
        (["learning_rate=-1,1"], "axis: learning_rate (=-1.0): expected a number from 0"),
        (["learning_rate=1,1.0"], "axis learning_rate: 1.0 came twice"),
        (["learning_rate="], "axis (='learning_rate='): expected a setting and its values"),
        (["learning_rate"], "axis (='learning_rate'): expected a setting and its values"),
        (["learning_rate=1,"], "axis: learning_rate (=''): expected a number"),
        (["epsilon=0.1", "epsilon=0.2"], "axis: epsilon came twice; give all its values in one axis"),
        (["target=class:1", "targeted=class:2"], "axis: target came twice; give all its values in one axis"),
        (["defence=copie"], "axis: defence (='copie'): did you mean copies?"),
        (["defence=batch(pgd"], "'batch(pgd': expected as many closing brackets"),
        (["momentum=0,0.9"], "axis, momentum=0.9: momentum (=0.9): only optimizer sgd has one"),
        ({"epsilon": ()}, "axis epsilon: expected values, got none"),
        ({"defence": (3,)}, "defence (=3): expected one of copies"),
        (3, "axes (=3): expected fields and their values"),
        ({"batch_size": range(1, 1002)}, "axis (=1001 variants): expected at most 1000"),
    ],
)
def test_what_is_no_axis_is_refused_in_one_line(axes: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Protocol(axes=axes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_value_beside_an_axis_of_the_same_setting_is_refused() -> None:
    for loaded in (Loaded(), Loaded({"axes": ("learning_rate=1,2",)})):
        settings = {"learning_rate": "0.1"} | ({} if loaded.protocol_fields else {"axes": ["learning_rate=1,2"]})
        with pytest.raises(
            InputError, match="learning_rate: expected either one value or an axis of several, got both"
        ):
            combine(loaded, settings)


def test_finished_networks_have_no_axes() -> None:
    finished = {"epochs": 0, "adversarial_epochs": 0, "defence": "none", "candidates": ("8",), "weights": ("0" * 64,)}
    with pytest.raises(InputError, match="axis: expected networks that the run trains"):
        Protocol(axes={"epsilon": (0.1, 0.2)}, **finished)  # type: ignore[arg-type]


def test_a_variant_without_a_second_training_leaves_that_of_others_alone() -> None:
    protocol = Protocol(axes={"defence": ("none", "copies")})  # type: ignore[arg-type]
    assert [one.adversarial_epochs for one in protocol.plain] == [0, 20]


@pytest.mark.parametrize(
    ("axes", "same"),
    [
        ({"defence": ("copies", "none"), "adversarial_epochs": (1, 2)}, "defence=none adversarial_epochs=1 and"),
        ({"head_dropout": (0, 0.25, 0.001)}, "head_dropout=0.0 and head_dropout=0.001 do the same, as head_dropout "),
        (
            {"epsilon": (0.1, 0.2), "defence": ("fast(epsilon=0.2)", "fast")},
            "epsilon=0.2 defence=fast(epsilon=0.2) and",
        ),
        ({"target": ("none", "random"), "label_source": ("true", "predicted")}, "target=random label_source=true and"),
    ],
)
def test_variants_that_do_the_same_are_refused(axes: dict[str, tuple[object, ...]], same: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"axis: {same}")) as caught:
        Protocol(axes=axes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_those_that_only_names_may_leave_out_what_would_do_the_same() -> None:
    axes = {"defence": ("copies", "none"), "adversarial_epochs": (1, 2)}
    names = [f"8 defence={each}" for each in ("copies adversarial_epochs=1", "copies adversarial_epochs=2")]
    protocol = Protocol(candidates=("8",), axes=axes, only=(*names, "8 defence=none adversarial_epochs=1"))  # type: ignore[arg-type]
    assert len(protocol.pairs) == 3
    assert len(Protocol(axes={"defence": ("none",), "label_source": ("true", "predicted")}).variants) == 2  # type: ignore[arg-type]
