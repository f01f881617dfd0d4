"""One trained network as a file of its own, and back as a plain torch module that needs nothing of atras."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from atras.errors import InputError
from atras.networks import Candidate, Factory, Network, Parameters, SourceChangedError, Spec
from atras.results import ACCURACIES, Results
from atras.storage import TENSOR_ERRORS, expanded, pack_tensors, read_tensors, reason_of, write_file
from atras.training import read_member

from .provenance import require_whole
from .statistics import ordered, pareto, ranking, robust_column
from .winner import FIGURES

Format = str
"""A key of `EXPORT_FORMATS`."""

FILE_FORMAT = "atras-network-1"


def export(
    results: Results,
    candidate: Candidate,
    path: str | Path,
    *,
    seed: int | None = None,
    phase: str | None = None,
    file_format: Format | None = None,
    rank_by: str = "accuracy",
) -> Path:
    """Write one network of a run as a file.

    Args:
        results: a run in a folder, with its networks.
        candidate: which.
        path: of the file, replaced if it is there.
        seed: which member; None for the first seed with which the candidate trained.
        phase: `trained` or `defended`; None for the networks that the run ends with.
        file_format: `safetensors` (read it with `load`), `pt2` (torch.export) or `onnx`; None to go by the name.
        rank_by: what its rank in the metadata goes by, as in `robust_column`.

    Returns:
        The path. Every format carries the same metadata: architecture, protocol, accuracies, and the candidate's ranks
        in the run with the candidates that are not told apart from it.

    Raises:
        InputError: if the run lacks the network, the format is unknown or its package is not installed.
    """
    _require_member(results, candidate, seed)  # whatever the variant: a wrong name shows at the first try
    results.require_single("export")
    path = expanded(path)
    chosen = file_format or path.suffix.removeprefix(".")
    if chosen not in EXPORT_FORMATS:
        raise InputError(f"format (={chosen!r}): expected one of {', '.join(EXPORT_FORMATS)}; add --format")
    if results.directory is None:
        raise InputError("results: expected a run in a folder, got one in memory; run with --out")
    seed = first_seed(results, candidate) if seed is None else seed
    phase = results.final.phase if phase is None else phase
    # Weights alone need no code: safetensors is what is left of a module whose source has changed.
    checked = chosen != "safetensors" or not source_note(candidate)
    spec, parameters = read_member(results.directory, candidate, seed, phase, results.variant, checked=checked)
    metadata = _metadata(results, spec, candidate, seed, phase, rank_by)
    content = EXPORT_FORMATS[chosen](Network(spec, candidate), parameters, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: expected a file to write: {error.strerror or error}; name another") from error
    write_file(path, [content])
    return path


def source_note(candidate: Candidate) -> str:
    """What is to be said of a candidate whose source is another than when it was trained; empty of others."""
    try:
        if candidate.factory is not None:
            candidate.factory.make(0)
    except SourceChangedError as error:
        return f"{error}. As safetensors its weights are written all the same; to load them takes the source as it was."
    except InputError:
        return ""
    return ""


def first_seed(results: Results, candidate: Candidate) -> int:
    """The first seed, in the protocol's order, with which a candidate trained; the first of all where none did.

    Not the best one: picking a seed by its test accuracy would make that accuracy say too much.

    Raises:
        InputError: if the run has no such candidate.
    """
    rows = _require_member(results, candidate)
    trained = rows.filter(status="trained")
    return int((trained if len(trained) else rows)["seed"][0])


def _require_member(results: Results, candidate: Candidate, seed: int | None = None) -> pl.DataFrame:
    """The candidate's rows of the table; refuses a candidate or a seed that the run does not have in any variant."""
    rows = results.table.filter(hidden_layers=candidate.name)
    if not len(rows):
        raise InputError(f"hidden (={candidate.name!r}): the run has no such candidate; see its table for what it has")
    if seed is not None and seed not in rows["seed"]:
        seeds = ", ".join(map(str, rows["seed"].unique(maintain_order=True)))
        raise InputError(f"seed (={seed}): expected one of {seeds}, the seeds of the run's {candidate.name}")
    return rows


def best_robust(results: Results, *, rank_by: str = "accuracy", partial: bool = False) -> Candidate:
    """The candidate with the highest mean robust accuracy over seeds; among equals the one of fewest parameters.

    Args:
        results: a run.
        rank_by: as in `robust_column`.
        partial: also of a run that is not finished, of what is there.

    Raises:
        InputError: if the run has no members yet or none that trained, or groups are missing and `partial` is not set.
    """
    results.require_single("export")
    require_whole(results, partial)
    return results.candidate(_first(results, rank_by)["hidden_layers"])


def export_pareto(
    results: Results,
    folder: str | Path,
    *,
    seed: int | None = None,
    phase: str | None = None,
    file_format: Format,
    rank_by: str = "accuracy",
    partial: bool = False,
) -> list[Path]:
    """Write every network on the front of parameters against robust accuracy into a folder, as `<hidden>.<format>`.

    The arguments are those of `export` and of `best_robust`.

    Raises:
        InputError: as `export` and `best_robust`.
    """
    results.require_single("export")
    require_whole(results, partial)
    _first(results, rank_by)
    names = pareto(results, rank_by=rank_by)["hidden_layers"].to_list()
    return [
        export(
            results,
            results.candidate(name),
            expanded(folder) / f"{name}.{file_format}",
            seed=seed,
            phase=phase,
            file_format=file_format,
            rank_by=rank_by,
        )
        for name in names
    ]


def load(path: str | Path, network: Callable[[], nn.Module] | str | None = None) -> nn.Module:
    """Read a network that `export` wrote as safetensors.

    Args:
        path: of the file.
        network: for a module of yours, what made it: a function, or where it is (`mine.py:make`). No code is run that
            only a file names.

    Returns:
        A plain torch module in evaluation mode: images [B, C, H, W] with pixels in [0, 1] in, logits [B, Y] out. Its
        attribute `metadata` is a dict of what the file says about it.

    Raises:
        InputError: if the file cannot be read, or is something else.
    """
    path = expanded(path)
    try:
        texts, tensors = read_tensors(path, json.dumps(FILE_FORMAT))
        metadata = {name: json.loads(text) for name, text in texts.items() if name != "sha256"}
        spec, recorded = Spec(**metadata["spec"]), metadata.get("network")
        layered = Candidate.parse(metadata["hidden"]) if recorded is None else None
    except TENSOR_ERRORS as error:
        raise _foreign(path, reason_of(error)) from None
    candidate = layered or _own_candidate(path, Factory.from_dict(metadata["hidden"], recorded or {}), network)
    found = Network(spec, candidate)
    shapes = found.state_shapes
    if {name: tuple(values.shape) for name, values in tensors.items()} != shapes:
        raise _foreign(path, "its parameters do not fit its architecture")
    module = found.module({name: tensors[name] for name in shapes})
    module.metadata = metadata  # type: ignore[assignment]
    return module


def _foreign(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: expected a network written by atras export as safetensors, found something else ({reason}); "
        "pt2 files are for torch.export.load, onnx files for onnxruntime"
    )


def _own_candidate(path: Path, factory: Factory, given: Callable[[], nn.Module] | str | None) -> Candidate:
    """The module of the user that a file is of, made by what was given."""
    if given is None:
        raise InputError(
            f"{path}: it is of your module {factory.name}, made by {factory.function} of {factory.file or 'Python'}; "
            f"give that too, as load(path, network={factory.function})"
        )
    candidate = Candidate.own(factory.name, given)
    factory.check_source(candidate.factory or factory)
    return candidate


def _first(results: Results, rank_by: str) -> dict[str, Any]:
    ranked = ordered(results, rank_by=rank_by)
    if not len(ranked):
        raise InputError("results: expected a run with members, found none yet; wait for its first group")
    first = ranked.row(0, named=True)
    if not first["trained"]:
        raise InputError(
            "results: expected a candidate that trained, found none that is not dead or diverged; name one by --hidden"
        )
    return first


def _ranks(results: Results, name: str, rank_by: str) -> dict[str, Any]:
    """Which ranks a candidate may have, and who else may have them: the best of a run is seldom the best for sure.

    Returns:
        `by` (in words), `of` (candidates), `low` and `high` (ranks; null from one seed), `not_distinguishable` (names;
        null likewise); empty for a candidate without rows.
    """
    frame = ranking(results, rank_by=rank_by)
    own = frame.filter(hidden_layers=name).to_dicts()
    if not own:
        return {}
    row = own[0]
    figure = FIGURES[robust_column(results, rank_by)]
    ranks = {"low": row["rank_low"], "high": row["rank_high"], "not_distinguishable": row["tied"]}
    return {"by": figure, "of": len(frame), **ranks}


def _metadata(
    results: Results, spec: Spec, candidate: Candidate, seed: int, phase: str, rank_by: str
) -> dict[str, str]:
    """The metadata of a network's file, each value as JSON."""
    row = results.table.filter(hidden_layers=candidate.name, seed=seed).to_dicts()
    values = {
        "format": FILE_FORMAT,
        "hidden": candidate.name,
        "seed": seed,
        "phase": phase,
        "spec": spec.to_dict(),
        "dataset": results.dataset,
        "epsilon": results.run["protocol"].get("epsilon"),
        "protocol_hash": results.run["protocol_hash"],
        "version": results.run["version"],
        "status": row[0]["status"] if row else None,
        "missing": results.missing(),
        "variant": results.variant.name,
        "rank": _ranks(results, candidate.name, rank_by),
        "accuracies": {name: row[0][name] for name in ACCURACIES} if row else {},
    }
    own = {} if candidate.factory is None else {"network": candidate.factory.to_dict()}
    return {name: json.dumps(value) for name, value in (values | own).items()}


def _safetensors(network: Network, parameters: Parameters, metadata: dict[str, str]) -> bytes:
    del network  # it is in the metadata
    return b"".join(pack_tensors(metadata, parameters))


def _pt2(network: Network, parameters: Parameters, metadata: dict[str, str]) -> bytes:
    module, images = network.module(parameters), _example(network, parameters)
    buffer = io.BytesIO()
    with _quiet(), _named_user():
        with _translated(network, "pt2"):
            program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def _onnx(network: Network, parameters: Parameters, metadata: dict[str, str]) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"format (='onnx'): needs package {error.name}; pip install '.[export]'") from None
    module, images = network.module(parameters), _example(network, parameters)
    options: dict[str, Any] = {
        "dynamo": True, "verbose": False, "dynamic_shapes": ({0: torch.export.Dim("batch")},),
        "input_names": ["images"], "output_names": ["logits"],
    }  # fmt: skip
    with _quiet(), _named_user(), _translated(network, "onnx"):
        program = torch.onnx.export(module, (images,), **options)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _example(network: Network, parameters: Parameters) -> Tensor:
    # Two images: torch.export takes a batch of one for a fixed size.
    like = next(values for values in parameters.values() if values.is_floating_point())
    return torch.zeros(2, *network.spec.image_shape, dtype=like.dtype, device=like.device)


@contextlib.contextmanager
def _translated(network: Network, file_format: str) -> Iterator[None]:
    """One line where torch cannot translate a module of the user; what it cannot of atras is a bug."""
    try:
        yield
    except Exception as error:
        if network.own is None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"format (={file_format!r}): torch cannot translate the code of {network.own} ({type(error).__name__}: "
            f"{reason}); export it as safetensors"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own internals, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _named_user() -> Iterator[None]:
    """Give a user without an entry in the passwd file, such as a container's, a name for as long as torch asks for it.

    The exporters name a cache folder after the user, which fails without a name in torch before 2.13, and leave the
    folder's path in the environment; afterwards the environment is as before.
    """
    before = {name: os.environ.get(name) for name in ("LOGNAME", "TORCHINDUCTOR_CACHE_DIR")}
    try:
        try:
            getpass.getuser()
        except (KeyError, OSError, ImportError):
            os.environ["LOGNAME"] = f"uid_{os.getuid()}"
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


Writer = Callable[[Network, Parameters, dict[str, str]], bytes]

EXPORT_FORMATS: dict[str, Writer] = {"safetensors": _safetensors, "pt2": _pt2, "onnx": _onnx}
"""By the ending of a file: from a network, its parameters and metadata to the file's content. A new one is an entry."""
