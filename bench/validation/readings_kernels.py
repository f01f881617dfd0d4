"""The kernels of readings.py, compiled on a machine without a GPU, for Triton's cache to be taken along.

    TRITON_CACHE_DIR=cache python bench/validation/readings_kernels.py --jobs 2

With the same version of Triton, and TRITON_CACHE_DIR where the cache lies, the GPU spends no time on compiling.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # of bench itself

import numpy as np

import readings
from gpu_kernels import Recorder, compile_all, recording

SIZES = {"train": 520, "test": 500}
"""Images, of which batches have the sizes that 5,000 images' have."""


def record(recorder: Recorder, every: int = 1) -> None:
    """Go through a job of each kind: its screen or filters, and with two seeds its confirmation."""
    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        x = {f"x_{part}": draws.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in SIZES.items()}
        np.savez(data, **x, **{f"y_{part}": np.arange(n) % 10 for part, n in SIZES.items()})
        words = ["--data", str(data), "--device", "cpu", "--precision", "bf16", "--every", str(every), "--epochs", "1"]
        words += ["--train-size", str(SIZES["train"]), "--test-size", str(SIZES["test"]), "--out", str(data)]
        asked = readings.parse(words)
        screened = readings.screen(asked)
        confirmed = [replace(job, part="confirm", rates=job.rates[:1], seeds=asked.seeds[1:]) for job in screened[:1]]
        for job in (*screened, *confirmed, *readings.filters(asked)):
            recorder.label = str(job)
            for _ in readings.Bench(asked).measured(job):
                pass


def main(argv: Sequence[str] | None = None) -> int:
    """Compile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--capability", type=int, default=90, help="of the card; default: 90")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile; default: 1")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th candidate alone")
    asked = parser.parse_args(argv)
    with recording(asked.capability) as recorder:
        record(recorder, asked.every)
    print(f"{len(recorder.found)} kernels in {len(recorder.launches)} launches", flush=True)
    told = list(compile_all(list(recorder.found.values()), asked.capability, asked.jobs, print))
    print(f"{sum(each['spilled'] > 0 for each in told)} of them spill registers", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
