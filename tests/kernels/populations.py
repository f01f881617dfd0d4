"""Populations that op step is tested on, in C++ and in Triton, against its definition in float64."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.kernels import ConvLayer, Step
from atras.kernels.step import reference
from atras.testing import assert_close, make_step_inputs, make_step_parameters

CLASSES = 10
FIRST_STEP = 3


class Rounded(torch.autograd.Function):
    """Numbers rounded to a dtype, their gradients too, or one of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, values: bool, gradients: bool) -> Tensor:
        ctx.dtype = dtype if gradients else x.dtype
        return x.to(dtype).to(x.dtype) if values else x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.to(ctx.dtype).to(gradient.dtype), None, None, None


class RoundingStep(reference.Step):
    """The definition with ReLU, rounding what a GPU's kernels store or multiply in a dtype of 16 bits."""

    def __init__(self, rounding: torch.dtype, *args: Any, **options: Any) -> None:
        self.rounding = rounding
        super().__init__(*args, **options)

    def _rounded(self, x: Tensor, *, values: bool = True, gradients: bool = False) -> Tensor:
        return Rounded.apply(x, self.rounding, values, gradients)  # type: ignore[no-any-return]

    def _forward(self, member: int, x: Tensor, masks: Any = None, parameters: Any = None) -> Tensor:
        own = self.parameters[member] if parameters is None else parameters
        layers = [(self._rounded(weight), bias) for weight, bias in zip(own[::2], own[1::2], strict=True)]
        chain, x = self.chains[member], self._rounded(x)
        for i, layer in enumerate(chain):
            dense = x.shape[2:] == (1, 1)  # which a convolution of one pixel is
            weight, bias = layers[i][0], layers[i][1][:, None, None]
            z = F.conv2d(x, weight, stride=layer.stride, padding=layer.padding)
            # A dense layer stores the gradient before its activation; a convolution that behind it, and rounds the
            # other to multiply it, but not for the bias.
            z = self._rounded(z + bias, values=False, gradients=True) if dense else (
                self._rounded(z, values=False, gradients=True) + bias
            )  # fmt: skip
            y = F.max_pool2d(torch.relu(z), layer.pool) if layer.pool else torch.relu(z)
            x = self._rounded(reference._drop(y, masks, i, layer.rate256), gradients=not dense)
        x = x.flatten(1)
        for i, (weight, bias) in enumerate(layers[len(chain) :], len(chain)):
            z = self._rounded(F.linear(x, weight, bias), values=False, gradients=True)
            x = self._rounded(reference._drop(torch.relu(z), masks, i, self.head_rate256))
        return z


class Case(NamedTuple):
    """A population and how it is trained."""

    stem: str
    image_shape: tuple[int, int, int]
    activation: str
    hidden: list[list[int]]
    batch: int
    images: int  # of a call; not a multiple of the batch, so that the last one is partial
    head_rate256: int = 0
    data: int = 60  # images that there are
    convolutions: list[list[ConvLayer]] | None = None  # of each member, in place of the stem

    def __str__(self) -> str:
        own = "own-" if self.convolutions else ""
        return f"{self.stem}-{own}{'x'.join(map(str, self.image_shape))}-{self.activation}-{self.batch}"

    def of(self, member: int) -> Case:
        """The case of one member alone."""
        own = None if self.convolutions is None else [self.convolutions[member]]
        return self._replace(hidden=[self.hidden[member]], convolutions=own)


def parameters(case: Case, member: int) -> list[Tensor]:
    """What a member starts from."""
    own = () if case.convolutions is None else case.convolutions[member]
    shapes = reference.parameter_shapes(case.image_shape, CLASSES, case.stem, case.hidden[member], own)
    return make_step_parameters(shapes, seed=member + 5)


def build(case: Case, kind: type, **options: Any) -> Any:
    """A population of the op or of the definition, with the case's parameters."""
    common = {"stem": case.stem, "activation": case.activation, "head_rate256": case.head_rate256, "batch": case.batch}
    if case.convolutions is not None:
        common["convolutions"] = case.convolutions
    step = kind(case.image_shape, CLASSES, case.hidden, **common, **options)
    for m in range(len(case.hidden)):
        step.set_parameters(m, parameters(case, m))
    return step


def make(case: Case, threads: int = 1, **options: Any) -> Step:
    """The op on poisoned scratch."""
    step = build(case, Step, threads=threads, **options)
    step.poison()
    return step


def define(case: Case, rounding: torch.dtype | None = None, **options: Any) -> reference.Step:
    """The definition in float64; with a dtype it rounds where the kernels for a GPU round to that."""
    if rounding is not None:
        assert case.activation == "relu"  # the slopes of others are rounded too
        return build(case, partial(RoundingStep, rounding), dtype=torch.float64, **options)
    return build(case, reference.Step, dtype=torch.float64, **options)


def work(case: Case, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and an order: whole epochs, each of them shuffled."""
    images, labels = make_step_inputs(case.data, case.image_shape, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    epochs = [torch.randperm(case.data, generator=generator) for _ in range(-(-case.images // case.data))]
    return images, labels, torch.cat(epochs)[: case.images]


def plan(case: Case, rate: float = 1e-3) -> dict[str, Any]:
    """The other arguments of a call; keys use all 64 bits."""
    members = len(case.hidden)
    keys = torch.arange(members) * 2**40 - 77
    return {"learning_rates": torch.full((members,), rate).double(), "keys": keys, "first_step": FIRST_STEP}


def train(
    step: Any,
    case: Case,
    dtype: torch.dtype = torch.uint8,
    *,
    rate: float = 1e-3,
    device: torch.device | None = None,
    **arguments: Any,
) -> tuple[Tensor, Tensor]:
    """Losses and correct predictions of a call on the case's work, which may be moved to a device."""
    images, labels, order = work(case, dtype)
    if device is not None:
        images, labels = images.to(device), labels.to(device)
    return step.train(images, labels, order, **{**plan(case, rate), **arguments})


def all_values(step: Any, case: Case) -> list[list[Tensor]]:
    """Every member's parameters."""
    return [step.get_parameters(m) for m in range(len(case.hidden))]


def assert_same(found: Any, expected: Any) -> None:
    """Bit for bit, in tuples and lists too."""
    if isinstance(found, torch.Tensor):
        assert_close(found, expected)
        return
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)


def assert_near_the_definition(found: Any, defined: Any, case: Case, distance: float) -> None:
    """Trained parameters, how far each array is off against how far it moved.

    Adam moves a parameter whose gradient is but rounding by its full rate, so a few of them may differ.
    """
    for m, (ours, theirs) in enumerate(zip(all_values(found, case), all_values(defined, case), strict=True)):
        for a, b, start in zip(ours, theirs, parameters(case, m), strict=True):
            apart, moved = (a - b).norm(), (b - start).norm()
            assert apart <= distance * moved + 1e-7, f"member {m}, {tuple(a.shape)}: {apart / moved:.1e} of its move"


RECIPES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "smoothing": {"label_smoothing": 0.3},
    "clip": {"optimizer": "sgd", "momentum": 0.5, "clip": 0.4},
    "average": {"average": 0.8},
    "everything": {"optimizer": "adamw", "clip": 0.3, "average": 0.9, "label_smoothing": 0.1},
}
"""Options of the op, each of them with weight decay and a schedule."""


def recipe_of(case: Case, options: dict[str, Any]) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Options, weight decays [M] of which the last is 0, and learning rates [M, S] that rise and fall."""
    members, steps = len(case.hidden), -(-case.images // case.batch)
    base = 0.05 if options.get("optimizer") == "sgd" else 1e-3
    shape = 1 - (2 * torch.arange(steps) / max(steps - 1, 1) - 1).abs() / 2
    rates = base * torch.logspace(0, -1, members).double()[:, None] * shape.double()
    return options, torch.linspace(0.4, 0.0, members).double(), rates


def assert_follows_the_recipe(case: Case, recipe: str, **more: Any) -> None:
    """Against the definition in float64, the average too; `more` are options of the op alone."""
    options, decays, rates = recipe_of(case, RECIPES[recipe])
    step, definition = make(case, **options, **more), define(case, **options)
    call = {"learning_rates": rates, "weight_decays": decays}
    (losses, correct), (expected, expected_correct) = (
        train(each, case, device=there, **call) for each, there in ((step, more.get("device")), (definition, None))
    )
    # float32 against float64: sums of up to 9 * 64 products round by some 1e-6, which a few updates amplify.
    assert_close(losses, expected, rtol=2e-5, atol=2e-6)
    assert_same(correct, expected_correct)
    adam = options.get("optimizer") != "sgd"
    assert_near_the_definition(step, definition, case, 2e-2 if adam else 1e-3)
    if "average" not in options:
        return
    for m in range(len(case.hidden)):
        for a, b, start in zip(
            step.get_parameters(m, step.slots - 1), definition.get_average(m), parameters(case, m), strict=True
        ):
            assert (a - b).norm() <= 2e-2 * (b - start).norm() + 1e-7


def rows_of_logits(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [count, classes], a third of the rows with ties, and some with infinities and NaN; labels and targets."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=draw)
    logits[::3] = logits[::3].round().clamp(-1, 1)  # ties, zeros of both signs among them
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
    for row in range(1, count, 5):
        places = torch.randperm(classes, generator=draw)[: 1 + row % 3]
        logits[row, places] = odd[torch.randint(3, (len(places),), generator=draw)]
    logits[2::15] = -torch.inf
    labels = torch.randint(classes, (count,), generator=draw)
    targets = (labels + 1 + torch.randint(max(classes - 1, 1), (count,), generator=draw)) % classes
    return logits, labels, targets


def top_gaps(logits: Tensor) -> Tensor:
    """[M, N], from the second-highest logit to the highest."""
    first, second = logits.topk(2, -1).values.unbind(-1)
    return first - second


def assert_saturated_signs_agree(step: Any, case: Case, images: Tensor, device: torch.device | None = None) -> None:
    """Where networks are so sure that float32 rounds the label's probability to 1, signs are those of float64.

    Args:
        step: the op with the case's parameters; its last layers are multiplied here.
        case, device: which population it is, and where.
        images: float32 [N, C, H, W], on the CPU.
    """
    definition = define(case)
    gaps = top_gaps(definition.logits(images))
    for m, gap in enumerate(gaps.median(1).values.tolist()):
        *head, weight, bias = parameters(case, m)
        for each in (step, definition):
            each.set_parameters(m, [*head, 40 / gap * weight, 40 / gap * bias])
    expected = definition.input_gradient(images)
    sure = top_gaps(expected.logits) > 20  # 1 - p is less than 2**-25
    assert sure.double().mean() > 0.5
    found = step.input_gradient(images.to(device or "cpu"), signs=True)
    # Rounding turns the sign of a gradient that is nearly zero: sums of float32 are off by some 1e-5 of their terms.
    agree = (found.gradient.cpu() == expected.gradient.sign()).flatten(2).double().mean(-1)
    assert agree[sure].mean() > 0.998
    assert agree.mean() > 0.998
