"""Networks of a run as files, and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atras.data import pixels
from atras.errors import InputError
from atras.experiment import Execution
from atras.networks import Candidate, Member, Network, Spec
from atras.running import orchestrator
from atras.running.prepare import prepare
from atras.testing import SMALL
from atras.training import checkpoint, weights

SPEC = Spec((1, 4, 4), 3)
MEMBERS = [Member(Candidate((5,)), 0), Member(Candidate((3, 4)), 2)]
NETWORKS = {
    member: Network(SPEC, member.candidate).initial_parameters(member.seed, torch.float32) for member in MEMBERS
}


def test_networks_come_back_as_they_were_kept(tmp_path: Path) -> None:
    in_folder, in_memory = weights.Networks(tmp_path, SPEC, "hash"), weights.Networks(None, SPEC, "hash", True)
    for kept in (in_folder, in_memory):
        assert kept.wanted
        kept.put("trained", MEMBERS[:1], None, {MEMBERS[0]: NETWORKS[MEMBERS[0]]})
        kept.put("trained", MEMBERS[1:], 7, {MEMBERS[1]: NETWORKS[MEMBERS[1]]})
        for member, expected in NETWORKS.items():
            found = kept.get("trained", member)
            assert list(found) == list(Network(SPEC, member.candidate).parameter_shapes)
            assert all(torch.equal(values, expected[name]) for name, values in found.items())
        with pytest.raises(InputError, match="found none"):
            kept.get("defended", MEMBERS[0])
    assert weights.read_member(tmp_path, MEMBERS[0].candidate, 0, "trained")[0] == SPEC
    in_folder.forget_others([MEMBERS[:1]])
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [
        f"trained-{checkpoint.key_of(MEMBERS[:1])}.safetensors"
    ]
    assert not weights.Networks(None, SPEC, "hash").wanted


def test_networks_too_many_for_one_header_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_HEADER_BYTES", 700)
    kept = weights.Networks(tmp_path, SPEC, "hash")
    kept.put("trained", MEMBERS, None, NETWORKS)
    assert len(list((tmp_path / "weights").iterdir())) == 2
    for member, expected in NETWORKS.items():
        found = kept.get("trained", member)
        assert all(torch.equal(values, expected[name]) for name, values in found.items())
    kept.forget_others([MEMBERS])
    assert len(list((tmp_path / "weights").iterdir())) == 2
    kept.forget_others([])
    assert not list((tmp_path / "weights").iterdir())


def test_a_damaged_file_of_networks_is_named(tmp_path: Path) -> None:
    kept = weights.Networks(tmp_path, SPEC, "hash")
    kept.put("trained", MEMBERS, None, NETWORKS)
    path = tmp_path / weights.file_name("trained", MEMBERS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{path.name}: expected networks of a run, found a damaged"):
        kept.get("trained", MEMBERS[0])
    with pytest.raises(InputError, match="expected one of trained, defended"):
        weights.read_member(tmp_path, MEMBERS[0].candidate, 0, "finished")


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
def test_a_run_leaves_the_networks_that_its_table_is_of(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    protocol = SMALL.replace(precision="fp32")
    run = orchestrator.run(protocol, Execution(engine=engine, device="cpu"), out=tmp_path / "run")  # type: ignore[arg-type]
    test = prepare(protocol, Execution(device="cpu")).data.test
    for phase, column in (("trained", "test_accuracy"), ("defended", "adversarial_test_accuracy")):
        for candidate, expected in zip(protocol.candidates, run.table[column], strict=True):
            spec, parameters = weights.read_member(tmp_path / "run", candidate, 0, phase)
            predicted = Network(spec, candidate).logits(parameters, pixels(test.images, torch.float32)).argmax(1)
            # Another order of sums may turn one of 30 images.
            assert (predicted == test.labels).double().mean().item() == pytest.approx(expected, abs=1 / 30 + 1e-9)


def test_networks_of_many_groups_are_found_without_a_look_into_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, candidate, read = Spec((1, 8, 8), 10), Candidate.parse("8"), []
    members = [Member(candidate, seed) for seed in range(30)]
    shapes = Network(spec, candidate).state_shapes
    networks = {
        member: {name: torch.full(shape, float(member.seed)) for name, shape in shapes.items()} for member in members
    }
    (tmp_path / weights.FOLDER).mkdir()
    writer, reader = (weights.Networks(tmp_path, spec, "hash") for _ in range(2))
    for member in members[:-1]:
        writer.put("trained", [member], None, {member: networks[member]})
    real = weights.read_some_tensors
    monkeypatch.setattr(weights, "read_some_tensors", lambda *args: read.append(args) or real(*args))
    for member in members[:-1]:
        found = reader.get("trained", member)
        assert all(torch.equal(found[name], values) for name, values in networks[member].items())
    assert len(read) == len(members) - 1
    # One that comes later, and one whose group was divided.
    with pytest.raises(InputError, match="expected the trained network 8/29, found none"):
        reader.get("trained", members[-1])
    writer.put("trained", members[-2:], None, {member: networks[member] for member in members[-2:]})
    (tmp_path / weights.file_name("trained", members[-2:-1])).unlink()
    for member in members[-2:]:
        assert float(next(iter(reader.get("trained", member).values())).flatten()[0]) == member.seed
