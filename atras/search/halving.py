"""The rounds of successive halving: which a budget buys, and the record of them in search.json.

The search itself is in `search`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from atras.analysis import RANK_BY
from atras.checks import one_of, text, whole
from atras.errors import InputError, shown, wrapped
from atras.experiment import MAX_BYTES, Execution, Protocol, from_run, parse_file, told_pair
from atras.results import STRENGTH
from atras.rounding import counted
from atras.storage import JSON_MARK, SEARCH, check_checksum, json_with_checksum, read_regular, write_file
from atras.version import SCHEMA, __version__

TRAIN_SHARE = 0.8
"""Of the training images, those that rounds train on; on the others, drawn class by class, they are ranked."""

_NO_AXES = {
    "epochs": "a search trains each round for epochs of its own",
    "adversarial_epochs": "a search trains each round for epochs of its own",
    **dict.fromkeys(STRENGTH, "a search ranks all under attacks of one strength, or the weakest attack would win"),
}
"""Settings that cannot be an axis of a search, and why."""

SUMMARY = SEARCH
STATUSES = ("running", "interrupted", "failed", "finished")


class Round(NamedTuple):
    """One round: how many candidates, for how long, and what that costs in candidate-epochs."""

    candidates: int
    epochs: int
    adversarial_epochs: int
    cost: int


def plan_rounds(protocol: Protocol, budget: int) -> tuple[Round, ...]:
    """The rounds that a budget buys, each with half the candidates of the one before and an equal share of it.

    A candidate-epoch is one member's pass over the training set; a pass over the doubled set counts two. The last
    round has the protocol's own epochs; the fewest rounds are taken whose shares suffice. With axes a candidate in each
    variant is a candidate of its own; all count as if their defence trained.

    Args:
        protocol: all candidates, seeds, variants, and the epochs of the last round.
        budget: candidate-epochs, at least 1.

    Returns:
        At least one round; together they cost at most `budget`.

    Raises:
        InputError: if the budget does not reach; it names the least that does. If an attack or the transfer names a
            candidate, which may be dropped. If epochs or the attacks' strength vary.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016).
    """
    whole("budget", budget, 1, 10**12)
    check_space(protocol)
    counts = _halved(len(protocol.pairs))
    least = budget
    for rounds in range(1, len(counts) + 1):
        need = rounds * max(_cost(protocol, counts[rounds - 1], protocol.epochs), _cost(protocol, counts[0], 1))
        if need <= budget:
            return _rounds(protocol, counts[:rounds], budget // rounds)
        least = need if rounds == 1 else min(least, need)
    verb = "needs" if len(protocol.pairs) == 1 else "need"
    raise InputError(
        f"budget (={budget}): {counted_candidates(protocol)} {verb} at least {least} candidate-epochs; raise it, or "
        "lower --epochs"
    )


def round_lines(protocol: Protocol, budget: int, width: int = 80) -> list[str]:
    """The rounds as plain text.

    Args:
        protocol: of the search.
        budget: in candidate-epochs.
        width: columns of the terminal, at least 60.
    """
    rounds = plan_rounds(protocol, budget)
    what = "in variants" if protocol.axes else "candidates"
    images = "test images, in full", "held-out training images"
    beside = width >= 50 + max(map(len, images))
    lines = [f"{'round':<6} {what:>11} {'epochs':>7} {'adversarial':>11} {'cost':>9}{'  ranked on' * beside}"]
    for number, part in enumerate(rounds, start=1):
        data = f"  {images[number < len(rounds)]}" * beside
        lines.append(
            f"{number:<6} {part.candidates:>11} {part.epochs:>7} {part.adversarial_epochs:>11} {part.cost:>9}{data}"
        )
    spent = sum(part.cost for part in rounds)
    below = "" if beside else f"The last round is ranked on {images[0]}, those before on {images[1]}."
    seeds = f"{spent} of {budget} candidate-epochs; {counted(len(protocol.seeds), 'seed')} a candidate"
    return [*lines, *wrapped([below, seeds], width)]


def counted_candidates(protocol: Protocol, count: int | None = None) -> str:
    """How many candidates, with axes in variants, for people; all of a protocol's where no number is given."""
    count = len(protocol.pairs) if count is None else count
    what, where = ("candidate", " in a variant") if count == 1 else ("candidates", " in variants")
    return f"{count} {what}{where if protocol.axes else ''}"


def _halved(count: int) -> list[int]:
    counts = [count]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // 2))
    return counts


def adversarial_epochs(protocol: Protocol, epochs: int) -> int:
    """Epochs on the doubled set beside so many, in the protocol's proportion; at least one where it has any."""
    return min(1, protocol.adversarial_epochs) and max(1, round(epochs * protocol.adversarial_epochs / protocol.epochs))


def _cost(protocol: Protocol, candidates: int, epochs: int) -> int:
    return candidates * len(protocol.seeds) * (epochs + 2 * adversarial_epochs(protocol, epochs))


def _rounds(protocol: Protocol, counts: list[int], share: int) -> tuple[Round, ...]:
    rounds = []
    for count in counts:
        affordable = [e for e in range(1, protocol.epochs + 1) if _cost(protocol, count, e) <= share]
        epochs = protocol.epochs if count == counts[-1] else affordable[-1]
        rounds.append(Round(count, epochs, adversarial_epochs(protocol, epochs), _cost(protocol, count, epochs)))
    return tuple(rounds)


def check_space(protocol: Protocol) -> None:
    """Refuse what names candidates, which a round may not have, and axes by whose values nothing can be ranked."""
    for field in [axis.field for axis in protocol.axes if axis.field in _NO_AXES]:
        raise InputError(f"axis (={field}): {_NO_AXES[field]}; search each value by itself")
    for attack in protocol.attacks:
        if attack.made_on is not None and any(stand.candidate is not None for stand in attack.made_on.stands):
            raise InputError(
                f"attack (={attack}): a search drops candidates, and this one as well; name independent or undefended"
            )
    for defence in dict.fromkeys(one.defence for one in protocol.plain):
        if defence.looks_around:
            name = "leave it out" if defence.others else "name one, such as copies(source=24-192)"
            raise InputError(
                f"defence (={defence}): a search drops candidates, and those on whose images others train as well; "
                f"{name}"
            )
    for name in ("transfer_sources", "transfer_targets"):
        if getattr(protocol, name):
            raise InputError(f"{name}: a search drops candidates, and named ones as well; leave it out")


class Record:
    """The record in search.json: the candidates searched, the rounds, and the results of the finished rounds.

    Args:
        folder: where it lies.
        protocol, execution: what it says of them.
        content: all that it says.

    Raises:
        InputError: as `plan_rounds`.
    """

    def __init__(self, folder: Path, protocol: Protocol, execution: Execution, content: dict[str, Any]) -> None:
        self.folder, self.protocol, self.execution, self.content = folder, protocol, execution, content
        self.parts = plan_rounds(protocol, content.get("budget", 0))

    @classmethod
    def new(
        cls, folder: Path, protocol: Protocol, execution: Execution, budget: int, rank_by: str = "accuracy"
    ) -> Record:
        """The record of a search that begins; nothing is written yet."""
        return cls(folder, protocol, execution, {
            "schema": SCHEMA, "search": "halving", "status": "running", "version": __version__,
            "budget": budget, "spent": 0, "rank_by": rank_by,
            "train_share": TRAIN_SHARE, "hold_out": "stratified", "warnings": [],
            "protocol": protocol.to_dict(), "protocol_hash": protocol.hash,
            "execution": execution.to_dict(), "data": None, "data_places": [], "selection_sha256": None, "rounds": [],
        })  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of a search that began.

        Raises:
            InputError: if search.json is damaged, another program's, or of another version of atras.
        """
        path = folder / SUMMARY
        try:
            content = _intact(path)
            one_of("search", content.get("search"), ("halving",))
            one_of("status", content.get("status"), STATUSES)
            one_of("rank_by", content.get("rank_by"), RANK_BY)
            text("protocol_hash", content.get("protocol_hash"))
            loaded = from_run(content)
            record = cls(folder, Protocol(**loaded.protocol_fields), Execution(**loaded.execution_fields), content)
            record._check_rounds()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return record

    def _check_rounds(self) -> None:
        rounds = self.content.get("rounds")
        if not isinstance(rounds, list) or len(rounds) > len(self.parts):
            raise InputError(f"rounds (={shown(rounds)}): expected a list of at most {len(self.parts)}; restore it")
        for number, entry in enumerate(rounds, start=1):
            names = set(self.names(number))
            ranked = entry.get("ranking") if isinstance(entry, dict) else None
            if not _is_order(ranked, names) or entry != self._entry(number, ranked):
                raise InputError(
                    f"rounds (={shown(entry)}): expected round {number} and a ranking of its {len(names)} candidates; "
                    "restore it"
                )

    def round_folder(self, number: int) -> Path:
        """Of round `number`, from 1."""
        return self.folder / f"round-{number}"

    def names(self, number: int) -> list[str]:
        """The candidates of a round, with axes in variants, as rankings have them; the round before it is done."""
        if number == 1:
            return [told_pair(candidate.name, variant) for candidate, variant in self.protocol.pairs]
        best: list[str] = self.content["rounds"][number - 2]["ranking"]
        return best[: self.parts[number - 1].candidates]

    def begin(self) -> int:
        """Take back the last round, if it is done: its results are asked for once more; return which is to be next."""
        del self.content["rounds"][len(self.parts) - 1 :]
        return len(self.content["rounds"]) + 1

    def add(self, number: int, ranked: list[str]) -> None:
        """Note that a round is done, and the names of its candidates from best to worst."""
        self.content["rounds"].append(self._entry(number, ranked))
        self.content["spent"] = sum(part.cost for part in self.parts[:number])

    def write(self, status: str) -> None:
        """Replace search.json.

        Raises:
            InputError: if it cannot be written, or could not be read back.
        """
        self.content["status"] = status
        content = json_with_checksum(self.content)
        if len(content) > MAX_BYTES:
            raise InputError(
                f"{SUMMARY}: expected at most {MAX_BYTES} bytes, which can be read back, got {len(content)}; search "
                "fewer candidates"
            )
        write_file(self.folder / SUMMARY, [content])

    def _entry(self, number: int, ranked: object) -> dict[str, Any]:
        return {"folder": self.round_folder(number).name, **self.parts[number - 1]._asdict(), "ranking": ranked}


def _intact(path: Path) -> dict[str, Any]:
    """The content of a file that is unchanged since it was written."""
    content = parse_file(path)
    try:
        check_checksum(JSON_MARK, read_regular(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"expected the record of a search, found a damaged or foreign file ({error})") from None
    content.pop("sha256", None)
    return content


def _is_order(ranked: object, names: set[str]) -> bool:
    """Whether something lists these names, each once."""
    return (
        isinstance(ranked, list)
        and len(ranked) == len(names)
        and all(isinstance(name, str) and name in names for name in ranked)
        and len(set(ranked)) == len(names)
    )
