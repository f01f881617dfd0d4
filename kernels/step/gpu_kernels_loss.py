"""The Triton kernels of the loss, cross-entropy, correct predictions and the gradient of the logits in one pass, and of
the gradient of other objectives."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32: a difference to it is finite or -inf, never NaN
TINY = tl.constexpr(1e-12)  # of objectives.py


@triton.jit(do_not_specialize=["rows", "classes", "label_stride"])
def cross_entropy_kernel(
    p_logits,
    p_labels,
    p_losses,
    p_correct,
    p_gradients,
    p_counter,
    rows,
    classes,
    stride,
    gradient_stride,
    label_stride,
    smoothing: tl.float64,
    COUNTED: tl.constexpr,
    PREDICTED: tl.constexpr,
    ODDS: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    i_member, members = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    i_y = tl.arange(0, BLOCK_Y)[None, :]
    b_loss, b_correct = tl.zeros((BLOCK_B,), tl.float64), tl.zeros((BLOCK_B,), tl.int64)
    for start in range(0, rows, BLOCK_B):
        i_b = start + tl.arange(0, BLOCK_B)
        inside = (i_b[:, None] < rows) & (i_y < classes)
        i_row = i_member * rows + i_b[:, None]
        b_z = tl.where(i_y < classes, tl.load(p_logits + i_row * stride + i_y, mask=inside, other=0.0), float("-inf"))
        # torch takes a NaN for the largest, and of equals the first.
        b_predicted = tl.argmax(tl.where(b_z != b_z, float("inf"), b_z), 1)
        if PREDICTED:
            b_label = b_predicted.to(tl.int64)
        else:
            b_label = tl.load(p_labels + i_member * label_stride + i_b, mask=i_b < rows, other=0)
        own = i_y == b_label[:, None]
        b_own = tl.sum(tl.where(own, b_z, 0.0), 1)
        b_top = tl.max(b_z, 1)
        if ODDS:  # the softmax over the other classes, by the largest among them
            b_top = tl.max(tl.where(own, LOWEST, tl.maximum(b_z, LOWEST)), 1)
        b_others = tl.where(own, 0.0, tl.exp(b_z - b_top[:, None]))
        b_rest = tl.sum(b_others, 1)
        if ODDS:
            b_scale = tl.where(b_own < float("inf"), 1.0 / tl.where(b_rest == 0.0, 1.0, b_rest), float("nan"))
        else:
            b_sum = b_rest + tl.exp(b_own - b_top)
            b_loss += tl.where(i_b < rows, tl.log(b_sum) - (b_own - b_top), 0.0).to(tl.float64)
            b_scale = 1.0 / b_sum / rows
        b_correct += ((b_predicted == b_label) & (i_b < rows)).to(tl.int64)
        # At the label minus the sum of the others: p - 1 would be 0 where p rounds to 1.
        b_gradient = tl.where(own, -b_rest[:, None], b_others) * b_scale[:, None]
        if SMOOTHED:
            b_share = tl.full((1, 1), smoothing, tl.float32) / rows
            b_gradient += tl.where(own, b_share, 0.0) - b_share / classes
        b_gradient = tl.where(i_y < classes, b_gradient, 0.0).to(p_gradients.dtype.element_ty)
        written = (i_b[:, None] < rows) & (i_y < gradient_stride)
        tl.store(p_gradients + i_row * gradient_stride + i_y, b_gradient, mask=written)
    i_out = i_member
    if COUNTED:
        i_out += tl.load(p_counter) * members
    tl.store(p_losses + i_out, (tl.sum(b_loss, 0) / rows).to(p_losses.dtype.element_ty))
    tl.store(p_correct + i_out, tl.sum(b_correct, 0))


HIGHEST = tl.constexpr(0x7FFFFFFF)  # of the keys: NaN is higher than all else


@triton.jit
def sort_keys(b_z, i_y, classes):
    """int64 keys that are ordered as a stable sort orders logits: by value, NaN last, and of equals by their number."""
    b_bits = (b_z + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    b_bits = b_bits ^ ((b_bits >> 31) & HIGHEST)
    b_bits = tl.where(b_z != b_z, HIGHEST, b_bits)
    b_keys = b_bits.to(tl.int64) * (1 << 32) + i_y
    return tl.where(i_y < classes, b_keys, -(1 << 63))


@triton.jit
def take_highest(b_keys, b_z, i_y):
    """The number and value [B] of each row's highest logit, and the keys without it."""
    b_key = tl.max(b_keys, 1)
    b_at = (b_key & 0xFFFFFFFF).to(tl.int32)
    chosen = i_y == b_at[:, None]
    return b_at, tl.sum(tl.where(chosen, b_z, 0.0), 1), tl.where(chosen, -(1 << 63), b_keys)


@triton.jit(do_not_specialize=["rows", "classes", "label_stride"])
def objective_kernel(
    p_logits,
    p_labels,
    p_targets,
    p_gradients,
    rows,
    classes,
    stride,
    gradient_stride,
    label_stride,
    PREDICTED: tl.constexpr,
    TARGETED: tl.constexpr,
    DIVIDED: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    i_member = tl.program_id(0).to(tl.int64)
    i_y = tl.arange(0, BLOCK_Y)[None, :]
    for start in range(0, rows, BLOCK_B):
        i_b = start + tl.arange(0, BLOCK_B)
        inside = (i_b[:, None] < rows) & (i_y < classes)
        i_row = i_member * rows + i_b[:, None]
        b_z = tl.load(p_logits + i_row * stride + i_y, mask=inside, other=0.0)
        b_keys = sort_keys(b_z, i_y, classes)
        if PREDICTED:  # torch takes a NaN for the largest, and of equals the first
            b_label = tl.argmax((b_keys >> 32).to(tl.int32), 1).to(tl.int64)
        else:
            b_label = tl.load(p_labels + i_member * label_stride + i_b, mask=i_b < rows, other=0)
        own = i_y == b_label[:, None]
        b_own = tl.sum(tl.where(own, b_z, 0.0), 1)
        if TARGETED:
            b_target = tl.load(p_targets + i_member * label_stride + i_b, mask=i_b < rows, other=0)
            aimed = i_y == b_target[:, None]
            b_top = tl.sum(tl.where(aimed, b_z, 0.0), 1)
        else:  # the label stands among the others as -infinity
            b_others = tl.where(own, float("-inf"), b_z)
            _, b_top, _ = take_highest(sort_keys(b_others, i_y, classes), b_others, i_y)
            highest = (b_others == b_top[:, None]) & (i_y < classes)
        b_slope = tl.full((BLOCK_B,), 1.0, tl.float32)
        if DIVIDED:
            b_first, b_high, b_keys = take_highest(b_keys, b_z, i_y)
            _, _, b_keys = take_highest(b_keys, b_z, i_y)
            b_third, b_low, b_keys = take_highest(b_keys, b_z, i_y)
            if MEAN:
                b_fourth, b_lowest, _ = take_highest(b_keys, b_z, i_y)
                b_low = (b_low + b_lowest) / 2
            b_divisor = b_high - b_low + TINY
            b_slope = tl.div_rn(b_slope, b_divisor)
        if TARGETED:
            b_gradient = tl.where(aimed, b_slope[:, None], 0.0) - tl.where(own, b_slope[:, None], 0.0)
        else:
            b_count = tl.sum(highest.to(tl.float32), 1)
            b_share = b_slope[:, None] * highest.to(tl.float32)
            b_shared = tl.div_rn(b_share, tl.broadcast_to(b_count[:, None], b_share.shape))
            b_gradient = tl.where(own, -b_slope[:, None], b_shared)
        if DIVIDED:
            b_fall = -tl.div_rn(tl.div_rn(b_top - b_own, b_divisor), b_divisor)
            b_gradient += tl.where(i_y == b_first[:, None], b_fall[:, None], 0.0)
            if MEAN:
                beneath = (i_y == b_third[:, None]) | (i_y == b_fourth[:, None])
                b_gradient -= tl.where(beneath, b_fall[:, None] / 2, 0.0)
            else:
                b_gradient -= tl.where(i_y == b_third[:, None], b_fall[:, None], 0.0)
        b_gradient = tl.where(i_y < classes, b_gradient, 0.0).to(p_gradients.dtype.element_ty)
        written = (i_b[:, None] < rows) & (i_y < gradient_stride)
        tl.store(p_gradients + i_row * gradient_stride + i_y, b_gradient, mask=written)
