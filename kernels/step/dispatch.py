"""Op step: the whole training step of a population, its evaluation and its input gradients: checks and the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from . import checks, cpu, reference
from .call_checks import CallChecks
from .reference import ConvLayer, InputGradient

BACKENDS = ("cpu", "triton")
CPU = torch.device("cpu")


class Step(CallChecks):
    """M networks and their optimizers, trained, evaluated and differentiated in C++, or in Triton on a GPU.

    A network is a stem of 3x3 convolutions or convolutions of its own, hidden dense layers and a dense layer to the
    logits. Members have widths and depths of their own and lie at those widths (on a GPU rounded up to 16) in one flat
    buffer. A member's numbers depend on nothing but its own parameters, order and key: neither on its neighbours, nor
    on the number of threads, nor on how many steps a call takes; only on a GPU the number of members may decide in
    what order a convolution's weight gradient is summed, and whether all have the same convolutions what is compiled.
    The plain-torch definition is `reference.Step`. One object must not be used by two threads at once.

    Args:
        image_shape: (C, H, W); with a convolutional stem H and W at least 10 and C below 32.
        classes: number of logits Y, at least 1.
        hidden: hidden widths of each member, each at least 1.
        stem: `none`, `conv2` or `conv4`.
        convolutions: of each member, any number of them: where there are some, they stand in place of the stem. On a
            CPU those of 3x3 without a stride, and with a pool of 2x2 or none, go by minimal filtering, in fp32 to the
            same tolerance; where training is in bf16 all but the first round their factors, those of minimal filtering
            once they are transformed. On a GPU kernels are 3x3, strides 1, paddings 0 or 1 and pools 2x2 or none. None
            for no convolutions.
        activation: `relu`, `sigmoid`, `tanh` or `gelu`.
        batch: most images of a step, at least 1.
        threads: most threads to use on a CPU, at least 1.
        optimizer: `adam` (0.9, 0.999, 1e-8), `adamw`, the same with decoupled weight decay, or `sgd`.
        momentum: of `sgd`, at least 0.
        label_smoothing: share of each label that the cross-entropy gives evenly to all classes, from 0 to 1. It is part
            of what is trained for, not of the losses that are told.
        clip: longest 2-norm of all of a member's gradients together, at least 0: longer ones are multiplied by
            clip / (norm + 1e-6) before the optimizer takes them. None for no limit.
        average: decay of an exponential moving average of the weights, from 0 to below 1: after the first step since
            the optimizer was reset the weights themselves, after each other one
            average += (1 - decay) * (weights - average). Evaluation and input gradients are then the average's. None
            for none.
        stem_rate256: dropout rate after the pools of `conv4`, in 256ths, from 0 to 255; the other stems have none.
        head_rate256: dropout rate after each hidden layer likewise.
        precision: `fp32`, or `bf16` for the matrix products of training (sums, parameters, optimizer, evaluation and
            input gradients stay float32). Where a CPU has no bf16 it is emulated, slowly. On a GPU also `tf32`; there
            evaluation and input gradients of both multiply float32 by three tf32 products of its upper and lower parts,
            summed by tensor cores to some 1e-6 of a sum, and only those of `fp32` by multiply-adds.
        instructions: empty for the best of this CPU, or `amx`, `avx512_bf16`, `avx512`, `avx2`, `portable`.
        device: a CPU, or a CUDA device, where all tensors are then expected; orders, keys and rates may also be on the
            CPU.

    Raises:
        ValueError: if a value is out of its range, this CPU lacks the instructions, or the C++ extension is not built
            (on a GPU: if Triton is missing).

    Source: Kingma and Ba, "Adam" (2015), section 2; Srivastava et al., "Dropout" (2014); Loshchilov and Hutter,
    "Decoupled weight decay regularization" (2019); Szegedy et al., "Rethinking the Inception architecture" (2016),
    section 7; Pascanu et al., "On the difficulty of training recurrent neural networks" (2013), algorithm 1; Polyak and
    Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
    """

    most_channels = checks.MOST_CHANNELS
    """Channels that images may have in front of a convolutional stem."""
    activations = tuple(reference.ACTIVATIONS)
    """The activations that there are."""
    why_no_convolutions = staticmethod(checks.why_no_chain)
    """From an image shape, a member's `convolutions` and the kind of device (`cpu` unless given, or `cuda`) to why they
    cannot be computed; empty where they can."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        *,
        stem: str = "none",
        convolutions: Sequence[Sequence[ConvLayer]] | None = None,
        activation: str = "relu",
        batch: int = 128,
        threads: int = 1,
        optimizer: str = "adam",
        momentum: float = 0.0,
        label_smoothing: float = 0.0,
        clip: float | None = None,
        average: float | None = None,
        stem_rate256: int = 64,
        head_rate256: int = 0,
        precision: str = "fp32",
        instructions: str = "",
        device: torch.device = CPU,
    ) -> None:
        options = {"stem": stem, "activation": activation, "optimizer": optimizer, "precision": precision}
        for name, value in options.items():
            checks.choice(name, value)
        checks.population(image_shape, stem, hidden)
        chains = [()] * len(hidden) if convolutions is None else [tuple(own) for own in convolutions]
        for name, size in {"classes": classes, "batch": batch, "threads": threads}.items():
            checks.whole(name, size, 1)
        for name, rate in {"stem_rate256": stem_rate256, "head_rate256": head_rate256}.items():
            checks.whole(name, rate, 0, 255)
        checks.number("momentum", momentum)
        checks.recipe(label_smoothing, clip, average)
        backend = backends.require("step", device)
        if reason := backends.miscompiled(device):
            raise ValueError(f"step: {reason}")
        checks.convolutions(image_shape, len(hidden), chains, "cuda" if backend == "triton" else "cpu")
        if precision == "tf32" and backend == "cpu":
            raise ValueError("step: precision (='tf32'): expected fp32 or bf16 on a CPU; tf32 needs a GPU")
        self.image_shape, self.classes, self.batch, self.device = tuple(image_shape), classes, batch, device
        self.hidden = [list(widths) for widths in hidden]
        self.average = average
        self.slots = (2 if optimizer == "sgd" else 3) + (average is not None)
        self._shapes = [
            reference.parameter_shapes(image_shape, classes, stem, widths, own)
            for widths, own in zip(self.hidden, chains, strict=True)
        ]
        numbers = {"batch": batch, "momentum": momentum, "head_rate256": head_rate256}
        recipe = {"label_smoothing": label_smoothing, "clip": clip, "average": average}
        settings: dict[str, Any] = {
            "activation": activation,
            "optimizer": optimizer,
            "precision": precision,
            **numbers,
            **recipe,
        }
        if backend == "triton":
            all_chains = [reference.chain_of(stem, own, stem_rate256) for own in chains]
            settings |= {"chains": all_chains, "device": device}
        else:
            settings |= {"stem": stem, "stem_rate256": stem_rate256, "convolutions": chains}
            settings |= {"threads": threads, "instructions": instructions}
        self._step = _population(backend)(image_shape, classes, self.hidden, **settings)

    @staticmethod
    def precisions(device: torch.device = CPU) -> tuple[str, ...]:
        """The precisions that this processor or GPU multiplies in; empty where the kernels for it are missing."""
        backend = backends.compiled(device)
        if backends.missing(backend, device):
            return ()
        if not backends.bf16(device).there:
            return ("fp32",)
        return ("fp32", "bf16") if backend == "cpu" else ("fp32", "tf32", "bf16")

    @staticmethod
    def best_instructions() -> str:
        """The instruction set that is used unless another is asked for.

        Raises:
            ValueError: if the C++ extension is not built.
        """
        return str(backends.cpu_extension().instruction_sets()[0])

    @property
    def instructions(self) -> str:
        """The instruction set in use."""
        return str(self._step.instructions)

    @property
    def fallback(self) -> str:
        """Why steps are not replayed as a CUDA graph; empty where they are, or on a CPU."""
        return self._step.graphs.reason if self.device.type == "cuda" else ""

    @property
    def bytes(self) -> int:
        """Memory of parameters, moments and scratch; no call takes more, but for its results.

        On a GPU its order comes to that, and from the first call that has any its cotangents.
        """
        return int(self._step.bytes)

    @property
    def steps(self) -> list[int]:
        """Optimizer steps each member has made since the optimizer was last reset."""
        return list(self._step.member_steps())

    def set_steps(self, steps: Sequence[int]) -> None:
        """Restore the members' optimizer steps, as `steps` gave them.

        Raises:
            ValueError: if there is not one whole number of at least 0 for each member.
        """
        if len(steps) != len(self.hidden):
            raise ValueError(f"step: expected steps of {len(self.hidden)} members, got {len(steps)}")
        for count in steps:
            checks.whole("steps", count, 0, 2**63 - 1)
        self._step.set_steps(steps)

    def reset_optimizer(self) -> None:
        """Forget moments and step counts; an average of the weights begins anew with the next step."""
        self._step.reset_optimizer()

    def poison(self) -> None:
        """Fill all scratch memory with NaN, for tests: nothing may read what was not written in the same call."""
        self._step.poison()

    def set_parameters(self, member: int, arrays: Sequence[Tensor], moment: int = 0) -> None:
        """Set a member's parameters, moments or average. With the parameters the average becomes the same.

        Args:
            member: which one, from 0.
            arrays: floating point, weight and bias of each layer from the first, in torch's shapes ([out, in, 3, 3],
                [out, in], [out]) and on any device.
            moment: 0 for the parameters, 1 and, with `adam` and `adamw`, 2 for the optimizer's moments, the last one,
                `slots` - 1, for the average where there is one.

        Raises:
            ValueError: if an index or a shape does not fit.
        """
        self._check_slot(member, moment)
        shapes = self._shapes[member]
        if len(arrays) != len(shapes):
            raise ValueError(f"step: expected {len(shapes)} arrays for member {member}, got {len(arrays)}")
        kept = [array.detach().to("cpu", torch.float32).contiguous() for array in arrays]
        for i, (array, shape) in enumerate(zip(kept, shapes, strict=True)):
            checks.tensor(f"array {i} of member {member}", array, (torch.float32,), shape)
        self._step.set_parameters(member, kept, moment)
        if moment == 0 and self.average is not None:
            self._step.set_parameters(member, kept, self.slots - 1)

    def get_parameters(self, member: int, moment: int = 0) -> list[Tensor]:
        """Copies of a member's parameters, moments or average, float32 on the CPU; as in `set_parameters`.

        Raises:
            ValueError: if an index is out of its range.
        """
        self._check_slot(member, moment)
        return list(self._step.get_parameters(member, self._shapes[member], moment))

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        order: Tensor,
        *,
        learning_rates: Tensor,
        weight_decays: Tensor | None = None,
        order_of: Tensor | None = None,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        keys: Tensor | None = None,
        first_step: int = 0,
        cotangents: Tensor | None = None,
        batch: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step of every member for each `batch` images of its order; the last batch may be smaller.

        Args:
            images: [N, C, H, W], uint8 (divided by 255) or float32 in [0, 1], contiguous.
            labels: int64 [N], from 0 to Y - 1.
            order: int64 [n] or [K, n], which images to take; i >= N means the adversarial copy of image i - N, where
                there are signs.
            learning_rates: floating point [M], or [M, S], one for each of the S batches.
            weight_decays: floating point [M], each at least 0: with `adam` and `sgd` so many times a parameter is added
                to its gradient, with `adamw` it is first made smaller by rate * decay of itself. None for none.
            order_of: int64 or int32 [M], the row of `order` that each member follows; None for the first.
            signs: int8 [M, N, C, H, W], contiguous; the copies are clamp(pixel + epsilon * sign, 0, 1).
            epsilon: attack strength, at least 0; or float64 [M], each member's own.
            keys: int64 [M], each member's dropout key; None for 0.
            first_step: step of the dropout counter at the call's first batch, at least 0, modulo 2**32.
            cotangents: float32 [M, n, Y], contiguous, for a call of one batch: d(objective)/d(logits) of an objective
                to be minimised in place of the mean cross-entropy, at the logits that `training_logits` gives with the
                same arguments. It includes whatever the objective divides by, such as the batch: the mean
                cross-entropy's own would be (softmax - one at the label) / n. None for the cross-entropy.
            batch: images of a step, at most that of `Step`; None for that.

        Returns:
            Mean cross-entropy float64 [M, S] and number of correct predictions int64 [M, S] of the S batches, before
            each batch's update, whatever the objective. A member that diverges has NaN losses.

        Raises:
            ValueError: if a shape, dtype, device or number is out of range.
        """
        members = len(self.hidden)
        self._check_images(images, signs, epsilon, own=False)
        self._check_labels(labels, (len(images),))
        order, order_of = self._check_order(order, order_of, len(images) * (1 if signs is None else 2))
        keys = self._check_keys(keys, first_step)
        size = self._check_batch(batch)
        rates = self._check_rates(learning_rates, weight_decays, -(-order.shape[1] // size))
        if cotangents is not None:
            self._check_one_batch(order, "cotangents of the logits of", size)
            self._check_cotangents(cotangents, (members, order.shape[1]))
        source, numbers = (images, labels, order, order_of, signs, epsilon), (rates, weight_decays, keys)
        given = cotangents if cotangents is None else cotangents.detach()
        return self._step.train(*source, *numbers, first_step % 2**32, given, size)

    def training_logits(
        self,
        images: Tensor,
        order: Tensor,
        *,
        order_of: Tensor | None = None,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        keys: Tensor | None = None,
        first_step: int = 0,
    ) -> Tensor:
        """Logits of a batch as `train` computes them in its step: with its dropout masks and in its precision.

        Nothing changes. From these logits a caller computes the `cotangents` of `train`.

        Args:
            images, order, order_of, signs, epsilon, keys, first_step: as of `train`; n at most `batch`.

        Returns:
            float32 [M, n, Y].

        Raises:
            ValueError: if a shape, dtype, device or number is out of range.
        """
        self._check_images(images, signs, epsilon, own=False)
        order, order_of = self._check_order(order, order_of, len(images) * (1 if signs is None else 2))
        self._check_one_batch(order, "the training logits of", self.batch)
        keys = self._check_keys(keys, first_step)
        return self._step.training_logits(images, order, order_of, signs, epsilon, keys, first_step % 2**32)

    def logits(
        self,
        images: Tensor,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        counts: Tensor | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Logits in evaluation mode of the images, or of their adversarial copies.

        Args:
            images: [N, C, H, W] for all members, or [M, N, C, H, W], each its own; as for `train`. With counts
                [P, C, H, W], those of the first member, then those of the second, and so on.
            signs: int8 [M, N, C, H, W] of the adversarial copies; None for the images as they are.
            epsilon: attack strength, at least 0; or float64 [M], each member's own.
            counts: int64 [M] on the CPU, how many of the images are each member's; P is their sum. Not with signs.
            raw: whether to evaluate the weights that are trained where there is an average of them.

        Returns:
            float32 [M, N, Y], or [P, Y]. A pair's logits do not depend on what else is in the list.

        Raises:
            ValueError: if a shape, dtype, device or number is out of range.
        """
        self._check_images(images, signs, epsilon, counts=counts)
        return self._step.logits(images, signs, epsilon, counts, raw)

    def input_gradient(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        objective: str = "odds",
        targets: Tensor | None = None,
        cotangents: Tensor | None = None,
        signs: bool = False,
        direction: int = 1,
        counts: Tensor | None = None,
        raw: bool = False,
        tally: bool = True,
    ) -> InputGradient:
        """Gradient of log-odds against the labels, or of another objective, in evaluation mode by the images.

        The log-odds log((1 - p) / p) = logsumexp(other logits) - own logit grow with the cross-entropy, and their
        gradient is that of the cross-entropy divided by 1 - p: an image's signs and direction are the same. It does not
        fade where float32 rounds the label's probability p to 1.

        Where a gradient inside a convolutional stem is zero nothing is multiplied, so weights that are NaN or infinite
        may leave a zero where the definition has NaN.

        Args:
            images: [N, C, H, W] for all members, or [M, N, C, H, W], each its own; as for `train`.
            labels: int64 [N] or [M, N], from 0 to Y - 1; None for each member's own predictions.
            objective: `odds`, the log-odds against the labels; `margin` or `dlr`, as `kernels.margin` and `kernels.dlr`
                define them.
            targets: int64 of the labels' shape, from 0 to Y - 1, of `margin` and `dlr`; None for the untargeted ones.
            cotangents: float32 [M, N, Y], contiguous, in place of labels: d(objective)/d(logits) of any objective, at
                the logits that `logits` gives.
            signs: whether to return the sign times `direction` as int8 (0 where it is NaN) instead of the gradient.
            direction: 1 ascends (untargeted), -1 descends (targeted).
            counts: of a list of pairs, as of `logits`: then images, labels, targets, cotangents and results have one
                axis P in place of M and N. Not with signs.
            raw: as of `logits`.
            tally: whether zeros and NaN are to be counted, for which a GPU reads all gradients once more; without, both
                counts may be None.

        Returns:
            InputGradient(gradient, logits, zero, nan): float32 or int8 [M, N, C, H, W]; the logits on the way, float32
            [M, N, Y], on a CPU bit for bit those of `logits`; how many of the gradients are zero, and how many NaN,
            int64 [M] each.

        Raises:
            ValueError: if a shape, dtype, device or number is out of range.
        """
        self._check_images(images, None, 0.0, counts=counts)
        members, count = len(self.hidden), images.shape[-4]
        if counts is not None and signs:
            raise ValueError("step: expected signs or counts, got both; take the signs of the gradient")
        if labels is not None:
            self._check_labels(labels, (count,), *([(members, count)] if counts is None else []))
        self._check_objective(objective, labels, targets)
        if cotangents is not None:
            if labels is not None or objective != "odds":
                raise ValueError("step: expected labels or cotangents, got both; leave one out")
            self._check_cotangents(cotangents, (members, count) if counts is None else (count,))
        if direction not in (1, -1):
            raise ValueError(f"step: direction (={direction!r}): expected 1 (ascend) or -1 (descend)")
        given = cotangents if cotangents is None else cotangents.detach()
        how = signs, direction, counts, raw, tally
        return self._step.input_gradient(images, labels, objective, targets, given, *how)


def _population(backend: str) -> Any:
    """The class that computes; Triton is imported where it is used."""
    if backend == "cpu":
        return cpu.Population
    from . import gpu_triton

    return gpu_triton.Population
