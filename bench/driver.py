"""The cost of a large run in the process that writes it: rows come in group by group, are merged, written and read.

Nothing is trained: rows are made up, as many a member as a run has that trains for 20 + 20 epochs and measures FGSM and
PGD at five epsilons. `python bench/driver.py --members 100000 --groups 8192`
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from atras.evaluation import Rows
from atras.experiment import Protocol
from atras.networks import Candidate
from atras.results import Writer, read
from atras.testing.fake_run import fake_rows

EPOCHS = 20


def population(members: int, seeds: int) -> list[str]:
    """Names of so many different candidates that they have so many members."""
    widths = itertools.product(range(8, 1024, 8), repeat=2)
    return ["-".join(map(str, pair)) for pair in itertools.islice(widths, -(-members // seeds))]


def groups_of(protocol: Protocol, count: int) -> Iterator[Rows]:
    """The rows of so many groups: those of one member, with each member's name and seed."""
    members = [(candidate.name, seed) for candidate in protocol.candidates for seed in protocol.seeds]
    model = {shown: fake_rows(protocol, "40", seed, epochs=EPOCHS) for seed, shown in ((0, True), (1, False))}
    for number in range(count):
        rows = Rows()
        own = members[number * len(members) // count : (number + 1) * len(members) // count]
        for name, seed in own:
            for frame, made in model[seed == protocol.seeds[0]].to_dict().items():
                getattr(rows, frame).extend(row | {"hidden_layers": name, "seed": seed} for row in made)
        rows.timings = [{"group": number, "phase": "train", "members": len(own), "seconds": 1.0, "steps": 1}]
        yield rows


def measured(what: str, work: Callable[[], object]) -> dict[str, object]:
    """Seconds of something, and the most memory that the process has taken up to its end."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    taken = {"what": what, "seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    taken["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<40} {taken['seconds']:>8.1f} s {taken['processor_seconds']:>8.1f} s {taken['peak_MiB']:>8.0f} MiB")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--groups", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=None, help="folder for the run, deleted at the end")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    candidates = tuple(map(Candidate.parse, population(asked.members, asked.seeds)))
    protocol = Protocol(candidates=candidates, seeds=tuple(range(asked.seeds)), epochs=EPOCHS)
    folder = Path(tempfile.mkdtemp(dir=asked.out)) / "run"
    members = [[candidate.name, seed] for candidate in candidates for seed in protocol.seeds]
    plan = {"groups": [{"members": members}]}
    record = {"protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": "0", "plan": plan}
    writer = Writer(folder, record | {"finished_groups": [], "warnings": []})
    spent: list[tuple[float, float]] = []

    def take_all() -> None:
        for number, rows in enumerate(groups_of(protocol, asked.groups)):
            begin = time.process_time()
            writer.append_group(number, rows, [], {"run_seconds": float(number)})
            spent.append((time.process_time() - begin, time.perf_counter()))

    print(f"{len(members)} members, {asked.groups} groups{'wall':>27}{'processor':>11}{'peak':>13}")
    found = [measured("taking and writing all groups", take_all)]
    tenth = max(1, len(spent) // 10)
    first, last = (sum(each for each, _ in part) / len(part) for part in (spent[tenth : 2 * tenth], spent[-tenth:]))
    print(f"a group: {1e3 * first:.1f} ms of the processor in the second tenth, {1e3 * last:.1f} ms in the last")
    found.append(measured("making the files of the whole run", lambda: writer.finish({})))
    found.append(measured("reading it", lambda: read(folder)))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    print(", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sorted(sizes.items())))
    shutil.rmtree(folder.parent)
    if asked.json:
        asked.json.write_text(json.dumps({"parts": found, "group_ms": [1e3 * first, 1e3 * last], "bytes": sizes}))


if __name__ == "__main__":
    main()
