"""The abilities of a machine, as far as a plan depends on them, and the engine and precision that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from atras.engines import ENGINES
from atras.errors import InputError
from atras.kernels.backends import Bf16
from atras.limits import Limit

MEMORY_SHARE = 0.6
"""Of the device's memory, what a group may be predicted to need when no cap is given: predictions are not exact."""

NO_BF16 = Bf16(False, False, "bf16 is not there")


@dataclass(frozen=True)
class Machine:
    """The abilities of a machine.

    Args:
        kind: `cpu` or `cuda`.
        memory_bytes: most that a group may be predicted to need.
        fused: why engine fused cannot compute the run here; empty where it can.
        fused_slow: why it is slower here than plain torch, though it can run; empty where it is not.
        bf16: whether engine fused has bf16 here, and whether that is faster than fp32; a GPU has tf32 then too.
        threads: that compute.
    """

    kind: str
    memory_bytes: int
    fused: str = ""
    bf16: Bf16 = NO_BF16
    threads: int = 1
    fused_slow: str = ""
    streams: bool = False


def memory_cap(asked: int | None, there: int) -> int:
    """Most bytes that what is computed at once may be predicted to take.

    Args:
        asked: `--memory`, in bytes; None for a share of what there is.
        there: bytes that there are.
    """
    return asked or int(MEMORY_SHARE * there)


def choose_engine(engine: str, precision: str, convolutions: bool, machine: Machine) -> tuple[str, str]:
    """The engine and precision that `auto` means; both come from what a machine is good at, never from a timing.

    That is `fused`, in bf16 where that is faster than fp32. Where it cannot compute the run or is slow, or fp64 is
    asked for, it is `stack`; but on a CPU, where a stack of convolutions is slower than a loop, `loop` for those.

    Args:
        engine, precision: as asked for.
        convolutions: whether the networks have any.
        machine: what it can do.

    Raises:
        InputError: if the two do not go together, or the machine cannot do what was asked.
    """
    if engine == "auto":
        slow = machine.fused_slow and precision != "bf16"  # which no other engine has
        if not machine.fused and not slow and precision != "fp64":
            engine = "fused"
        else:
            engine = "loop" if machine.kind == "cpu" and convolutions else "stack"
    if engine == "fused":
        if machine.fused:
            advice = "" if ";" in machine.fused else "; use --engine loop or stack"
            raise InputError(f"engine (=fused): {machine.fused}{advice}")
        if precision == "fp64":
            raise InputError("precision (=fp64): engine fused computes in fp32 or less; use --engine loop or stack")
        if reason := _lacks(precision, machine):
            raise InputError(f"precision (={precision}): {reason}; use --precision fp32")
        return engine, ("bf16" if machine.bf16.faster else "fp32") if precision == "auto" else precision
    if precision != "auto" and precision not in ENGINES.get(engine).precisions:
        if ENGINES.get(engine).takes_modules:
            raise InputError(
                f"precision (={precision}): engine {engine} computes modules of yours in fp32 or fp64; use --precision "
                "auto"
            )
        missing = f", which cannot run here: {machine.fused}" if machine.fused else ""
        raise InputError(
            f"precision (={precision}): engine {engine} computes in fp32 or fp64; use --engine fused{missing}"
        )
    return engine, "fp32" if precision == "auto" else precision


def reason_for(asked: str, engine: str, machine: Machine) -> str:
    """Why `auto` did not take engine fused: a line for people; empty where it did or was not asked."""
    why = machine.fused or machine.fused_slow
    if asked != "auto" or engine == "fused" or not why:
        return ""
    return f"engine fused is not taken: {why}"


def precision_reason(asked: str, engine: str, precision: str, machine: Machine) -> str:
    """Why a run takes its precision: a line for people; empty where it was asked for and is not the slower one."""
    if asked == "bf16" and not machine.bf16.faster:
        return f"bf16, as asked for, though {machine.bf16.reason}"
    if asked != "auto":
        return ""
    if engine != "fused":
        return f"{precision}: engine {engine} computes in fp32 or fp64"
    return f"{precision}: {machine.bf16.reason}"


def memory_line(cap: int | None, room: Limit) -> str:
    """What limits the memory of a group, and where that is said: a line for people.

    Args:
        cap: `--memory`, in bytes; None for a share of what there is.
        room: bytes that there are.
    """
    there = f"{room.amount / 2**20:.0f} MiB ({room.source})"
    if cap is None:
        return f"memory: {MEMORY_SHARE * room.amount / 2**20:.0f} MiB a group, {MEMORY_SHARE:.0%} of {there}"
    more = f", which is more than the {there} that there are" if cap > room.amount else ""
    return f"memory: {cap / 2**20:.0f} MiB a group, as asked for by --memory{more}"


def threads_line(usable: Limit) -> str:
    """How many threads compute, and where that is said: a line for people."""
    return f"threads: {usable.amount} ({usable.source})"


def _lacks(precision: str, machine: Machine) -> str:
    """Why engine fused has no such precision here; empty where it has."""
    if precision == "tf32" and machine.kind == "cpu":
        return "only GPUs have it"
    return machine.bf16.reason if precision in ("tf32", "bf16") and not machine.bf16.there else ""
