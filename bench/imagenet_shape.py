"""A set of ImageNet's shape under a memory cap: 1,000 classes, images of 3 x 64 x 64, trained on, attacked, reported.

    python bench/imagenet_shape.py --out /var/tmp/shape --memory 2GiB --json shape.json

The set is made first, where it is not there yet: each class has a pattern of its own, and every image is its class's
pattern under noise. Then four candidates are trained, attacked and defended, one epoch each, by the same call as any
run, and the report is written. Told are the seconds of each phase, the memory that the process itself takes at the most
(anonymous, less what it had before; the mapped file is not its own), accuracies, and what the real ImageNet-64 would
take at the same seconds an image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from atras import report
from atras.experiment import Execution, Protocol
from atras.experiment.readers import parse_candidates, parse_memory
from atras.results import Results
from atras.running import make_plan, run

SIDE, CELLS = 64, 8
NOISE = 48.0
"""Standard deviation of an image's noise, in 255ths; that of the patterns is as large."""

IMAGENET = {"train": 1_281_167, "test": 50_000}
"""Images of ILSVRC 2012's training and validation set."""

PIECE = 500


def write_set(path: Path, classes: int, counts: dict[str, int]) -> None:
    """Write such a set as an uncompressed `.npz` file, some images at a time.

    Args:
        path: the file.
        classes: of them.
        counts: images of `train` and `test`.
    """
    patterns = np.random.default_rng(0).normal(0, NOISE, (classes, CELLS, CELLS, 3)).astype(np.float32)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for part, count in counts.items():
            draw = np.random.default_rng([1, len(part)])
            labels = draw.permutation(np.arange(count) % classes)
            with archive.open(f"y_{part}.npy", "w") as file:
                np.lib.format.write_array(file, labels)
            with archive.open(f"x_{part}.npy", "w", force_zip64=True) as file:
                _write_images(file, patterns, labels, draw)


def _write_images(file: IO[bytes], patterns: np.ndarray, labels: np.ndarray, draw: np.random.Generator) -> None:
    shape = (len(labels), SIDE, SIDE, 3)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    for start in range(0, len(labels), PIECE):
        clean = patterns[labels[start : start + PIECE]]
        clean = clean.repeat(SIDE // CELLS, 1).repeat(SIDE // CELLS, 2)
        noise = draw.standard_normal(clean.shape, np.float32) * np.float32(NOISE)
        file.write(np.clip(128 + clean + noise, 0, 255).astype(np.uint8).tobytes())


class Memory:
    """The memory of this process alone, watched by a thread: `peak` MiB more than it had."""

    def __enter__(self) -> Memory:
        self.before, self.peak, self._watching = self.now(), 0.0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False
        self._thread.join()

    def _watch(self) -> None:
        while self._watching:
            self.peak = max(self.peak, self.now() - self.before)
            time.sleep(0.02)

    @staticmethod
    def now() -> float:
        """Anonymous resident MiB; 0 where the system does not tell them."""
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def figures(options: argparse.Namespace, dataset: Path) -> dict[str, object]:
    """Run it, and what is to be told of it."""
    protocol = Protocol(
        dataset=str(dataset), train_size="all", test_size="all", candidates=parse_candidates(options.hidden),
        stem=options.stem, epochs=1, adversarial_epochs=1, augment=options.augment, precision=options.precision,
    )  # fmt: skip
    execution = Execution(memory_bytes=options.memory, device=options.device, engine=options.engine)
    plan = make_plan(protocol, execution)
    print("\n".join(plan.lines()), flush=True)
    out = options.out / "run"
    start, busy = time.perf_counter(), time.process_time()
    with Memory() as memory:
        results = run(protocol, execution, out=out)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        report.write(results, options.out / "report.html")
    return {
        "streamed": any(line.startswith("images: streamed") for line in plan.lines()),
        "chunk": max(group.chunk for group in plan.groups),
        "predicted_mib": max(group.predicted_bytes for group in plan.groups) / 2**20,
        "peak_mib": memory.peak,
        "cap_mib": options.memory / 2**20,
        "run_seconds": seconds,
        "processor_seconds": busy,
        "report_seconds": time.perf_counter() - start - seconds,
        "phases": phases(results),
        "accuracies": results.table.select(
            "hidden_layers", "test_accuracy", "attacked_accuracy_after_white_box"
        ).rows(),
        "machine": json.loads((out / "run.json").read_text())["environment"],
        "images": {"train": options.train, "test": options.test},
    }


def phases(results: Results) -> dict[str, float]:
    """Seconds of each phase, over all groups."""
    seconds: dict[str, float] = {}
    for phase, spent in results.timings.select("phase", "seconds").iter_rows():
        seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds


def table(told: dict[str, object]) -> str:
    """The figures as text, with those of ImageNet-64 at the same seconds an image, which no one measured."""
    spent, images = told["phases"], told["images"]
    assert isinstance(spent, dict) and isinstance(images, dict)  # noqa: PT018
    times = IMAGENET["train"] / images["train"]
    lines = [f"{'phase':<24} {'seconds':>10} {'ImageNet-64, hours (extrapolated)':>34}"]
    lines += [f"{phase:<24} {s:>10.1f} {s * times / 3600:>34.2f}" for phase, s in spent.items()]
    total = sum(spent.values())
    lines.append(f"{'all':<24} {total:>10.1f} {total * times / 3600:>34.2f}")
    busy = told["processor_seconds"]
    lines.append(f"{'processor, all threads':<24} {busy:>10.1f} {busy * times / 3600:>34.2f}")
    lines.append(
        f"{'streamed' if told['streamed'] else 'resident'}, chunks of {told['chunk']}; at most {told['peak_mib']:.0f} "
        f"MiB of its own, predicted {told['predicted_mib']:.0f} a group, cap {told['cap_mib']:.0f}"
    )
    lines += [f"{name}: clean {clean:.4f}, attacked {attacked:.4f}" for name, clean, attacked in told["accuracies"]]
    return "\n".join(lines)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the set, the run and the report")
    parser.add_argument("--memory", type=parse_memory, default=2 * 2**30, help="the cap (2GiB)")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--train", type=int, default=20_000, help="training images")
    parser.add_argument("--test", type=int, default=2_000, help="test images")
    parser.add_argument("--hidden", nargs="+", default=["64", "256", "64-256", "256-512"], help="candidates")
    parser.add_argument("--stem", default="c16k4s2z1-c32k4s2z1")
    parser.add_argument("--augment", default="none")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Make the set, run, and tell."""
    options = options_of(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = options.out / f"{options.classes}-classes-{options.train}-{options.test}.npz"
    if not dataset.exists():
        partial = dataset.with_suffix(".partial")
        write_set(partial, options.classes, {"train": options.train, "test": options.test})
        partial.replace(dataset)
    shutil.rmtree(options.out / "run", ignore_errors=True)
    told = figures(options, dataset)
    print(table(told))
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
