"""Runs atras in children that can be killed at any moment. They are forked, so that torch is imported once.

Each line on standard input is a JSON object: the protocol's and the execution's fields, `directory`, and `resume`; a
`budget` for a search; and, where the child is to kill itself, `kill`: the module, the name in it, and which call.
After a first line, `ready`, the answers are a line with the child's process id, and, when it has ended, one with its
exit status (negative: a signal).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

# What children would import, each for itself.
import sklearn.datasets  # noqa: F401
import torch._dynamo
import torch.distributed.tensor  # noqa: F401

from atras import running, search
from atras.experiment import Execution, Protocol
from atras.experiment.options import execution_fields, protocol_fields
from atras.training import epochs

# A call for each step, so that there are as many moments as can be between which a child dies.
epochs.CALL_SECONDS = 0


def compute(request: dict[str, Any]) -> None:
    if request["resume"]:
        (search if request["budget"] else running).resume(request["directory"])
        return
    protocol, execution = protocol_fields(request["protocol"]), execution_fields(request["execution"])
    if request["budget"]:
        search.search(Protocol(**protocol), Execution(**execution), request["budget"], request["directory"])
        return
    running.run(Protocol(**protocol), Execution(**execution), out=request["directory"])


def die_at(module: str, name: str, last: int) -> None:
    """Let a function's `last` call, from 1, be the end of the process."""
    place: Any = importlib.import_module(module)
    *owners, name = name.split(".")
    for owner in owners:
        place = getattr(place, owner)
    function, calls = getattr(place, name), iter(range(1, last + 1))

    def dying(*args: Any, **options: Any) -> Any:
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    setattr(place, name, dying)


def child(request: dict[str, Any]) -> None:
    try:
        if request["kill"]:
            die_at(*request["kill"])
        compute(request)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def say(answer: object) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def main() -> None:
    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(request)
        say(pid)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
