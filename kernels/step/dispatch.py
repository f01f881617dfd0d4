"""The whole training step of a population as one op on the CPU, at natural widths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends

BACKENDS = ("cpu",)
STEMS = {"none": 0, "conv2": 2, "conv4": 4}
ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu")


class Step:
    """M networks with their optimizer, trained without leaving C++.

    Args:
        image_shape: (C, H, W).
        classes: number of logits Y.
        hidden: hidden widths of each member.
        stem: `none`, `conv2` or `conv4`.
        activation: `relu`, `sigmoid`, `tanh` or `gelu`.
        batch: most images of a step.
        threads: most threads to use; results do not depend on it.
        optimizer: `adam` or `sgd`.
        momentum: of `sgd`.
        stem_rate256, head_rate256: dropout rates in 1/256 (the stem's only after the pools of `conv4`).
        precision: `fp32` or `bf16` (matrix products of training; all else is fp32).
        instructions: empty for the best of this CPU, or `avx512_bf16`, `avx512`, `avx2`, `portable`.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        *,
        stem: str = "none",
        activation: str = "relu",
        batch: int = 128,
        threads: int = 1,
        optimizer: str = "adam",
        momentum: float = 0.0,
        stem_rate256: int | None = None,
        head_rate256: int = 0,
        precision: str = "fp32",
        instructions: str = "",
    ) -> None:
        if stem_rate256 is None:
            stem_rate256 = 64 if stem == "conv4" else 0
        self.image_shape, self.classes, self.batch = tuple(image_shape), classes, batch
        self.hidden = [list(map(int, widths)) for widths in hidden]
        self.convolutions = STEMS[stem]
        extension = backends.cpu_extension()
        spec = extension.make_spec(
            *image_shape, classes, STEMS[stem], ACTIVATIONS.index(activation), batch, stem_rate256, head_rate256,
            optimizer == "adam", momentum, precision == "bf16",
        )
        self._step = extension.Step(spec, self.hidden, threads, instructions)
        self._shapes = [self._parameter_shapes(stem, widths) for widths in self.hidden]

    def _parameter_shapes(self, stem: str, widths: list[int]) -> list[tuple[int, ...]]:
        channels, height, width = self.image_shape
        shapes: list[tuple[int, ...]] = []
        plan = {"none": (), "conv2": ((32, 0, 1), (64, 0, 1)), "conv4": ((32, 1, 0), (32, 0, 1), (64, 1, 0), (64, 0, 1))}
        for out, padding, pool in plan[stem]:
            shapes += [(out, channels, 3, 3), (out,)]
            height, width = ((side - 2 + 2 * padding) >> pool for side in (height, width))
            channels = out
        inputs = channels * height * width
        for out in (*widths, self.classes):
            shapes += [(out, inputs), (out,)]
            inputs = out
        return shapes

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """What this processor computes fast; empty where the extension is not built."""
        if backends.missing("cpu", torch.device("cpu")):
            return ()
        return ("fp32", "bf16") if backends.cpu_extension().step_has_bf16() else ("fp32",)

    def reset_optimizer(self) -> None:
        """Forget moments and step counts."""
        self._step.reset_optimizer()

    @property
    def instructions(self) -> str:
        """The instruction set in use."""
        return self._step.instructions()

    def pour_in(self, member: int, arrays: Sequence[Tensor], moment: int = 0) -> None:
        """Set a member's parameters (or, moment 1 and 2, its optimizer's): weight, bias of each layer, torch layout."""
        for i, (array, shape) in enumerate(zip(arrays, self._shapes[member], strict=True)):
            if tuple(array.shape) != shape:
                raise ValueError(f"step: expected array {i} of shape {shape}, got {tuple(array.shape)}")
            kept = array.detach().to("cpu", torch.float32).contiguous()
            self._step.pour(member, i, moment, kept.data_ptr(), True)

    def pour_out(self, member: int, moment: int = 0) -> list[Tensor]:
        """Copies of a member's parameters (or moments)."""
        arrays = [torch.empty(shape) for shape in self._shapes[member]]
        for i, array in enumerate(arrays):
            self._step.pour(member, i, moment, array.data_ptr(), False)
        return arrays

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        order: Tensor,
        *,
        learning_rates: Tensor,
        order_of: Tensor | None = None,
        signs: Tensor | None = None,
        epsilon: float = 0.0,
        keys: Tensor | None = None,
        first_step: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step of every member for each `batch` indices of its order.

        Args:
            images: uint8 or float32 [N, C, H, W].
            labels: int64 [N].
            order: int64 [n] or [K, n]; an index i >= N means the adversarial copy of image i - N.
            learning_rates: float64 [M].
            order_of: int32 [M], the row of `order` that each member follows.
            signs: int8 [M, N, C, H, W] of the adversarial copies.
            epsilon: attack strength.
            keys: int64 [M] of the dropout.
            first_step: step of the dropout counter.

        Returns:
            Mean losses float64 [M, S] and correct predictions int64 [M, S] of the S batches.
        """
        members = len(self.hidden)
        order = order.reshape(-1, order.shape[-1]).contiguous()
        order_of = torch.zeros(members, dtype=torch.int32) if order_of is None else order_of.to(torch.int32).contiguous()
        keys = torch.zeros(members, dtype=torch.int64) if keys is None else keys.contiguous()
        rates = learning_rates.to(torch.float64).contiguous()
        n = order.shape[-1]
        limit = len(images) * (1 if signs is None else 2)
        if order.numel() and not 0 <= int(order.min()) <= int(order.max()) < limit:
            raise ValueError(f"step: expected order in [0, {limit}), got {int(order.min())} to {int(order.max())}")
        steps = -(-n // self.batch)
        losses = torch.empty(members, steps, dtype=torch.float64)
        correct = torch.empty(members, steps, dtype=torch.int64)
        source = self._images(images, signs, epsilon)
        self._step.train(
            source, labels.data_ptr(), order.data_ptr(), order_of.data_ptr(), n, keys.data_ptr(), first_step,
            rates.data_ptr(), losses.data_ptr(), correct.data_ptr(),
        )
        return losses, correct

    def logits(self, images: Tensor, signs: Tensor | None = None, epsilon: float = 0.0) -> Tensor:
        """Evaluation-mode logits float32 [M, N, Y] of the images, or of their adversarial copies.

        Args:
            images: [N, C, H, W] for all members, or [M, N, C, H, W].
            signs: int8 [M, N, C, H, W], or None for the images as they are.
            epsilon: attack strength.
        """
        values = torch.empty(len(self.hidden), images.shape[-4], self.classes)
        self._step.logits(self._images(images, signs, epsilon), values.data_ptr())
        return values

    def input_gradient(
        self, images: Tensor, labels: Tensor | None = None, *, signs: bool = False, direction: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the summed cross-entropy in evaluation mode with respect to the images.

        Args:
            labels: int64 [N] or [M, N], or None for each member's own predictions.
            signs: int8 signs times `direction` instead of the float32 gradient.

        Returns:
            [M, N, C, H, W], and how many of its values are zero and NaN, int64 [M].
        """
        members = len(self.hidden)
        out = torch.empty(members, *images.shape[-4:], dtype=torch.int8 if signs else torch.float32)
        zero, nan = torch.empty(2, members, dtype=torch.int64)
        labels = None if labels is None else labels.contiguous()
        self._step.attack(
            self._images(images, None, 0.0), 0 if labels is None else labels.data_ptr(),
            images.shape[-4] if labels is not None and labels.ndim == 2 else 0,
            0 if signs else out.data_ptr(), out.data_ptr() if signs else 0, direction, zero.data_ptr(), nan.data_ptr(),
        )
        return out, zero, nan

    def _images(self, images: Tensor, signs: Tensor | None, epsilon: float) -> object:
        if tuple(images.shape[-3:]) != self.image_shape or not images.is_contiguous():
            raise ValueError(f"step: expected contiguous images [N, {self.image_shape}], got {tuple(images.shape)}")
        pointer = 0 if signs is None else signs.data_ptr()
        own, count = images.ndim == 5, images.shape[-4]
        return backends.cpu_extension().make_images(
            images.data_ptr(), images.dtype == torch.uint8, count, pointer, epsilon, own
        )
