"""The first run on a GPU: is it right, does it repeat, what does it cost; steps by name, results as JSON.

    python bench/gpu_first_run.py versions truth memcheck tests --data mnist.npz --out first.json
    python bench/gpu_first_run.py profile repeat signs table command memory peers --data mnist.npz --out second.json

Each step prints a line or a table and adds its result to the JSON file at once, so that a run that is cut off leaves
what it had. Stop rule: where `truth` or `memcheck` fails, here or in the file of a former call (`--after first.json`),
nothing is timed and the exit status is 1. It needs no polars and no built extension; `--device cpu` goes through the
same steps, but for what only a card has.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import gpu_truth
from atras.data import pixels
from atras.engines import Epoch, FusedEngine, LoopEngine
from atras.environment import describe
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Member, Network, members_of, permutation
from atras.planning.cost import fused_device_bytes
from atras.running.prepare import load_data
from atras.training import run_group
from peers import Parser

ROOT = Path(__file__).resolve().parents[1]
TIMED = ("profile", "repeat", "signs", "table", "command", "memory", "peers")
"""Steps that come after truth and memcheck alone."""

Result = dict[str, Any]
Say = Callable[[str], None]


class Card:
    """The experiment that all steps share: data, networks, device."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.protocol = Protocol(dataset=options.data)
        candidates = self.protocol.candidates[:: options.fewer]
        self.protocol = self.protocol.replace(candidates=candidates)
        self.device, self.data, self.spec = load_data(self.protocol, Execution(device=options.device))
        self.members = members_of(candidates, self.protocol.seeds)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those to be looked at, the fastest last."""
        return ("fp32", "tf32", "bf16") if self.device.type == "cuda" else ("fp32",)

    def engine(self, precision: str, members: Sequence[Member] | None = None, **changes: Any) -> FusedEngine:
        """A fresh one, at its initial weights."""
        protocol = self.protocol.replace(precision=precision, **changes)
        made = FusedEngine(self.spec, members or self.members, protocol, self.device)
        made.begin_phase("train")
        return made

    def work(self, images: int, members: int | None = None, signs: Tensor | None = None) -> Epoch:
        """The first images of an epoch's order, for so many members."""
        order = permutation(0, "train", 1, len(self.data.train))[:images].to(self.device)[None]
        rows = torch.zeros(members or len(self.members), dtype=torch.int64, device=self.device)
        epsilon = 0.0 if signs is None else 0.1
        return Epoch(self.data.train.images, self.data.train.labels, order, rows, signs, epsilon)

    def sync(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Wall time of a call, the device's work included."""
        self.sync()
        begin = time.perf_counter()
        call()
        self.sync()
        return time.perf_counter() - begin


def versions(card: Card, say: Say) -> Result:
    """What runs here: machine, torch, Triton, every assembler that Triton brings."""
    found = describe(card.device)
    with suppress(ImportError):
        import triton

        for path in sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*")):
            text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
            found[path.name] = text.strip().splitlines()[-1:]
    say(json.dumps(found, indent=1, default=str))
    return {"environment": found}


def truth(card: Card, say: Say) -> Result:
    """Training steps against float64, beside torch's own: first, middle and last candidate; every precision."""
    chosen, size = sorted({0, len(card.members) // 2, len(card.members) - 1}), card.protocol.batch_size
    images = min(gpu_truth.STEPS, len(card.data.train) // size) * size
    truth = gpu_truth.Truth(card.spec, [card.members[m] for m in chosen], card.protocol, card.work(images))
    result: Result = {"ok": True}
    for precision in card.precisions:
        errors = truth.errors(card.engine(precision), chosen, precision)
        adrift = truth.adrift(card.engine(precision).epoch(card.work(images)).losses.cpu()[chosen])
        result[precision], line = gpu_truth.verdict(precision, errors, adrift)
        result["ok"] = result["ok"] and result[precision]["ok"]
        say(line)
    return result


def tiny(card: Card, say: Say) -> Result:
    """A few steps of two networks, signs, gradients and pairs: what memcheck looks at."""
    members = [card.members[0], card.members[-1]]
    losses = {}
    for precision in card.precisions:
        made = card.engine(precision, members, batch_size=48)
        images = card.data.train.images
        signs = torch.ones(2, *images.shape, dtype=torch.int8, device=card.device)
        for each in (card.work(120, 2), card.work(120, 2), card.work(120, 2, signs)):
            losses[precision] = float(made.epoch(each).losses.mean())
        x = pixels(card.data.test.images[:70], torch.float32)
        made.gradient(x, card.data.test.labels[:70])
        made.gradient(x[:50], card.data.test.labels[:50], counts=torch.tensor([33, 17]))
        card.sync()
    say(f"mean losses: {losses}")
    return {"losses": losses, "ok": all(loss == loss for loss in losses.values())}


def memcheck(card: Card, say: Say) -> Result:
    """Step tiny under compute-sanitizer, every access checked."""
    if card.device.type != "cuda":
        return {"skipped": "needs a GPU"}
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", sys.executable, __file__, "tiny"]
    command += ["--data", card.options.data, "--fewer", str(card.options.fewer), "--device", str(card.device)]
    return _program(command, say, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, 150)


def tests(card: Card, say: Say) -> Result:
    """All tests that need a GPU."""
    if card.device.type != "cuda":
        return {"skipped": "needs a GPU"}
    return _program([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--maxfail=20", "--durations=8"], say, {}, 300)


def profile(card: Card, say: Say) -> Result:
    """Time of a step as a graph, and of every kernel in ten steps and in a gradient."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    made = card.engine(card.precisions[-1])
    steps = len(card.data.train) // card.protocol.batch_size
    for _ in range(3):
        made.epoch(card.work(3 * card.protocol.batch_size))
    whole = card.work(steps * card.protocol.batch_size)
    result: Result = {"microseconds_a_step": 1e6 * card.seconds(lambda: made.epoch(whole)) / steps}
    say(f"a step: {result['microseconds_a_step']:.0f} us")
    _without_graphs(made)
    x, y = pixels(card.data.test.images[:128], torch.float32), card.data.test.labels[:128]
    few = card.work(10 * card.protocol.batch_size)
    made.gradient(x, y)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card.device.type == "cuda" else [])]
    for name, call in (("ten steps", lambda: made.epoch(few)), ("gradient of 128", lambda: made.gradient(x, y))):
        with profiler(activities=kinds) as seen:
            card.seconds(call)
        averages = seen.key_averages()
        order = "device_time_total" if card.device.type == "cuda" else "cpu_time_total"
        say(f"{name}\n{averages.table(sort_by=order, row_limit=22, max_name_column_width=40)}")
        result[name] = {each.key: getattr(each, order) for each in averages}
    return result


def repeat(card: Card, say: Say) -> Result:
    """Different results of one epoch run again and again, as a graph and launch by launch: one is right."""
    result: Result = {}
    for precision in card.precisions:
        seen: dict[str, int] = {}
        for number in range(card.options.runs):
            made = card.engine(precision)
            if number % 3 == 2:
                _without_graphs(made)
            made.epoch(card.work(len(card.data.train)))
            key = _digest(made)
            seen[key] = seen.get(key, 0) + 1
        result[precision] = {"results": seen, "graphs": made._op.fallback or "used"}
        say(f"{precision}: {len(seen)} different results in {card.options.runs} runs")
    return result | {"ok": all(len(result[precision]["results"]) == 1 for precision in card.precisions)}


def signs(card: Card, say: Say) -> Result:
    """Share of the attack's signs that differ from float64's, beside torch's own fp32."""
    made, result = card.engine("fp32"), {}
    x, y = pixels(card.data.test.images[:256], torch.float32), card.data.test.labels[:256]
    ours, _ = made.gradient(x, y)
    for m in (0, len(card.members) - 1):
        member = card.members[m]
        true, plain = (
            LoopEngine(card.spec, [member], card.protocol.replace(precision=precision), device)
            .gradient(x.to(device, dtype), y.to(device))[0][0].cpu()
            for precision, device, dtype in (
                ("fp64", torch.device("cpu"), torch.float64), ("fp32", card.device, torch.float32),
            )
        )  # fmt: skip
        shares = [float((each.cpu().sign() != true.sign()).double().mean()) for each in (ours[m], plain)]
        result[member.name] = dict(zip(("ours", "torch"), shares, strict=True))
        say(f"{member.name}: {shares[0]:.1e} of the signs differ from float64's, {shares[1]:.1e} of torch's")
    return result


def table(card: Card, say: Say) -> Result:
    """The whole experiment, some times; the first one compiles."""
    turns = []
    for turn in range(card.options.turns):
        made = card.engine(card.precisions[-1])
        begin = time.perf_counter()
        rows = run_group(made, card.data, made.protocol, evaluation_batch=card.options.evaluation_batch)
        card.sync()
        turns.append(time.perf_counter() - begin)
        phases = {str(row["phase"]): float(str(row["seconds"])) for row in rows.timings}
        say(f"turn {turn}: {turns[-1]:.2f} s; {phases}")
    accuracy = [float(str(row["test_accuracy"])) for row in rows.table]
    return {"seconds": turns, "phases": phases, "mean_test_accuracy": statistics.fmean(accuracy)}


def command(card: Card, say: Say) -> Result:
    """The command itself, in processes of its own: its seconds by what it was at, and its groups' by phase."""
    options = [word for each in card.protocol.candidates for word in ("--hidden", ",".join(each.name.split("-")))]
    turns = []
    with TemporaryDirectory() as folder:
        for turn in range(card.options.turns):
            out = Path(folder) / str(turn)
            words = [
                sys.executable,
                "-m",
                "atras.batched",
                "--dataset",
                card.options.data,
                "--quiet",
                "--out",
                str(out),
            ]
            done = _program([*words, *options, "--device", str(card.device)], lambda _: None, {}, 240)
            if not done["ok"]:
                say(str(done.get("tail", done.get("error"))))
                return done
            turns.append(json.loads((out / "run.json").read_text())["timings"])
            with suppress(ImportError):
                from polars import read_parquet

                phases = read_parquet(out / "timings.parquet").group_by("phase", maintain_order=True).sum()
                turns[-1]["phases"] = dict(phases.select("phase", "seconds").iter_rows())
            say(f"turn {turn}: {json.dumps(turns[-1])}")
    return {"ok": True, "turns": turns}


def memory(card: Card, say: Say) -> Result:
    """Ten seeds of everything: time of a step, and bytes beside those that were predicted."""
    seeds = tuple(range(10))
    members = members_of(card.protocol.candidates, seeds)
    made = card.engine(card.precisions[-1], members)
    orders = torch.stack([permutation(seed, "train", 1, len(card.data.train)) for seed in seeds]).to(card.device)
    rows = torch.tensor([member.seed for member in members], device=card.device)
    work = Epoch(card.data.train.images, card.data.train.labels, orders, rows, None, 0.0)
    steps = -(-len(card.data.train) // card.protocol.batch_size)
    made.epoch(work)
    seconds = card.seconds(lambda: made.epoch(work))
    result: Result = {"members": len(members), "microseconds_a_step": 1e6 * seconds / steps, "op_bytes": made._op.bytes}
    if card.device.type == "cuda":
        networks = [Network(card.spec, member.candidate) for member in members]
        result["predicted_bytes"] = fused_device_bytes(
            networks, precision=card.precisions[-1], batch=card.protocol.batch_size, evaluation_batch=26, images=0
        )
        result["used_bytes"] = torch.cuda.max_memory_allocated(card.device)
    say(json.dumps(result))
    return result


def peers(card: Card, say: Say) -> Result:
    """bench/peers.py with 500 steps a round: loops, loops in CUDA graphs, torch.func's vmap."""
    if card.device.type != "cuda":
        return {"skipped": "needs a GPU"}
    command = [sys.executable, str(ROOT / "bench" / "peers.py"), "--device", str(card.device)]
    command += ["--dataset", card.options.data, "--steps", "500", "--rounds", "5", "--seconds", "200"]
    names = ("loop_fp32", "loop_bf16", "loop_cuda_graph", "vmap_bf16")
    command += [word for name in names for word in ("--peer", name)]
    return _program([*command, "--json", str(card.options.out.with_suffix(".peers.json"))], say, {}, 240)


STEPS: dict[str, Callable[[Card, Say], Result]] = {
    step.__name__: step
    for step in (versions, truth, tiny, memcheck, tests, profile, repeat, signs, table, command, memory, peers)
}


def _program(command: Sequence[str | Path], say: Say, more: dict[str, str], seconds: float) -> Result:
    """Run another program; ok is its exit status 0."""
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{command[0]}: {error}")
        return {"ok": False, "error": str(error)}
    tail = (done.stdout + done.stderr)[-6000:]
    say(tail)
    return {"ok": done.returncode == 0, "status": done.returncode, "tail": tail}


def _without_graphs(engine: FusedEngine) -> None:
    if engine.device.type == "cuda":
        engine._op._step.graphs.reason = "off"


def _digest(engine: FusedEngine) -> str:
    """Sixteen digits of all parameters' bits."""
    found = hashlib.sha256()
    for index in range(len(engine.members)):
        for values in engine.get_parameters(index).values():
            found.update(values.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def untrue(results: dict[str, Result]) -> list[str]:
    """The steps that forbid timing."""
    return [name for name in ("truth", "memcheck") if results.get(name, {}).get("ok", True) is False]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that were asked for.

    Returns:
        0; 1 where a step failed, or was not run because of one that did; 2 for bad input.
    """
    told = "\n".join(["steps:", *(f"  {name:<9} {step.__doc__}" for name, step in STEPS.items())])
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser("gpu_first_run.py", description=about, epilog=told, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--data", default="digits", help="a data set's name, or a path; default: digits")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--fewer", type=int, default=1, metavar="K", help="every K-th candidate alone")
    parser.add_argument("--runs", type=int, default=60, metavar="N", help="of step repeat")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="of steps table and command")
    parser.add_argument("--evaluation-batch", type=int, default=250, metavar="N", help="of step table")
    parser.add_argument("--out", type=Path, default=Path("gpu_first_run.json"), metavar="FILE", help="where results go")
    parser.add_argument("--after", type=Path, metavar="FILE", help="results of a former call, whose failures count")
    options = parser.parse_args(argv)
    try:
        results: dict[str, Result] = json.loads(options.after.read_text()) if options.after else {}
        card = Card(options)
    except (InputError, OSError, ValueError) as error:
        print(f"gpu_first_run.py: {error}", file=sys.stderr)
        return 2
    failed = False
    for name in options.steps:
        wrong = untrue(results) if name in TIMED else []
        print(f"== {name}", flush=True)
        if wrong:
            results[name] = {"ok": False, "skipped": f"{' and '.join(wrong)} failed: nothing is timed"}
            print(results[name]["skipped"], flush=True)
        else:
            results[name] = STEPS[name](card, lambda line: print(line, flush=True))
        failed = failed or results[name].get("ok", True) is False
        options.out.write_text(json.dumps(results, indent=1, default=str))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
