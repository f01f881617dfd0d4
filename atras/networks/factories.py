"""Factories: where the modules that a user brings come from, as data that files can hold."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atras.errors import InputError, shown
from atras.storage import expanded, is_file, near_misses, read_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_SOURCE_BYTES = 2**24
"""Largest file with a factory that is read."""

MAX_NAME = 100
"""Most characters of a network's name."""

_NAME = re.compile(r"[A-Za-z_][\w.-]*", flags=re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*", flags=re.ASCII)
_FOREIGN = ("torch", "numpy")
"""Packages whose code is no part of a factory's source."""


@dataclass(frozen=True)
class Factory:
    """A function without arguments that returns a new `nn.Module`: from images [B, C, H, W] in [0, 1] to logits [B, Y].

    Args:
        name: of the network in frames and files.
        function: what makes it, as its file or module names it.
        sha256: of the source; empty where there is none to read.
        file: path of the source, or the dotted name of a module; empty for a function that was given in Python.
        call: the function that was given in Python; None for one that is loaded from `file`.
        held: a finished module, which `make` returns itself and nobody changes; None for all others.
        weights: where the parameters of a finished network come from, for people; empty where they are drawn.
        state: those parameters and buffers, under the module's own names.

    Raises:
        InputError: if the name is none.
    """

    name: str
    function: str
    sha256: str = ""
    file: str = field(default="", compare=False)
    call: Callable[[], nn.Module] | None = field(default=None, repr=False)
    held: nn.Module | None = field(default=None, repr=False)
    weights: str = ""
    state: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME or not _NAME.fullmatch(self.name):
            raise InputError(
                f"network (={shown(self.name)}): expected a name of letters, digits and . _ - that begins with a "
                "letter; rename it"
            )

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Factory:
        """The factory that `mine.py:make` or `package.module:make` names.

        Args:
            text: file or module, a colon, and the function.
            name: of the network; None for the function's.

        Raises:
            InputError: if the text is of another form, or the file cannot be read.
        """
        file, colon, function = text.rpartition(":")
        if not colon or not file or not _FUNCTION.fullmatch(function):
            raise InputError(
                f"network (={shown(text)}): expected a file and the function in it that makes the module, such as "
                "mine.py:make"
            )
        # A task may be computed in another folder.
        where = str(expanded(file).absolute()) if _is_path(file) else file
        return cls(name or function.rpartition(".")[2], function, _digest(_source(file, text)), where)

    @classmethod
    def of(cls, name: str, call: Callable[[], nn.Module]) -> Factory:
        """The factory that is a function or class given in Python.

        Raises:
            InputError: if it is a module itself, or cannot be called.
        """
        if not callable(call) or _is_module(call):
            made = "a finished module" if _is_module(call) else shown(call)
            raise InputError(
                f"network {shown(name)}: expected a function that makes the module, got {made}; write for example "
                "networks={'mine': Net} with class Net, or lambda: Net(width=32)"
            )
        if type(call).__hash__ is None:  # what is compared by its content
            call = call.__call__  # type: ignore[operator]
        plain = call.func if isinstance(call, functools.partial) else call
        function = str(getattr(plain, "__qualname__", type(plain).__qualname__))
        return cls(name, function, _digest_of(call), call=call)

    @classmethod
    def holding(cls, name: str, module: nn.Module) -> Factory:
        """A finished module that the caller owns."""
        if not _is_module(module):
            raise InputError(f"module {shown(name)}: expected a torch.nn.Module, got {_kind(module)}")
        return cls(name, type(module).__qualname__, held=module)

    def starting_from(self, state: Mapping[str, Tensor], weights: str) -> Factory:
        """The factory whose modules have these parameters and buffers, whatever they were drawn as.

        Args:
            state: as of `nn.Module.state_dict`.
            weights: where they come from, such as a file and its checksum; what is told apart by.
        """
        return replace(self, state=dict(state), weights=weights)

    def renamed(self, name: str) -> Factory:
        """The same under another name."""
        return self if name == self.name else replace(self, name=name)

    def to_dict(self) -> dict[str, str]:
        """The source as JSON values, for `run.json`."""
        return self.identity | ({"file": self.file} if self.file else {})

    @property
    def identity(self) -> dict[str, str]:
        """What decides which module it makes, wherever its file lies."""
        values = {"function": self.function, "sha256": self.sha256, "weights": self.weights}
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, str]) -> Factory:
        """The factory that a `run.json` records; what it is of need not be there before it makes something.

        Raises:
            InputError: if it records none.
        """
        known = {"function", "sha256", "file", "weights"}
        if not isinstance(values, Mapping) or not set(values) <= known or "function" not in values:
            raise InputError(f"networks: expected where {name} is made, got {shown(values)}; restore the record")
        if not all(isinstance(value, str) for value in values.values()):
            raise InputError(f"networks: expected texts of {name}, got {shown(values)}; restore the record")
        function, sha256, file, weights = (values.get(key, "") for key in ("function", "sha256", "file", "weights"))
        return cls(name, function, sha256, file, weights=weights)

    def check_source(self, other: Factory) -> None:
        """Refuse another source than this one's.

        Raises:
            InputError: if both are known and differ; it names both.
        """
        if self.sha256 and other.sha256 and self.sha256 != other.sha256:
            raise _changed(f"network {self.name}", self.sha256, other.sha256)

    def make(self, key: int) -> nn.Module:
        """A new module on the CPU, its parameters drawn by torch's generator at a key; torch's own state is left alone.

        Args:
            key: 64 bits.

        Raises:
            InputError: if the source is gone or another, or the function fails or returns no module; one line says
                where.
        """
        if self.held is not None:
            return self.held
        if self.weights and self.state is None:
            raise InputError(f"network {self.name}: its weights ({self.weights}) are not loaded; give them again")
        from .torch_generators import keyed

        function = self._function()
        _refuse_arguments(self.name, function)
        with keyed(key), _beside(self.file):
            try:
                module = function()
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"network {self.name}: {self.function} failed: {where_and_what(error)}") from error
        if not _is_module(module):
            raise InputError(
                f"network {self.name}: expected {self.function} to return a torch.nn.Module, got {_kind(module)}"
            )
        if self.state is not None:
            self._fill(module, self.state)
        return module

    def _fill(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        try:
            module.load_state_dict(dict(state))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(f"network {self.name}: its weights ({self.weights}) do not fit: {error}") from None

    def _function(self) -> Callable[[], nn.Module]:
        if self.call is not None:
            return self.call
        if not self.file:
            raise InputError(
                f"network {self.name}: it was given in Python ({self.function}); give it again, as "
                f"networks={{{self.name!r}: {self.function}}}"
            )
        return _loaded(self.file, self.function, self.sha256)


def where_and_what(error: BaseException) -> str:
    """An error of a user's code in one line: its kind and text, and the file and line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    here, torch = str(Path(__file__).parents[1]), f"{os.sep}torch{os.sep}"
    own = [frame for frame in frames if not frame.filename.startswith(here) and torch not in frame.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text[:500]}' if text else ''}{place}"


def called(name: str, module: nn.Module, images: Tensor) -> Tensor:
    """What a module makes of images.

    Raises:
        InputError: if it fails for another reason than memory; one line says where.
    """
    try:
        return module(images)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if "memory" in str(error).lower():  # whoever runs it divides the work
            raise
        raise InputError(
            f"network {name}: it failed on images {list(images.shape)}: {where_and_what(error)}; if it is made for "
            "others, name them with --dataset (in Python dataset=)"
        ) from error


def _is_path(file: str) -> bool:
    return file.endswith(".py") or "/" in file or os.sep in file


def _source(file: str, text: str) -> bytes:
    """The content of a file, or of the file that a dotted module is in."""
    path = expanded(file) if _is_path(file) else _path_of_module(file, text)
    try:
        return read_regular(path, MAX_SOURCE_BYTES)
    except OSError as error:
        near = near_misses(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(
            f"network (={shown(text)}): {path} cannot be read ({error.strerror}); name its file{near}"
        ) from None


def _path_of_module(dotted: str, text: str) -> Path:
    with _beside(""):
        try:
            found = importlib.util.find_spec(dotted)
        except (ImportError, ValueError):
            found = None
    if found is None or found.origin is None or not is_file(found.origin):
        raise InputError(
            f"network (={shown(text)}): expected a file, such as mine.py, or a module that Python finds, got {dotted}"
        )
    return Path(found.origin)


def _loaded(file: str, function: str, sha256: str) -> Callable[[], nn.Module]:
    """The function, out of the very source that was recorded."""
    text = f"{file}:{function}"
    source = _source(file, text)
    if sha256 and (now := _digest(source)) != sha256:
        raise _changed(f"network (={shown(text)})", sha256, now)
    value: Any = _imported(file, text, _digest(source))
    for part in function.split("."):
        value = getattr(value, part, None)
    if not callable(value):
        there = ", ".join(
            name
            for name, each in vars(_imported(file, text, _digest(source))).items()
            if callable(each) and not name.startswith("_")
        )
        raise InputError(
            f"network (={shown(text)}): expected a function {function}, found none; there are {there or 'none'}"
        )
    return value


@functools.lru_cache(maxsize=256)
def _imported(file: str, text: str, digest: str) -> types.ModuleType:
    """A file's module, made once for each content."""
    with _beside(file):
        try:
            if not _is_path(file):
                return importlib.import_module(file)
            path = expanded(file)
            name = f"_atras_network_{digest[:16]}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise InputError(
                    f"network (={shown(text)}): expected a Python file, got {path.name}; name one that ends in .py"
                )
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # dataclasses and pickles look it up there
            spec.loader.exec_module(module)
            return module
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"network (={shown(text)}): importing it failed: {where_and_what(error)}") from error


@contextlib.contextmanager
def _beside(file: str) -> Iterator[None]:
    """What a file imports from beside it is found, as when it is run."""
    folder = str(expanded(file).resolve().parent) if _is_path(file) else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _refuse_arguments(name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # it has none to look at
    try:
        signature.bind()
    except TypeError:
        called = getattr(function, "__name__", type(function).__name__)
        raise InputError(
            f"network {name}: expected a function without arguments, got {called}{signature}; give them defaults, or "
            f"write a function that calls it"
        ) from None


def _is_module(value: object) -> bool:
    """Whether it is a torch module; what has not imported torch has none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


class SourceChangedError(InputError):
    """The source of a module is another than the one that is recorded."""


def _changed(what: str, before: str, now: str) -> SourceChangedError:
    return SourceChangedError(
        f"{what}: its source was {before[:16]} (SHA-256) and is {now[:16]}; restore it, or start a new run"
    )


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def _digest_of(call: Any) -> str:
    """Of the definition of a function or class, and of those of its own file that it names; empty where it has none."""
    parts: dict[str, None] = {}
    if isinstance(call, functools.partial):
        parts[re.sub(r" at 0x[0-9a-f]+", "", f"{call.args!r} {sorted(call.keywords.items())!r}")] = None
        call = call.func
    for cell in getattr(call, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            if isinstance(cell.cell_contents, int | float | str | tuple):
                parts[repr(cell.cell_contents)] = None
    _add_sources(call, parts)
    return _digest("\n".join(parts).encode()) if any("\n" in part for part in parts) else ""


def _add_sources(value: Any, parts: dict[str, None]) -> None:
    """The source of a definition, then of what it names in its own module."""
    try:
        text = inspect.getsource(value)
    except (OSError, TypeError):
        return
    if text in parts:
        return
    parts[text] = None
    functions = (
        [each for each in vars(value).values() if inspect.isfunction(each)] if isinstance(value, type) else [value]
    )
    bases = list(value.__mro__[1:]) if isinstance(value, type) else []
    globals_of = [getattr(each, "__globals__", {}) for each in functions]
    named = [own.get(name) for each, own in zip(functions, globals_of, strict=True) for name in _names(each.__code__)]
    for other in [*bases, *named]:
        own_file = getattr(other, "__module__", "").partition(".")[0] not in (*_FOREIGN, "builtins", "")
        if own_file and (inspect.isfunction(other) or isinstance(other, type)):
            _add_sources(other, parts)


def _names(code: types.CodeType) -> list[str]:
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    return [*code.co_names, *inner]
