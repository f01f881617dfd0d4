"""The log-odds against a class: what attacks climb in place of the cross-entropy, which float32 rounds away.

With the probability p of the class, they are log((1 - p) / p) = logsumexp(logits of the other classes) - own logit. The
cross-entropy is log(1 + e^odds): it grows with them, and its gradient is theirs times 1 - p, so that signs, direction
and order of images are the same. But where p rounds to 1 the cross-entropy is 0, and p - 1, its derivative by the
logit of the class, is lost; the log-odds and their gradient keep full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against the labels.

    Args:
        logits: floating point [..., Y].
        labels: int64 [...].

    Returns:
        [...], of the logits' type; below -25 log 2 float32 rounds the label's probability to 1.

    Source: Carlini et al. 2022, "Membership inference attacks from first principles", section IV-B and appendix A,
    for the sum over the other classes.
    """
    own = labels[..., None]
    return logits.scatter(-1, own, -torch.inf).logsumexp(-1) - logits.gather(-1, own)[..., 0]


def log_odds_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Their gradient by the logits: the softmax over the other classes, and minus its sum, -1, at the label.

    Args:
        logits: floating point [..., Y].
        labels: int64 [...].

    Returns:
        Of the logits' shape and type, without a subtraction of probabilities. Zero where no other class has any
        probability (there is none, or all are at -infinity); NaN where a logit is NaN or +infinity.
    """
    own = labels[..., None]
    others = logits.scatter(-1, own, -torch.inf)
    top = others.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    shares = (others - top).exp()
    total = shares.sum(-1, keepdim=True)
    at_label = logits.gather(-1, own)
    divisor = total.masked_fill(total == 0, 1.0).masked_fill(~(at_label < torch.inf), torch.nan)
    return shares.scatter(-1, own, -total) / divisor


def cross_entropy_gradient(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Gradient of each cross-entropy by its logits: the softmax, and at the label minus the sum of the others' shares,
    where the softmax less 1 would round to 0.

    Args:
        logits: floating point [..., Y].
        labels: int64 [...].
        smoothing: share of each label that is spread evenly over all classes.

    Returns:
        Of the logits' shape and type.
    """
    own, shares = labels[..., None], logits.softmax(-1)
    others = shares.scatter(-1, own, 0.0)
    gradient = others.scatter(-1, own, -others.sum(-1, keepdim=True))
    return gradient if not smoothing else (1 - smoothing) * gradient + smoothing * (shares - 1 / logits.shape[-1])
