"""`atras.attack` and `atras.evaluate`: finished modules and images in memory, against torch written by hand."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import atras
from atras import InputError
from atras.analysis import attack_progress
from atras.attacks import FGSM, PGD
from atras.data import load, pixels
from atras.running import Reporter


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(512, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(torch.relu(self.norm(self.convolution(images))).flatten(1)))


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data.train, data.test


@pytest.fixture(scope="module")
def trained(digits) -> Net:
    """A network that knows digits, in training mode, as its owner left it."""
    train, _ = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net()
        updates = torch.optim.Adam(module.parameters(), lr=0.01)
        for images, labels in zip(pixels(train.images, torch.float32).split(64), train.labels.split(64), strict=True):
            updates.zero_grad()
            F.cross_entropy(module(images), labels).backward()
            updates.step()
    return module


def by_hand(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """FGSM as textbooks have it."""
    images = images.clone().requires_grad_()
    F.cross_entropy(module(images), labels).backward()
    return (images + epsilon * images.grad.sign()).clamp(0, 1).detach()


def test_figures_are_those_of_a_textbook(digits, trained):
    images, labels = digits[1].images[:200], digits[1].labels[:200]
    before = {name: values.clone() for name, values in trained.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = atras.attack(trained, images, labels, ["fgsm", PGD(steps=5)], epsilon=0.1, batch_size=64, keep_images=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert trained.training
    assert all(torch.equal(values, before[name]) for name, values in trained.state_dict().items())
    trained.eval()
    try:
        plain = pixels(images, torch.float32)
        adversarial = by_hand(trained, plain, labels, 0.1)
        expected = [(trained(x).argmax(1) == labels).sum().item() for x in (plain, adversarial)]
        kept = torch.tensor(found.images["Net", "fgsm", 0.1])
        # The sign of a gradient that is next to zero is that of a rounding.
        assert ((kept - adversarial).abs() > 1e-6).double().mean() < 1e-3
        trained.zero_grad()
    finally:
        trained.train()
    rows = found.frame.to_dicts()
    assert [row["attack"] for row in rows] == [
        "none",
        "fgsm",
        "pgd(steps=5)",
        "worst(fgsm at 0.1, pgd(steps=5) at 0.1)",
    ]
    assert rows[0]["correct"] == expected[0] > 150
    assert abs(rows[1]["correct"] - expected[1]) <= 1
    assert rows[3]["correct"] <= min(row["correct"] for row in rows[:3])
    assert all(row["ci_low"] <= row["accuracy"] == row["correct"] / 200 <= row["ci_high"] for row in rows)
    assert found.cautions == ()
    assert rows[1]["median_distance"] == pytest.approx(0.1, abs=1e-6)


def test_a_figure_is_found_by_any_spelling_of_its_attack(digits, trained):
    images, labels = digits[1].images, digits[1].labels
    spelled = ["pgd(steps=20)", "pgd(step_size=0.01, steps=3)"]
    found = atras.attack(trained, images[:30], labels[:30], spelled, epsilon=0.1, keep_images=True)
    of = dict(found.frame.select("attack", "accuracy").iter_rows())
    assert found.accuracy() == of["none"]
    assert found.accuracy("pgd(steps=20)") == found.accuracy(PGD(steps=20)) == found.accuracy("pgd") == of["pgd"]
    assert found.accuracy(spelled[1]) == of["pgd(steps=3, step_size=0.01)"]
    assert found.images["Net", "pgd(steps=20)", 0.1] is found.images["Net", "pgd", 0.1]
    with pytest.raises(KeyError):
        found.images["Net", "pgd(steps=21)", 0.1]
    with pytest.raises(InputError, match=r"expected one figure for fgsm, found 0; there are none on Net, pgd at 0"):
        found.accuracy("fgsm")
    with pytest.raises(InputError, match=r"expected one figure for pgd at 0\.3, found 0"):
        found.accuracy("pgd(epsilon=0.3)")
    both = atras.attack(trained, images[:30], labels[:30], ["fgsm(epsilon=0.02)", "fgsm(epsilon=0.3)"])
    assert both.accuracy("fgsm(epsilon=0.02)") > both.accuracy("fgsm(epsilon=0.3)")
    with pytest.raises(
        InputError, match=r"expected one figure for fgsm, found 2; .* fgsm at 0\.02 on Net, fgsm at 0\.3 on"
    ):
        both.accuracy("fgsm")


def test_an_attack_that_leaves_its_ball_gives_no_figures(digits, trained):
    class Further(PGD):
        def __call__(self, *given, **options):
            return PGD(1.5 * self.strength, steps=3, norm=self.norm)(*given, **options)

    images, labels = digits[1].images, digits[1].labels
    for norm, epsilon in (("linf", 0.1), ("l2", 1.0)):
        with pytest.raises(
            InputError, match=rf"expected images within {epsilon:g} of the clean ones in {norm}, got [01]\."
        ):
            atras.attack(trained, images[:30], labels[:30], Further(steps=3, norm=norm, epsilon=epsilon))


def test_modules_go_by_name_and_forms_of_images_agree(digits, trained):
    images, labels = (pixels(digits[1].images[:100], torch.float32) * 255).round().byte(), digits[1].labels[:100]
    other = Net()
    by_name = atras.evaluate({"mine": trained, "other-net": other}, images, labels).frame
    listed = atras.evaluate([trained, other], images.float().div(255).numpy(), labels.tolist()).frame
    assert by_name["member"].to_list() == ["mine", "other-net"]
    assert listed["member"].to_list() == ["Net", "Net_2"]
    assert by_name["correct"].to_list() == listed["correct"].to_list()
    double = atras.attack(Net().double(), images, labels, "fgsm", epsilon=0.1, keep_images=True)
    assert double.images["Net", "fgsm", 0.1].dtype == np.float64


def test_figures_that_mislead_are_said(digits, trained):
    images, labels = digits[1].images[:64], digits[1].labels[:64]
    soft = nn.Sequential(trained, nn.Softmax(1))
    rounded = type("Rounded", (Net,), {"forward": lambda self, x: Net.forward(self, x.round())})()
    found = atras.attack({"soft": soft, "rounded": rounded}, images, labels, "fgsm", epsilon=0.1)
    assert [line.partition(":")[0] for line in found.cautions] == ["soft", "rounded", "rounded"]
    assert "probabilities" in found.cautions[0]
    assert "square" in found.cautions[1]
    assert "no gradient at all for 64 of 64 images" in found.cautions[2]
    assert found.cautions[1] in str(found)


@pytest.mark.parametrize(("change", "said"), [
    ({"modules": Net}, "expected a torch.nn.Module, or several"),
    ({"modules": []}, "expected at least one"),
    ({"modules": {"a b": Net()}}, "expected a name"),
    ({"modules": {"mine": 3}}, "expected a torch.nn.Module, got int"),
    ({"modules": Net().half()}, "float16 in convolution.weight"),
    ({"images": torch.zeros(5, 8, 8)}, r"expected \[N, C, H, W\], got \[5, 8, 8\]"),
    ({"images": torch.full((5, 1, 8, 8), 2.0)}, r"pixels in \[0, 1\], got 2 to 2; normalise inside the module"),
    ({"images": torch.full((5, 1, 8, 8), torch.nan)}, "got nan"),
    ({"images": torch.zeros(5, 1, 8, 8, dtype=torch.int64)}, "got int64"),
    ({"images": [0]}, "expected an array of numpy or torch, got list"),
    ({"images": torch.zeros(5, 3, 8, 8)}, r"it failed on images \[4, 3, 8, 8\]: RuntimeError"),
    ({"labels": [0, 1]}, r"one for each image \(5\), got 2"),
    ({"labels": [0, 1, 2, 3, 10]}, "classes from 0 to 9, of which Net has logits, got 0 to 10"),
    ({"labels": torch.rand(5)}, r"whole numbers \[N\], got float32 \[5\]"),
    ({"attacks": "fgsm"}, "expected an epsilon, got none; give epsilon=8/255"),
    ({"attacks": ["fgsm", FGSM(0.1)], "epsilon": 0.1}, "fgsm came twice"),
    ({"attacks": "pgd(epsilon=0.1, surrogate=24)"}, "expected no surrogate"),
    ({"attacks": [3]}, "expected an attack"),
    ({"epsilon": 2.0}, "a number from 0 to 1"),
])  # fmt: skip
def test_what_cannot_be_attacked_is_refused_in_one_line(change, said):
    given = {"modules": Net(), "images": torch.zeros(5, 1, 8, 8), "labels": [0, 1, 2, 3, 4], "attacks": FGSM(0.1)}
    with pytest.raises(InputError, match=said) as error:
        atras.attack(**(given | change))
    assert "\n" not in str(error.value)


def test_an_export_of_a_module_of_yours_is_read_with_its_function(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = {"train_size": 60, "test_size": 30, "epochs": 1, "adversarial_epochs": 1, "batch_size": 16}
    results = atras.run(atras.Protocol(**small), networks={"mine": Net}, out=tmp_path / "run")
    from atras.analysis import export

    candidate = results.candidate("mine")
    path = export(results, candidate, tmp_path / "mine.safetensors")
    loaded = atras.load(path, Net)
    program = torch.export.load(export(results, candidate, tmp_path / "mine.pt2")).module()
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(program(images), loaded(images))
    assert not loaded.training
    assert loaded.norm.num_batches_tracked == 4 + 8
    with pytest.raises(InputError, match=r"it is of your module mine, made by Net of Python; give that too"):
        atras.load(path)
    with pytest.raises(InputError, match=r"mine: its source was .* and is"):
        atras.load(path, nn.Identity)


def test_targets_tell_attacks_apart_and_the_median_is_that_of_runs(digits, trained):
    images, labels = digits[1].images[:60], digits[1].labels[:60]
    attacks = ["pgd(steps=4, target=random)", "pgd(steps=4, target=least-likely)", "deepfool"]
    found = atras.attack(trained, images, labels, attacks, epsilon=0.3, keep_images=True)
    names = found.frame["attack"].to_list()
    assert names[1:3] == ["pgd(target=random, steps=4)", "pgd(target=least-likely, steps=4)"]
    right = dict(found.frame.select("attack", "correct").iter_rows())
    for name in names[1:3]:
        kept = torch.tensor(found.images["Net", name, 0.3])
        assert int((trained.eval()(kept).argmax(1) == labels).sum()) == right[name]
    turned = found.images["Net", names[3], None]
    plain = pixels(images, torch.float32)
    clean, after = (trained.eval()(each).argmax(1) == labels for each in (plain, torch.tensor(turned)))
    two = (clean & ~after).nonzero()[:2, 0]
    again = atras.attack(trained, images[two], labels[two], "deepfool", keep_images=True)
    (kept,) = again.images.values()
    lengths = (torch.tensor(kept) - plain[two]).flatten(1).norm(dim=1)
    assert lengths[0] != lengths[1]
    median = again.frame.filter(attack="deepfool")["median_distance"].item()
    assert median == pytest.approx(lengths.mean().item(), rel=1e-5)


def test_with_three_classes_a_target_that_comes_third_is_attacked_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(20, 1, 4, 4)
    labels = module(images).argmax(1)
    found = atras.attack(module, images, labels, ["apgd-t"], epsilon=0.3)
    assert not any("no gradient" in line for line in found.cautions)
    # Of a linear network each image falls exactly where some margin is less than epsilon times its weights' sum.
    weights, logits = module[1].weight.detach(), module(images).detach()
    margins = logits.gather(1, labels[:, None]) - logits
    slopes = (weights[labels][:, None] - weights).abs().sum(2)
    free = (margins - 0.3 * slopes > 0) | torch.eye(3, dtype=torch.bool)[labels]  # were there no bounds of pixels
    assert found.frame.filter(attack="apgd-t")["correct"].item() >= int(free.all(1).sum())


def test_an_epsilon_may_be_a_fraction_in_text_as_on_the_command_line() -> None:
    images, labels = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    text, number = (atras.attack(model, images, labels, "fgsm", epsilon=each).frame for each in ("8/255", 8 / 255))
    assert text.equals(number)
    with pytest.raises(InputError, match="expected a number or a fraction"):
        atras.attack(model, images, labels, "fgsm", epsilon="eight")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_what_is_attacked_and_how_far_that_is(
    monkeypatch: pytest.MonkeyPatch, digits, trained: Net
) -> None:
    told: list[tuple[str, float]] = []

    class Listener(Reporter):
        def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
            told.append((f"{label} x{members}", 0.0))

        def attacking(self, index: int, phase: str, attack: str, share: float, work: float = 1.0) -> None:
            told.append((attack, share))

    for name in ("FIRST", "BETWEEN"):
        monkeypatch.setattr(attack_progress, name, 0.0)
    monkeypatch.setattr(attack_progress, "choose_reporter", Listener)
    images, labels = digits[1].images[:20], digits[1].labels[:20]
    given = {"a": trained, "b": trained}, images, labels, ["pgd(steps=3)", "apgd(steps=3)"]
    quiet = atras.attack(*given, epsilon=0.1, batch_size=10)
    assert told == []  # the stream is no terminal
    monkeypatch.setattr(sys, "stderr", Terminal())
    atras.attack(*given, epsilon=0.1, batch_size=10, progress=False)
    assert told == []
    shown = atras.attack(*given, epsilon=0.1, batch_size=10)
    assert shown.frame.equals(quiet.frame)
    assert told[0] == ("attack on a, b x2", 0.0)
    names, shares = zip(*told[1:], strict=True)
    assert set(names) == {"pgd", "apgd"}
    assert 0 < shares[0] < 0.5 < shares[-1] <= 1
