"""Parts of a run in folders of their own, and the one run that is made of them: bitwise that of one process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import atras
from atras import cli
from atras.engines import why_not
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.networks import Candidate
from atras.running import merge, resume, run
from atras.running.prepare import prepare
from atras.running.shards import for_machines, shares
from atras.storage import json_with_checksum
from atras.testing import SMALL, tables_of
from atras.training import read_member

PROTOCOL = SMALL.replace(
    candidates=tuple(map(Candidate.parse, ("8", "12", "6-8", "6-8-6"))), seeds=(0, 1), precision="fp32"
)
COUNT = 3
CPU = torch.device("cpu")
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


def execution(shard: str | None = None, engine: str = "loop", **changes: Any) -> Execution:
    return Execution(engine=engine, device="cpu", shard=shard, checkpoint_every=0, **changes)


def parts_in(folder: Path, protocol: Any = PROTOCOL, engine: str = "loop") -> list[Path]:
    """Folders of all shards of a run."""
    folders = [folder / f"part-{number}" for number in range(1, COUNT + 1)]
    for number, each in enumerate(folders, start=1):
        results = run(protocol, execution(f"{number}/{COUNT}", engine), out=each)
        assert results.run["status"] == "part"
    return folders


def weights_of(folder: Path, members: Iterable[tuple[str, int]]) -> dict[Any, bytes]:
    return {
        (*member, phase, name): values.numpy().tobytes()
        for member in members
        for phase in ("trained", "defended")
        for name, values in read_member(folder, Candidate.parse(member[0]), member[1], phase)[1].items()
    }


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts_in(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("engine", ["loop", "stack", pytest.param("fused", marks=NEEDS_FUSED)])
def test_a_merged_run_is_that_of_one_process(engine: str, parts: list[Path], tmp_path: Path) -> None:
    folders = parts if engine == "loop" else parts_in(tmp_path, engine=engine)
    # Where groups differ a stack pads otherwise: the same groups are asked for.
    plan = json.loads((folders[0] / "run.json").read_text())["plan"]
    local = run(PROTOCOL, execution(engine=engine), out=tmp_path / "local", config_plan=plan)
    for order in (folders, folders[::-1]):
        out = tmp_path / f"from-{order[0].name}"
        results = merge(order, out)
        assert results.run["status"] == "finished"
        assert tables_of(out) == tables_of(tmp_path / "local")
        members = local.table.select("hidden_layers", "seed").rows()
        assert weights_of(out, members) == weights_of(tmp_path / "local", members)
        assert resume(out).table.equals(local.table)


def test_every_member_is_in_one_shard_and_shards_are_even(parts: list[Path]) -> None:
    records = [json.loads((part / "run.json").read_text())["shard"] for part in parts]
    own = [tuple(map(tuple, record["members"])) for record in records]
    assert sorted(itertools.chain.from_iterable(own)) == sorted(
        (candidate.name, seed) for candidate in PROTOCOL.candidates for seed in PROTOCOL.seeds
    )
    prepared = for_machines(prepare(PROTOCOL, execution()), PROTOCOL, execution(), 2)
    work = [sum(group.flops for group in hand) for hand in shares(prepared, PROTOCOL, execution(), 2)]
    assert max(work) - min(work) <= max(group.flops for group in prepared.plan.groups)


def test_a_shard_that_was_stopped_goes_on_and_only_then_can_be_merged(parts: list[Path], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    calls = itertools.count()
    with pytest.raises(Interrupted):
        run(PROTOCOL, execution(f"1/{COUNT}"), out=stopped, stop=lambda: next(calls) > 20)
    with pytest.raises(InputError, match=r"missing: .*stopped \(interrupted\); compute or --resume"):
        merge([stopped, *parts[1:]], tmp_path / "whole")
    results = resume(stopped)
    assert (results.run["status"], len(results.table)) == ("part", len(atras.read(parts[0]).table))
    merge([stopped, *parts[1:]], tmp_path / "whole")
    merge(parts, tmp_path / "other")
    assert tables_of(tmp_path / "whole") == tables_of(tmp_path / "other")


def test_what_is_there_is_merged_and_the_rest_computed(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "partial"
    with pytest.raises(InputError, match="missing: shard 2 of 3"):
        merge([parts[0], parts[2]], out)
    assert not out.exists()
    some = merge([parts[0], parts[2]], out, partial=True)
    assert "groups are missing" in some.missing()
    merge(parts, tmp_path / "whole")
    assert resume(out).run["status"] == "finished"
    assert tables_of(out) == tables_of(tmp_path / "whole")


def test_transfer_comes_after_the_merge(tmp_path: Path) -> None:
    protocol = PROTOCOL.replace(transfer=True, seeds=(0,))
    merged = merge(parts_in(tmp_path, protocol), tmp_path / "whole")
    assert merged.missing() == "all groups are there, but not what comes after them (transfer)"
    local = run(protocol, execution(), out=tmp_path / "local")
    assert resume(tmp_path / "whole").transfer.equals(local.transfer)
    assert len(local.transfer)


def changed(part: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a part whose record says something else."""
    folder.mkdir()
    for path in part.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    record = json.loads((part / "run.json").read_text())
    record.pop("sha256")
    change(record)
    (folder / "run.json").write_bytes(json_with_checksum(record))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run["environment"]["versions"].update(torch="1.0"), "computed with torch 1.0 for .* install one"),
        (lambda run: run["data"].update(sha256={"train": "0"}), "expected the images of .*part-1, got others"),
        (lambda run: run["shard"].update(of=4), "expected a part of 3 as .*part-1, got one of 4"),
        (lambda run: run["shard"].update(number=1), "expected every part once, shard 1 came twice"),
        (lambda run: run.pop("shard"), "expected the part of a run that --shard computes, found a whole run"),
        (lambda run: run.update(shard={"number": 2}), "expected the record of a shard"),
        (lambda run: run["model"].update(activation="tanh"), "expected model .* merge parts of one run"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, parts: list[Path], tmp_path: Path
) -> None:
    other = changed(parts[1], tmp_path / "other", change)
    with pytest.raises(InputError, match=message):
        merge([parts[0], other, parts[2]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_slurm_array_tells_its_tasks_which_part_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ID": "8", "MIN": "2", "MAX": "11", "COUNT": "4"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert Execution(shard="slurm").shard == "3/4"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "9")
    with pytest.raises(InputError, match="expected a job array of evenly spaced numbers, got ID 9"):
        Execution(shard="slurm")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    with pytest.raises(InputError, match="expected a task of a job array"):
        Execution(shard="slurm")


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", ""])
def test_what_is_no_shard_is_refused(shard: str) -> None:
    with pytest.raises(InputError, match="expected a part and how many there are"):
        Execution(shard=shard)


def test_a_shard_needs_a_folder() -> None:
    with pytest.raises(InputError, match="expected a folder for its part of the run"):
        run(PROTOCOL, execution("1/2"))


def test_more_shards_than_members_leave_some_without_work(tmp_path: Path) -> None:
    protocol = SMALL.replace(candidates=(Candidate((8,)),))
    for number in (1, 2):
        run(protocol, execution(f"{number}/2"), out=tmp_path / str(number))
    assert sorted(len(atras.read(tmp_path / str(number)).table) for number in (1, 2)) == [0, 1]
    assert len(merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out").table) == 1


def test_the_command_merges(parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.execute(cli.app, ["merge", *map(str, parts), "-o", out], "atras") == 0
    assert capsys.readouterr().out == f"8 members of 3 parts in {out}\n"
    assert cli.execute(cli.app, ["merge", *map(str, parts[:1]), "-o", f"{out}-2", "--partial"], "atras") == 0
    assert f"; go on with --resume {out}-2" in capsys.readouterr().out
    assert cli.execute(cli.app, ["merge", *map(str, parts), "-o", out], "atras") == 2
