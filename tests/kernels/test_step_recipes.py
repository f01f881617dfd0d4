"""Op step's recipes: schedules, weight decay, clipping, label smoothing and averages, in C++ against the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atras.kernels import ConvLayer, backends
from populations import (
    RECIPES,
    Case,
    assert_follows_the_recipe,
    assert_same,
    define,
    make,
    parameters,
    plan,
    recipe_of,
    train,
    work,
)

MISSING = backends.missing("cpu", torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
OTHERS = backends.instruction_sets()[1:]

DENSE = Case("none", (1, 5, 7), "relu", [[40, 7], [97], [3, 70]], 20, 90, 40)
STEM = Case("conv2", (1, 13, 11), "tanh", [[9], [], [33]], 20, 50)
# One after the other: patches, tiles, and pixels that all but one weight of each kernel miss.
CHAIN = Case("none", (3, 6, 6), "relu", [[9], [8, 5], [5]], 20, 50, convolutions=[
    [ConvLayer(17, 3, 1, 1, 2, 64), ConvLayer(18, padding=1, pool=3), ConvLayer(19, padding=1)],
    [ConvLayer(6, 2), ConvLayer(5, 5)], [ConvLayer(20, pool=2), ConvLayer(33, padding=1)],
])  # fmt: skip
CASES = [DENSE, STEM, CHAIN]
BOTH = {"optimizer": "sgd", "momentum": 0.9, "clip": 0.5, "average": 0.8, "label_smoothing": 0.2}
EVERYTHING = {"optimizer": "adamw", "clip": 0.3, "average": 0.9, "label_smoothing": 0.1}


class Textbook:
    """A member's dense network, trained as every tutorial does it, in float64."""

    def __init__(self, case: Case, member: int, *, decay: float, rates: list[float], options: dict[str, Any]) -> None:
        arrays = [array.double() for array in parameters(case, member)]
        layers: list[nn.Module] = [nn.Flatten()]
        for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
            linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
            layers += [linear, nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        own = {"momentum": options["momentum"]} if options["optimizer"] == "sgd" else {}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[options["optimizer"]]
        self.optimizer = kind(self.model.parameters(), lr=1.0, weight_decay=decay, **own)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: (*rates, 0.0)[step])
        self.options = options
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(options["average"]))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.options["label_smoothing"])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options["clip"])
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.model)


@pytest.mark.parametrize("options", [BOTH, EVERYTHING, EVERYTHING | {"optimizer": "adam"}], ids=str)
def test_the_definition_is_the_textbooks_loop(options):
    case = DENSE._replace(head_rate256=0, images=200)  # ten steps
    images, labels, order = work(case)
    _, decays, rates = recipe_of(case, options)
    definition = define(case, **options)
    losses, _ = train(definition, case, learning_rates=rates, weight_decays=decays)
    pixels = images.double() / 255
    for m in range(len(case.hidden)):
        book = Textbook(case, m, decay=float(decays[m]), rates=rates[m].tolist(), options=options)
        for s, index in enumerate(order.split(case.batch)):
            told = F.cross_entropy(book.model(pixels[index]), labels[index])  # at the labels themselves
            assert float(told.detach()) == pytest.approx(float(losses[m, s]), rel=1e-9)
            book.step(pixels[index], labels[index])
        for found, model in ((definition.get_parameters(m), book.model), (definition.get_average(m), book.average)):
            for a, b in zip(found, model.parameters(), strict=True):
                torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_as_defined(case, recipe):
    assert_follows_the_recipe(case, recipe)


@pytest.mark.parametrize("instructions", OTHERS)
@pytest.mark.parametrize("recipe", ["adamw", "everything", "clip"])
def test_every_instruction_set_trains_as_defined(recipe, instructions):
    assert_follows_the_recipe(CHAIN if recipe != "clip" else STEM, recipe, instructions=instructions)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("options", [BOTH, EVERYTHING], ids=str)
def test_neither_neighbours_nor_threads_nor_calls_matter_and_training_goes_on_from_what_is_kept(case, options):
    options, decays, rates = recipe_of(case, options)
    images, labels, order = work(case)
    wild = rates.clone()
    wild[1] = 1e30
    company = make(case, 2, **options)
    losses, _ = company.train(images, labels, order, **{**plan(case), "learning_rates": wild, "weight_decays": decays})
    assert losses[1].isnan().any()
    assert losses[[0, 2]].isfinite().all()
    for m in (0, 2):
        alone = make(case.of(m), 3, **options)
        alone.set_parameters(0, parameters(case, m))
        parts = []
        for s, index in enumerate(order.split(case.batch)):
            own = {"keys": plan(case)["keys"][m : m + 1], "first_step": plan(case)["first_step"] + s}
            own |= {"learning_rates": rates[m : m + 1, s].contiguous(), "weight_decays": decays[m : m + 1]}
            parts.append(alone.train(images, labels, index, **own)[0])
            alone = resumed(alone, case.of(m), options)
        assert_same(losses[m : m + 1], torch.cat(parts, 1))
        for slot in range(company.slots):
            assert_same(alone.get_parameters(0, slot), company.get_parameters(m, slot))
        assert_same(alone.logits(images)[0], company.logits(images)[m])


def resumed(step, case, options):
    """Another population with all that this one keeps."""
    other = make(case, **options)
    for slot in range(step.slots):
        other.set_parameters(0, step.get_parameters(0, slot), slot)
    other.set_steps(step.steps)
    return other


@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluation_is_of_the_average_unless_it_is_to_be_of_the_weights(case):
    step = make(case, 2, average=0.7)
    train(step, case, rate=1e-2)
    images, labels, _ = work(case)
    counts = torch.tensor([3, 0, 4])
    for slot, raw in ((0, True), (3, False)):
        plain = make(case)
        for m in range(len(case.hidden)):
            plain.set_parameters(m, step.get_parameters(m, slot))
        assert_same(step.logits(images, raw=raw), plain.logits(images))
        assert_same(step.input_gradient(images, labels, raw=raw), plain.input_gradient(images, labels))
        pairs = images[:7], labels[:7]
        assert_same(step.input_gradient(*pairs, counts=counts, raw=raw), plain.input_gradient(*pairs, counts=counts))
    assert not torch.equal(step.logits(images, raw=True), step.logits(images))
    order = work(case)[2][:5]
    given = {"keys": plan(case)["keys"], "first_step": 1}
    raw = make(case)
    for m in range(len(case.hidden)):
        raw.set_parameters(m, step.get_parameters(m))
    assert_same(step.training_logits(images, order, **given), raw.training_logits(images, order, **given))


def test_the_parameters_set_the_average_and_a_reset_begins_it_anew():
    case = DENSE
    step = make(case, average=0.7)
    train(step, case)
    step.set_parameters(0, parameters(case, 0))
    assert_same(step.get_parameters(0, 3), parameters(case, 0))
    step.reset_optimizer()
    train(step, case._replace(images=case.batch))
    assert_same(step.get_parameters(1, 3), step.get_parameters(1))


def test_no_decay_and_a_norm_that_nothing_reaches_change_nothing():
    """Bit for bit: what is asked for but has no effect has none."""
    case = DENSE
    plain, idle = make(case), make(case, optimizer="adamw", clip=1e9, average=0.5)
    zeros = torch.zeros(len(case.hidden), dtype=torch.float64)
    assert_same(train(idle, case, weight_decays=zeros), train(plain, case))
    for m in range(len(case.hidden)):
        for slot in range(3):
            assert_same(idle.get_parameters(m, slot), plain.get_parameters(m, slot))


def test_half_precision_takes_the_recipe_too():
    case = DENSE._replace(batch=32)
    options, decays, rates = recipe_of(case, EVERYTHING)
    own = {"learning_rates": rates, "weight_decays": decays}
    expected = train(define(case, **options), case, **own)[0]
    found = train(make(case, precision="bf16", **options), case, **own)[0]
    # A factor rounds by 2**-9 of itself, and a few updates amplify that.
    assert ((found - expected).abs() / expected).max() < 2e-2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_may_be_smaller_than_there_is_room_for(case):
    small, roomy = make(case), make(case._replace(batch=3 * case.batch))
    found = train(roomy, case, batch=case.batch)
    assert_same(found, train(small, case))
    with pytest.raises(ValueError, match=r"step: batch \(=61\): expected a whole number from 1 to 60"):
        train(roomy, case, batch=61)


def test_what_a_network_is_clipped_to_is_its_own():
    """The gradient of all layers together: its norm after one step of sgd at rate 1, whatever the neighbours'."""
    case = DENSE._replace(images=20)
    step = make(case, optimizer="sgd", clip=0.25)
    train(step, case, rate=1.0)
    for m in range(len(case.hidden)):
        moved = [a - b for a, b in zip(step.get_parameters(m), parameters(case, m), strict=True)]
        norm = torch.cat([each.flatten() for each in moved]).double().norm()
        assert float(norm) == pytest.approx(0.25, rel=1e-4)  # differences of float32 weights


def test_of_a_gradient_that_is_partly_nan_nothing_is_left_by_clipping():
    """As by torch: it has no length to be divided by, and a network that diverges does not go on in part."""
    case, options = DENSE._replace(images=20, head_rate256=0), {"optimizer": "sgd", "clip": 0.5}
    images, labels, order = work(case)
    given = torch.full((len(case.hidden), case.batch, 10), 1e-3)
    given[1, :, 7] = torch.nan  # of one row of the last layer's weights
    step, definition = make(case, **options), define(case, **options)
    for each in (step, definition):
        each.train(images, labels, order, cotangents=given, **plan(case, 0.1))
        for m in range(len(case.hidden)):
            assert all(bool(values.isnan().all()) == (m == 1) for values in each.get_parameters(m))
