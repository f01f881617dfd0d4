"""Networks compared image by image: the exact paired test, agreement, and the lines of `atras compare`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from atras.analysis import compare_images, image_pairs, mcnemar, worst_case
from atras.analysis.compare_text import compare_lines
from atras.errors import InputError
from atras.experiment import Protocol
from atras.results import Results, dtypes, empty
from atras.results.frames import frame_of
from atras.results.schemas import SCHEMAS
from atras.testing.fake_run import make_run

IMAGES = 30


def verdicts(name: str, seed: int, attack: str, correct: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """A row of what a group records: an attack on all images."""
    none = np.zeros(IMAGES)
    return {
        "dataset": "digits", "hidden_layers": name, "variant": "", "seed": seed, "defence": "copies",
        "phase": "defended", "mode": "white-box", "attack": attack, "norm": "linf", "epsilon": 0.05,
        "label_source": "true", "target": "none", "source": None, "image": np.arange(IMAGES, dtype="<u4").tobytes(),
        "correct": correct.tobytes(), "counts": counts.tobytes(), "made_at": none.astype("<f8").tobytes(),
        "change": none.astype("<f4").tobytes(), "part": None,
        **{column: none.astype("<u4").tobytes() for column in ("prediction", "queries", "gradients")},
    }  # fmt: skip


def run_of(seed: int, names: tuple[str, ...] = ("8", "16", "24")) -> tuple[Results, dict[tuple[str, int], np.ndarray]]:
    """A run of two attacks, and the images that each member loses under both, as far as they count."""
    random, rows, lost = np.random.default_rng(seed), [], {}
    for name, member_seed in itertools.product(names, (0, 1)):
        keeps, counts = random.random((2, 2, IMAGES)) < 0.7
        rows += [verdicts(name, member_seed, attack, keeps[i], counts[i]) for i, attack in enumerate(("fgsm", "pgd"))]
        lost[name, member_seed] = (~keeps & counts).any(0)
    frames = {name: empty(name) for name in SCHEMAS} | {"outcomes": frame_of("outcomes", rows)}
    table = [{"hidden_layers": name, "seed": s, "status": "trained", "test_accuracy": 0.5} for name, s in lost]
    frames["table"] = pl.DataFrame(table, schema=dtypes("table"))
    data = {"test_size": IMAGES, "sha256": {"x_test": "21"}}
    return Results(**frames, run={"protocol": Protocol().to_dict(), "data": data}), lost


def test_the_worst_case_is_over_what_counts() -> None:
    results, lost = run_of(0)
    found = worst_case(results)
    for (name, seed), images in lost.items():
        own = found.filter(hidden_layers=name, seed=seed)
        assert own["image"].to_list() == list(range(IMAGES))
        assert (own["correct"].to_numpy() == ~images).all()
    assert worst_case(results, "trained").is_empty()


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 6), (3, 3), (2, 9), (40, 61)])
def test_mcnemar_is_the_binomial_tail_on_both_sides(only_a: int, only_b: int) -> None:
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_pairs_of_networks_are_counted_on_their_images() -> None:
    results, lost = run_of(1)
    found = image_pairs(results)
    assert len(found) == 2 * 3  # candidates of one seed are paired
    for row in found.to_dicts():
        a, b = lost[row["a"], row["seed"]], lost[row["b"], row["seed"]]
        assert (row["images"], row["both"]) == (IMAGES, int((a & b).sum()))
        assert (row["only_a"], row["only_b"]) == (int((a & ~b).sum()), int((b & ~a).sum()))
        assert row["agreement"] == pytest.approx((a == b).mean())
        assert row["p"] == mcnemar(row["only_a"], row["only_b"])
        assert row["p"] <= row["p_holm"] <= 1


def test_two_runs_are_paired_member_by_member() -> None:
    (first, left), (second, right) = run_of(2), run_of(3, ("24", "8"))
    found = compare_images(first, second)
    assert found.select("hidden_layers", "seed").rows() == [("8", 0), ("8", 1), ("24", 0), ("24", 1)]
    for row in found.to_dicts():
        key = row["hidden_layers"], row["seed"]
        assert row["only_a"] == int((left[key] & ~right[key]).sum())
    lines = compare_lines(first, second)
    start = next(i for i, line in enumerate(lines) if line.startswith("test images lost"))
    assert len(lines) == start + 3 + 4
    assert lines[start + 1] == "p tells these networks apart, no protocols"
    assert all(len(line) <= 80 for line in lines)
    other = first.run | {"data": first.run["data"] | {"sha256": {"x_test": "22"}}}
    moved = Results(**{name: getattr(first, name) for name in SCHEMAS}, run=other)
    with pytest.raises(InputError, match="expected runs on the same test images"):
        compare_lines(moved, second)


def test_other_attacks_lose_other_images_so_that_there_is_no_p() -> None:
    """Under other attacks the same network loses other images: McNemar's test would tell it from itself."""
    (first, _), (second, _) = run_of(2), run_of(3)
    protocol = second.run["protocol"] | {"attacks": ["fgsm", "pgd(steps=40)"]}
    harder = Results(**{name: getattr(second, name) for name in SCHEMAS}, run=second.run | {"protocol": protocol})
    found = compare_images(first, harder)
    assert found["p"].null_count() == found["p_holm"].null_count() == len(found)
    assert "no p, as they mean different things (other attacks)" in compare_lines(first, harder)


def test_outcomes_of_one_run_alone_are_said_to_be_missing() -> None:
    (first, _), (second, _) = run_of(2), run_of(3)
    frames = {name: getattr(second, name) for name in SCHEMAS} | {"outcomes": second.outcomes.clear()}
    lines = compare_lines(first, Results(**frames, run=second.run))
    assert lines[-1] == "image by image: nothing, as B kept no outcomes; run it with --outcomes all"


def test_a_run_without_outcomes_says_what_to_do() -> None:
    with pytest.raises(InputError, match="found none; run with --outcomes all"):
        worst_case(make_run(names=("8", "16")))
    with pytest.raises(InputError, match="expected one of trained, defended"):
        worst_case(run_of(0)[0], "both")
    with pytest.raises(InputError, match=r"only_a \(=-1\): expected a whole number"):
        mcnemar(-1, 2)


def test_many_members_with_outcomes_fit_the_width() -> None:
    names = tuple(str(width) for width in range(8, 14))
    lines = compare_lines(run_of(2, names)[0], run_of(3, names)[0])
    assert "the 10 members that differ most, of 12" in lines
    assert max(map(len, lines)) <= 80
