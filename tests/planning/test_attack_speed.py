"""What attacks take beside their passes: measured by their own steps, kept, and part of the predicted seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atras.attacks import ATTACKS
from atras.data import cache_dir, load
from atras.engines import ENGINES
from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.planning import AttackSpeed, Machine, Speed, attack_speed, make_groups, predict

SPEC = Spec((1, 8, 8), 10)
NO_TIME = Speed(0.0, 1e30, 1e30, 1e30)


@pytest.fixture(autouse=True)
def own_cache_few_images_and_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where other programs compute too, two threads wait for each other longer than there is work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["atras.planning.attack_speed"], "IMAGES", (2, 8))
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name", ["apgd", "apgd-t(loss=margin)", "fab-t", "square", "pgd", "pgd(target=random)", "deepfool"]
)
def test_every_attack_with_steps_is_measured_and_kept(name: str) -> None:
    part = load("digits", train_size=128, test_size=8).train
    attack, protocol = ATTACKS.parse(name).at(0.05), Protocol(precision="fp32")
    found = attack_speed(ENGINES.get("stack"), SPEC, protocol, part, attack)
    assert all(0 <= seconds < 1 for seconds in found)
    assert attack_speed(ENGINES.get("stack"), SPEC, protocol, part, attack) == found  # to the last digit: not again
    assert len(json.loads((cache_dir() / "calibration.json").read_text())) == 1


def test_an_attack_without_steps_takes_nothing_beside() -> None:
    part = load("digits", train_size=16, test_size=8).train
    assert attack_speed(ENGINES.get("stack"), SPEC, Protocol(), part, ATTACKS.parse("fgsm").at(0.05)) == (0.0, 0.0)


def test_figures_that_no_machine_has_are_measured_again() -> None:
    part = load("digits", train_size=16, test_size=8).train
    attack = ATTACKS.parse("square").at(0.05)
    found = attack_speed(ENGINES.get("stack"), SPEC, Protocol(), part, attack)
    path = cache_dir() / "calibration.json"
    (key,) = json.loads(path.read_text())
    for odd in ([-1.0, 0.0], [0.0], ["a", "b"], None):
        path.write_text(json.dumps({key: odd}))
        assert attack_speed(ENGINES.get("stack"), SPEC, Protocol(), part, attack) != odd
        assert json.loads(path.read_text())[key] != odd
    path.write_text(json.dumps({key: [0.5, 0.25]}))
    assert attack_speed(ENGINES.get("stack"), SPEC, Protocol(), part, attack) == (0.5, 0.25) != found


def test_steps_of_both_phases_are_priced_a_chunk_and_a_pair() -> None:
    attack = ATTACKS.parse("square(queries=100)").at(0.05)
    protocol = Protocol(candidates=(Candidate((8,)), Candidate((16,))), attacks=(attack,))
    (group,) = make_groups(protocol, SPEC, 100, 600, "fused", Machine("cpu", 10**9, fused=""))
    beside = {attack: AttackSpeed(1.0, 0.001)}

    def seconds(speeds: dict) -> float:
        return predict(group, SPEC, protocol, 100, 600, NO_TIME, speeds).predicted_attack_seconds or 0.0

    chunks = -(-600 // group.evaluation_batch)
    assert seconds(beside) - seconds({}) == pytest.approx(2 * sum(attack.cost(10)) * (chunks * 1.0 + 2 * 600 * 0.001))


def test_a_brief_attack_keeps_its_own_options_but_for_its_budget() -> None:
    brief = ATTACKS.parse("apgd-t(norm=l2, epsilon=1.5, steps=50, restarts=3, targets=4, loss=margin)").brief(7)
    assert str(brief) == "apgd-t(epsilon=1e-06, norm=l2, loss=margin, steps=7, targets=1)"
    assert ATTACKS.parse("fgsm").brief(7) is None
    assert ATTACKS.parse("deepfool").brief(7).epsilon is None
    assert [type(part).name for part in ATTACKS.parse("autoattack").parts] == ["apgd", "apgd-t", "fab-t", "square"]
