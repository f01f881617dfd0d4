"""Wilson's interval, and outcomes out of their packed rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.errors import InputError
from atras.results.frames import frame_of, wilson
from atras.results.order import ordered, packed_in_order
from atras.results.schemas import SCHEMAS


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # z^2 / (n + z^2) and its complement, by hand: 3.841459 / 13.841459.
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(correct: int, n: int, low: float, high: float) -> None:
    # Four decimals are printed in the source.
    assert wilson(correct, n) == pytest.approx((low, high), abs=5.1e-5)


@settings(deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_solves_its_equation_and_mirrors(counts: tuple[int, int]) -> None:
    correct, n = counts
    share, z = correct / n, 1.959963984540054
    low, high = wilson(correct, n)
    assert low is not None
    assert high is not None
    assert 0.0 <= low <= share <= high <= 1.0
    assert low < high
    for end in (low, high):
        # The score equation (share - p)^2 = z^2 p (1 - p) / n defines the ends.
        assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-6, abs=1e-12)
    mirrored = wilson(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_of_no_trials_is_unknown() -> None:
    assert wilson(0, 0) == (None, None)


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(InputError, match="expected a count from 0 to n"):
        wilson(correct, n)


def test_outcomes_are_the_same_whether_they_are_put_in_order_packed_or_unpacked() -> None:
    protocol = {"candidates": ["40", "24-192"], "seeds": [1, 0]}
    draw, rows = np.random.default_rng(0), []
    for attack, part, made_at in (("fgsm", None, None), ("auto(a, b)", b"a\n\nb", np.array([0.1, 0.2, 0.3]).tobytes())):
        for name, seed in (("24-192", 0), ("40", 0), ("24-192", 1), ("40", 1)):
            row: dict[str, object] = dict.fromkeys(SCHEMAS["outcomes"])
            row |= {"dataset": "digits", "hidden_layers": name, "variant": "", "seed": seed, "attack": attack}
            numbers = {"image": "<u4", "prediction": "<u4", "queries": "<u4", "gradients": "<u4", "change": "<f4"}
            row |= {column: draw.integers(0, 9, 3).astype(kind).tobytes() for column, kind in numbers.items()}
            row |= {column: draw.integers(0, 2, 3).astype("?").tobytes() for column in ("correct", "counts")}
            rows.append(row | {"part": part, "made_at": made_at})
    later = ordered([frame_of("outcomes", rows)], protocol)
    before = frame_of("outcomes", packed_in_order(rows, protocol))
    assert before.equals(later)
    assert before["hidden_layers"].unique(maintain_order=True).to_list() == ["40", "24-192"]
    assert before.filter(attack="auto(a, b)")["part"].unique(maintain_order=True).to_list() == ["a", None, "b"]
    assert before.filter(attack="fgsm")["made_at"].null_count() == 12
    assert not frame_of("outcomes", []).height
    rows[0]["change"] = b""
    with pytest.raises(InputError, match="as many numbers in one column as in another"):
        frame_of("outcomes", rows)
