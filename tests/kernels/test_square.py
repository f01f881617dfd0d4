"""Op square: its definition, and every backend against it."""

from __future__ import annotations

import math

import pytest
import torch

from atras.attacks.norms import scaled
from atras.kernels import backends, keep_better, propose_bumps, propose_corners
from atras.testing import assert_close, make_square_inputs

EPSILON = 0.3
# Pairs, (C, H, W) and the square's side: one pixel, odd ones, the whole image, oblong ones, and no pair at all.
CASES = [
    (1, (1, 1, 1), 1),
    (7, (1, 5, 7), 1),
    (9, (3, 7, 5), 3),
    (5, (1, 9, 9), 9),
    (6, (3, 6, 11), 6),
    (9 if backends.interpreting() else 40, (1, 28, 28), 4),
    (3, (2, 33, 32), 31),
    (0, (1, 4, 4), 2),
]
once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")


def squares(drawn, side, height, width):
    """[(pair, rows, columns)], by Python's own arithmetic."""
    for pair, (down, across) in enumerate(drawn.double().tolist()):
        row = min(int((down + 1) / 2 * (height - side + 1)), height - side)
        column = min(int((across + 1) / 2 * (width - side + 1)), width - side)
        yield pair, slice(row, row + side), slice(column, column + side)


def masks(drawn, side, images):
    """bool [P, 1, H, W]."""
    wanted = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
    for pair, rows, columns in squares(drawn.cpu(), side, *images.shape[2:]):
        wanted[pair, :, rows, columns] = True
    return wanted.to(images.device)


def signs(drawn):
    return torch.where(drawn < 0, -1.0, 1.0).to(drawn.dtype)[:, :, None, None]


def two_bumps(side, dtype=torch.float32, device="cpu"):
    """Any two of norm 1."""
    bumps = torch.arange(1.0, 2 * side * side + 1, dtype=torch.float64).view(2, side, side).sin()
    return (bumps / bumps.norm(dim=(1, 2), keepdim=True)).to(dtype).to(device)


def norms(change):
    return change.double().square().sum((1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("pairs", "shape", "side"), CASES, ids=str)
def test_corners_agree_with_the_definition_bit_for_bit(backend, pairs, shape, side, dtype):
    made = make_square_inputs(pairs, shape, dtype=dtype, device=backend.device)
    drawn = made.drawn[:, : 2 + shape[0]].contiguous()
    corner = (made.clean + EPSILON * signs(drawn[:, 2:])).clamp(0, 1)
    wanted = torch.where(masks(drawn[:, :2], side, made.clean), corner, made.best)
    tried = made.best.clone()
    propose_corners(tried, made.clean, drawn, side=side, epsilon=EPSILON)
    assert_close(tried, wanted)


def by_whole_images(made, bumps, epsilon):
    """Bumps as the paper's code makes them: all of the image is brought to norm epsilon at the end."""
    side, channels = bumps.shape[1], made.clean.shape[1]
    to, giving = (masks(made.drawn[:, at : at + 2], side, made.clean) for at in (0, 2))
    change = made.best - made.clean
    mass = (change * (to | giving)).square().sum((2, 3))
    spare = (epsilon**2 - change.square().sum((1, 2, 3))).clamp(min=0)
    made_of = (spare[:, None] / channels + mass).sqrt()
    wanted = torch.where(to | giving, 0.0, change)
    for pair, rows, columns in squares(made.drawn[:, :2].cpu(), side, *made.clean.shape[2:]):
        own = change[pair, :, rows, columns]
        turned = bumps[0 if made.drawn[pair, 4] < 0 else 1]
        shape = turned * signs(made.drawn[pair, None, 5:])[0]
        shape = shape + own / own.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        shape = shape / shape.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        wanted[pair, :, rows, columns] = shape * made_of[pair, :, None, None]
    return (made.clean + scaled(wanted, epsilon, "l2")).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("pairs", "shape", "side"), [case for case in CASES if case[2] > 1], ids=str)
def test_bumps_agree_with_whole_images(backend, pairs, shape, side, dtype):
    made = make_square_inputs(pairs, shape, dtype=dtype, device=backend.device)
    bumps, tried, spent = two_bumps(side, dtype, backend.device), made.best.clone(), norms(made.best - made.clean)
    after = propose_bumps(tried, made.best, made.clean, spent, made.drawn, bumps, epsilon=EPSILON)
    # Pixels of at most 1, rounded to half a unit of their last place; the paper's code rounds every step.
    assert_close(tried, by_whole_images(made, bumps, EPSILON), atol=16 * torch.finfo(dtype).eps)
    touched = masks(made.drawn[:, :2], side, tried) | masks(made.drawn[:, 2:4], side, tried)
    assert_close(torch.where(touched, 0, tried), torch.where(touched, 0, made.best))
    assert_close(after, norms(tried.double() - made.clean.double()), atol=1e-6 if dtype == torch.float32 else 1e-13)


def explicit_margins(logits, labels):
    """The highest other logit less the label's, by Python's own comparisons; NaN among them gives NaN."""
    found = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        others = row[:label] + row[label + 1 :]
        found.append(math.nan if any(map(math.isnan, row)) else max(others, default=-math.inf) - row[label])
    return found


@pytest.mark.parametrize("two", [False, True], ids=["one square", "two"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize(("pairs", "shape", "side"), [CASES[1], CASES[4], CASES[5]], ids=str)
def test_the_better_image_is_kept(backend, pairs, shape, side, classes, dtype, two):
    made = make_square_inputs(pairs, shape, classes=classes, dtype=dtype, device=backend.device)
    touched = masks(made.drawn[:, :2], side, made.best)
    touched = touched | masks(made.drawn[:, 2:4], side, made.best) if two else touched
    best, tried = made.best.clone(), torch.where(touched, made.best / 2, made.best)
    before, after = (torch.arange(pairs, dtype=torch.float64, device=best.device) + number for number in (0, 0.5))
    spent = (before.clone(), after) if two else None
    values = made.values.clone()
    found = explicit_margins(made.logits.cpu(), made.labels.cpu())
    wanted = [new > old and not old > 0 for new, old in zip(found, values.tolist(), strict=True)]
    better = torch.tensor(wanted, device=best.device)
    wide = better[:, None, None, None]
    expected = torch.where(wide, tried, best)
    keep_better(best, tried, values, made.logits, made.labels, made.drawn, side=side, spent=spent)
    assert_close(best, expected)
    assert_close(tried, expected)
    assert_close(values, torch.where(better, torch.tensor(found, dtype=dtype, device=best.device), made.values))
    if spent is not None:
        assert_close(spent[0], torch.where(better, after, before))
    if pairs == 40 and classes > 2:
        assert 0 < better.sum() < pairs


def search(made, norm, epsilon, queries, alone=slice(None)):
    """Some queries of random search on the sum of pixels, and the best images."""
    clean, labels = made.clean[alone].contiguous(), made.labels[alone]
    best, tried, side = made.best[alone].clone(), made.best[alone].clone(), 3
    values, spent = torch.full_like(clean[:, 0, 0, 0], -torch.inf), norms(best.double() - clean.double())
    generator, bumps = torch.Generator().manual_seed(5), two_bumps(side, clean.dtype, clean.device)
    weights = torch.randn(clean[0].numel(), 4, generator=generator).to(clean)
    for _ in range(queries):
        drawn = 2 * torch.rand(made.drawn.shape, generator=generator).to(clean)[alone].contiguous() - 1
        if norm == "l2":
            after = propose_bumps(tried, best, clean, spent, drawn, bumps, epsilon=epsilon)
        else:
            drawn = drawn[:, : 2 + clean.shape[1]].contiguous()
            propose_corners(tried, clean, drawn, side=side, epsilon=epsilon)
        # A product of each image by itself, so that torch's rounding does not depend on how many there are.
        logits = -(tried.flatten(1)[:, :, None] * weights).sum(1).exp()
        pair = (spent, after) if norm == "l2" else None
        keep_better(best, tried, values, logits, labels % 4, drawn, side=side, spent=pair)
        assert_close(tried, best)
    return best, values, spent


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_stay_in_the_ball_and_in_range(backend, norm):
    if backends.interpreting():
        pytest.skip("the same arithmetic as in the tests above")
    made = make_square_inputs(30, (3, 9, 8), device=backend.device)
    best, _, spent = search(made._replace(best=made.clean), norm, EPSILON, 200)
    change = best.double() - made.clean.double()
    one_ulp = torch.finfo(torch.float32).eps  # of a pixel of 1
    assert best.amin() >= 0
    assert best.amax() <= 1
    size = change.abs().amax() if norm == "linf" else norms(change).amax().sqrt()
    assert 0.9 * EPSILON < size <= EPSILON + one_ulp
    if norm == "l2":
        assert_close(spent, norms(change), atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_is_the_identity(backend, norm):
    made = make_square_inputs(6, (3, 7, 5), device=backend.device)
    tried, none = made.clean.clone(), torch.zeros(6, dtype=torch.float64, device=backend.device)
    if norm == "l2":
        bumps = two_bumps(3, device=backend.device)
        assert_close(propose_bumps(tried, made.clean, made.clean, none, made.drawn, bumps, epsilon=0), none)
    else:
        propose_corners(tried, made.clean, made.drawn[:, :5].contiguous(), side=3, epsilon=0)
    assert_close(tried, made.clean)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_pair_does_not_depend_on_the_others(backend, norm):
    made = make_square_inputs(9, (1, 7, 6), device=backend.device)
    together = search(made, norm, EPSILON, 5)
    others = torch.tensor([8, 2, 5], device=backend.device)
    for whole, part in zip(together, search(made, norm, EPSILON, 5, others), strict=True):
        assert_close(part, whole[others])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nan_stays_with_its_pair(backend, norm):
    made = make_square_inputs(4, (1, 6, 6), device=backend.device)
    clean = made.clean.clone()
    clean[2] = torch.nan
    tried, spent = made.best.clone(), norms(made.best.double() - clean.double())
    if norm == "l2":
        after = propose_bumps(
            tried, made.best, clean, spent, made.drawn, two_bumps(6, device=backend.device), epsilon=1
        )
        assert after.isnan().tolist() == [False, False, True, False]
    else:
        propose_corners(tried, clean, made.drawn[:, :3].contiguous(), side=6, epsilon=EPSILON)
    assert tried.isnan().flatten(1).all(1).tolist() == [False, False, True, False]
    assert not tried[[0, 1, 3]].isnan().any()


def test_strides_of_what_is_read_do_not_matter(backend):
    made = make_square_inputs(5, (2, 6, 7), device=backend.device)
    bumps, spent = two_bumps(3, device=backend.device), norms(made.best - made.clean)

    def call(of):
        tried, best, values, known = (each.clone() for each in (made.best, made.best, made.values, spent))
        propose_corners(tried, of(made.clean), of(made.drawn[:, :4]), side=3, epsilon=EPSILON)
        keep_better(best, tried, values, of(made.logits), of(made.labels), of(made.drawn[:, :4]), side=3)
        after = propose_bumps(tried, of(best), of(made.clean), of(known), of(made.drawn), of(bumps), epsilon=EPSILON)
        rest = (of(made.logits), of(made.labels), of(made.drawn))
        keep_better(best, tried, values, *rest, side=3, spent=(known, of(after)))
        return best, tried, values, known, after

    strided = call(lambda each: torch.stack([each, each], -1)[..., 0])
    for one, other in zip(strided, call(lambda each: each.contiguous()), strict=True):
        assert_close(one, other)


@extension
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_threads_do_not_change_a_bit(monkeypatch, norm):
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    made = make_square_inputs(4001, (1, 8, 8))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(search(made, norm, EPSILON, 3))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            assert_close(one, another)


MADE = make_square_inputs(2, (1, 4, 4))
NONE = torch.zeros(2, dtype=torch.float64)


def corners(tried=MADE.best, clean=MADE.clean, drawn=None, side=2, **numbers):
    drawn = MADE.drawn[:, :3].contiguous() if drawn is None else drawn
    propose_corners(tried, clean, drawn, side=side, **({"epsilon": 0.1} | numbers))


def bumps(spent=NONE, made=None):
    propose_bumps(
        MADE.best, MADE.best, MADE.clean, spent, MADE.drawn, two_bumps(2) if made is None else made, epsilon=1
    )


def keep(values=MADE.values, logits=MADE.logits, labels=MADE.labels, drawn=MADE.drawn, **named):
    keep_better(MADE.best, MADE.best.clone(), values, logits, labels, drawn, **({"side": 2} | named))


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: corners(MADE.best[0]), "expected images [P, C, H, W] of float32 or float64, got float32 (1, 4, 4)"),
        (lambda: corners(MADE.best.half()), "expected images [P, C, H, W] of float32 or float64, got float16"),
        (lambda: corners(MADE.best.mT), "expected contiguous images, got strides (16, 16, 1, 4)"),
        (
            lambda: corners(clean=MADE.clean[:1]),
            "expected clean as float32 (2, 1, 4, 4) on cpu, got float32 (1",
        ),
        (lambda: corners(drawn=MADE.drawn), "expected drawn as float32 (2, 3) on cpu, got float32 (2, 6)"),
        (lambda: corners(side=5), "side (=5): expected a whole number from 1 to 4"),
        (lambda: corners(side=0), "side (=0): expected a whole number from 1 to 4"),
        (lambda: corners(epsilon=-1), "epsilon (=-1): expected a finite number of at least 0"),
        (lambda: corners(bounds=(1, 0)), "bounds (=(1, 0)): expected two numbers, the lower one first"),
        (
            lambda: bumps(made=torch.ones(3, 3)),
            "expected bumps as float32 (2, 3, 3) on cpu, got float32 (3, 3)",
        ),
        (lambda: bumps(NONE.float()), "expected spent as float64 (2,) on cpu, got float32 (2,)"),
        (lambda: keep(values=MADE.values.double()), "expected values as float32 (2,) on cpu, got float64"),
        (lambda: keep(logits=MADE.logits[0]), "expected logits as float32 (2,) on cpu, got float32 (10,)"),
        (lambda: keep(labels=MADE.labels.int()), "expected labels as int64 (2,) on cpu, got int32 (2,)"),
        (
            lambda: keep(values=MADE.clean[0, 0, :2, 0]),
            "expected contiguous values and squared norms, got strided ones",
        ),
        (
            lambda: keep(drawn=MADE.drawn[:, :3], spent=(NONE, NONE)),
            "expected drawn [P, 2 or more], 4 or more with spent, got float32 (2, 3)",
        ),
        (lambda: keep(spent=(NONE, NONE[:1])), "expected spent as float64 (2,) on cpu, got float64 (1,)"),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@once
def test_every_warp_compares_before_the_value_is_replaced(compile_ahead):
    pytest.importorskip("triton")
    from atras.kernels.square.gpu_kernels import keep_kernel
    from atras.kernels.square.gpu_triton import OPTIONS

    floats, labels = torch.empty(1, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    for columns in (2, 16, 256):
        given = (*[floats] * 4, labels, floats, None, None, 3, 32, 32, 10, 5, 4, False, columns, 16)
        before, _, _ = compile_ahead(keep_kernel, given, 90, OPTIONS).asm["ptx"].partition("st.global")
        assert "bar.sync" in before.rpartition("ld.global")[2]
