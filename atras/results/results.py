"""A run's results: its frames and what is made of them, and the record in its run.json."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from atras.checks import schema
from atras.defences import NoDefence
from atras.errors import InputError, printable, shown
from atras.experiment import MAX_BYTES, recall_networks, recorded_axes, recorded_pairs, told_pair
from atras.networks import Candidate, Variant
from atras.registry import spell_value, split_outside
from atras.rounding import counted
from atras.storage import JSON_MARK, check_checksum, expanded, json_with_checksum

from .finished import joined, read_finished, told
from .frames import empty, foreign, read_bytes, read_frame
from .meanings import FIELDS, measured_at
from .order import ordered
from .schemas import ACCURACIES, PAPER_COLUMNS, SCHEMAS, STATUSES
from .variants import as_they_end, axis_types, flat, of_candidates, own_cautions, variants_of, without_axes

MAX_JSON_BYTES = MAX_BYTES
"""Largest run.json that is read, and written."""

_HEADLINES = ("attacked_accuracy_after_white_box", "attacked_accuracy_after_static", "adversarial_test_accuracy")
"""Accuracies that a notebook shows."""


class Final(NamedTuple):
    """The networks that a run ends with, and the columns of the table that are of them.

    Args:
        phase: `defended`, or `trained` where there is no defence.
        clean: accuracy without an attack.
        white_box: under FGSM at the true label, made on the network itself.
        worst: in the worst case over attacks.
    """

    phase: str
    clean: str
    white_box: str
    worst: str


_DEFENDED = Final(
    "defended", "adversarial_test_accuracy", "attacked_accuracy_after_white_box", "worst_case_accuracy_after"
)
_TRAINED = Final("trained", "test_accuracy", "attacked_accuracy_before_true", "worst_case_accuracy_before")


@dataclass(frozen=True, repr=False, eq=False)
class Results:
    """The frames of a run.

    Args:
        table, metrics, history, timings: frames with the columns of `SCHEMAS`.
        run: content of run.json: protocol, protocol_hash, version, status, and what the orchestrator added.
        directory: where they lie; None for a run that was kept in memory.
        variant: of a run with axes, whose results these are alone.
        transfer, examples, outcomes: frames likewise; empty where they were not asked for.
        settings: of a flattened run, the values of the axes by candidate in a variant.
    """

    table: pl.DataFrame
    metrics: pl.DataFrame
    history: pl.DataFrame
    timings: pl.DataFrame
    run: dict[str, Any]
    directory: Path | None = None
    transfer: pl.DataFrame = field(default_factory=lambda: empty("transfer"))
    examples: pl.DataFrame = field(default_factory=lambda: empty("examples"))
    outcomes: pl.DataFrame = field(default_factory=lambda: empty("outcomes"))
    variant: Variant = Variant()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Name or path of the data set, as the protocol has it."""
        return str(self.run["protocol"]["dataset"])

    @property
    def defends(self) -> bool:
        """Whether the run has a second training, which defends its networks; with axes, in any variant."""
        return any(name != NoDefence.name for name in self._defences)

    @property
    def _defences(self) -> list[str]:
        """That of each variant."""
        protocol = self.run["protocol"]
        values = recorded_axes(protocol).values()
        return [str(own.get("defence", protocol.get("defence", "copies"))) for own in values]

    @property
    def trains(self) -> bool:
        """Whether the run trained its networks, and did not find them finished."""
        return not self.run["protocol"].get("weights")

    @property
    def final(self) -> Final:
        """The networks that the run ends with: after the defence, where there is one."""
        return _DEFENDED if self.defends else _TRAINED

    @property
    def variants(self) -> pl.DataFrame:
        """A row a variant of the run, in their order: column `variant`, and one for each axis."""
        return variants_of(self.run["protocol"])

    def of_variant(self, name: str) -> Results:
        """A variant alone, as its solo run has it: frames without the columns of axes, and a protocol without axes.

        Args:
            name: of the variant, or those of its settings that no other variant has all.

        Raises:
            InputError: if the run has no such variant, or several.
        """
        known = recorded_axes(self.run["protocol"])
        asked = split_outside(name, " ")
        fitting = [each for each in known if set(asked) <= set(split_outside(each, " "))]
        if name not in known and len(fitting) != 1:
            raise InputError(f"variant (={shown(name)}): expected one of {', '.join(filter(None, known)) or 'none'}")
        name = name if name in known else fitting[0]
        frames: dict[str, Any] = {frame: without_axes(frame, getattr(self, frame), name) for frame in SCHEMAS}
        candidates = [candidate for candidate, own in recorded_pairs(self.run["protocol"]) if own.name == name]
        protocol = self.run["protocol"] | known[name] | {"axes": [], "only": [], "candidates": candidates}
        if protocol.get("defence") == NoDefence.name:
            protocol |= {"adversarial_epochs": 0}  # as `Protocol` has it
        settings = tuple((field, spell_value(value)) for field, value in known[name].items())
        cautions = own_cautions(self.run, name, known.keys() - {name}, by_group=self.transfer.is_empty())
        # What fresh seeds say is of the winner among all variants.
        run = {key: value for key, value in self.run.items() if key != "confirmed"}
        run |= {"protocol": protocol, "warnings": cautions}
        return Results(**frames, run=run, directory=self.directory, variant=Variant(settings))

    @property
    def flattened(self) -> Results:
        """The run with each candidate in a variant as a candidate of its own, such as `24-192 learning_rate=0.003`.

        Among variants with a defence, networks of one without it stand as their training ends.
        """
        protocol = self.run["protocol"]
        if not protocol.get("axes"):
            return self
        mixed = NoDefence.name in self._defences and self.defends
        frames: dict[str, Any] = {frame: flat(frame, getattr(self, frame), mixed=mixed) for frame in SCHEMAS}
        defence = next((name for name in self._defences if name != NoDefence.name), NoDefence.name)
        known = recorded_axes(protocol)
        own = {told_pair(candidate, variant): known[variant.name] for candidate, variant in recorded_pairs(protocol)}
        protocol = protocol | {"axes": [], "only": [], "candidates": list(own), "defence": defence}
        return Results(**frames, run=self.run | {"protocol": protocol}, directory=self.directory, settings=own)

    @property
    def beside_defended(self) -> Results:
        """The run with networks that have no defence as their training ends, in the columns of defended ones."""
        return replace(self, table=as_they_end(self.table))

    def measured_alike(self, column: str) -> dict[str, Results]:
        """The flattened run in parts, within which figures of a column may be compared: they are of attacks alike.

        Args:
            column: of the table.

        Returns:
            The parts by what tells them apart, such as `epsilon=0.1`; of most runs the whole alone, by an empty text.
        """
        run = self.flattened
        found = measured_at(run.settings, column)
        if len(set(found.values())) < 2:
            return {"": run}
        names = {at: [name for name in found if found[name] == at] for at in found.values()}
        return {at: run._part(own, column) for at, own in names.items()}

    def _part(self, names: list[str], column: str) -> Results:
        """These candidates of a flattened run alone, with their own settings of what the column is measured with."""
        frames: dict[str, Any] = {name: of_candidates(getattr(self, name), names) for name in SCHEMAS}
        own = {name: self.settings[name] for name in names}
        alike = {field: own[names[0]][field] for field in FIELDS[column] if field in own[names[0]]}
        protocol = self.run["protocol"] | {"candidates": names} | alike
        return replace(self, **frames, run=self.run | {"protocol": protocol}, settings=own)

    def require_single(self, what: str) -> None:
        """Refuse a run with axes where one variant is meant.

        Raises:
            InputError: if it has axes; it names the variants.
        """
        if self.run["protocol"].get("axes"):
            names = ", ".join(self.variants["variant"])
            raise InputError(f"{what}: expected one variant of the run, got {names}; name one by --variant")

    def candidate(self, name: str) -> Candidate:
        """The candidate that the run calls so, a module of the user too.

        Raises:
            InputError: if the name is none.
        """
        recall_networks(self.run["protocol"].get("networks"))
        return Candidate.parse(name)

    def candidate_means(self, *, trained_only: bool = False) -> pl.DataFrame:
        """A row a candidate and variant: its accuracies averaged over seeds, in the order of the table.

        Args:
            trained_only: leave out members that died or diverged, and candidates of which none trained. Otherwise
                the mean is over all seeds that have a figure, and the status is that of the worst seed.

        Returns:
            Columns hidden_layers, variant, depth, parameters, status, then every accuracy of the table.
        """
        table = self.table.filter(pl.col("status") == "trained") if trained_only else self.table
        status = pl.col("status")
        worst = (
            pl.when((status == "diverged").any())
            .then(pl.lit("diverged"))
            .when((status == "dead").any())
            .then(pl.lit("dead"))
            .otherwise(pl.lit("trained"))
        )
        first = [pl.col("depth").first(), pl.col("parameters").first(), worst.alias("status")]
        return table.group_by("hidden_layers", "variant", maintain_order=True).agg(*first, pl.col(ACCURACIES).mean())

    def paper_table(self) -> pl.DataFrame:
        """The run under the paper's column names, a row a candidate, averaged over seeds.

        Returns:
            The paper's seven columns in its order (attacked_accuracy_after is the static one), then
            attacked_accuracy_after_white_box and status.
        """
        columns = [pl.col(ours).alias(paper) for paper, ours in PAPER_COLUMNS.items()]
        return self.candidate_means().select(*columns, "hidden_layers", "attacked_accuracy_after_white_box", "status")

    def by_depth(self) -> pl.DataFrame:
        """A row a variant and depth: every accuracy averaged over the members that trained.

        Returns:
            Columns variant, depth, members, trained (how many of them did), then every accuracy of the table.
        """
        trained = pl.col("status") == "trained"
        counts = [pl.len().cast(pl.Int64).alias("members"), trained.sum().cast(pl.Int64).alias("trained")]
        means = self.table.group_by("variant", "depth", maintain_order=True)
        order = pl.col("variant").replace_strict(
            {name: i for i, name in enumerate(self.variants["variant"])}, default=None
        )
        return means.agg(*counts, pl.col(ACCURACIES).filter(trained).mean()).sort(order, "depth")

    @property
    def majority_share(self) -> float | None:
        """Accuracy, on the test images, of always answering the most frequent class; None where there is no row."""
        share: float | None = self.table["majority_share"].max()  # type: ignore[assignment]
        return share

    def missing(self) -> str:
        """How much of the run is not there, `3 of 8 groups are missing (12 of 40 members)`; empty of a whole one."""
        if self.run.get("status", "finished") == "finished":
            return ""
        protocol, plan = self.run["protocol"], _object(self.run.get("plan"))
        members = len(recorded_pairs(protocol)) * len(protocol["seeds"])
        left = members - len(self.table)
        groups, finished = (values if isinstance(values, list) else [] for values in (
            plan.get("groups"), self.run.get("finished_groups"),
        ))  # fmt: skip
        if not left:
            return "all groups are there, but not what comes after them (transfer)"
        if not groups:
            return f"{left} of {counted(members, 'member')} {_are(left)} missing"
        absent = len(groups) - len(finished)
        more = f"({left} of {counted(members, 'member')})"
        return f"{absent} of {counted(len(groups), 'group')} {_are(absent)} missing {more}"

    def members(self, status: str) -> list[tuple[str, str, int]]:
        """Hidden layers, variant and seed of every member with a status, in the order of the table."""
        return self.table.filter(pl.col("status") == status).select("hidden_layers", "variant", "seed").rows()

    def __repr__(self) -> str:
        statuses = self.table["status"].to_list()
        counts = [f"{statuses.count(status)} {status}" for status in STATUSES if status in statuses]
        members = ", ".join(counts) or "no members yet"
        members += f"; {missing}" if (missing := self.missing()) else ""
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"Results({self.dataset!r}, {printable(str(self.run.get('status', 'unknown')))}: {members}{where})"

    def _repr_html_(self) -> str:
        """The view of a run in a notebook: the line of `repr` and a row for each candidate, the most robust first."""
        final = self.final
        own = _HEADLINES if self.defends else (final.white_box, final.clean)
        # The worst case over attacks where several ran; with one it is that attack's.
        headlines = [*([final.worst] if self.table[final.worst].count() else []), *own]
        shown = [
            "hidden_layers",
            *(["variant"] if self.run["protocol"].get("axes") else []),
            "parameters",
            "status",
            *headlines,
        ]
        # Members that did not train count 0: a dead one may have the accuracy of the most frequent class.
        figure = pl.when(pl.col("status") == "trained").then(pl.col(headlines[0])).otherwise(0.0)
        order = self.table.group_by("hidden_layers", "variant", maintain_order=True).agg(figure.mean().alias("order"))
        at = measured_at(recorded_axes(self.run["protocol"]), headlines[0])
        places = {name: list(dict.fromkeys(at.values())).index(own) for name, own in at.items()}
        place = pl.col("variant").replace_strict(places, default=0).alias("place")
        means = self.candidate_means().with_columns(order["order"], place)
        means = means.sort("place", "order", descending=[False, True], nulls_last=True).select(shown)
        with pl.Config(
            tbl_rows=20, tbl_cols=-1, float_precision=4, fmt_str_lengths=60, tbl_hide_column_data_types=True
        ):
            return f"<p>{html.escape(repr(self))}</p>{means._repr_html_()}"


def read(directory: str | Path, *, missing: bool = False) -> Results:
    """Read a run's folder, finished or not.

    Args:
        directory: the folder.
        missing: take frames that are not there for empty ones.

    Raises:
        InputError: if a file is missing, damaged or not of this form.
    """
    folder = expanded(directory)
    later = read_finished(folder)  # first: what vanishes meanwhile is in the frames
    run = told(_read_run(folder), later)
    axes = axis_types(variants_of(run["protocol"]))
    frames: dict[str, Any] = {}
    for name in SCHEMAS:  # one after the other: of a large run there is no room for two of each
        frames[name] = read_frame(folder / f"{name}.parquet", name, missing or bool(later), axes)
        if later:
            frames[name] = ordered([joined(name, frames[name], later, axes)], run["protocol"])
    return Results(**frames, run=run, directory=folder)


def run_json(run: Mapping[str, Any]) -> bytes:
    """The content of run.json, with its checksum.

    Raises:
        InputError: if it holds what JSON has no form for, or more than can be read back.
    """
    try:
        content = json_with_checksum(run)
    except (TypeError, ValueError) as error:
        raise InputError(f"run_info: expected JSON values, got something else ({error}); convert it first") from error
    if len(content) > MAX_JSON_BYTES:
        raise InputError(
            f"run.json: expected at most {MAX_JSON_BYTES} bytes, which can be read back, got {len(content)}; split the "
            "candidates or seeds over runs"
        )
    return content


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json, without its checksum.

    Raises:
        InputError: if it is missing, damaged, not of this form, or of another schema.
    """
    later = read_finished(folder)
    return told(_read_run(folder), later)


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    content = read_bytes(path, MAX_JSON_BYTES)
    try:
        check_checksum(JSON_MARK, content)
        run = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise foreign(path, "JSON", error) from error
    check_run(run, str(path))
    try:
        schema(run)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    run.pop("sha256", None)
    return run


def check_run(run: object, where: str) -> None:
    """Refuse what is not the content of run.json, as far as this module needs it."""
    content = _object(run)
    protocol = _object(content.get("protocol"))
    fits = {
        "protocol_hash": isinstance(content.get("protocol_hash"), str),
        "version": isinstance(content.get("version"), str),
        "protocol.dataset": isinstance(protocol.get("dataset"), str),
        "protocol.candidates": _is_list(protocol.get("candidates"), str),
        "protocol.seeds": _is_list(protocol.get("seeds"), int),
        "protocol.axes": _is_list(protocol.get("axes", []), str),
    }
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        raise InputError(f"{where}: expected {', '.join(wrong)} as a run writes it; point to the folder of a run")
    try:
        protocol["dataset"].encode()
    except UnicodeEncodeError as error:
        # Polars takes only UTF-8; better now than after the first group has trained.
        raise InputError(f"dataset (={protocol['dataset']!r}): expected a name in UTF-8; rename the file") from error


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
