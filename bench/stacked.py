"""Textbook networks stacked: those of one depth trained at once, by `torch.func` and by JAX.

Like the loops of textbook.py this is what a user would write from the documentation, and knows nothing of atras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textbook import STEMS, Batch, Contestant, Member, Network, Task

STACK_LIMIT = 32
"""Most networks that a vmap peer stacks: the activations of more do not fit a usual memory."""


def stacks(task: Task) -> list[list[int]]:
    """Indices of the members that are stacked: those of one depth, at most STACK_LIMIT at once."""
    groups = []
    for depth in sorted({len(member.hidden) for member in task.members}):
        same = [index for index, member in enumerate(task.members) if len(member.hidden) == depth]
        groups += [same[start : start + STACK_LIMIT] for start in range(0, len(same), STACK_LIMIT)]
    return groups


def stack_weights(shapes: dict[str, torch.Size], members: Sequence[Member]) -> dict[str, Tensor]:
    """[M, ...] weights, each network's in the corner of its slot and zeros around it."""
    stacked = {name: torch.zeros(len(members), *shape) for name, shape in shapes.items()}
    for index, member in enumerate(members):
        for name, values in member.weights.items():
            stacked[name][(index, *(slice(size) for size in values.shape))] = values
    return stacked


class Vmap(Contestant):
    """`torch.func`: networks of one depth, padded to the widest, in one stacked pass."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.groups = []
        for indices in stacks(task):
            members = [task.members[index] for index in indices]
            network = Network(task, [max(widths) for widths in zip(*(m.hidden for m in members), strict=True)])
            shapes = {name: values.shape for name, values in network.layers.state_dict().items()}
            weights = stack_weights(shapes, members)
            weights = {name: values.to(task.device).requires_grad_() for name, values in weights.items()}
            optimizer = torch.optim.Adam(weights.values(), lr=task.learning_rate, fused=True)
            rows = torch.tensor([member.seed_row for member in members], device=task.device)
            self.groups.append((indices, network.layers, weights, optimizer, rows))

    def train(self, batches: list[Any]) -> Tensor:
        losses = torch.empty(len(batches), len(self.task.members), device=self.task.device)
        for indices, network, weights, optimizer, rows in self.groups:
            for step, (images, labels) in enumerate(batches):
                shared = len(images) == 1
                x, y = (images[0], labels[0]) if shared else (images[rows], labels[rows])
                optimizer.zero_grad()
                each = torch.vmap(
                    self.loss, in_dims=(None, 0, None, None) if shared else (None, 0, 0, 0), randomness="different"
                )(network, weights, x, y)
                each.sum().backward()
                optimizer.step()
                losses[step, indices] = each.detach()
        return losses

    def loss(self, network: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = torch.func.functional_call(network, weights, (x,))
        return F.cross_entropy(out.float(), y)


class VmapBf16(Vmap):
    precision = "bf16"


class JaxVmap(Contestant):
    """The same stacks as `Vmap` in JAX: one jitted step of `jax.vmap`, Adam written out; its first step compiles."""

    def __init__(self, task: Task) -> None:
        import jax

        self.jax, self.task = jax, task
        jax.config.update("jax_default_matmul_precision", "highest")
        self.device = jax.devices("gpu" if task.device.type == "cuda" else "cpu")[0]
        self.update = jax.jit(self._update, donate_argnums=0)
        self.steps, self.groups = 0, []
        for number, indices in enumerate(stacks(task)):
            members = [task.members[index] for index in indices]
            widest = [max(widths) for widths in zip(*(m.hidden for m in members), strict=True)]
            shapes = {name: values.shape for name, values in Network(task, widest).layers.state_dict().items()}
            weights = {name: self.put(values) for name, values in stack_weights(shapes, members).items()}
            zeros = {name: self.put(torch.zeros(values.shape)) for name, values in weights.items()}
            state = (weights, zeros, {name: values.copy() for name, values in zeros.items()})
            keys = jax.random.split(jax.random.key(number), len(members))
            self.groups.append([indices, state, jax.device_put(keys, self.device)])

    def put(self, values: Tensor) -> Any:
        return self.jax.device_put(values.cpu().numpy().copy(), self.device)

    def prepare(self, batches: Sequence[Batch]) -> list[Any]:
        return [(self.put(batch.images), self.put(batch.labels.int())) for batch in batches]

    def train(self, batches: list[Any]) -> Tensor:
        losses: list[list[tuple[list[int], Any]]] = [[] for _ in batches]
        for group in self.groups:
            indices, state, keys = group
            rows = self.jax.numpy.array([self.task.members[index].seed_row for index in indices])
            for step, (images, labels) in enumerate(batches):
                x, y = (images[0], labels[0]) if len(images) == 1 else (images[rows], labels[rows])
                state, each = self.update(state, keys, self.steps + step + 1, x, y)
                losses[step].append((indices, each))
            group[1] = state
        self.steps += len(batches)
        table = torch.empty(len(batches), len(self.task.members))
        for step, parts in enumerate(losses):
            for indices, each in parts:
                table[step, indices] = torch.tensor(each.tolist())
        return table

    def _update(self, state: Any, keys: Any, step: Any, x: Any, y: Any) -> Any:
        jax, (weights, first, second) = self.jax, state
        axis = None if x.ndim == 4 else 0

        def total(weights: Any) -> Any:
            own = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
            each = jax.vmap(self.loss, in_axes=(0, 0, axis, axis))(weights, own, x, y)
            return each.sum(), each

        gradients, losses = jax.grad(total, has_aux=True)(weights)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate, scale = self.task.learning_rate / (1 - 0.9**step), 1 / (1 - 0.999**step)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jax.numpy.sqrt(v * scale) + 1e-8), weights, first, second
        )
        return (weights, first, second), losses

    def loss(self, weights: Any, key: Any, x: Any, y: Any) -> Any:
        jax, lax = self.jax, self.jax.lax
        for i, layer in enumerate(STEMS[self.task.stem], 1):
            x = lax.conv_general_dilated(x, weights[f"conv{i}.weight"], (1, 1), [(layer.padding, layer.padding)] * 2)
            x = jax.nn.relu(x + weights[f"conv{i}.bias"][:, None, None])
            if layer.pool:
                x = lax.reduce_window(x, -float("inf"), lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            if layer.dropout and self.task.dropout:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - layer.dropout, x.shape)
                x = jax.numpy.where(kept, x / (1 - layer.dropout), 0)
        x = x.reshape(len(x), -1)
        for i in range(1, sum(name.startswith("dense") for name in weights) // 2 + 1):
            x = jax.nn.relu(x @ weights[f"dense{i}.weight"].T + weights[f"dense{i}.bias"])
        out = jax.nn.log_softmax(x @ weights["logits.weight"].T + weights["logits.bias"])
        return -jax.numpy.take_along_axis(out, y[:, None], 1).mean()
