"""Op dropout: its generator against published vectors, its definition, and every backend against it."""

from __future__ import annotations

import math

import pytest
import torch

from atras.kernels import backends, dropout
from atras.kernels.dropout import reference
from atras.testing import assert_close, make_dropout_inputs

once = pytest.mark.skipif(backends.interpreting(), reason="not about a backend; the parent process runs it")
MISSING = backends.missing("cpu", torch.device("cpu"))
extension = pytest.mark.skipif(bool(MISSING) or backends.interpreting(), reason=MISSING or "about the C++ extension")
ONES = 0xFFFFFFFF
# Random123 1.14, tests/kat_vectors, philox4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
# Odd, single, empty, and more positions than a tile or program takes.
SHAPES = [(5, 7), (1, 1), (0, 4), (70, 131), (3, 5, 4, 3), (2, 16, 1, 1), (2, 19, 23, 11)]


def defined(x, key, step, layer, rate256, width):
    """The reference, member by member."""
    x, key, width = x.cpu(), key.cpu(), None if width is None else width.cpu()
    step = torch.tensor(step)
    widths = [None] * len(x) if width is None else width
    return torch.stack([reference.dropout(x[m], key[m], step, layer, rate256, widths[m]) for m in range(len(x))])


def over_members(x, key, width, step=7, layer=1, rate256=64):
    """The op under vmap, as a stack calls it."""

    def one(x, key, width):
        return dropout(x, key, step, layer=layer, rate256=rate256, width=width)

    return torch.vmap(one, in_dims=(0, 0, None if width is None else 0))(x, key, width)


@once
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = reference.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(map(int, words)) == expected


@once
def test_bytes_are_little_endian_and_in_word_order():
    drawn = reference.random_bytes(torch.tensor(0), torch.tensor(0), 0, 16)
    assert bytes(drawn.tolist()) == b"".join(word.to_bytes(4, "little") for word in KNOWN_ANSWERS[0][2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_definition_bit_for_bit(backend, shape, dtype):
    for padded in (False, True)[: 1 + (len(shape) == 2)]:
        x, key, width = make_dropout_inputs(3, shape, dtype=dtype, padded=padded, device=backend.device)
        found = over_members(x, key, width, step=2**31 + 5, layer=2**32 - 1)
        assert_close(found, defined(x, key, 2**31 + 5, 2**32 - 1, 64, width))


@pytest.mark.parametrize("rate256", [1, 85, 128, 255])
def test_every_rate_scales_as_defined(backend, rate256):
    x, key, _ = make_dropout_inputs(2, (9, 33), device=backend.device)
    assert_close(over_members(x, key, None, rate256=rate256), defined(x, key, 7, 1, rate256, None))


def test_infinite_and_nan_activations_are_dropped_like_others(backend):
    x, key, _ = make_dropout_inputs(1, (8, 33), device=backend.device)
    keep = over_members(torch.ones_like(x), key, None) != 0
    for value in (torch.nan, torch.inf):
        found = over_members(torch.full_like(x, value), key, None)
        assert_close(found, torch.where(keep, value, torch.zeros_like(x)))


@pytest.mark.parametrize("layout", ["channels-last", "transposed", "every-other"])
def test_strides_do_not_matter(backend, layout):
    x, key, _ = make_dropout_inputs(3, (4, 5, 6, 3), device=backend.device)
    change = {
        "channels-last": lambda t: t.movedim(2, -1).contiguous().movedim(-1, 2),
        "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "every-other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    }[layout]
    strided = change(x)
    assert not strided.is_contiguous()
    assert_close(over_members(strided, key, None), over_members(x, key, None))


@once
def test_channels_lie_innermost_in_the_count_of_positions():
    x, key, _ = make_dropout_inputs(1, (3, 5, 4, 2))
    flat = x.movedim(2, -1).reshape(1, 3, -1)
    expected = over_members(flat, key, None).view(1, 3, 4, 2, 5).movedim(-1, 2)
    assert_close(over_members(x, key, None), expected)


def test_a_padded_member_gets_the_mask_of_the_unpadded_one(backend):
    x, key, width = make_dropout_inputs(2, (9, 40), padded=True, device=backend.device)
    alone = over_members(x[1:, :, :20].contiguous(), key[1:], None)
    found = over_members(x, key, width)[1:]
    assert_close(found[:, :, :20], alone)
    assert not found[:, :, 20:].any()


def test_backward_applies_the_mask_of_forward(backend):
    x, key, width = make_dropout_inputs(3, (6, 21), dtype=torch.float64, padded=True, device=backend.device)
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1)).to(backend.device)
    expected = weights * over_members(torch.ones_like(x), key, width)
    x.requires_grad_()
    (over_members(x, key, width) * weights).sum().backward()
    assert_close(x.grad, expected)

    def one(x, key, width, weights):
        return (dropout(x, key, 7, layer=1, rate256=64, width=width) * weights).sum()

    assert_close(torch.vmap(torch.func.grad(one))(x.detach(), key, width, weights), expected)


@once
def test_second_derivatives_are_right():
    x, key, _ = make_dropout_inputs(1, (4, 5), dtype=torch.float64)

    def squared(x):
        return dropout(x, key[0], 7, layer=1, rate256=64) ** 2

    assert torch.autograd.gradgradcheck(squared, x[0].requires_grad_())


def test_vmap_is_the_loop_over_members_and_nests(backend):
    x, key, width = make_dropout_inputs(4, (6, 21), padded=True, device=backend.device)
    loop = [dropout(x[m], key[m], 7, layer=1, rate256=64, width=width[m]) for m in range(4)]
    found = over_members(x, key, width)
    assert_close(found, torch.stack(loop))
    nested = torch.vmap(over_members)(*(tensor.unflatten(0, (2, 2)) for tensor in (x, key, width)))
    assert_close(nested.flatten(0, 1), found)
    shared = torch.vmap(lambda key: dropout(x[0], key, 7, layer=1, rate256=64))(key)
    assert_close(shared[2], dropout(x[0], key[2], 7, layer=1, rate256=64))


def test_a_step_may_be_a_number_or_a_tensor(backend):
    x, key, _ = make_dropout_inputs(2, (6, 21), device=backend.device)
    expected = over_members(x, key, None, step=3)
    assert_close(over_members(x, key, None, step=torch.tensor(3, device=backend.device)), expected)
    assert_close(over_members(x, key, None, step=3 + 2**32), expected)


@once
def test_masks_differ_between_keys_steps_and_layers_and_keep_their_share():
    ones, key = torch.ones(1000, 1000), torch.tensor(123)
    masks = [
        dropout(ones, key, 0, layer=0, rate256=64) != 0,
        dropout(ones, key + 1, 0, layer=0, rate256=64) != 0,
        dropout(ones, key + 2**32, 0, layer=0, rate256=64) != 0,
        dropout(ones, key, 1, layer=0, rate256=64) != 0,
        dropout(ones, key, 0, layer=1, rate256=64) != 0,
    ]
    for i, mask in enumerate(masks):
        # Five standard deviations of a binomial count.
        assert abs(mask.sum().item() - 750_000) < 5 * math.sqrt(1e6 * 0.75 * 0.25)
        for other in masks[:i]:
            assert abs((mask & other).sum().item() - 562_500) < 5 * math.sqrt(1e6 * 0.5625 * 0.4375)


@once
def test_rate_zero_returns_the_input():
    x = torch.ones(2, 3)
    assert dropout(x, torch.tensor(0), 0, layer=0, rate256=0) is x


@extension
@pytest.mark.parametrize("shape", [(300, 301), (9, 5, 40, 41)], ids=["features", "images"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
def test_threads_do_not_change_a_bit(monkeypatch, shape, padded):
    if padded and len(shape) == 4:
        pytest.skip("images have no padding")
    monkeypatch.setenv("ATRAS_BACKEND", "cpu")
    x, key, width = make_dropout_inputs(3, shape, padded=padded)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(over_members(x, key, width))
    finally:
        torch.set_num_threads(threads)
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])


X, KEY = torch.zeros(2, 3), torch.tensor(5)


@once
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: dropout(torch.zeros(2, 3, 4), KEY, 0, layer=0, rate256=64),
            "dropout: expected x [B, F] or [B, C, H, W], got float32 (2, 3, 4); batch members with torch.vmap",
        ),
        (
            lambda: dropout(X.int(), KEY, 0, layer=0, rate256=64),
            "dropout: expected x of a floating-point dtype, got int32 (2, 3); convert before the call",
        ),
        (
            lambda: dropout(X, torch.zeros(2), 0, layer=0, rate256=64),
            "dropout: expected key as int64 (), got float32 (2,); batch members with torch.vmap",
        ),
        (
            lambda: dropout(X, KEY, 0.5, layer=0, rate256=64),
            "dropout: expected step as a whole number or 0-d integer tensor, got 0.5",
        ),
        (
            lambda: dropout(torch.zeros(2, 3, 4, 4), KEY, 0, layer=0, rate256=64, width=3),
            "dropout: width goes with x [B, F], got float32 (2, 3, 4, 4); leave it out for images",
        ),
        (
            lambda: dropout(X, KEY, 0, layer=0, rate256=256),
            "dropout: rate256 (=256): expected a whole number from 0 to 255",
        ),
        (
            lambda: dropout(X, KEY, 0, layer=-1, rate256=64),
            "dropout: layer (=-1): expected a whole number from 0 to 4294967295",
        ),
        (
            lambda: dropout(X, KEY.to("meta"), 0, layer=0, rate256=64),
            "dropout: expected x and key on one device, got cpu and meta",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text
