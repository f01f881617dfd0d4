"""The loss of all members on a GPU, and the gradient by the logits of that and of other objectives."""

from __future__ import annotations

import triton
from torch import Tensor

from .gpu_kernels_loss import cross_entropy_kernel, objective_kernel

BLOCK = 4096  # logits that a program holds at once
ROWS = 128  # fewer are no other kernel: the last batch of an epoch has some, that of another data set others
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
OBJECTIVE_BLOCK = 1024  # fewer, as each has a key of 64 bits too
OBJECTIVE_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def launch(
    logits: Tensor,
    labels: Tensor | None,
    losses: Tensor,
    correct: Tensor,
    gradients: Tensor,
    *,
    classes: int,
    counter: Tensor | None = None,
    odds: bool = False,
    smoothing: float = 0.0,
) -> None:
    """All members' losses, correct predictions and gradients, in place and without a synchronization.

    Args:
        logits: float32 [M, B, at least Y].
        labels: int64 [B] or [M, B]; None for each member's own predictions.
        losses, correct: floating point and int64 [M], or [S, M] with a counter.
        gradients: [M, B, at least Y], zero past the classes.
        classes: Y.
        counter: int64 [1], the row of losses and correct to write.
        odds: whether gradients are of each row's log-odds against its label, for attacks, and losses 0; else both are
            of the mean cross-entropy over the batch.
        smoothing: share of each label that the gradient gives evenly to all classes; losses stay those at the labels.
    """
    members, rows, stride = logits.shape
    columns = triton.next_power_of_2(max(stride, gradients.shape[2]))
    tensors = (logits, correct if labels is None else labels, losses, correct, gradients)
    sizes = (rows, classes, stride, gradients.shape[2], 0 if labels is None or labels.ndim == 1 else rows)
    kind = (
        counter is not None,
        labels is None,
        odds,
        smoothing > 0,
        max(1, min(max(ROWS, triton.next_power_of_2(rows)), BLOCK // columns)),
    )
    cross_entropy_kernel[(members,)](
        *tensors, correct if counter is None else counter, *sizes, smoothing, *kind, columns, **OPTIONS
    )


def launch_objective(
    objective: str, logits: Tensor, labels: Tensor | None, targets: Tensor | None, gradients: Tensor, *, classes: int
) -> None:
    """The gradient by the logits of `margin` or `dlr`, in place.

    Args:
        objective: which one.
        logits, labels, gradients, classes: as of `launch`.
        targets: int64 of the labels' shape, or None.
    """
    members, rows, stride = logits.shape
    columns = triton.next_power_of_2(max(stride, gradients.shape[2]))
    tensors = (logits, *(logits if each is None else each for each in (labels, targets)), gradients)
    sizes = (rows, classes, stride, gradients.shape[2], 0 if labels is None or labels.ndim == 1 else rows)
    divided, targeted = objective == "dlr" and classes > 2, targets is not None
    kind = (labels is None, targeted, divided, divided and targeted and classes > 3)
    block = max(1, OBJECTIVE_BLOCK // columns)
    objective_kernel[(members,)](*tensors, *sizes, *kind, block, columns, **OBJECTIVE_OPTIONS)
