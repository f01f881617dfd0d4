"""Ray, as a run uses it: a cluster that is there, or one of its own on this machine, which nobody else reaches."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from atras.errors import InputError
from atras.limits import processors
from atras.running.signals import NAMES

LOOPBACK = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # All of Ray's processes then have the address 127.0.0.1, and listen at that alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

PRINTER = "print_to_stdstream"
"""The function by which Ray prints what goes wrong in a cluster."""

MOST_SOCKET_FOLDER = 30
"""Characters of a folder that leave a path of a socket in it the length that systems allow."""


def ray_module() -> Any:
    """Ray.

    Raises:
        InputError: if it is not installed.
    """
    try:
        # Before it is imported: Ray reads it then.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("executor (=ray): expected the package ray; run pip install 'atras[ray]'") from None


class Cluster:
    """A connection to Ray's processes, until `close`.

    Args:
        address: of a cluster, or None for one of this machine, which is started, and ended by `close`. Where the
            caller has connected to Ray already, that is taken, and left as it is.
        gpus: of a cluster that is started.
        store_bytes: room for what tasks of it share.

    Raises:
        InputError: if Ray is not installed, or cannot be reached.
    """

    def __init__(self, address: str | None, gpus: int, store_bytes: int) -> None:
        self._folder: str | None = None
        self._print: Any = None
        self.own = address is None
        self._connected = False
        try:
            with _environment(own_environment() if self.own else {}):
                self._begin(address, gpus, store_bytes)
        except BaseException:
            self._forget_token()
            raise

    def _begin(self, address: str | None, gpus: int, store_bytes: int) -> None:
        self.ray = ray_module()
        self._connected = not self.ray.is_initialized()
        if self._connected:
            self._forget_token()
            with _same_signals(), _quiet():
                self._connect(address, gpus, store_bytes)

    def _connect(self, address: str | None, gpus: int, store_bytes: int) -> None:
        options: dict[str, Any] = {
            "log_to_driver": False, "configure_logging": False, "logging_level": logging.CRITICAL,
        }  # fmt: skip
        if address is None:
            # As LOOPBACK says it, where Ray was imported before.
            self.ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
            self._folder = _short_folder()
            options |= {
                "address": "local", "include_dashboard": False, "num_cpus": processors().amount, "num_gpus": gpus,
                "object_store_memory": store_bytes, "_temp_dir": self._folder,
            }  # fmt: skip
        else:
            options["address"] = address
        self._silence()
        try:
            self.ray.init(**options)
        except Exception as error:
            self.close()
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            if address is None:
                raise InputError(f"executor (=ray): expected Ray to start on this machine: {reason}") from error
            raise InputError(
                f"ray_address (={address!r}): expected a Ray cluster that can be reached: {reason}; start it with ray "
                "start --head, name another, or set RAY_AUTH_MODE=token if it wants a token"
            ) from error

    def _silence(self) -> None:
        """Lost workers come as exceptions; Ray would print them as well, on standard output, and has no switch."""
        module = self.ray._private.worker
        self._print = getattr(module, PRINTER, None)
        setattr(module, PRINTER, lambda *_, **__: None)

    def _forget_token(self) -> None:
        """A cluster of this one's own has a token of its own, which none before or behind it in this process has."""
        if self.own:
            read_token_anew()

    def nodes(self) -> list[dict[str, Any]]:
        """The machines that are there."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """Leave the cluster, and end it where it was started here. May be called twice."""
        if self._connected:
            with _same_signals(), _quiet():
                self.ray.shutdown()
            if self._print is not None:
                setattr(self.ray._private.worker, PRINTER, self._print)
            self._forget_token()
        self._connected = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def own_environment() -> dict[str, str]:
    """The surroundings of a cluster that nobody else is to reach: without the token, drawn for it, it answers none."""
    return LOOPBACK | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def read_token_anew() -> None:
    """Have Ray, which reads them once a process, read how clusters are entered, and the token, from the environment."""
    if sys.modules.get("ray"):
        raylet = importlib.import_module("ray._raylet")
        # In this order: what of a connection still ends may ask for the token in between.
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="atras-ray-", dir=usual if len(usual) <= MOST_SOCKET_FOLDER else "/tmp")  # noqa: S108


@contextmanager
def _same_signals() -> Iterator[None]:
    """Ray answers SIGTERM in its own way; afterwards it is answered as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """What Ray says while it starts and ends is for its own users; what goes wrong comes as an exception."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        with suppress(OSError, ValueError):
            sys.stderr.flush()
