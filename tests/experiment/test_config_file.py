"""Experiments from a file."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atras.attacks import FGSM, PGD, DeepFool
from atras.defences import BatchCopies, Copies
from atras.errors import InputError
from atras.experiment import SETTINGS, Execution, Loaded, Protocol, combine, config_file, load_config
from atras.networks import Candidate
from atras.schedules import Step
from atras.version import SCHEMA

EVERY_KEY = """
preset = "paper"
dataset = "mnist"
train-size = 500
test_size = "all"
subset = "stratified"
channels = "last"
image-size = 64
hidden = ["24,192", [8, 32]]
depth = [2]
seeds = "0-2"
stem = "conv2"
activation = "tanh"
initialisation = "he"
head-dropout = 0.25
epochs = 3
adversarial-epochs = 4
batch-size = 64
optimizer = "sgd"
learning-rate = 1
schedule = "step(at=(1, 2))"
momentum = 0.9
weight-decay = 1e-4
clip-gradient = 2
label-smoothing = 0.1
average = 0.99
select = "robust"
validation-size = 50
augment = "crop,flip"
epsilon = "8/255"
label-source = "true"
targeted = "class:3"
attacks = ["pgd(steps=10, step_size=2/255, restarts=3)", "deepfool"]
epsilons = [0, "8/255"]
defence = "copies(source=24-192)"
transfer = true
transfer-attacks = ["fgsm", "pgd(steps=3)"]
transfer-seeds = "other"
transfer-sources = ["24,192"]
transfer_targets = "8-32"
precision = "fp64"
outcomes = "all"
evaluate-every = 2
engine = "loop"
executor = "ray"
ray-address = "10.0.0.1:6379"
device = "cpu"
memory = "4GiB"
data-dir = "data"
download = false
recalibrate = true
checkpoint-every = 5
shard = "3/16"
log = ["tensorboard", "mlflow(experiment=mine)"]
"""


def write(folder: Path, content: str | bytes, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def run_json(**changes: Any) -> str:
    protocol = Protocol(candidates=(Candidate((40,)),), seeds=(0, 1), epochs=3)
    content = {
        "schema": SCHEMA,
        "protocol": protocol.to_dict(),
        "protocol_hash": protocol.hash,
        "execution": Execution(device="cpu", memory_bytes=2**30, recalibrate=True).to_dict(),
        "plan": {"groups": [1]},
        "environment": {"anything": 1},
    }
    return json.dumps(content | changes)


def test_every_key_of_a_toml_file_reaches_its_field(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, EVERY_KEY))
    protocol, execution, plan = combine(loaded, {})
    assert protocol == Protocol(
        dataset="mnist", train_size=500, test_size="all", subset="stratified", channels="last", image_size=64,
        candidates=(Candidate((24, 192)), Candidate((8, 32))), seeds=(0, 1, 2), stem="conv2",
        activation="tanh", initialisation="he", head_dropout=0.25, epochs=3,
        adversarial_epochs=4, batch_size=64, optimizer="sgd", learning_rate=1.0, momentum=0.9, augment="crop,flip",
        schedule=Step(at=(1, 2)), weight_decay=1e-4, clip_gradient=2.0, label_smoothing=0.1, average=0.99,
        select="robust", validation_size=50,
        epsilon=8 / 255,
        label_source="true", target="class:3", precision="fp64", evaluate_every=2, outcomes="all",
        attacks=(PGD(steps=10, step_size=2 / 255, restarts=3), DeepFool()), epsilons=(0.0, 8 / 255), transfer=True,
        transfer_attacks=("fgsm", "pgd(steps=3)"), transfer_seeds="other", transfer_sources=(Candidate((24, 192)),),
        transfer_targets=(Candidate((8, 32)),), defence=Copies(source="24-192"),
    )  # fmt: skip
    assert execution == Execution(
        engine="loop", executor="ray", ray_address="10.0.0.1:6379", device="cpu",
        memory_bytes=4 * 2**30, data_dir="data", download=False, recalibrate=True,
        checkpoint_every=5.0, shard="3/16", log=("tensorboard", "mlflow(experiment=mine)"),
    )  # fmt: skip
    assert loaded.preset == "paper"
    assert plan is None


def test_the_example_above_names_every_key_but_the_ranges() -> None:
    written = {line.split(" = ")[0].replace("-", "_") for line in EVERY_KEY.split("\n") if line}
    ranges = {"family", "base_widths", "factors", "max_width", "widths", "depths", "kernels"}
    assert set(SETTINGS) - written == ranges | {"target", "weights", "axes", "only"}


@pytest.mark.parametrize("value", ['["fgsm", "pgd(steps=3)"]', '"fgsm,pgd(steps=3)"', '["fgsm,pgd(steps=3)"]'])
def test_attacks_in_a_file_are_a_list_or_a_text(tmp_path: Path, value: str) -> None:
    for key in ("attacks", "attack"):
        loaded = load_config(write(tmp_path, f"{key} = {value}"))
        assert combine(loaded, {})[0].attacks == (FGSM(), PGD(steps=3))


def test_a_defence_in_a_file_is_a_text(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, 'defence = "batch(pgd(steps=7))"'))
    assert combine(loaded, {})[0].defence == BatchCopies(PGD(steps=7))


def test_candidates_by_range_in_a_file(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, 'base-widths = [8, 16]\nfactors = "4"\nmax_width = 64'))
    assert [candidate.name for candidate in loaded.protocol_fields["candidates"]] == ["8-32", "16-64"]


def test_families_and_networks_in_a_file(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, 'family = "conv"\ndepth = 1'))
    assert [candidate.name for candidate in loaded.protocol_fields["candidates"]] == ["c40", "c48", "c56", "c64"]
    loaded = load_config(write(tmp_path, 'family = "grid"\nwidths = [8]\ndepths = "1-2"\nkernels = 5'))
    names = [candidate.name for candidate in loaded.protocol_fields["candidates"]]
    assert names == ["c8k5zsamepauto", "c8k5zsamepauto-c8k5zsamepauto"]
    loaded = load_config(write(tmp_path, 'network = ["wong-mnist", "c40-c80", [24, 192]]'))
    assert [candidate.name for candidate in loaded.protocol_fields["candidates"]] == ["wong-mnist", "c40-c80", "24-192"]


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Loaded()


def test_run_json_repeats_its_run(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, run_json(), "run.json"))
    protocol, execution, plan = combine(loaded, {})
    assert protocol == Protocol(candidates=(Candidate((40,)),), seeds=(0, 1), epochs=3)
    assert (execution.device, execution.memory_bytes) == ("cpu", 2**30)
    assert plan == {"groups": [1]}


def test_run_json_never_measures_anew(tmp_path: Path) -> None:
    assert not combine(load_config(write(tmp_path, run_json(), "run.json")), {})[1].recalibrate


def test_null_in_run_json_leaves_the_environment_its_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRAS_DATA", "there")
    content = run_json(execution={"data_dir": None})
    assert combine(load_config(write(tmp_path, content, "run.json")), {})[1].data_dir == "there"


def test_momentum_may_wait_for_the_command_lines_optimizer(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, "momentum = 0.9"))
    assert combine(loaded, {"optimizer": "sgd"})[0].momentum == 0.9
    with pytest.raises(InputError, match="momentum"):
        combine(loaded, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochz = 3", "unknown key 'epochz'; did you mean epochs?"),
        ("no-download = true", "unknown key 'no-download'; did you mean download?"),
        ("xyzzy = 3", "unknown key 'xyzzy'; expected one of preset, dataset,"),
        ("batch-size = 3\nbatch_size = 4", "batch_size: batch_size came twice"),
        ('hidden = ["40"]\ncandidates = ["40"]', "candidates: hidden came twice"),
        ('epochs = "3"', "epochs (='3'): expected a whole number"),
        ("epochs = true", "epochs (=True): expected a whole number"),
        ("epochs = 0", "epochs (=0): expected a whole number from 1"),
        ('head-dropout = "x"', "head_dropout (='x'): expected a number"),
        ("hidden = [24, 192]", "hidden (=[24, 192]): expected a list of candidates, such as"),
        ("hidden = [[0]]", "hidden (=(0,)): expected one or more whole numbers"),
        ("hidden = []", "candidates (=()): expected a tuple of at least one"),
        ("[data]\nx = 1", "unknown key 'data'"),
        ("attacks = [3]", "attacks (=[3]): expected attacks, such as"),
        ('attacks = ["pdg"]', "attack (='pdg'): did you mean pgd? There are fgsm, random-fgsm, pgd, apgd"),
        ('attacks = ["pgd(stepz=3)"]', "attack (='pgd(stepz=3)'): unknown option 'stepz=3'; did you mean steps?"),
        ('defence = "nothing"', "defence (='nothing'): expected one of copies, none, batch"),
        ("defence = 3", "defence (=3): expected text in quotes, such as"),
        ("attack-steps = 40", 'attack-steps is no longer a key; write for example attacks = ["pgd(steps=40)"]'),
        ("step_size = 1", 'step_size is no longer a key; write for example attacks = ["pgd(step_size=2/255)"]'),
        ("restarts = 5", 'restarts is no longer a key; write for example attacks = ["pgd(restarts=5)"]'),
        ('train_attack = "x"', 'train_attack is no longer a key; write for example defence = "batch(pgd(steps=7))"'),
        ("defence-source = 1", 'defence-source is no longer a key; write for example defence = "copies(source=small'),
        ("seeds = [1, 1]", "seeds: 1 came twice"),
        ('seeds = "4-0"', "seeds (='4-0'): expected whole numbers"),
        ('epsilon = "8/0"', "epsilon (='8/0'): expected a number or a fraction"),
        ("epsilon = nan", "epsilon (=nan): expected a number or a fraction"),
        ("epsilon = 2", "epsilon (=2.0): expected a number from 0 to 1"),
        ('memory = "1KiB"', "memory (=1024): expected a whole number from"),
        ('preset = "papper"', "preset (='papper'): expected one of paper"),
        ('stem = "conv3"', "stem (='conv3'): expected one of auto, none, conv2, conv4"),
        ('device = "gpu"', "device (='gpu'): expected auto, cpu, cuda, cuda:N or cuda:all"),
        ("depth = 9", "depth (=9): no candidate has it"),
        ("epochs = 0x" + "f" * 5000, "epochs (=more digits than Python prints): expected a whole number"),
        ("hidden = [[0x" + "f" * 5000 + "]]", "hidden (=more digits than Python prints): expected one or more"),
        ("max-width = 0x" + "f" * 5000, "max_width (=more digits than Python prints): expected a whole number"),
        ("a." * 101 + "b = 1", "expected at most 100 dots on a line"),
        ("epochs = ", "expected TOML, got something else"),
        ("epochs = 1\nepochs = 2", "expected TOML, got something else"),
        (b"\xff\xfe\x00", "expected UTF-8 text, got other bytes"),
    ],
)
def test_a_bad_toml_file_is_one_line_naming_file_and_key(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected an object with the key protocol"),
        ("{}", "protocol: expected an object"),
        ("{", "expected JSON, got something else"),
        ("[" * 100_000, "expected JSON, got something else"),
        ('{"protocol": {"epochs": ' + "9" * 5000 + "}}", "expected JSON, got something else"),
        ('{"protocol": {"epochs": 1, "epochs": 2}}', "key 'epochs' came twice"),
        ('{"protocol": {"epsilon": NaN}}', "expected numbers, got NaN"),
        ('{"protocol": {}, "plan": {"x": -Infinity}}', "expected numbers, got -Infinity"),
        (run_json(plan=[1]), "plan: expected an object"),
        (run_json(execution=3), "execution: expected an object"),
        (run_json(protocol={"epochz": 3}), "unknown key 'epochz'; did you mean epochs?"),
        (run_json(protocol={"learning_rate": 10**400}), "learning_rate (="),
        (run_json(protocol={"epochs": 4}), "protocol_hash (="),
    ],
)
def test_a_bad_run_json_is_one_line_naming_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content, "run.json")
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read \(No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        load_config(tmp_path)
    for limit, name in (("MAX_TOML_BYTES", "run.toml"), ("MAX_BYTES", "run.json")):
        monkeypatch.setattr(config_file, limit, 10)
        with pytest.raises(InputError, match=r"cannot be read \(it has 11 bytes, of which 10 are allowed"):
            load_config(write(tmp_path, "#" * 11, name))


@pytest.mark.parametrize(
    "former",
    [
        {"protocol": {"dataset": "digits", "epochs": 3, "train_attack": "fgsm", "attack_steps": 20}},
        {"protocol": {"dataset": "digits"}, "finished_groups": 3},
        {"protocol": Protocol().to_dict()},
        {"schema": None, "protocol": Protocol().to_dict()},
        {"schema": 1, "protocol": Protocol().to_dict()},
        {"schema": True, "protocol": Protocol().to_dict()},
        {"schema": str(SCHEMA), "protocol": Protocol().to_dict()},
        {"schema": SCHEMA + 1, "protocol": {"later": 1}},
    ],
)
def test_a_run_json_of_another_schema_is_one_line_with_what_to_do(tmp_path: Path, former: dict[str, Any]) -> None:
    path = write(tmp_path, json.dumps(former), "run.json")
    with pytest.raises(InputError) as caught:
        load_config(path)
    found = former.get("schema")
    which = "an earlier schema" if found is None else f"schema {found!r}"
    assert str(caught.value) == (
        f"{path}: schema: expected {SCHEMA}, but this was written by {which} of atras; run it again with its settings"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
KEYS = st.sampled_from([*SETTINGS, "candidates", "memory_bytes"]) | st.text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(st.dictionaries(KEYS, JSON, max_size=2))
def test_whatever_a_run_json_holds_only_an_input_error_comes_out(folder: Path, protocol: dict[str, Any]) -> None:
    path = write(folder, json.dumps({"schema": SCHEMA, "protocol": protocol}), "run.json")
    with suppress(InputError):
        load_config(path)


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_bytes_a_toml_file_holds_only_an_input_error_comes_out(folder: Path, content: bytes) -> None:
    path = write(folder, content)
    with suppress(InputError):
        load_config(path)
