"""Experiments from a file: a `run.toml` written by hand, or the `run.json` of an earlier run, which repeats it."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

from atras.checks import schema
from atras.errors import InputError, shown
from atras.networks import PAPER_CANDIDATES
from atras.storage import expanded, near_misses, read_regular

from .options import REMOVED, SETTINGS, Loaded, execution_fields, preset_fields, protocol_fields
from .own_networks import OwnNetworks, recall_networks
from .protocol import Execution, Protocol

MAX_BYTES = 2**26
"""Largest run.json accepted: a plan takes some hundred bytes a member, and a session a kilobyte or two."""

MAX_TOML_BYTES = 2**20
"""Largest run.toml accepted: it is written by hand."""

MAX_TOML_DOTS = 100
"""Most dots on a line of it: the parser takes time that grows with the square of a key's dots."""

_KEYS = {name: key for key, setting in SETTINGS.items() for name in setting.names}
"""From every name that a setting goes by in a file to its key."""


def load_config(path: str | Path, networks: OwnNetworks | None = None) -> Loaded:
    """Read an experiment from a file.

    Args:
        path: a TOML file whose keys are named like the options (dashes or underscores), or, where the name ends in
            `.json`, the `run.json` of an earlier run.
        networks: modules of the user that it has, given anew.

    Returns:
        The fields it sets, and the recorded plan of a `run.json`.

    Raises:
        InputError: if the file cannot be read, a key is unknown, or a value has another type or range than its field.
    """
    path = expanded(path)
    try:
        document = parse_file(path)
        return from_run(document, networks) if path.suffix.lower() == ".json" else _from_settings(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def config_lines(protocol: Protocol, execution: Execution) -> list[str]:
    """The lines of a TOML file that `load_config` reads as the same experiment.

    Args:
        protocol, execution: what to write; what holds no value is left out.
    """
    lines = ["# every setting of an experiment; those at their defaults may be left out"]
    for part in (protocol, execution):
        values = part.to_dict()
        places = values.pop("networks", {})
        if places:  # a file says where a module of the user is made
            values["candidates"] = [
                f"{places[name]['file']}:{places[name]['function']}" if places.get(name, {}).get("file") else name
                for name in values["candidates"]
            ]
        # What JSON writes for texts, numbers, truths and lists of them is TOML too.
        lines += [
            "",
            *(f"{key} = {json.dumps(values[key], ensure_ascii=False)}" for key in values if values[key] is not None),
        ]
    return lines


def parse_file(path: Path) -> dict[str, Any]:
    """The content of a file of known size and syntax: JSON where its name ends in `.json`, otherwise TOML.

    Raises:
        InputError: if it cannot be read or is of another form; the message does not name the file.
    """
    try:
        document = _json(path) if path.suffix.lower() == ".json" else _toml(path)
    except OSError as error:
        near = near_misses(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(
            f"cannot be read ({error.strerror}); name a run.toml or the run.json of an earlier run{near}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            "expected UTF-8 text, got other bytes; name a run.toml or the run.json of an earlier run"
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise InputError(f"expected {kind}, got something else: {error}") from None
    if not isinstance(document, dict):
        raise InputError("expected an object with the key protocol; name the run.json of an earlier run")
    return document


def _toml(path: Path) -> dict[str, Any]:
    text = read_regular(path, MAX_TOML_BYTES).decode("utf-8-sig")  # some editors begin with a mark
    if max(line.count(".") for line in text.split("\n")) > MAX_TOML_DOTS:
        raise InputError(f"expected at most {MAX_TOML_DOTS} dots on a line, got more; is it a configuration file?")
    return tomllib.loads(text)


def _json(path: Path) -> Any:
    text = read_regular(path, MAX_BYTES).decode("utf-8-sig")
    return json.loads(text, object_pairs_hook=_distinct_keys, parse_constant=_no_number)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two, JSON's reader would take the last without a word."""
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"key {shown(twice)} came twice; give it once")
    return content


def _no_number(text: str) -> float:
    raise InputError(f"expected numbers, got {text}, which JSON does not have")


def from_run(document: dict[str, Any], networks: OwnNetworks | None = None) -> Loaded:
    """The experiment that a `run.json` records, or a search.json, which has its keys.

    Args:
        document: its content.
        networks: modules of the user that it has, given anew.

    Raises:
        InputError: as `load_config`, or if another schema was written; the message does not name the file.
    """
    for key, needed in (("protocol", True), ("execution", False), ("plan", False)):
        if not isinstance(document.get(key), dict) and (needed or document.get(key) is not None):
            raise InputError(f"{key}: expected an object; name the run.json of an earlier run")
    schema(document)
    # A repetition takes the recorded plan, so there is nothing to measure anew.
    execution = {key: value for key, value in (document.get("execution") or {}).items() if key != "recalibrate"}
    protocol = dict(document["protocol"])
    recall_networks(protocol.pop("networks", None), networks)
    loaded = _from_settings(protocol | execution, plan=document.get("plan"))
    recorded, actual = document.get("protocol_hash"), Protocol(**loaded.protocol_fields).hash
    if recorded not in (None, actual):
        raise InputError(
            f"protocol_hash (={shown(recorded)}): the protocol in this file has {actual}: it was edited, or "
            "atras changed since; remove protocol_hash and plan to run it as a new experiment"
        )
    return loaded


def _from_settings(document: dict[str, Any], plan: dict[str, Any] | None = None) -> Loaded:
    settings = _validated(document)
    preset = settings.get("preset")
    fields = protocol_fields(settings, preset_fields(preset).get("candidates", PAPER_CANDIDATES))
    places = execution_fields(settings)
    # The optimizer that gives momentum its meaning may still come from the command line.
    Protocol(**({"optimizer": "sgd"} | fields))
    Execution(**places)
    return Loaded(fields, places, plan, preset)


def _validated(document: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file by their keys, each of its type; keys with nothing in them are dropped."""
    settings: dict[str, Any] = {}
    for name, value in document.items():
        key = _key(name)
        if key in settings:
            raise InputError(f"{name}: {key} came twice; give it once")
        settings[key] = value
    for key, value in settings.items():
        if value is not None and not SETTINGS[key].fits(value):
            raise InputError(f"{key} (={shown(value)}): expected {SETTINGS[key].expected}")
    return {key: value for key, value in settings.items() if value is not None}


def _key(name: str) -> str:
    """The key of a setting from what a file calls it."""
    plain = name.replace("-", "_")
    if plain in _KEYS:
        return _KEYS[plain]
    if plain in REMOVED:
        option, example = REMOVED[plain]
        value = f'attacks = ["{example}"]' if option == "attack" else f'{option} = "{example}"'
        raise InputError(f"{name} is no longer a key; write for example {value}")
    near = difflib.get_close_matches(plain[:100], [*SETTINGS, *_KEYS], n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(SETTINGS)}"
    raise InputError(f"unknown key {shown(name)}; {hint}")
