"""Engine fused and textbook PyTorch on networks with convolutions of their own: equal results first, then their times.

    OMP_NUM_THREADS=1 python bench/convolutions.py

One thread, and the processor's time of this process, so that other programs matter little. Logits, and gradients by
the images, must agree, or the exit status is 1. Then both sides take turns, round after round: a forward pass, a
gradient by the images, a training step, each of a batch of 128. Figures are medians, and a ratio is taken within a
round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from atras.engines import FusedEngine
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec
from atras.planning import forward_flops, training_flops

BATCH, ROUNDS, CALLS = 128, 7, 3
PEAK = 255e9
"""Multiply-adds in fp32, as two FLOPs each, of a thread of the machine that docs/performance.md is about."""

TEXTBOOK: dict[str, tuple[tuple[int, int, int], list[nn.Module]]] = {
    "c16k4s2z1-c32k4s2z1-100": (
        (1, 28, 28),
        [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
         nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)],
    ),
    "c32k5p2-c64k5p2-1024": (
        (1, 28, 28),
        [nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
         nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)],
    ),
    "c40p2-c80p2": (
        (1, 28, 28),
        [nn.Conv2d(1, 40, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(40, 80, 3), nn.ReLU(), nn.MaxPool2d(2),
         nn.Flatten(), nn.Linear(2000, 10)],
    ),
    "c24p2-c96p2-c384p2": (
        (3, 32, 32),
        [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 96, 3), nn.ReLU(), nn.MaxPool2d(2),
         nn.Conv2d(96, 384, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1536, 10)],
    ),
}  # fmt: skip


class Contest:
    """Both sides of a network, with the same parameters, on the same batch."""

    def __init__(self, name: str) -> None:
        shape, layers = TEXTBOOK[name]
        spec, protocol = Spec(shape, 10), Protocol(precision="fp32", batch_size=BATCH)
        self.engine = FusedEngine(spec, [Member(Candidate.parse(name), 0)], protocol, torch.device("cpu"))
        self.engine.begin_phase("train")
        self.network = self.engine.networks[0]
        self.module = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        for parameter, values in zip(self.module.parameters(), self.engine.get_parameters(0).values(), strict=True):
            parameter.data.copy_(values)
        self.optimizer = torch.optim.Adam(self.module.parameters(), fused=True)
        self.images, self.labels = torch.rand(BATCH, *shape), torch.arange(BATCH) % 10

    def textbook_gradient(self) -> torch.Tensor:
        """d(sum of cross-entropies) / d(images)."""
        x = self.images.to(memory_format=torch.channels_last).requires_grad_()
        loss = F.cross_entropy(self.module(x), self.labels, reduction="sum")
        return torch.autograd.grad(loss, x)[0]

    def textbook_step(self) -> None:
        """One step of Adam."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.module(self.images.to(memory_format=torch.channels_last)), self.labels).backward()
        self.optimizer.step()

    @torch.no_grad()
    def textbook_forward(self) -> torch.Tensor:
        """Logits."""
        return self.module(self.images.to(memory_format=torch.channels_last))

    def agree(self) -> bool:
        """Whether logits, and directions of the gradients, are the same but for rounding."""
        logits = self.textbook_forward()
        found, found_logits = self.engine.gradient(self.images, self.labels)
        # That of the log-odds is that of the cross-entropy divided by 1 - p.
        rest = 1 - logits.softmax(1).gather(1, self.labels[:, None])[:, 0]
        expected = self.textbook_gradient() / rest[:, None, None, None]
        near = (found[0] - expected).norm() <= 1e-4 * expected.norm()
        return bool(near) and torch.allclose(found_logits[0], logits, rtol=1e-3, atol=1e-4)

    def works(self) -> dict[str, tuple[float, Callable[[], object], Callable[[], object]]]:
        """FLOPs of an image, and both sides, by the name of what is done."""
        forward = forward_flops(self.network)
        return {
            "forward": (forward, lambda: self.engine.logits(self.images), self.textbook_forward),
            "gradient": (2 * forward, lambda: self.engine.gradient(self.images, self.labels), self.textbook_gradient),
            "training": (
                training_flops(self.network), lambda: self.engine.step(self.images, self.labels), self.textbook_step
            ),
        }  # fmt: skip


def microseconds(work: Callable[[], object]) -> float:
    """Of an image, by the time that the processor gave to this process."""
    start = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - start) / CALLS / BATCH * 1e6


def main() -> int:
    """Print a line for each network and work; 1 where the sides differ."""
    torch.set_num_threads(1)
    print("µs an image: at the peak, atras, GFLOP/s, channels-last torch over atras (range)")
    for name in sys.argv[1:] or TEXTBOOK:
        contest = Contest(name)
        if not contest.agree():
            print(f"{name}: the two sides differ", file=sys.stderr)
            return 1
        for what, (flops, ours, theirs) in contest.works().items():
            rounds = [(microseconds(ours), microseconds(theirs)) for _ in range(ROUNDS)]
            own, ratios = statistics.median(round_[0] for round_ in rounds), [b / a for a, b in rounds]
            line = f"{flops / PEAK * 1e6:.1f}, {own:.1f}, {flops / own / 1e3:.0f}, {statistics.median(ratios):.1f}"
            print(f"{name} {what}: {line} ({min(ratios):.1f} to {max(ratios):.1f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
