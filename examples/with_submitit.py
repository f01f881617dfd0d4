"""Shards of a run as jobs of submitit: on Slurm, or as processes of this machine.

python examples/with_submitit.py --shards 4 --out runs/submitted --cluster local
"""

from __future__ import annotations

import argparse
from pathlib import Path

import submitit

import atras
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running import merge, resume, run


class Shard:
    """A part of a run, which goes on with what there is of it wherever it is started again.

    Args:
        protocol: the run's.
        number, of: which part of how many.
        folder: its own.
        device: where to compute.
    """

    def __init__(self, protocol: Protocol, number: int, of: int, folder: Path, device: str = "auto") -> None:
        self.protocol, self.number, self.of, self.folder, self.device = protocol, number, of, folder, device

    def __call__(self) -> str:
        if (self.folder / "run.json").exists():
            resume(self.folder)
        else:
            run(self.protocol, Execution(shard=f"{self.number}/{self.of}", device=self.device), out=self.folder)
        return str(self.folder)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues when Slurm takes the machine back: the same, which then finds its folder."""
        return submitit.helpers.DelayedSubmission(self)


def submit(
    protocol: Protocol, shards: int, out: Path, executor: submitit.Executor, device: str = "auto"
) -> atras.Results:
    """Compute a run in shards, wait for all, and make one run of them.

    Args:
        protocol: the run's.
        shards: how many.
        out: new folder; its parts are beside the whole.
        executor: of submitit.
        device: where to compute.
    """
    parts = [out / f"part-{number}" for number in range(1, shards + 1)]
    with executor.batch():
        jobs = [
            executor.submit(Shard(protocol, number, shards, part, device)) for number, part in enumerate(parts, start=1)
        ]
    return merge([job.result() for job in jobs], out / "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/submitted"))
    parser.add_argument("--cluster", default=None, help="local, slurm; default: Slurm where there is one")
    parser.add_argument("--minutes", type=int, default=240)
    asked = parser.parse_args()
    executor = submitit.AutoExecutor(folder=asked.out / "jobs", cluster=asked.cluster)
    executor.update_parameters(timeout_min=asked.minutes, cpus_per_task=2)
    protocol = Protocol(candidates=tuple(map(Candidate.parse, ("64", "128", "64-512"))), seeds=tuple(range(4)))
    print(submit(protocol, asked.shards, asked.out, executor))


if __name__ == "__main__":
    main()
