"""Each schedule gives the rates of torch's own scheduler, step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD, lr_scheduler

from atras.errors import InputError
from atras.registry import read_fraction
from atras.schedules import SCHEDULES, Constant, Cosine, Cyclic, Step

RATE, EPOCHS, EPOCH_STEPS = 0.3, 10, 7
STEPS = EPOCHS * EPOCH_STEPS
Scheduler = Callable[[SGD], lr_scheduler.LRScheduler]


def of_torch(make: Scheduler) -> list[float]:
    """The learning rate of each step."""
    optimizer = SGD([torch.zeros(1, dtype=torch.float64)], lr=RATE)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(text: str) -> list[float]:
    schedule = SCHEDULES.parse(text)
    return [RATE * schedule.multiplier(step, STEPS, EPOCH_STEPS) for step in range(STEPS)]


def rise(optimizer: SGD, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)


def cyclic(up: float, down: float, low: float = 0.0) -> Scheduler:
    return lambda optimizer: lr_scheduler.CyclicLR(optimizer, low * RATE, RATE, up, down, cycle_momentum=False)


CASES: dict[str, Scheduler] = {
    "constant": lambda o: lr_scheduler.LambdaLR(o, lambda _: 1.0),
    "constant(warmup=2)": lambda o: rise(o, 14),
    "step(every=3, factor=0.2)": lambda o: lr_scheduler.StepLR(o, 3 * EPOCH_STEPS, 0.2),
    "step(4)": lambda o: lr_scheduler.StepLR(o, 4 * EPOCH_STEPS),
    "step(at=(3, 8))": lambda o: lr_scheduler.MultiStepLR(o, [3 * EPOCH_STEPS, 8 * EPOCH_STEPS]),
    "step(at=(3, 8), warmup=1)": lambda o: lr_scheduler.ChainedScheduler(
        [rise(o, 7), lr_scheduler.MultiStepLR(o, [3 * EPOCH_STEPS, 8 * EPOCH_STEPS])]
    ),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "cosine(low=0.1)": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1 * RATE),
    "cosine(warmup=2)": lambda o: lr_scheduler.SequentialLR(
        o, [rise(o, 14), lr_scheduler.CosineAnnealingLR(o, STEPS - 14)], milestones=[14]
    ),
    "cyclic": cyclic(STEPS / 2, STEPS / 2),
    "cyclic(peak=0.4, low=0.2)": cyclic(0.4 * STEPS, 0.6 * STEPS, 0.2),
    "cyclic(peak=1/5, cycles=7)": cyclic(2, 8),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, RATE, STEPS, cycle_momentum=False),
    "one-cycle(peak=0.5, div_factor=10, final_div_factor=100, anneal=linear)": lambda o: lr_scheduler.OneCycleLR(
        o, RATE, STEPS, pct_start=0.5, div_factor=10, final_div_factor=100, anneal_strategy="linear",
        cycle_momentum=False,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step..` was not necessary")  # SequentialLR's own
@pytest.mark.parametrize("text", CASES)
def test_every_step_has_the_rate_of_torchs_scheduler(text: str) -> None:
    # Torch goes from each rate to the next, where rounding adds up: a few times float64's.
    assert ours(text) == pytest.approx(of_torch(CASES[text]), rel=1e-12, abs=1e-13)


def test_published_recipes_can_be_written() -> None:
    """Fast is better than free on MNIST (`train_mnist.py`): `lr = np.interp(epoch + (i + 1) / steps, ...)`."""
    places = [(step + 1) / EPOCH_STEPS for step in range(STEPS)]
    expected = [np.interp(t, [0, EPOCHS * 2 // 5, EPOCHS], [0, RATE, 0]) for t in places]
    assert ours("cyclic(peak=0.4, ahead=1)") == pytest.approx(expected, rel=1e-12, abs=1e-13)
    # TRADES on MNIST (`train_trades_mnist.py`): a tenth from epoch 55 on, counted from 1, and so on.
    trades = [0.1 ** ((epoch >= 55) + (epoch >= 75) + (epoch >= 90)) for epoch in range(1, 101) for _ in range(3)]
    schedule = Step(at=(54, 74, 89))
    assert [schedule.multiplier(step, 300, 3) for step in range(300)] == pytest.approx(trades, rel=1e-12)


@pytest.mark.parametrize("text", [*CASES, "cyclic(peak=0.0)", "cyclic(peak=1.0)", "one-cycle(peak=1.0)"])
def test_rates_stay_in_range_and_are_spelled_again(text: str) -> None:
    schedule = SCHEDULES.parse(text)
    assert SCHEDULES.parse(str(schedule)) == schedule
    for steps in (1, 2, 3, 10):
        assert all(0 <= schedule.multiplier(step, steps, 2) <= 1 for step in range(steps))
    assert schedule.varies == (text != "constant")


def test_equal_schedules_are_spelled_alike_however_they_are_given() -> None:
    assert str(Step(at=[150, 100])) == str(SCHEDULES.parse("step(at=(100.0, 150))"))  # type: ignore[arg-type]
    assert Cosine(warmup=2) == SCHEDULES.parse("cosine(warmup=2)") == Cosine(warmup=2.0)
    assert Constant(warmup="1/2").warmup == read_fraction("", "1/2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cosin", r"schedule \(='cosin'\): did you mean cosine\?"),
        ("step", r"schedule \(=step\): expected either every, such as step\(every=10\), or at most"),
        ("step(every=1, at=(2, 3))", "expected either every"),
        ("step(at=(2, 2))", "step: at: 2.0 came twice"),
        ("step(at=(2, x))", "step: at .='x'.: expected a number or a fraction"),
        ("cosine(warmup=-1)", r"cosine: warmup \(=-1.0\): expected a number from 0 to"),
        ("cyclic(peak=2)", r"cyclic: peak \(=2.0\): expected a number from 0 to 1"),
        ("cyclic(cycles=0)", r"cyclic: cycles \(=0\): expected a whole number from 1"),
        ("one-cycle(anneal=sine)", "one-cycle: anneal .='sine'.: expected one of cos, linear"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        SCHEDULES.parse(text)


def test_a_cycle_ends_where_it_began() -> None:
    ends = [Cyclic(ahead=1).multiplier(9, 10, 1), Cyclic(cycles=2, ahead=1).multiplier(9, 10, 1)]
    assert ends == [0.0, 0.0]
    assert Cyclic(cycles=2).multiplier(5, 10, 1) == 0.0
