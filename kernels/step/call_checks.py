"""Checks of what the calls of op step are given, against the population that they are for."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks

PIXELS = (torch.uint8, torch.float32)
RATES = (torch.float64, torch.float32)


class CallChecks:
    """What a population's calls may be given.

    Args:
        image_shape, hidden, classes, batch, device: as of `Step`.
        slots: sets of values that a member has: parameters, the optimizer's moments, the average.
    """

    image_shape: tuple[int, ...]
    hidden: list[list[int]]
    classes: int
    batch: int
    device: torch.device
    slots: int

    def _check_images(
        self,
        images: Tensor,
        signs: Tensor | None,
        epsilon: float | Tensor,
        own: bool = True,
        counts: Tensor | None = None,
    ) -> None:
        members = len(self.hidden)
        own = own and counts is None
        shapes = [("N", *self.image_shape), (members, "N", *self.image_shape)]
        checks.tensor("images", images, PIXELS, *shapes[: 1 + own], devices=(self.device.type,))
        if counts is not None:
            checks.tensor("counts", counts, (torch.int64,), (members,))
            checks.within("counts", counts, len(images) + 1, "no member has more images than there are")
            if int(counts.sum()) != len(images):
                raise ValueError(f"step: expected counts of {len(images)} images, got {int(counts.sum())} in all")
            if signs is not None:
                raise ValueError("step: expected signs or counts, got both; move the images before the call")
        if isinstance(epsilon, Tensor):
            self._check_anywhere("epsilon", epsilon, (torch.float64,), (members,))
        else:
            checks.number("epsilon", epsilon)
        if signs is not None:
            shape = (members, *images.shape[-4:])
            checks.tensor("signs", signs, (torch.int8,), shape, devices=(self.device.type,))

    def _check_anywhere(self, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...], *shapes: tuple) -> None:
        """A small tensor, which a GPU takes from the CPU too."""
        checks.tensor(name, value, dtypes, *shapes, devices=(self.device.type, "cpu"))

    def _check_slot(self, member: int, moment: int) -> None:
        checks.whole("member", member, 0, len(self.hidden) - 1)
        checks.whole("moment", moment, 0, self.slots - 1)

    def _check_labels(self, labels: Tensor, *shapes: tuple[int, ...]) -> None:
        checks.tensor("labels", labels, (torch.int64,), *shapes, devices=(self.device.type,))
        checks.within("labels", labels, self.classes, "give Step the number of classes")

    def _check_objective(self, objective: str, labels: Tensor | None, targets: Tensor | None) -> None:
        checks.choice("objective", objective)
        if targets is None:
            return
        if objective == "odds" or labels is None:
            raise ValueError("step: expected targets beside labels, of objective margin or dlr; leave them out")
        checks.tensor("targets", targets, (torch.int64,), tuple(labels.shape), devices=(self.device.type,))
        checks.within("targets", targets, self.classes, "give Step the number of classes")

    def _check_cotangents(self, cotangents: Tensor, rows: tuple[int, ...]) -> None:
        shape = (*rows, self.classes)
        checks.tensor("cotangents", cotangents, (torch.float32,), shape, devices=(self.device.type,))

    def _check_batch(self, batch: int | None) -> int:
        """Images of a step."""
        if batch is None:
            return self.batch
        checks.whole("batch", batch, 1, self.batch)
        return batch

    def _check_one_batch(self, order: Tensor, what: str, batch: int) -> None:
        if order.shape[1] > batch:
            raise ValueError(
                f"step: expected {what} one batch, at most {batch} images, got an order of {order.shape[1]}; "
                "make a call for each batch"
            )

    def _check_rates(self, rates: Tensor, decays: Tensor | None, steps: int) -> Tensor:
        """The learning rates as [M, S]."""
        members = len(self.hidden)
        self._check_anywhere("learning_rates", rates, RATES, (members,), (members, steps))
        if decays is not None:
            self._check_anywhere("weight_decays", decays, RATES, (members,))
            if not bool(((decays >= 0) & decays.isfinite()).all()):
                raise ValueError(f"step: expected weight_decays of at least 0, finite, got {decays.tolist()}")
        return rates if rates.ndim == 2 else rates[:, None].expand(members, steps)

    def _check_keys(self, keys: Tensor | None, first_step: int) -> Tensor:
        checks.whole("first_step", first_step, 0, 2**63 - 1)
        members = len(self.hidden)
        keys = torch.zeros(members, dtype=torch.int64, device="cpu") if keys is None else keys
        self._check_anywhere("keys", keys, (torch.int64,), (members,))
        return keys

    def _check_order(self, order: Tensor, order_of: Tensor | None, images: int) -> tuple[Tensor, Tensor]:
        self._check_anywhere("order", order, (torch.int64,), ("n",), ("K", "n"))
        checks.within("order", order, images, "an index past the images needs signs")
        members, orders = len(self.hidden), len(order) if order.ndim == 2 else 1
        order_of = torch.zeros(members, dtype=torch.int64, device="cpu") if order_of is None else order_of
        self._check_anywhere("order_of", order_of, (torch.int64, torch.int32), (members,))
        checks.within("order_of", order_of, orders, "give order a row for each")
        return order if order.ndim == 2 else order[None], order_of
