"""Writing and reading a checkpoint, beside the interval between two of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from atras.engines import LoopEngine
from atras.experiment import Execution, Protocol
from atras.networks import PAPER_CANDIDATES, Member, with_depth
from atras.running import make_spec
from atras.running.unit import OVERHEAD
from atras.training import checkpoint


class Checkpoint:
    """The state of the paper's candidates of one depth on 28x28 images, in the midst of their adversarial training."""

    params = (1, 2, 3)
    param_names = ("depth",)
    timeout = 300

    def setup(self, depth: int) -> None:
        protocol = Protocol(dataset="mnist", candidates=with_depth(PAPER_CANDIDATES, [depth]), precision="fp32")
        spec = make_spec(protocol, (1, 28, 28), 10)
        self.members = [Member(candidate, 0) for candidate in protocol.candidates]
        self.tensors = {}
        for member in self.members:
            state = LoopEngine(spec, [member], protocol, torch.device("cpu"))
            for kind in ("parameters", "first", "second", "trained"):
                named = state.get_parameters(0).items()
                self.tensors |= {f"{kind}/{member.name}/{name}": values for name, values in named}
        self.folder = tempfile.TemporaryDirectory()
        self.path = checkpoint.path_of(Path(self.folder.name), self.members)
        self.time_write(depth)
        tensors = checkpoint.read(self.path).tensors
        assert all(torch.equal(values, tensors[name]) for name, values in self.tensors.items())

    def teardown(self, depth: int) -> None:
        self.folder.cleanup()

    def time_write(self, depth: int) -> None:
        checkpoint.write(self.path, {"members": [member.name for member in self.members]}, self.tensors)

    def time_read(self, depth: int) -> None:
        checkpoint.read(self.path)

    def track_megabytes(self, depth: int) -> float:
        return self.path.stat().st_size / 1e6

    def track_overhead_at_the_default_interval(self, depth: int) -> float:
        """Share of a run's time that writing takes."""
        begin = time.perf_counter()
        self.time_write(depth)
        seconds = time.perf_counter() - begin
        return seconds / (seconds + max(Execution.checkpoint_every, seconds / OVERHEAD))
