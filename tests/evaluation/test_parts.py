"""Which attack of those that one is made of turned an image: told image by image, also behind an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.attacks import ATTACKS, AutoAttack, PairAttack
from atras.engines import Engine
from atras.errors import Interrupted
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.results import Results, read
from atras.running import resume, run

CPU = Execution(engine="stack", device="cpu", checkpoint_every=3600)


@dataclass(frozen=True, repr=False)
class Short(AutoAttack):
    """The same attacks, the weakest first and with so few steps that each leaves something to the next."""

    name = "short"

    @property
    def parts(self) -> tuple[PairAttack, ...]:
        apgd, targeted, fab, square = (type(part) for part in super().parts)
        e = self.epsilon
        return square(e, queries=2), apgd(e, steps=1), fab(e, steps=1, targets=1), targeted(e, steps=5)  # type: ignore[call-arg]


PROTOCOL = Protocol(
    candidates=(Candidate((16,)), Candidate((24,))), epochs=10, adversarial_epochs=1, test_size=120, train_size=400,
    seeds=(0,), precision="fp32", learning_rate=0.005, attacks=(Short(), "apgd(steps=3)"), epsilons=(0.02, 0.1),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    ATTACKS.register(Short)
    yield
    ATTACKS.unregister("short")


@pytest.fixture(scope="module")
def whole(_short: None) -> Results:
    return run(PROTOCOL, CPU)


def test_every_image_that_is_turned_has_its_part(whole: Results) -> None:
    outcomes = whole.outcomes
    assert outcomes.filter(pl.col("attack") != "short", pl.col("part").is_not_null()).is_empty()
    own = outcomes.filter(attack="short")
    keys = ["hidden_layers", "phase", "image"]
    right = outcomes.filter(mode="clean").select(*keys, right="correct")
    both = own.join(right, on=keys)
    assert (both["part"].is_not_null() == (both["right"] & ~both["correct"])).all()
    counts = dict(own["part"].drop_nulls().value_counts().iter_rows())
    assert set(counts) == {"square(queries=2)", "apgd(steps=1)", "fab-t(steps=1, targets=1)", "apgd-t(steps=5)"}
    rows = whole.metrics.filter(attack="short", mode="white-box", split="test")
    keys = ["hidden_layers", "phase", "epsilon"]
    blind = own.filter(part="square(queries=2)").group_by(keys).len("blind")
    told = rows.join(blind, on=keys, how="left").select("blindly_turned_images", pl.col("blind").fill_null(0))
    assert told["blindly_turned_images"].sum() > 0
    assert told["blindly_turned_images"].to_list() == told["blind"].to_list()


def test_what_is_carried_up_keeps_the_part_that_made_it(whole: Results) -> None:
    own = whole.outcomes.filter(attack="short")
    keys = ["hidden_layers", "phase", "image"]
    made = own.filter(pl.col("made_at") == pl.col("epsilon")).select(*keys, "made_at", made="part")
    carried = own.filter(pl.col("made_at") < pl.col("epsilon")).join(made, on=[*keys, "made_at"])
    assert carried["part"].count() > 10
    assert carried["part"].equals(carried["made"], check_names=False)


def test_parts_are_the_same_behind_an_interruption(
    whole: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, gradient = [0], Engine.gradient

    def counting(self: Engine, *args: Any) -> Any:
        passes[0] += 1
        return gradient(self, *args)

    monkeypatch.setattr(Engine, "gradient", counting)
    stops: list[Interrupted] = []

    def stop() -> bool:
        return len(stops) < 4 and passes[0] > 12

    while True:
        passes[0] = 0
        try:
            if stops:
                resume(tmp_path / "run", stop=stop)
            else:
                run(PROTOCOL, CPU, out=tmp_path / "run", stop=stop)
            break
        except Interrupted as error:
            stops.append(error)
    assert len(stops) == 4
    assert read(tmp_path / "run").outcomes.equals(whole.outcomes)
