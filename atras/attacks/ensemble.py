"""Networks that are attacked as one: an ensemble is a classifier like any other, so every attack can be made on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from atras.checks import one_of
from atras.errors import InputError
from atras.networks import Objective, log_odds, log_odds_gradient
from atras.torch_state import fixed_state

from .surrogate import HOWS

if TYPE_CHECKING:
    from atras.networks import Classifier, Cotangent, Member


class _Share(NamedTuple):
    """The part of the work that one classifier does.

    Args:
        rows: int64 [Q], pairs of the ensembles in the order of the classifier's members.
        slots: int64 [Q], the place of the member in each pair's ensemble.
        counts: int64 on the CPU, how many of the Q are each member's.
    """

    rows: Tensor
    slots: Tensor
    counts: Tensor


class Ensemble:
    """M ensembles of K networks each, as a `networks.Classifier` of M members: any attack takes it for its networks.

    Args:
        networks: one classifier, such as an engine, or several, on one device and of one dtype and number of classes.
        how: `logits`: its logits are the mean of the members'. `probabilities`: the logarithms of the mean of their
            probabilities; where they are sure of different classes it has next to no gradient. `losses`: it is attacked
            by the mean of the members' losses, whatever the loss is; its logits, by which attacks tell what is fooled
            and compare images, are the mean of their logarithms of probabilities.
        groups: of each ensemble the places of its K networks among the members of all classifiers, in their order; None
            for one ensemble of them all.

    Raises:
        InputError: if the classifiers do not belong together, or the groups are not of equal size.

    Source: Dong et al. 2018, "Boosting adversarial attacks with momentum", section 3.3 (logits, probabilities, losses);
    Liu et al. 2017, "Delving into transferable adversarial examples", section 5 (probabilities).
    """

    def __init__(
        self,
        networks: Classifier | Sequence[Classifier],
        how: str = "logits",
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        one_of("how", how, HOWS)
        self.how = how
        self.networks: tuple[Classifier, ...] = tuple(networks) if isinstance(networks, Sequence) else (networks,)
        """The classifiers that compute."""
        everyone = [member for part in self.networks for member in part.members]
        self._groups = [tuple(range(len(everyone)))] if groups is None else [tuple(group) for group in groups]
        self._check(len(everyone))
        self.members: Sequence[Member] = [everyone[group[0]] for group in self._groups]
        """The first network of each ensemble: its seed is that of random starts."""
        uses: list[list[tuple[int, int]]] = [[] for _ in everyone]
        for ensemble, group in enumerate(self._groups):
            for slot, place in enumerate(group):
                uses[place].append((ensemble, slot))
        self._uses = uses

    def _check(self, count: int) -> None:
        kinds = {(str(part.device), part.dtype, part.classes) for part in self.networks}
        if len(kinds) != 1:
            raise InputError(
                f"ensemble: expected networks of one device, dtype and number of classes, got {len(kinds)} kinds; give "
                "those that belong together"
            )
        sizes = {len(group) for group in self._groups}
        if len(sizes) != 1 or sizes == {0}:
            raise InputError("ensemble: expected groups of one size, at least one network each; divide them so")
        if any(type(place) is not int or not 0 <= place < count for group in self._groups for place in group):
            raise InputError(f"ensemble: expected places from 0 to {count - 1}, one for each network given")

    @property
    def device(self) -> torch.device:
        """Where images are expected."""
        return self.networks[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Type of images, gradients and logits."""
        return self.networks[0].dtype

    @property
    def classes(self) -> int:
        """Number of logits Y."""
        return self.networks[0].classes

    def logits(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        """[M, B, Y], or of pairs [P, Y]; as `Classifier.logits`."""
        with fixed_state(self.device):
            pairs, own, batch = self._as_pairs(images, counts)
            return self._joint(self._logits(pairs, self._shares(own))).view(*batch, self.classes)

    def gradient(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient of an objective with respect to the images, and the logits; as `Classifier.gradient`.

        With `losses` the objective is the mean of the members' own. At labels its gradient has the direction of that of
        their mean cross-entropy, at a length that does not fade where all of them are sure.
        """
        with fixed_state(self.device):
            pairs, numbers, batch = self._as_pairs(images, counts)
            shares = self._shares(numbers)
            gradient = pairs.new_zeros((len(self._groups[0]), *pairs.shape))
            if len(self.networks) == 1:  # it knows its logits as soon as it differentiates
                (share,) = shares
                logits = pairs.new_empty((len(gradient), len(pairs), self.classes))

                def of_own(own: Tensor) -> Tensor:
                    logits[share.slots, share.rows] = own
                    return self._slopes(cotangent, logits, batch)[share.slots, share.rows]

                gradient[share.slots, share.rows], _ = self.networks[0].gradient(
                    pairs[share.rows], of_own, share.counts
                )
            else:
                logits = self._logits(pairs, shares)
                slopes = self._slopes(cotangent, logits, batch)
                for part, share in zip(self.networks, shares, strict=True):
                    if len(share.rows):
                        slope = slopes[share.slots, share.rows]
                        found, _ = part.gradient(pairs[share.rows], slope, share.counts)
                        gradient[share.slots, share.rows] = found
            joint = self._joint(logits).view(*batch, self.classes)
            return gradient.sum(0).view(*batch, *pairs.shape[1:]), joint

    def _as_pairs(self, images: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Images as a list of pairs [P, C, H, W], how many are each ensemble's, and the axes of results before Y."""
        images = images.clone() if images.is_inference() else images
        if counts is not None:
            return images, counts, (len(images),)
        batch = (len(self._groups), images.shape[-4])
        pairs = images.expand(*batch, *images.shape[-3:]).flatten(0, 1)
        return pairs, torch.full((batch[0],), batch[1], dtype=torch.int64, device="cpu"), batch

    def _shares(self, counts: Tensor) -> list[_Share]:
        """The work of each classifier, for pairs of which each ensemble has so many."""
        own = counts.tolist()
        firsts = [sum(own[:ensemble]) for ensemble in range(len(own))]
        shares, place = [], 0
        for part in self.networks:
            uses = self._uses[place : place + len(part.members)]
            place += len(part.members)
            flat = [use for each in uses for use in each]
            rows = [torch.arange(firsts[ensemble], firsts[ensemble] + own[ensemble]) for ensemble, _ in flat]
            lengths = torch.tensor([own[ensemble] for ensemble, _ in flat], dtype=torch.int64)
            slots = torch.tensor([slot for _, slot in flat], dtype=torch.int64).repeat_interleave(lengths)
            empty = torch.zeros(0, dtype=torch.int64)
            totals = torch.tensor([sum(own[ensemble] for ensemble, _ in each) for each in uses], dtype=torch.int64)
            shares.append(_Share(torch.cat([empty, *rows]).to(self.device), slots.to(self.device), totals))
        return shares

    def _logits(self, pairs: Tensor, shares: Sequence[_Share]) -> Tensor:
        """[K, P, Y], those of each member of a pair's ensemble."""
        logits = pairs.new_empty((len(self._groups[0]), len(pairs), self.classes))
        for part, share in zip(self.networks, shares, strict=True):
            if len(share.rows):
                logits[share.slots, share.rows] = part.logits(pairs[share.rows], share.counts)
        return logits

    def _joint(self, logits: Tensor) -> Tensor:
        """[P, Y], from the members' [K, P, Y]."""
        if self.how == "logits":
            return logits.mean(0)
        certain = logits.log_softmax(-1)
        if self.how == "losses":
            return certain.mean(0)
        return (certain - torch.tensor(len(logits), dtype=logits.dtype, device=logits.device).log()).logsumexp(0)

    def _slopes(self, cotangent: Cotangent, logits: Tensor, batch: tuple[int, ...]) -> Tensor:
        """[K, P, Y], d(objective) / d(logits) of each member, at theirs."""
        shape = (*batch, self.classes)
        joint = self._joint(logits)
        if isinstance(cotangent, Objective) and cotangent.kind == "odds":
            cotangent = cotangent.labels
        value = _value(cotangent, joint.view(shape))
        if value.is_floating_point():
            if self.how == "losses" and callable(cotangent):
                each = [_value(cotangent, own.view(shape)).reshape(own.shape) for own in logits]
                return torch.stack(each) / len(logits)
            return self._through_joint(value.reshape(joint.shape), logits)
        labels = value.reshape(-1)
        if self.how != "losses":
            return self._through_joint(log_odds_gradient(joint, labels), logits)
        labels = labels.expand(len(logits), -1)
        # The cross-entropy's derivative by the log-odds is 1 - p; as a share of all of them it cannot vanish.
        weights = torch.nn.functional.logsigmoid(log_odds(logits, labels)).softmax(0)
        return weights[..., None] * log_odds_gradient(logits, labels)

    def _through_joint(self, slope: Tensor, logits: Tensor) -> Tensor:
        """[K, P, Y], from d(objective) / d(joint logits) [P, Y]."""
        if self.how == "logits":
            return (slope / len(logits)).expand(logits.shape)
        certain = logits.log_softmax(-1)
        own = slope * certain.softmax(0) if self.how == "probabilities" else (slope / len(logits)).expand(logits.shape)
        return own - certain.exp() * own.sum(-1, keepdim=True)


def _value(cotangent: Cotangent, logits: Tensor) -> Tensor:
    """The objective at logits [..., Y]: labels [...], or d(objective) / d(logits) [..., Y]."""
    value = logits.argmax(-1) if cotangent is None else cotangent(logits) if callable(cotangent) else cotangent
    value = value.clone() if value.is_inference() else value
    return value.expand(logits.shape if value.is_floating_point() else logits.shape[:-1])
