"""Engines and executors by name, as far as an `Execution` needs them: the classes are in `engines` and `running`.

A new one is a file there and a line here.
"""

from __future__ import annotations

from typing import Any

from atras.registry import Registry

ENGINES: Registry[Any] = Registry(
    "engine",
    {
        "loop": ("atras.engines.loop:LoopEngine", "one member after the other in plain torch; any layers"),
        "stack": ("atras.engines.stack:StackEngine", "members of one structure as one vmap program; any layers"),
        "fused": (
            "atras.engines.fused:FusedEngine",
            "whole groups in C++ on a CPU, in Triton on a GPU; there convolutions of 3x3 alone",
        ),
        "modules": (
            "atras.engines.modules:ModulesEngine",
            "modules of your own, one after the other in their own code",
        ),
        "modules-stack": (
            "atras.engines.module_stack:ModuleStackEngine",
            "modules of your own that one function makes, all seeds as one vmap program",
        ),
    },
    group="atras.engines",
)

EXECUTORS: Registry[Any] = Registry(
    "executor",
    {
        "local": ("atras.running.executors.local:LocalExecutor", "group after group in this process"),
        "processes": (
            "atras.running.executors.processes:ProcessesExecutor",
            "groups in processes of this machine, one for each GPU",
        ),
        "ray": ("atras.running.executors.ray:RayExecutor", "groups as tasks of a Ray cluster; needs the extra ray"),
    },
    group="atras.executors",
)
