"""Op cross_entropy: its definition, and every backend against it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atras.kernels import backends, cross_entropy
from atras.kernels.cross_entropy.dispatch import BACKENDS as BACKENDS
from atras.testing.inputs import assert_close, assert_near, directions, make_cross_entropy_inputs

once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
# Float32 against float64: an exponential and a sum of up to 1024 of them.
ROUNDING = {"rtol": 2e-6, "atol": 1e-7}
SHAPES = [(1, 1), (1, 10), (5, 7), (3, 16), (33, 17), (2, 1024), (600, 3)]


def both(logits, labels, scale=1.0):
    """The loss and the gradient of `scale` times it."""
    logits = logits.detach().clone().requires_grad_()
    loss = cross_entropy(logits, labels)
    return loss.detach(), torch.autograd.grad(scale * loss, logits)[0]


def defined(logits, labels, scale=1.0):
    """The same by torch's own in float64."""
    logits = logits.detach().cpu().double().requires_grad_()
    loss = F.cross_entropy(logits, labels.cpu())
    return loss.detach(), torch.autograd.grad(scale * loss, logits)[0]


def assert_agrees(shape, device):
    logits, labels = (tensor[0] for tensor in make_cross_entropy_inputs(1, *shape, device=device))
    for found, expected in zip(both(logits, labels, 3.0), defined(logits, labels, 3.0), strict=True):
        assert_close(found, expected.float(), **ROUNDING)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_torchs_own(backend, shape):
    assert_agrees(shape, backend.device)


@extension
def test_every_instruction_set_agrees_with_torchs_own(instructions):
    for shape in SHAPES:
        assert_agrees(shape, "cpu")


@once
def test_the_definition_is_torchs_own_and_its_gradient_is_right():
    logits, labels = (tensor[0] for tensor in make_cross_entropy_inputs(1, 5, 4, dtype=torch.float64))
    # The same formula, summed in another order.
    assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels), rtol=1e-14)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels), logits.div(10).requires_grad_())


def test_the_gradient_is_the_slope(backend):
    logits, labels = (tensor[0] for tensor in make_cross_entropy_inputs(1, 20, 10, device=backend.device))
    logits = logits / 4
    _, gradient = both(logits, labels)
    (direction,) = directions([logits])
    rise = cross_entropy(logits + 1e-2 * direction, labels) - cross_entropy(logits - 1e-2 * direction, labels)
    # Central differences over 1e-2: the loss's rounding, and its third derivative.
    assert float(rise) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=5e-3, abs=1e-4)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_and_nan_logits_give_what_torch_gives(backend, value):
    logits, labels = (tensor[0].clone() for tensor in make_cross_entropy_inputs(1, 6, 20, device=backend.device))
    labels[:] = torch.arange(6)
    for where in ((2, 2), (2, 5)):  # at the label and beside it
        changed = logits.clone()
        changed[where] = value
        for found, expected in zip(both(changed, labels), defined(changed, labels), strict=True):
            assert_close(found, expected.float(), **ROUNDING)
    everywhere = torch.full_like(logits, value)
    assert both(everywhere, labels)[0].isnan()


def test_large_logits_do_not_overflow(backend):
    logits = torch.tensor([[1e30, 0.0, -1e30], [3e38, 3e38, -3e38]], device=backend.device)
    labels = torch.tensor([0, 1], device=backend.device)
    for found, expected in zip(both(logits, labels), defined(logits, labels), strict=True):
        assert_close(found, expected.float(), **ROUNDING)


def test_of_no_rows_the_loss_is_nan(backend):
    loss, gradient = both(torch.zeros(0, 3, device=backend.device), torch.zeros(0, device=backend.device).long())
    assert loss.isnan()
    assert gradient.shape == (0, 3)


@pytest.mark.parametrize("shared", ["nothing", "labels", "logits"])
def test_vmap_is_the_loop_over_members(backend, shared):
    logits, labels = make_cross_entropy_inputs(4, 9, 10, device=backend.device)
    dims = (None if shared == "logits" else 0, None if shared == "labels" else 0)
    logits, labels = (tensor[0] if dim is None else tensor for tensor, dim in zip((logits, labels), dims, strict=True))

    def loop(function):
        for m in range(4):
            yield function(logits if dims[0] is None else logits[m], labels if dims[1] is None else labels[m])

    rounding = ROUNDING if backend.name == "reference" else {}  # torch sums a batch in another order
    losses = torch.stack(list(loop(cross_entropy)))
    assert_close(torch.vmap(cross_entropy, dims)(logits, labels), losses, **rounding)
    gradients = torch.stack(list(loop(torch.func.grad(cross_entropy))))
    assert_close(torch.vmap(torch.func.grad(cross_entropy), dims)(logits, labels), gradients, **rounding)
    leaf = logits.clone().requires_grad_()
    torch.vmap(cross_entropy, dims)(leaf, labels).sum().backward()
    assert_near(leaf.grad, gradients.sum(0) if dims[0] is None else gradients, 1e-6)  # the order of four summands


def test_vmap_nests(backend):
    logits, labels = make_cross_entropy_inputs(3, 5, 7, device=backend.device)
    found = torch.vmap(torch.vmap(cross_entropy, in_dims=(0, None)), in_dims=(None, 0))(logits, labels)
    expected = [torch.stack([cross_entropy(logits[j], labels[i]) for j in range(3)]) for i in range(3)]
    assert_close(found, torch.stack(expected), **ROUNDING)


@extension
def test_threads_runs_and_neighbours_do_not_change_a_bit(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    logits, labels = make_cross_entropy_inputs(3, 1000, 10)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            found.append([torch.vmap(f)(logits, labels) for f in (cross_entropy, torch.func.grad(cross_entropy))])
    finally:
        torch.set_num_threads(threads)
    for losses, gradients in found[1:]:
        assert_close(losses, found[0][0])
        assert_close(gradients, found[0][1])
    for m in range(3):
        assert_close(cross_entropy(logits[m], labels[m]), found[0][0][m])


@extension
def test_what_the_fast_path_cannot_do_is_said(monkeypatch):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    logits, labels = (tensor[0] for tensor in make_cross_entropy_inputs(1, 3, 4))
    with pytest.raises(ValueError, match="backend cpu computes in float32, got float64; convert first"):
        cross_entropy(logits.double(), labels)
    (once_more,) = torch.autograd.grad(cross_entropy(logits.requires_grad_(), labels), logits, create_graph=True)
    with pytest.raises(ValueError, match="cross_entropy: second derivatives are not implemented"):
        once_more.sum().backward()


LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_a_label_out_of_range_is_an_error(backend, label):
    if backend.device != "cpu":
        pytest.skip("a GPU would have to wait for the answer")
    labels = torch.tensor([0, label])
    found = f"got {min(0, label)} to {max(0, label)}; give more logits"
    with pytest.raises(ValueError, match=f"cross_entropy: expected labels from 0 to 2, {found}"):
        cross_entropy(LOGITS, labels)
    with pytest.raises(ValueError, match="cross_entropy: expected labels from 0 to 2"):
        torch.vmap(cross_entropy, (None, 0))(LOGITS, torch.stack([LABELS, labels]))


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: cross_entropy(LOGITS[0], LABELS),
            "cross_entropy: expected logits [B, Y], got float32 (3,); batch members with torch.vmap",
        ),
        (
            lambda: cross_entropy(LOGITS.int(), LABELS),
            "cross_entropy: expected logits of a floating-point dtype, got int32 (2, 3); convert before the call",
        ),
        (
            lambda: cross_entropy(LOGITS, LABELS.int()),
            "cross_entropy: expected labels as int64 (2,), got int32 (2,); give each row one",
        ),
        (
            lambda: cross_entropy(LOGITS, LABELS[:1]),
            "cross_entropy: expected labels as int64 (2,), got int64 (1,); give each row one",
        ),
        (
            lambda: cross_entropy(LOGITS[:, :0], LABELS),
            "cross_entropy: expected logits of at least one class, got 0; give more logits",
        ),
        (
            lambda: cross_entropy(LOGITS, LABELS.to("meta")),
            "cross_entropy: expected logits and labels on one device, got cpu and meta",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text
