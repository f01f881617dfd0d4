"""The Triton kernel of softmax cross-entropy: loss, correct predictions and gradient in one pass."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl


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
    MEAN: tl.constexpr,
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
        b_shifted = b_z - tl.max(b_z, 1)[:, None]
        b_exponential = tl.exp(b_shifted)
        b_sum = tl.sum(b_exponential, 1)
        own = i_y == b_label[:, None]
        b_own = tl.sum(tl.where(own, b_shifted, 0.0), 1)
        b_loss += tl.where(i_b < rows, tl.log(b_sum) - b_own, 0.0).to(tl.float64)
        b_correct += ((b_predicted == b_label) & (i_b < rows)).to(tl.int64)
        b_gradient = b_exponential / b_sum[:, None] - own.to(tl.float32)
        if MEAN:
            b_gradient /= rows
        b_gradient = tl.where(i_y < classes, b_gradient, 0.0).to(p_gradients.dtype.element_ty)
        written = (i_b[:, None] < rows) & (i_y < gradient_stride)
        tl.store(p_gradients + i_row * gradient_stride + i_y, b_gradient, mask=written)
    i_out = i_member
    if COUNTED:
        i_out += tl.load(p_counter) * members
    b_total = tl.sum(b_loss, 0)
    if MEAN:
        b_total /= rows
    tl.store(p_losses + i_out, b_total.to(p_losses.dtype.element_ty))
    tl.store(p_correct + i_out, tl.sum(b_correct, 0))
