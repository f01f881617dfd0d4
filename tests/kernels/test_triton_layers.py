"""Op step's Triton kernels of dense layers, loss and optimizer, launch by launch: interpreted, or on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atras.kernels import backends, objective_gradient
from atras.kernels.dropout import reference as dropout
from atras.kernels.step.reference import ACTIVATIONS
from atras.testing import assert_close
from populations import rows_of_logits

pytest.importorskip("triton")

from atras.kernels.step import gpu_dense, gpu_loss, gpu_optimizer

INTERPRETING = backends.interpreting()
ON = pytest.param("cpu", id="interpreted") if INTERPRETING else pytest.param("cuda", marks=pytest.mark.gpu)
# Triton's interpreter computes with numpy, which warns of infinities and NaN that a GPU passes over.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")]
# Inputs and outputs around 1, 16 and a tile's 64; all layers of a case are one launch. Rows likewise.
SIZES = [[(23, 70), (1, 1), (64, 5)], [(65, 33), (7, 64)], [(16, 32), (48, 80)]]
ROWS = [19, 1, 66]
# float32 sums of up to 80 products of normal numbers, against float64.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=[ON])
def device(request):
    """Where Triton computes."""
    return torch.device(request.param)


@pytest.mark.skipif(INTERPRETING, reason="the child process itself")
def test_interpreted_launches_agree_with_the_definitions():
    """A process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 60, run.stdout


class Layers:
    """Dense layers of one launch with buffers of their own, NaN where something is to be written."""

    def __init__(self, sizes, rows, device, *, shared=False, stored=None, rate256=0):
        draw = torch.Generator().manual_seed(rows)
        self.rows, self.device = rows, device
        self.x = [torch.randn(rows, sizes[0][0] if shared else inputs, generator=draw) for inputs, _ in sizes]
        if shared:
            self.x = self.x[:1] * len(sizes)
        self.weight = [torch.randn(outputs, inputs, generator=draw) for inputs, outputs in sizes]
        self.bias = [torch.randn(outputs, generator=draw) for _, outputs in sizes]
        self.dz = [torch.randn(rows, outputs, generator=draw) for _, outputs in sizes]
        self.stored = [stored(outputs) if stored else outputs for _, outputs in sizes]
        self.keys = torch.randint(-(2**63), 2**63 - 1, (len(sizes),), generator=draw)
        self.step = torch.tensor([2**31 + 5])
        self.rates = [rate256 * (m + 1) // len(sizes) for m in range(len(sizes))]
        self.layers = self._rows_of_the_table(sizes, shared)

    def _rows_of_the_table(self, sizes, shared):
        found, x, weight, bias, y = [], 0, 0, 0, 0
        for member, ((inputs, outputs), stored) in enumerate(zip(sizes, self.stored, strict=True)):
            places = {"x": 0 if shared else x, "weight": weight, "bias": bias, "y": y, "dx": x, "dz": y}
            strides = {"x_stride": inputs, "weight_stride": inputs, "y_stride": stored}
            counts = {"inputs": inputs, "outputs": outputs, "stored": stored, "member": member, "dropout": member + 1}
            counts |= {"rate256": self.rates[member], "x_rate256": self.rates[member]}
            found.append(gpu_dense.Layer(**places, **strides, **counts))
            x, weight, bias, y = (
                x + self.rows * inputs, weight + stored * inputs, bias + stored, y + self.rows * stored
            )  # fmt: skip
        return found

    def tables(self, tiles):
        return gpu_dense.tables(self.layers, tiles, self.device)

    def flat(self, arrays, stored=0):
        """Arrays behind each other on the device; `stored` says which axis is padded with zeros."""
        padded = []
        for array, outputs, width in zip(arrays, self.weight, self.stored, strict=True):
            more = width - len(outputs)
            padded.append(F.pad(array, {0: (0, 0), 1: (0, more), 2: (0, 0, 0, more)}[stored]).flatten())
        return torch.cat(padded).to(self.device)

    def x_flat(self):
        return self.x[0].flatten().to(self.device) if self.layers[-1].x == 0 else self.flat(self.x)

    def of_y(self):
        """NaN where results like y go."""
        return torch.full((sum(self.rows * width for width in self.stored),), torch.nan, device=self.device)

    def split(self, flat, widths, rows=None):
        """A flat buffer as arrays [rows, width]."""
        heights = [self.rows if rows is None else rows[i] for i in range(len(widths))]
        parts = flat.cpu().split([height * width for height, width in zip(heights, widths, strict=True)])
        return [part.view(height, -1) for part, height in zip(parts, heights, strict=True)]


def cases():
    return [
        pytest.param(sizes, rows, id=f"{rows}-{'-'.join(f'{a}x{b}' for a, b in sizes)}")
        for sizes, rows in zip(SIZES, ROWS, strict=True)
    ]


@pytest.mark.parametrize("rate256", [0, 64])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "none"])
@pytest.mark.parametrize(("sizes", "rows"), cases())
def test_forward_is_as_defined(device, sizes, rows, activation, rate256):
    given = Layers(sizes, rows, device, stored=lambda outputs: outputs + 3, rate256=rate256)
    y, slopes = given.of_y(), given.of_y()
    masks = (given.keys.to(device), given.step.to(device)) if rate256 else None
    gpu_dense.launch_forward(
        given.tables(gpu_dense.output_tiles(given.layers, rows)),
        given.x_flat(), given.flat(given.weight, 2), given.flat(given.bias, 1), y, rows,
        activation=activation, slopes=slopes, masks=masks,
    )  # fmt: skip
    for m, (found, slope) in enumerate(
        zip(given.split(y, given.stored), given.split(slopes, given.stored), strict=True)
    ):
        outputs = len(given.bias[m])
        z = F.linear(*(tensor[m].double() for tensor in (given.x, given.weight, given.bias))).requires_grad_()
        expected = z if activation == "none" else ACTIVATIONS[activation](z)
        if rate256:
            expected = dropout.dropout(expected, given.keys[m], given.step[0], m + 1, given.rates[m], None)
        (derivative,) = torch.autograd.grad(expected.sum(), z)
        assert_close(found[:, :outputs].double(), expected.detach(), **CLOSE)
        assert_close(slope[:, :outputs].double(), derivative, **CLOSE)
        assert not found[:, outputs:].any()
        assert not slope[:, outputs:].any()


@pytest.mark.parametrize(("sizes", "rows"), cases())
def test_layers_may_share_their_input(device, sizes, rows):
    given = Layers([(sizes[0][0], outputs) for _, outputs in sizes], rows, device, shared=True)
    y = given.of_y()
    table = given.tables(gpu_dense.output_tiles(given.layers, rows))
    x, dz = given.x_flat(), given.flat(given.dz)
    gpu_dense.launch_forward(table, x, given.flat(given.weight), given.flat(given.bias), y, rows)
    table = given.tables(gpu_dense.weight_tiles(given.layers))
    dw, db = (torch.full_like(given.flat(arrays), torch.nan) for arrays in (given.weight, given.bias))
    gpu_dense.launch_weight_gradient(table, dz, x, dw, db, rows)
    outputs = [len(bias) for bias in given.bias]
    found = zip(
        given.split(y, given.stored), given.split(dw, [given.x[0].shape[1]] * len(outputs), outputs), strict=True
    )
    for m, (own, dweight) in enumerate(found):
        assert_close(own, F.linear(given.x[0], given.weight[m], given.bias[m]), **CLOSE)
        assert_close(dweight, given.dz[m].mT @ given.x[0], **CLOSE)


@pytest.mark.parametrize("slope", ["none", "relu", "stored"])
@pytest.mark.parametrize(("sizes", "rows"), cases())
def test_input_gradient_is_as_defined(device, sizes, rows, slope):
    given = Layers(sizes, rows, device, rate256=64)
    x, dx = given.x_flat(), torch.full((sum(rows * inputs for inputs, _ in sizes),), torch.nan, device=device)
    gpu_dense.launch_input_gradient(
        given.tables(gpu_dense.input_tiles(given.layers, rows)),
        given.flat(given.dz), given.flat(given.weight), dx, rows,
        x=x if slope == "relu" else None, slopes=x if slope == "stored" else None, dropped=True,
    )  # fmt: skip
    for m, found in enumerate(given.split(dx, [inputs for inputs, _ in sizes])):
        expected = given.dz[m].double() @ given.weight[m].double()
        if slope != "none":
            kept = expected / (1 - given.rates[m] / 256)
            expected = expected * given.x[m] if slope == "stored" else torch.where(given.x[m] > 0, kept, 0)
        assert_close(found.double(), expected, **CLOSE)


@pytest.mark.parametrize(("sizes", "rows"), cases())
def test_weight_gradient_is_as_defined(device, sizes, rows):
    given = Layers(sizes, rows, device)
    dw, db = (torch.full_like(given.flat(arrays), torch.nan) for arrays in (given.weight, given.bias))
    table = given.tables(gpu_dense.weight_tiles(given.layers))
    gpu_dense.launch_weight_gradient(table, given.flat(given.dz), given.x_flat(), dw, db, rows)
    outputs = [width for _, width in sizes]
    weights, biases = given.split(dw, [inputs for inputs, _ in sizes], outputs), db.cpu().split(outputs)
    for m, (dweight, dbias) in enumerate(zip(weights, biases, strict=True)):
        assert_close(dweight.double(), given.dz[m].double().mT @ given.x[m].double(), **CLOSE)
        assert_close(dbias.double(), given.dz[m].double().sum(0), **CLOSE)


class Loss(NamedTuple):
    """What a launch of the loss gives."""

    losses: Tensor
    correct: Tensor
    gradients: Tensor


def loss_of(logits, labels, *, classes, odds=False, stored=0):
    """A launch over logits [M, B, at least Y] and labels [M, B], [B] or None."""
    members, rows = logits.shape[:2]
    losses = torch.full((members,), torch.nan, dtype=torch.float64, device=logits.device)
    correct = torch.full((members,), -1, device=logits.device)
    gradients = torch.full((members, rows, stored or classes), torch.nan, device=logits.device)
    gpu_loss.launch(logits, labels, losses, correct, gradients, classes=classes, odds=odds)
    return Loss(losses.cpu(), correct.cpu(), gradients.cpu())


def loss_defined(logits, labels, odds=False):
    """The same by torch's own in float64."""
    logits = logits.cpu().double().requires_grad_()
    labels = labels.cpu().expand(logits.shape[:2])
    if odds:
        own = labels[..., None]
        objective = (logits.scatter(2, own, -torch.inf).logsumexp(2) - logits.gather(2, own)[..., 0]).sum(1)
        losses = torch.zeros(len(logits), dtype=torch.float64)
    else:
        losses = objective = torch.stack([F.cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)])
    (gradients,) = torch.autograd.grad(objective.sum(), logits)
    if logits.shape[2] == 1:  # whose odds nothing changes
        gradients = torch.zeros_like(gradients)
    return Loss(losses.detach(), (logits.argmax(-1) == labels).sum(1), gradients)


def assert_losses_agree(found, expected):
    # Float32 against float64: an exponential and a sum of up to 1024 of them.
    assert_close(found.losses, expected.losses, rtol=2e-6, atol=1e-6)
    assert_close(found.correct, expected.correct)
    assert_close(found.gradients.double(), expected.gradients, rtol=1e-5, atol=1e-7)
    assert_nothing_rounds_away(found.gradients)


def assert_nothing_rounds_away(gradients):
    """Where a class has a gradient the label's balances it: p - 1 would be 0 where p rounds to 1."""
    others = gradients.double().clamp(min=0).sum(2)
    assert_close(
        gradients.double().clamp(max=0).sum(2), -others, rtol=1e-5, atol=1e-37
    )  # as above, and subnormal numbers


def logits_and_labels(members, rows, classes, device):
    """Some of the logits make one class certain."""
    draw = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(members, rows, classes, generator=draw)
    logits[:, ::3] *= 30
    return logits.to(device), torch.randint(0, classes, (members, rows), generator=draw).to(device)


@pytest.mark.parametrize("odds", [False, True], ids=["cross-entropy", "log-odds"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (5, 7), (3, 16), (33, 17), (2, 1024), (600, 3)], ids=str)
def test_the_loss_is_torchs_own(device, shape, odds):
    logits, labels = logits_and_labels(3, *shape, device)
    own = loss_of(logits, labels, classes=shape[1], odds=odds)
    assert_losses_agree(own, loss_defined(logits, labels, odds))
    shared = loss_of(logits, labels[1], classes=shape[1], odds=odds)
    assert_losses_agree(shared, loss_defined(logits, labels[1], odds))
    predicted = loss_of(logits, None, classes=shape[1], odds=odds)
    assert_losses_agree(predicted, loss_defined(logits, logits.argmax(-1), odds))


def test_what_lies_past_the_classes_is_neither_read_nor_left(device):
    logits, labels = logits_and_labels(2, 5, 7, device)
    wide = F.pad(logits, (0, 9), value=torch.nan)
    found = loss_of(wide, labels, classes=7, stored=16)
    assert not found.gradients[..., 7:].any()
    assert_losses_agree(found._replace(gradients=found.gradients[..., :7]), loss_defined(logits, labels))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_and_nan_logits_give_what_torch_gives(device, value):
    logits, labels = logits_and_labels(1, 6, 20, device)
    labels[:] = torch.arange(6)
    for where in ((0, 2, 2), (0, 2, 5)):  # at the label and beside it
        changed = logits.clone()
        changed[where] = value
        found, expected = loss_of(changed, labels, classes=20), loss_defined(changed, labels)
        assert_close(found.losses, expected.losses, rtol=2e-6)
        assert_close(found.gradients.double(), expected.gradients, rtol=1e-5, atol=1e-7)
    assert loss_of(torch.full_like(logits, value), labels, classes=20).losses.isnan().all()


def test_large_logits_do_not_overflow(device):
    logits = torch.tensor([[[1e30, 0.0, -1e30], [3e38, 3e38, -3e38]]], device=device)
    labels = torch.tensor([[0, 1]], device=device)
    assert_losses_agree(
        loss_of(logits, labels, classes=3), loss_defined(logits, labels)._replace(correct=torch.tensor([1]))
    )


@pytest.mark.parametrize(("kind", "targeted"), [(kind, aim) for kind in ("margin", "dlr") for aim in (False, True)])
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
def test_other_objectives_have_the_definitions_gradient(device, classes, kind, targeted):
    rows = 2 if classes == 1000 else 15
    logits, labels, targets = (part.view(3, rows, *part.shape[1:]) for part in rows_of_logits(3 * rows, classes))
    given = targets if targeted else None
    wide = F.pad(logits, (0, 5), value=torch.nan).to(device)
    gradients = torch.full((*labels.shape, classes + 3), torch.nan, device=device)
    for aim, own in ((given, labels), (None, None)):
        at, towards = (each if each is None else each.to(device) for each in (own, aim))
        gpu_loss.launch_objective(kind, wide, at, towards, gradients, classes=classes)
        expected = objective_gradient(kind, logits, logits.argmax(-1) if own is None else own, aim)
        # The same operations in the same order, but for how a device divides by 2.
        assert_close(gradients[..., :classes], expected, rtol=1e-6)
        assert not gradients[..., classes:].any()


# Around a block, none at all, one; and where every member begins at a multiple of 16.
BLOCK = gpu_optimizer.BLOCK
MEMBERS = {"odd": [5, 0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7], "aligned": [16, BLOCK, BLOCK + 32]}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_the_optimizers_are_torchs_own(device, kind, optimizer):
    sizes, draw = MEMBERS[kind], torch.Generator().manual_seed(3)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    table = gpu_optimizer.tiles(zip(ends[:-1], ends[1:], range(len(sizes)), strict=True)).to(device)
    # On either side of where the bias corrections are computed otherwise, the first moment's and the second's.
    before = torch.tensor([0, 1, 20, 700, 3000, 4, 5000][: len(sizes)])
    rates = torch.logspace(-4, -1, len(sizes), dtype=torch.float64)
    start = torch.randn(ends[-1], generator=draw, dtype=torch.float64)
    own = [part.clone().requires_grad_() for part in start.split(sizes)]
    if optimizer == "adam":
        torchs = [torch.optim.Adam([part], lr=float(rate)) for part, rate in zip(own, rates, strict=True)]
        for part, each, count in zip(own, torchs, before, strict=True):
            moments = {name: torch.zeros_like(part) for name in ("exp_avg", "exp_avg_sq")}
            each.state[part] = {"step": torch.tensor(float(count)), **moments}
    else:
        torchs = [torch.optim.SGD([part], lr=float(rate), momentum=0.9) for part, rate in zip(own, rates, strict=True)]
    parameters, moments = start.float().to(device), torch.zeros(2, ends[-1], device=device)
    copy, steps = torch.full((ends[-1],), torch.nan, dtype=torch.float16, device=device), before.to(device)
    options = {"copy": copy, "aligned": kind == "aligned"}
    for _ in range(3):
        gradients = torch.randn(ends[-1], generator=draw)
        for part, gradient, each in zip(own, gradients.double().split(sizes), torchs, strict=True):
            part.grad = gradient
            each.step()
        common = (table, parameters, gradients.to(device), moments[0])
        if optimizer == "adam":
            gpu_optimizer.launch_adam(*common, moments[1], steps, rates.to(device), **options)
            steps += 1
        else:
            gpu_optimizer.launch_sgd(*common, steps, rates.to(device), momentum=0.9, **options)
    # float32 against float64.
    assert_close(parameters.double(), torch.cat(own).detach(), rtol=1e-5, atol=1e-6)
    assert_close(copy, parameters.half())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nan_gradients_spoil_their_member_alone(device, optimizer):
    table = gpu_optimizer.tiles([(0, 20, 0), (20, 50, 1)]).to(device)
    numbers = (
        torch.zeros(2, dtype=torch.int64, device=device),
        torch.full((2,), 0.1, dtype=torch.float64, device=device),
    )
    clean = torch.linspace(-1, 1, 50, device=device)
    results = []
    for gradients in (clean, torch.cat([clean[:20] * torch.nan, clean[20:]])):
        parameters, moments = torch.ones(50, device=device), torch.zeros(2, 50, device=device)
        if optimizer == "adam":
            gpu_optimizer.launch_adam(table, parameters, gradients, moments[0], moments[1], *numbers)
        else:
            gpu_optimizer.launch_sgd(table, parameters, gradients, moments[0], *numbers, momentum=0.5)
        results.append(parameters.cpu())
    assert results[1][:20].isnan().all()
    assert_close(results[1][20:], results[0][20:])
    assert results[0].isfinite().all()


@pytest.mark.parametrize("kind", MEMBERS)
def test_gradients_are_clipped_as_torch_does(device, kind):
    """Each member by itself: one beside the norm, one below it, a NaN in the last."""
    sizes, draw, longest = MEMBERS[kind], torch.Generator().manual_seed(3), 30.0
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    table = gpu_optimizer.tiles(zip(ends[:-1], ends[1:], range(len(sizes)), strict=True))
    gradients = torch.randn(ends[-1], generator=draw)
    gradients[-1] = torch.nan
    squares, scales = (torch.full((count,), torch.nan, device=device) for count in (len(table), len(sizes)))
    places = table.to(device), gpu_optimizer.ends_of(table, len(sizes)).to(device)
    options = {"longest": longest, "aligned": kind == "aligned"}
    gpu_optimizer.launch_scales(*places, gradients.to(device), squares, scales, **options)
    for part, scale in zip(gradients.double().split(sizes), scales.cpu().double(), strict=True):
        own = part.clone().requires_grad_()
        own.grad = part.clone()
        torch.nn.utils.clip_grad_norm_([own], longest)
        assert_close(part * scale, own.grad, rtol=1e-5)  # float32 against float64
    assert (scales[:-1] < 1).any()
    assert (scales == 1).any()


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_rates_of_a_step_and_the_average_are_torchs_own(device, optimizer, decoupled):
    if optimizer == "sgd" and decoupled:
        pytest.skip("sgd has coupled weight decay alone")
    sizes, draw, share = [20, 30], torch.Generator().manual_seed(3), 0.3
    table = gpu_optimizer.tiles([(0, 20, 0), (20, 50, 1)]).to(device)
    start, rates = torch.randn(50, generator=draw, dtype=torch.float64), torch.tensor([[0.1, 0.02], [0.03, 0.2]])
    own = [part.clone().requires_grad_() for part in start.split(sizes)]
    makers = {"adam": torch.optim.AdamW if decoupled else torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    decays = torch.tensor([0.5, 0.2], dtype=torch.float64)
    torchs = [makers[optimizer]([p], weight_decay=float(d), **more) for p, d in zip(own, decays, strict=True)]
    parameters, moments = start.float().to(device), torch.zeros(2, 50, device=device)
    average, scales = (torch.full(shape, torch.nan, device=device) for shape in ((50,), (2,)))
    recipe = gpu_optimizer.Recipe(decays.to(device), decoupled, scales, average, share)
    expected = [torch.empty(0)] * 2
    for step in range(2):
        gradients, half = torch.randn(50, generator=draw), torch.tensor([0.5, 1.0])
        scales.copy_(half)
        for m, (part, gradient) in enumerate(zip(own, gradients.double().split(sizes), strict=True)):
            torchs[m].param_groups[0]["lr"], part.grad = float(rates[step, m]), gradient * half[m]
            torchs[m].step()
            now = part.detach()
            expected[m] = expected[m].lerp(now, share) if step else now.clone()
        counts = torch.full((2,), step, dtype=torch.int64, device=device)
        common = (table, parameters, gradients.to(device), *moments[: 1 + (optimizer == "adam")])
        counter = torch.tensor([step], device=device)
        launch = gpu_optimizer.launch_adam if optimizer == "adam" else gpu_optimizer.launch_sgd
        given = {"counter": counter, "recipe": recipe, **more}
        launch(*common, counts, rates.double().to(device), **given)
    # float32 against float64.
    assert_close(parameters.double(), torch.cat(own).detach(), rtol=1e-5, atol=1e-6)
    assert_close(average.double(), torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_labels_are_smoothed_as_torch_does(device):
    draw = torch.Generator().manual_seed(5)
    logits, labels = 3 * torch.randn(2, 5, 7, generator=draw), torch.randint(7, (5,), generator=draw)
    wide, gradients = (torch.full((2, 5, 16), torch.nan, device=device) for _ in range(2))
    wide[..., :7] = logits.to(device)
    losses, correct = torch.empty(2, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    gpu_loss.launch(wide, labels.to(device), losses, correct, gradients, classes=7, smoothing=0.3)
    for m in range(2):
        z = logits[m].double().requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(z, labels, label_smoothing=0.3), z)
        assert_close(gradients[m, :, :7].double(), expected, rtol=1e-4, atol=1e-7)  # float32 against float64
        assert float(losses[m]) == pytest.approx(float(F.cross_entropy(z.detach(), labels)), rel=1e-5)
    assert not gradients[..., 7:].any()
