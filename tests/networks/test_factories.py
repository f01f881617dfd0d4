"""Where modules of the user come from, and the one look that names what is wrong with them before anything is "
"trained."""

from __future__ import annotations

import functools
import gc
import pickle
import re
import sys
import types
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from atras import Candidate, InputError, Protocol
from atras.networks import Factory, Network, Own, Spec, inspect_factory

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """A linear network with a few ways to misbehave."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(64, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1))


class Small(Net):
    pass


class Waves(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.zeros(3, dtype=torch.complex64))


def behaving(forward, **attributes):
    """A class whose forward pass is a function of the module and the images."""
    return type("Made", (Net,), {"forward": forward, **attributes})


SOURCE = """
from torch import nn
from beside import WIDTH

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH))

def wide(width):
    return nn.Linear(64, width)

def broken():
    raise KeyError("no such layer")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("WIDTH = 10\n")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "beside"):  # what these tests import is forgotten behind them
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        del sys.modules[name]
    return tmp_path / "mine.py"


def test_a_file_and_its_function_are_a_candidate(mine):
    candidate = Candidate.parse("mine.py:make")
    assert (candidate.name, candidate.depth) == ("make", 0)
    assert Candidate.parse("make") == candidate
    network = Network(Spec(SHAPE, 10), candidate)
    assert network.parameter_shapes == {"1.weight": (10, 64), "1.bias": (10,)}
    assert network.parameter_count == 650
    again = pickle.loads(pickle.dumps(candidate))  # noqa: S301 (our own)
    assert again == candidate
    assert torch.equal(again.factory.make(3)[1].weight, candidate.factory.make(3)[1].weight)


def test_a_dotted_module_will_do_too(mine):
    assert isinstance(Candidate.parse("mine:make").factory.make(0), nn.Sequential)


def test_another_source_is_refused_by_both_hashes(mine):
    factory = Factory.parse("mine.py:make")
    mine.write_text(SOURCE + "\n")
    now = Factory.parse("mine.py:make")
    with pytest.raises(InputError, match=f"was {factory.sha256[:16]} .SHA-256. and is {now.sha256[:16]}; restore it"):
        factory.make(0)
    mine.unlink()
    with pytest.raises(InputError, match=r"mine.py cannot be read .No such file"):
        factory.make(0)


@pytest.mark.parametrize(("text", "said"), [
    ("mine.py:none", r"expected a function none, found none; there are make, wide, broken"),
    ("gone.py:make", "gone.py cannot be read"),
    ("no.such.module:make", "or a module that Python finds, got no.such.module"),
    ("mine.py:", "expected a file and the function in it"),
    ("mine.py:wide", r"expected a function without arguments, got wide\(width\)"),
    ("mine.py:broken", r"broken failed: KeyError: 'no such layer' \(.*mine.py, line 12\)"),
])  # fmt: skip
def test_what_makes_no_module_is_named(mine, text, said):
    with pytest.raises(InputError, match=said) as error:
        Candidate.parse(text).factory.make(0)
    assert "\n" not in str(error.value)


def test_source_that_cannot_be_imported_is_named(mine):
    mine.write_text("import torch\nimport no_such_package\n")
    with pytest.raises(InputError, match=r"importing it failed: ModuleNotFoundError: .*mine.py, line 2"):
        Factory.parse("mine.py:make").make(0)


def test_two_functions_of_one_name_get_names_of_their_own(mine):
    other = mine.with_name("other.py")
    other.write_text(SOURCE + "# another\n")
    protocol = Protocol(candidates=("mine.py:make", "other.py:make", "24"))
    assert [candidate.name for candidate in protocol.candidates] == ["make", "make_2", "24"]
    assert Candidate.parse("make") == protocol.candidates[0]


@pytest.mark.parametrize(("name", "said"), [("c40", "no built-in network's"), ("24", "begins with a letter"),
                                            ("a b", "begins with a letter")])  # fmt: skip
def test_names_that_mean_something_else_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        Candidate.own(name, Net)


def test_the_source_of_a_function_is_that_of_the_classes_it_names():
    def first():
        return Net()

    def second():
        return Small()

    assert len(Factory.of("mine", first).sha256) == 64
    assert Factory.of("mine", first).sha256 != Factory.of("mine", second).sha256
    wide, narrow = (Factory.of("mine", functools.partial(Net, width)).sha256 for width in (10, 8))
    assert wide != narrow
    assert Factory.of("mine", Net).sha256 == Factory.of("other", Net).sha256


def test_nobody_keeps_a_finished_module():
    module = Net()
    candidate = Candidate([Own(Factory.holding("finished", module))])
    assert Protocol(candidates=(candidate,)).candidates == (candidate,)
    left = weakref.ref(module)
    del module, candidate
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("given", [Net(), 3])
def test_a_factory_is_a_function(given):
    with pytest.raises(InputError, match="expected a function that makes the module"):
        Candidate.own("mine", given)


_ONE = Net()
_COUNT = iter(range(1000))

REFUSED = {
    "no module": (lambda: 3, "to return a torch.nn.Module, got int"),
    "the same module": (lambda: _ONE, "got the same weights twice"),
    "other shapes": (lambda: Net(10 + next(_COUNT)), "got others at the second"),
    "half": (lambda: Net().half(), "float32 or float64, got float16 in head.weight"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "got lazy ones"),
    "complex": (Waves, "which files hold, got complex64 in waves"),
    "meta": (lambda: Net().to("meta"), "on one device, got meta"),
    "wrong images": (lambda: nn.Linear(9, 10), r"it failed on images \[4, 1, 8, 8\]: RuntimeError"),
    "maps": (lambda: nn.Conv2d(1, 10, 3), r"logits \[4, Y\] of images .*, got float32 \[4, 10, 6, 6\]"),
    "a pair": (behaving(lambda self, x: (self.head(x.flatten(1)), x)), "got tuple; return the logits alone"),
    "in place": (behaving(lambda self, x: self.head(x.sub_(0.5).flatten(1))), "changes the images it is given"),
    "nan": (behaving(lambda self, x: self.head(x.flatten(1)) / 0), "expected finite logits"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_module_that_cannot_be_used_is_refused_in_one_line(fault):
    make, said = REFUSED[fault]
    with pytest.raises(InputError, match=said) as error:
        inspect_factory(Factory.of("mine", make), SHAPE)
    assert str(error.value).startswith("network mine: ")
    assert "\n" not in str(error.value)


def test_whether_a_module_can_be_trained_is_told() -> None:
    detached = behaving(lambda self, x: self.head(x.flatten(1)).detach())
    assert not inspect_factory(Factory.of("mine", detached), SHAPE).trainable
    assert inspect_factory(Factory.of("mine", Net), SHAPE).trainable


def test_another_number_of_logits_is_refused():
    with pytest.raises(InputError, match=r"expected 7 logits of an image \[1, 8, 8\].*got 10; give its last layer 7"):
        Network(Spec(SHAPE, 7), Candidate([Own(Factory.of("mine", Net))])).places  # noqa: B018


def _noisy(self, x):
    return self.head((x + 0.1 * torch.randn_like(x)).flatten(1))


def _centred(self, x):
    logits = self.head(x.flatten(1))
    return logits - logits.mean(0)


def _rounded(self, x):
    return self.head(x.round().flatten(1))


def _unseeded():
    module = Net()
    with torch.no_grad():
        module.head.bias.add_(next(_COUNT))
    return module


CAUTIONS = {
    "probabilities": (lambda: nn.Sequential(Net(), nn.Softmax(1)), "look like probabilities"),
    "randomness": (behaving(_noisy), r"two passes .* differ.*apgd\(eot=20\)"),
    "neighbours": (behaving(_centred), "depend on the other images of its batch"),
    "statistics": (lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), Net()), "other images"),
    "rounded": (behaving(_rounded), "gradients with respect to the images are none or zero"),
    "unseeded": (_unseeded, "under one seed of torch gave other weights"),
}


@pytest.mark.parametrize("fault", CAUTIONS)
def test_what_makes_figures_mislead_is_said(fault):
    make, said = CAUTIONS[fault]
    found = inspect_factory(Factory.of("mine", make), SHAPE).cautions
    assert [line for line in found if re.search(said, line)], found
    assert all(line.startswith("mine: ") and "\n" not in line for line in found)


@pytest.mark.parametrize("make", [Net, lambda: nn.Sequential(Net(), nn.LogSoftmax(1)),
                                  lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), Net())])  # fmt: skip
def test_sound_modules_get_no_caution(make):
    assert inspect_factory(Factory.of("mine", make), SHAPE).cautions == ()


def test_what_is_counted():
    def made():
        first = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*first, nn.Dropout(), nn.Linear(384, 10))

    def flat():
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))

    found = inspect_factory(Factory.of("mine", made), SHAPE)
    assert found.multiplications == 64 * 9 * 6 + 384 * 10
    assert found.draws
    assert found.trains_on_one
    assert found.buffers.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    # The image, the convolution's, the norm's and the rectifier's outputs, the mask and its product at the least.
    assert 3 * 384 <= found.kept_values <= 8 * 384
    assert Candidate([Own(Factory.of("mine", made))]).depth == 1
    assert not inspect_factory(Factory.of("mine", flat), SHAPE).trains_on_one
