"""One look at a module that a user brings, before anything is trained: what it is, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from atras.errors import InputError
from atras.torch_state import fixed_state

from .factories import Factory, called
from .randomness import stable_key
from .torch_generators import keyed

Shape = tuple[int, ...]

IMAGES = 4
"""Images that a module is tried on: batch normalisation needs more than one."""

TOLERANCE = 1e-3
"""Share of the logits' size by which those of an image may differ between two batches: rounding alone is far below."""

FLOATS = (torch.float32, torch.float64)
"""Types of parameters that can be trained and attacked."""

KEPT = (*FLOATS, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
"""Types of buffers that files can hold."""


@dataclass(frozen=True)
class Inspection:
    """What is known of a module on images of one shape.

    Args:
        classes: number of logits.
        parameters: name and shape of each trainable parameter.
        frozen: of each parameter that asks for no gradient.
        buffers: of each buffer.
        multiplications: multiply-adds of one image, as torch's FLOP counter has them.
        kept_values: numbers that one image's forward pass keeps for its backward pass.
        draws: whether it draws at random in training.
        trainable: whether its logits depend on parameters that ask for a gradient.
        trains_on_one: whether a batch of a single image can be trained on, which batch normalisation may refuse.
        draws_in_evaluation: whether two passes over the same images differ in evaluation mode.
        cautions: what makes its figures say less than they seem to, a line each.
    """

    classes: int
    parameters: dict[str, Shape]
    frozen: dict[str, Shape]
    buffers: dict[str, Shape]
    multiplications: int
    kept_values: int
    draws: bool
    trainable: bool
    trains_on_one: bool
    draws_in_evaluation: bool
    cautions: tuple[str, ...]


def inspect_factory(factory: Factory, shape: Shape) -> Inspection:
    """Make a factory's module and look at it; once for each shape, later from memory.

    Args:
        factory: of the module.
        shape: (C, H, W) of an image.

    Raises:
        InputError: if it cannot be made, trained or attacked; one line names what was expected, what came, what to do.
    """
    known: dict[Shape, Inspection] = vars(factory).setdefault("_inspections", {})
    if shape not in known:
        known[shape] = _inspect(factory, shape)
    return known[shape]


def depth_of(factory: Factory) -> int:
    """Layers with weights less the last: submodules that own a parameter of at least two axes."""
    own = vars(factory)
    if "_depth" not in own:
        module = factory.make(0)
        layers = [each for each in module.modules() if any(p.ndim >= 2 for p in each.parameters(recurse=False))]
        own["_depth"] = max(len(layers) - 1, 0)
    depth: int = own["_depth"]
    return depth


def _inspect(factory: Factory, shape: Shape) -> Inspection:
    device = device_of(factory.name, factory.held) if factory.held is not None else torch.device("cpu")
    with fixed_state(device):
        if factory.held is not None:
            with untouched(factory.held):
                return _look(factory.name, factory.held, shape, (), trains=False)
        key = stable_key(factory.name, "inspection")
        module, other = factory.make(key), factory.make(key)
        device_of(factory.name, module)
        _refuse_types(factory.name, module)
        _refuse_buffers(factory.name, module)
        cautions = _compared(factory, module, other)
        return _look(factory.name, module.float().to("cpu"), shape, cautions, trains=True)


def _compared(factory: Factory, module: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """Refuse a factory whose modules differ or are one; a caution where weights are not drawn by torch's generator."""
    name = factory.name
    if module is other or {id(p) for p in module.parameters()} & {id(p) for p in other.parameters()}:
        raise InputError(
            f"network {name}: expected a new module from each call of {factory.function}, got the same weights twice; "
            "make the module inside the function"
        )
    first, second = ({key: tuple(p.shape) for key, p in each.named_parameters()} for each in (module, other))
    if first != second:
        raise InputError(
            f"network {name}: expected modules of one shape from every call of {factory.function}, got others at the "
            "second; let it depend on nothing that changes"
        )
    if all(torch.equal(p, q) for p, q in zip(module.parameters(), other.parameters(), strict=True)):
        return ()
    return (
        f"{name}: two calls of {factory.function} under one seed of torch gave other weights, so that this run "
        "cannot be repeated; draw them by torch's own generator alone",
    )


def device_of(name: str, module: nn.Module) -> torch.device:
    """Where a module is.

    Raises:
        InputError: if that is in several places, or none.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if any(is_lazy(each) for each in tensors):
        raise InputError(
            f"network {name}: expected parameters with a shape, got lazy ones; call it once on an image before"
        )
    devices = list(dict.fromkeys(str(each.device) for each in tensors))
    if len(devices) > 1 or "meta" in devices:
        raise InputError(
            f"network {name}: expected all parameters on one device, got {', '.join(devices)}; move them with .to()"
        )
    return torch.device(devices[0] if devices else "cpu")


def dtype_of(name: str, module: nn.Module) -> torch.dtype:
    """The type of a module's parameters; float32 where it has none.

    Raises:
        InputError: if it is not float32 or float64 alone.
    """
    _refuse_types(name, module)
    types = {each.dtype for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()}
    if len(types) > 1:
        raise InputError(
            f"network {name}: expected parameters of one type, got float32 and float64; call .float() on it"
        )
    return types.pop() if types else torch.float32


def _refuse_types(name: str, module: nn.Module) -> None:
    for key, values in module.named_parameters():
        if values.dtype not in FLOATS:
            raise InputError(
                f"network {name}: expected parameters of float32 or float64, got {_short(values.dtype)} in {key}; "
                "call .float() on it, or bring the network before it was quantised"
            )


def _refuse_buffers(name: str, module: nn.Module) -> None:
    for key, values in module.named_buffers():
        if values.dtype not in KEPT:
            raise InputError(
                f"network {name}: expected buffers of float32, float64, whole numbers or truths, which files hold, got "
                f"{_short(values.dtype)} in {key}; keep it as a plain attribute, or as two real ones"
            )


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """A context in which modules are in evaluation mode and ask for no gradient of parameters; all is restored behind
    it, buffers too."""
    parts = [(part, part.training) for module in modules for part in module.modules()]
    parameters = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    buffers = [
        (part, key, value, value.clone()) for part, _ in parts for key, value in part.named_buffers(recurse=False)
    ]
    try:
        for part, _ in parts:
            part.training = False
        for values, _ in parameters:
            values.requires_grad_(False)
        yield
    finally:
        for part, training in parts:
            part.training = training
        for values, wanted in parameters:
            values.requires_grad_(wanted)
        with torch.no_grad():
            for part, key, value, before in buffers:
                value.copy_(before)
                part._buffers[key] = value


class _Trial:
    """A module that is tried on images.

    Args:
        name: of the network.
        module: in evaluation mode.
        shape: of an image.
    """

    def __init__(self, name: str, module: nn.Module, shape: Shape) -> None:
        self.name, self.module = name, module
        self.device, dtype = device_of(name, module), dtype_of(name, module)
        draw = torch.Generator(device="cpu").manual_seed(stable_key("inspection", "images"))
        self.images = torch.rand(IMAGES, *shape, generator=draw, dtype=dtype).to(self.device)

    def call(self, images: Tensor, key: int = 0) -> Tensor:
        """The module's output, which must be logits of these images."""
        shape = list(images.shape)
        with keyed(key, self.device):
            logits: object = called(self.name, self.module, images)
        if not isinstance(logits, Tensor):
            raise InputError(
                f"network {self.name}: expected logits [B, Y] of images {shape}, got {type(logits).__name__}; return "
                "the logits alone"
            )
        if logits.ndim != 2 or len(logits) != len(images) or not logits.is_floating_point():
            raise InputError(
                f"network {self.name}: expected floating-point logits [{len(images)}, Y] of images {shape}, got "
                f"{_short(logits.dtype)} {list(logits.shape)}; return a row for each image"
            )
        if logits.device != images.device:
            raise InputError(
                f"network {self.name}: expected logits on {images.device}, as the images are, got {logits.device}; "
                "name no device in forward"
            )
        return logits


def _look(name: str, module: nn.Module, shape: Shape, cautions: tuple[str, ...], trains: bool) -> Inspection:
    trial = _Trial(name, module.eval() if trains else module, shape)
    with torch.no_grad():
        before = trial.images.clone()
        logits = trial.call(trial.images)
        if not torch.equal(before, trial.images):
            raise InputError(f"network {name}: it changes the images it is given; write x = x - mean, not x -= mean")
        if not logits.isfinite().all():
            raise InputError(
                f"network {name}: expected finite logits of images in [0, 1], got NaN or infinity; see its weights"
            )
        drawn = not torch.equal(logits, trial.call(trial.images, key=1))
        alone = torch.cat([trial.call(trial.images[i : i + 1]) for i in range(IMAGES)])
        multiplications = _multiplications(trial)
    found = [
        *cautions,
        *_of_probabilities(name, logits),
        *_of_randomness(name, drawn),
        *([] if drawn else _of_neighbours(name, logits, alone)),
        *_of_gradient(trial),
    ]
    shapes: tuple[dict[str, Shape], dict[str, Shape]] = ({}, {})
    for key, values in module.named_parameters():
        shapes[values.requires_grad or not trains][key] = tuple(values.shape)
    kept, draws, trainable, on_one = _trained(trial) if trains else (_kept(trial), False, False, False)
    buffers = {key: tuple(values.shape) for key, values in module.named_buffers()}
    return Inspection(
        logits.shape[1],
        shapes[1],
        shapes[0],
        buffers,
        multiplications,
        kept,
        draws,
        trainable,
        on_one,
        drawn,
        tuple(found),
    )


def _of_probabilities(name: str, logits: Tensor) -> list[str]:
    sums = (logits.sum(1) - 1).abs().max()
    if logits.shape[1] < 2 or logits.min() < 0 or logits.max() > 1 or sums > 1e-4:
        return []
    return [
        f"{name}: its outputs look like probabilities (rows in [0, 1] that sum to 1), not logits: the loss of training "
        "and the gradients of attacks are too weak, so that it seems more robust than it is; leave the softmax out"
    ]


def _of_randomness(name: str, drawn: bool) -> list[str]:
    if not drawn:
        return []
    return [
        f"{name}: two passes over the same images in evaluation mode differ: it draws at random, or keeps something "
        "from pass to pass; attack it through the mean of several gradients, such as apgd(eot=20)"
    ]


def _of_neighbours(name: str, logits: Tensor, alone: Tensor) -> list[str]:
    if (logits - alone).abs().max() <= TOLERANCE * logits.abs().max():
        return []
    return [
        f"{name}: an image's logits depend on the other images of its batch in evaluation mode (batch normalisation "
        "without running statistics?), so that its figures depend on how images are divided; use running statistics or "
        "another normalisation"
    ]


def _of_gradient(trial: _Trial) -> list[str]:
    """A caution where the logits have no gradient with respect to the images."""
    images = trial.images.clone().requires_grad_()
    logits = trial.call(images)
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), images, allow_unused=True)
    if gradient is not None and bool(gradient.any()) and not gradient.isnan().any():
        return []
    what = "are NaN" if gradient is not None and gradient.isnan().any() else "are none or zero"
    return [
        f"{trial.name}: its gradients with respect to the images {what} (detached, rounded or not differentiable): "
        f"attacks "
        "that follow gradients find nothing, which is no robustness; attack it with square, or transfer attacks to it"
    ]


def _multiplications(trial: _Trial) -> int:
    """Multiply-adds of one image."""
    try:
        with FlopCounterMode(display=False) as counter:
            trial.call(trial.images[:1])
        return int(counter.get_total_flops()) // 2
    except InputError:
        raise
    except Exception:
        return sum(p.numel() for p in trial.module.parameters())


def _kept(trial: _Trial, loss: Callable[[Tensor], Tensor] | None = None) -> int:
    """Numbers of an image that a forward pass keeps for its backward pass, which is made where there is a loss."""
    own = {p.data_ptr() for p in (*trial.module.parameters(), *trial.module.buffers())}
    kept: dict[int, float] = {}

    def pack(values: Tensor) -> Tensor:
        if values.data_ptr() not in own:
            kept[values.data_ptr()] = values.numel() * values.element_size() / trial.images.element_size()
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        logits = trial.call(trial.images.clone().requires_grad_(loss is None))
    if loss is not None:
        value = loss(logits)
        if value.requires_grad:
            torch.autograd.backward(value)
    return math.ceil(sum(kept.values()) / len(trial.images))


def _trained(trial: _Trial) -> tuple[int, bool, bool, bool]:
    """Numbers that an image's pass keeps in a training step, whether the step draws at random, whether logits depend on
    trainable parameters, and whether the step takes a single image."""
    module = trial.module.train()
    labels = torch.zeros(IMAGES, dtype=torch.int64, device=trial.device)
    drawn: list[bool] = []

    def call(images: Tensor) -> Tensor:
        before = torch.get_rng_state()
        logits: Tensor = module(images)
        drawn.append(not torch.equal(before, torch.get_rng_state()))
        return logits

    trial.module = _Calling(module, call)
    kept = _kept(trial, lambda logits: nn.functional.cross_entropy(logits, labels))
    trainable = trial.call(trial.images).requires_grad
    with torch.no_grad():
        try:
            trial.call(trial.images[:1])
        except InputError:
            return kept, drawn[0], trainable, False
    return kept, drawn[0], trainable, True


class _Calling(nn.Module):
    """A module called in another way."""

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.own_call = module, call

    def forward(self, images: Tensor) -> Tensor:
        return self.own_call(images)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
