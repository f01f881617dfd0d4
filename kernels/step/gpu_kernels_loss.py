"""The Triton kernel of the loss: cross-entropy, correct predictions and the gradient of the logits in one pass."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32: a difference to it is finite or -inf, never NaN


@triton.jit(do_not_specialize=["rows", "classes"])
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
    COUNTED: tl.constexpr,
    PREDICTED: tl.constexpr,
    ODDS: tl.constexpr,
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
        b_gradient = tl.where(i_y < classes, b_gradient, 0.0).to(p_gradients.dtype.element_ty)
        written = (i_b[:, None] < rows) & (i_y < gradient_stride)
        tl.store(p_gradients + i_row * gradient_stride + i_y, b_gradient, mask=written)
    i_out = i_member
    if COUNTED:
        i_out += tl.load(p_counter) * members
    tl.store(p_losses + i_out, (tl.sum(b_loss, 0) / rows).to(p_losses.dtype.element_ty))
    tl.store(p_correct + i_out, tl.sum(b_correct, 0))
