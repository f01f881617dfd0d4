"""Studies of Optuna in SQLite: batches of trials are members of one run, told once, whatever interrupts them."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atras
from atras.analysis import ordered
from atras.errors import InputError, Interrupted
from atras.experiment import Execution
from atras.running import orchestrator
from atras.search import optuna as search_optuna
from atras.search.holdout import round_data
from atras.search.optuna import optimize, protocol_of
from searches import PROTOCOL, Killed

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.usefixtures("cache_of_module")

SMALL = PROTOCOL.replace(epochs=4, adversarial_epochs=2, train_size=120, test_size=60)
LOOP = Execution(device="cpu", engine="loop")
ROOT = Path(__file__).parents[2]


def propose(trial: Any) -> dict[str, Any]:
    return {
        "candidate": f"{trial.suggest_int('width', 6, 12)}",
        "learning_rate": trial.suggest_float("rate", 1e-3, 3e-2, log=True),
        "weight_decay": trial.suggest_float("decay", 1e-6, 1e-3, log=True),
    }


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the study, as a process does that begins."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storages = []

    def opened(pruner: Any = None, direction: str = "maximize") -> Any:
        storages.append(optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}"))
        sampler = optuna.samplers.RandomSampler(seed=3)
        options = {"sampler": sampler, "pruner": pruner or optuna.pruners.NopPruner(), "direction": direction}
        return optuna.create_study(study_name="s", storage=storages[-1], load_if_exists=True, **options)

    yield opened
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def told(study: Any) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state.name, trial.value, trial.params) for trial in study.trials]


def test_a_batch_is_one_group_and_each_trial_has_the_value_of_its_solo_run(
    study: Callable[..., Any], tmp_path: Path
) -> None:
    own = optimize(
        study(), SMALL, propose, 4, tmp_path / "out", batch=3, execution=Execution(engine="fused", device="cpu")
    )
    runs = [atras.read(folder) for folder in sorted((tmp_path / "out").glob("batch-*/round-1"))]
    assert [len(run.table) for run in runs] == [3, 1]
    assert [len(run.run["plan"]["groups"]) for run in runs] == [1, 1]
    assert [trial.state.name for trial in own.trials] == ["COMPLETE"] * 4
    for trial in own.trials:
        alone = protocol_of(trial, SMALL)
        assert (alone.candidates[0].name, alone.learning_rate) == (str(trial.params["width"]), trial.params["rate"])
        assert (alone.axes, alone.dataset, alone.epochs) == ((), "digits", 4)
        held_out = alone.replace(**round_data(tmp_path / "out"))
        (row,) = ordered(orchestrator.run(held_out, Execution(engine="fused", device="cpu"))).to_dicts()
        # fused in fp32 or bf16: members of another group round otherwise, by at most an image of the 24 held out.
        assert trial.value == pytest.approx(row["mean"] if row["clear"] else 0.0, abs=1 / 24 + 1e-9)


def test_a_killed_batch_goes_on_from_the_study_and_is_told_once(
    study: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        optimize(study(), SMALL, propose, 3, tmp_path / "out", batch=3, execution=LOOP, stop=lambda: next(calls) > 6)
    assert {trial.state.name for trial in study().trials} == {"RUNNING"}
    tell, count = optuna.Study.tell, iter(range(100))

    def dying(self: Any, *args: Any, **more: Any) -> Any:
        if next(count) == 1:
            raise Killed
        return tell(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", dying)
        with pytest.raises(Killed):
            optimize(study(), SMALL, propose, 3, tmp_path / "out", batch=3, execution=LOOP)
    assert [trial.state.name for trial in study().trials] == ["COMPLETE", "RUNNING", "RUNNING"]
    found = told(optimize(study(), SMALL, propose, 3, tmp_path / "out", batch=3, execution=LOOP))
    whole = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    assert found == told(optimize(whole, SMALL, propose, 3, tmp_path / "whole", batch=3, execution=LOOP))
    assert len(list((tmp_path / "out").glob("batch-*"))) == 1
    assert found == told(optimize(study(), SMALL, propose, 3, tmp_path / "out", batch=3, execution=LOOP))


def test_rounds_let_the_pruner_end_trials(study: Callable[..., Any], tmp_path: Path) -> None:
    class Odd(optuna.pruners.BasePruner):  # type: ignore[misc]
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number % 2)

    own = optimize(study(Odd()), SMALL, propose, 4, tmp_path / "out", batch=4, rounds=2, execution=LOOP)
    assert [trial.state.name for trial in own.trials] == ["COMPLETE", "PRUNED"] * 2
    assert [list(trial.intermediate_values) for trial in own.trials] == [[2]] * 4
    first, second = (atras.read(tmp_path / "out" / "batch-1" / f"round-{number}") for number in (1, 2))
    assert [run.run["protocol"]["epochs"] for run in (first, second)] == [2, 4]
    assert [run.run["protocol"]["adversarial_epochs"] for run in (first, second)] == [1, 2]
    assert (len(first.table), len(second.table)) == (4, 2)
    for trial in own.trials[::2]:
        held_out = protocol_of(trial, SMALL).replace(**round_data(tmp_path / "out"))
        (row,) = ordered(orchestrator.run(held_out, LOOP)).to_dicts()
        assert trial.value == (row["mean"] if row["clear"] else 0.0)  # not gone on from the first round


def test_settings_that_some_trials_have_and_trials_that_are_pruned_at_once(
    study: Callable[..., Any], tmp_path: Path
) -> None:
    def mixed(trial: Any) -> dict[str, Any]:
        if trial.number == 2:
            raise optuna.TrialPruned
        return {"optimizer": "sgd", "momentum": 0.5} if trial.number % 2 else {"activation": "tanh"}

    own = optimize(study(), SMALL, mixed, 4, tmp_path / "out", batch=4, execution=LOOP)
    assert [trial.state.name for trial in own.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert protocol_of(own.trials[1], SMALL) == SMALL.replace(
        candidates=SMALL.candidates[:1], optimizer="sgd", momentum=0.5
    )
    with pytest.raises(InputError, match=r"trial \(=2\): expected one with a member, got one pruned by propose"):
        protocol_of(own.trials[2], SMALL)
    assert own.trials[1].value == own.trials[3].value  # one member
    assert len(atras.read(tmp_path / "out" / "batch-1" / "round-1").table) == 2


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        ({"lerning_rate": 1}, r"axis \(='lerning_rate'\): did you mean learning_rate"),
        ({"candidate": "x"}, "expected"),
        ({"epochs": 3}, r"axis \(=epochs\): a search trains each round for epochs of its own"),
        ({"momentum": 0.9}, "only optimizer sgd has one"),
        (3, "propose: expected a mapping"),
    ],
)
def test_a_member_that_is_none_fails_its_trial_alone(
    proposed: Any, message: str, study: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        optimize(study(), SMALL, lambda trial: proposed if trial.number else {}, 2, tmp_path / "out", execution=LOOP)
    assert [trial.state.name for trial in study().trials] == ["RUNNING", "FAIL"]


def test_a_study_that_was_killed_at_its_start_begins_anew(
    study: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = search_optuna.write_file

    def dying(path: Path, parts: Any) -> None:
        if path.name == search_optuna.RECORD:
            raise Killed
        write(path, parts)

    with monkeypatch.context() as patch:
        patch.setattr(search_optuna, "write_file", dying)
        with pytest.raises(Killed):
            optimize(study(), SMALL, lambda _: {}, 1, tmp_path / "out", execution=LOOP)
    assert optimize(study(), SMALL, lambda _: {}, 1, tmp_path / "out", execution=LOOP).trials


def test_what_cannot_be_is_refused_in_one_line(
    study: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = study()
    optimize(own, SMALL, lambda _: {}, 1, tmp_path / "out", execution=LOOP)
    with pytest.raises(InputError, match="expected the study of this protocol"):
        optimize(own, SMALL.replace(epochs=3), propose, 2, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder for a study, found mine"):
        optimize(own, SMALL, propose, 2, tmp_path / "other")
    with pytest.raises(InputError, match="expected a protocol without axes"):
        optimize(own, SMALL.replace(axes={"learning_rate": (0.1,)}), propose, 2, tmp_path / "new")
    for other in (optuna.create_study(), optuna.create_study(directions=["maximize", "minimize"])):
        with pytest.raises(InputError, match=r"expected direction maximize alone, .* got (maximize, )?minimize"):
            optimize(other, SMALL, propose, 2, tmp_path / "new")
    with pytest.raises(InputError, match=r"rounds \(=4\): expected at most 3 of 4 epochs"):
        optimize(own, SMALL, propose, 2, tmp_path / "new", rounds=4)
    with pytest.raises(InputError, match=r"rounds \(=2\): expected 1, with which the study in .* was begun"):
        optimize(own, SMALL, propose, 2, tmp_path / "out", rounds=2)
    with pytest.raises(InputError, match=r"rank_by \(=balanced\): expected 'accuracy', with which the study in"):
        optimize(own, SMALL, propose, 2, tmp_path / "out", rank_by="balanced")
    with pytest.raises(InputError, match=r"trial \(=1\): expected one that atras evaluated"):
        protocol_of(own.ask(), SMALL)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"expected the package optuna; run pip install 'atras\[optuna\]'"):
        optimize(own, SMALL, propose, 2, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_example_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--batch", "2", "--epochs", "1", "--train-size", "60"]
    for trials in ("2", "3"):
        monkeypatch.setattr(sys, "argv", ["with_optuna.py", str(tmp_path), "--trials", trials, *options])
        runpy.run_path(str(ROOT / "examples" / "with_optuna.py"), run_name="__main__")
    assert capsys.readouterr().out.count("on images held out of the training set") == 2
    assert len(list(tmp_path.glob("trials/batch-*"))) == 2


def test_the_example_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "optuna.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    small = (
        example.replace("epochs=8", "epochs=1").replace("32, ", "2, ").replace("Protocol(", "Protocol(train_size=60, ")
    )
    names: dict[str, Any] = {}
    exec(compile(small, "docs/optuna.md", "exec"), names)  # noqa: S102 (the document is ours)
    assert len(names["results"].table) == 1
