"""The comparison of attacks with other libraries: what counts as lost, and what it says of whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attack_verdicts
from atras import Protocol, run
from atras.analysis import export
from atras.networks import Candidate
from attack_peers import LIBRARIES, Budget, Case, Library
from attack_verdicts import SPELLINGS, lost, worst

old_peers = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # in their imports


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    candidate = Candidate((16,))
    results = run(Protocol(candidates=(candidate,), epochs=3, adversarial_epochs=1), out=folder / "run")
    return export(results, candidate, folder / "network.safetensors")


def command(network: Path, *options: str) -> list[str]:
    return [str(network), "--images", "30", "--steps", "10", "--l1", "", *options]


@old_peers
def test_pgd_from_the_image_leaves_what_it_leaves_elsewhere(network: Path, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.json"
    libraries = ["--library", "foolbox", "--library", "art"]
    balls = ["--linf", "0.01,0.03", "--l2", "0.1"]
    assert attack_verdicts.main(command(network, "--attack", "pgd", *balls, *libraries, "--json", str(file))) == 0
    figures = json.loads(file.read_text())
    assert set(figures["versions"]) == {"foolbox", "art"}
    left = {(row["library"], row["norm"], row["epsilon"]): row["left"] for row in figures["rows"]}
    assert len(left) == 3 * 3
    for (library, *ball), count in left.items():
        ours = left["atras", *ball]
        assert ours - count <= 0, (library, ball)  # it keeps the best point of those that they pass
        assert count - ours <= 2
    assert 0 < left["atras", "linf", 0.03] < left["atras", "linf", 0.01] < 30


class FirstPixel(nn.Module):
    """Class 1 where the first pixel is above a half."""

    def forward(self, images: Tensor) -> Tensor:
        above = images[:, 0, 0, 0] - 0.5
        return torch.stack([-above, above], 1)


def test_what_is_outside_the_ball_or_the_range_is_not_lost() -> None:
    images = torch.full((5, 1, 2, 2), 0.4)
    images[4] = 0.6  # misclassified as it is
    case = Case(FirstPixel(), images, torch.zeros(5, dtype=torch.int64), 0.2, 0, Budget(1, 1, 1, 1))
    changed = images.clone()
    changed[0, 0, 0, 0] = 0.55  # by 0.15
    changed[1, 0, 0, 0] = 0.7  # by 0.3
    changed[2, 0] = torch.tensor([[0.55, 0.4], [0.4, -0.01]])
    changed[3, 0, 0, 0] = 0.45  # not misclassified
    found = lost(case, changed, "linf")
    assert found.images.tolist() == [True, False, False, False, True]
    assert found.outside == 2
    assert worst([found, found._replace(images=torch.tensor([False, True, False, False, True]))]) == {
        "left": 2, "by_seed": [3, 3], "outside": 4,
    }  # fmt: skip


def broken(_: Case) -> Tensor:
    raise ValueError("no")


def test_missing_failing_and_stronger_libraries_are_named(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strong(case: Case) -> Tensor:
        """PGD of atras, under another name."""
        own = attack_verdicts.Ours(case.network, 1)
        attack: Any = attack_verdicts.ATTACKS.parse(f"pgd(epsilon={case.epsilon}, steps=5)")
        return own.attacked(attack, case.images, case.labels, 1)[0]

    found = {
        "missing": Library("no_such_package_here", None, dict),
        "failing": Library("json", None, lambda: {("pgd", "linf"): broken}),
        "strong": Library("json", None, lambda: {("pgd", "linf"): strong}),
    }
    monkeypatch.setattr(attack_verdicts, "LIBRARIES", found)
    monkeypatch.setitem(SPELLINGS, "pgd", "pgd(norm={norm}, epsilon=0.0)")
    file = tmp_path / "verdicts.json"
    options = ("--attack", "pgd", "--linf", "0.1", "--l2", "", "--json", str(file))
    assert attack_verdicts.main(command(network, *options)) == 1
    out, err = capsys.readouterr()
    assert "missing: not installed, passed over" in err
    assert "more: pgd linf 0.1 strong" in err
    assert "failing" in out
    rows = {row["library"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["failing"]["failed"] == "ValueError: no"
    assert rows["strong"]["more_here"] > 0
    assert "missing" not in rows


def test_options_that_make_no_sense_are_refused_in_one_line(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--seeds", "0"], ["--linf", "small"]):
        with pytest.raises(SystemExit):
            attack_verdicts.main([str(network), *wrong])
    assert attack_verdicts.main([str(network.parent / "none.safetensors")]) == 2
    assert all(line.startswith("attack_verdicts.py: ") for line in capsys.readouterr().err.splitlines())


def test_every_library_has_its_line_in_the_requirements() -> None:
    text = (Path(attack_verdicts.__file__).parent / "requirements-attack-peers.txt").read_text()
    wanted = [library.distribution for library in LIBRARIES.values() if library.distribution]
    assert all(f"\n{name}==" in text for name in wanted)
