"""How options are written, and which source outranks which."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from atras.attacks import FGSM, PGD, DeepFool
from atras.defences import BatchCopies, Copies
from atras.errors import InputError
from atras.experiment import PRESETS, Execution, Loaded, Protocol, combine, select_candidates
from atras.experiment.readers import (
    MAX_COUNT,
    parse_attacks,
    parse_defence,
    parse_epsilon,
    parse_epsilons,
    parse_memory,
    parse_number,
    parse_seeds,
    parse_size,
    parse_whole,
)
from atras.networks import PAPER_CANDIDATES, Candidate, grid, k_complete, with_depth


def names(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.name for candidate in candidates]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_epsilon, "8/255", 8 / 255),
        (parse_epsilon, " 0.05 ", 0.05),
        (parse_epsilon, 1, 1.0),
        (parse_epsilons, "0, 0.1,8/255", (0.0, 0.1, 8 / 255)),
        (parse_epsilons, [0, "1/4,0.5"], (0.0, 0.25, 0.5)),
        (parse_attacks, ["fgsm", "pgd, deepfool"], (FGSM(), PGD(), DeepFool())),
        (parse_attacks, "fgsm,pgd(steps=3, restarts=2)", (FGSM(), PGD(steps=3, restarts=2))),
        (parse_attacks, ["pgd(steps=40, restarts=5)", "deepfool"], (PGD(steps=40, restarts=5), DeepFool())),
        (parse_defence, "copies(fgsm, source=smallest)", Copies(source="smallest")),
        (parse_defence, "batch(pgd(steps=7))", BatchCopies(PGD(steps=7))),
        (parse_seeds, "0-4", (0, 1, 2, 3, 4)),
        (parse_seeds, "0,3,7", (0, 3, 7)),
        (parse_seeds, "5, 0 - 2", (5, 0, 1, 2)),
        (parse_seeds, [4, "6-7"], (4, 6, 7)),
        (parse_seeds, 9, (9,)),
        (parse_size, "all", "all"),
        (parse_size, "default", "default"),
        (parse_size, "500", 500),
        (parse_size, 500, 500),
        (parse_memory, "4GiB", 4 * 2**30),
        (parse_memory, "512 mib", 512 * 2**20),
        (parse_memory, "1.5GB", 1_500_000_000),
        (parse_memory, "1048576", 2**20),
        (parse_memory, 2**20, 2**20),
    ],
)
def test_values_are_read_as_written(parse: Any, text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_epsilon, text) for text in ("", "x", "8/0", "1/2/3", "nan", "inf", True)),
        *((parse_seeds, text) for text in ("", "-1", "4-0", "1,,2", "0-", "1.5", f"0-{MAX_COUNT}", [1.5], "٣")),
        *((parse_size, text) for text in ("", "half", "1e3", 5.0, True)),
        *((parse_memory, text) for text in ("", "4 XiB", "GiB", "-1", "nan", True, 1.5e300)),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_value_and_an_example(parse: Any, text: object) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    message = str(caught.value)
    assert f"(={text!r}): expected" in message
    assert "write for example" in message
    assert "\n" not in message


@given(
    st.text() | st.text("0123456789.,-/eEKMGTiB ") | st.integers() | st.lists(st.integers() | st.text()),
    st.sampled_from(["epsilon", "seeds", "size", "memory", "hidden", "depth", "base_widths", "factors", "max_width"]),
)
def test_nothing_but_an_input_error_comes_out_of_the_parsers(value: Any, kind: str) -> None:
    assume(kind != "hidden" or isinstance(value, str))  # what else a file may hold is checked before
    parsers = {"epsilon": parse_epsilon, "seeds": parse_seeds, "size": parse_size, "memory": parse_memory}
    with suppress(InputError):
        parsers[kind](value) if kind in parsers else select_candidates(**{kind: value})


@given(st.lists(st.integers(0, 2**62), min_size=1), st.booleans())
def test_seeds_survive_being_written(seeds: list[int], spaced: bool) -> None:
    assert parse_seeds((", " if spaced else ",").join(map(str, seeds))) == tuple(seeds)


def test_signed_whole_numbers_are_left_to_the_range_check() -> None:
    assert parse_whole("-1", "epochs") == -1


@pytest.mark.parametrize("parse", [parse_number, parse_whole])
def test_numbers_name_their_option(parse: Any) -> None:
    with pytest.raises(InputError, match=r"^momentum \(='x'\): expected"):
        parse("x", "momentum")


def test_candidates_are_named_one_by_one() -> None:
    assert names(select_candidates(hidden=["40", "24-192", [8, 32]])) == ["40", "24-192", "8-32"]
    assert names(select_candidates(hidden="24,192")) == ["24-192"]


def test_a_family_is_a_kind_of_layers() -> None:
    assert select_candidates(family="conv") == k_complete(kind="conv")
    assert select_candidates(family="conv", factors=4, depth=3) == with_depth(k_complete(factors=[4], kind="conv"), [3])
    assert select_candidates(family="dense", start=[Candidate((3,))]) == PAPER_CANDIDATES
    assert names(select_candidates(hidden=["c40", "c24-c192"], family="conv")) == ["c40", "c24-c192"]
    with pytest.raises(InputError, match=r"^hidden .='24'.: expected a candidate of family conv; leave out --family"):
        select_candidates(hidden=["c40", "24"], family="conv")
    with pytest.raises(InputError, match=r"^family .='convs'.: expected one of dense, conv, grid"):
        select_candidates(family="convs")


def test_a_grid_is_every_width_with_every_depth_and_kernel() -> None:
    assert names(select_candidates(widths="8,16", depths="1-2")) == ["8", "8-8", "16", "16-16"]
    assert select_candidates(family="grid", widths=[4], depths=2, kernels="3,5") == grid([4], [2], [3, 5])
    assert names(grid([4, 6], [2], [3, 5])) == [
        "c4-c4", "c4k5zsamepauto-c4k5zsamepauto", "c6-c6", "c6k5zsamepauto-c6k5zsamepauto",
    ]  # fmt: skip
    assert names(select_candidates(widths="8,16", depths="1-3", depth=3)) == ["8-8-8", "16-16-16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "grid"}, "grid: expected at least one width and one depth; add --widths and --depths"),
        ({"widths": "8"}, "grid: expected at least one width and one depth"),
        ({"widths": "8", "depths": "0"}, "depths (=0): expected a whole number from 1 to 1000"),
        ({"widths": "8", "depths": "1", "kernels": "4"}, "kernel (=4): expected an odd number with padding same"),
        ({"widths": "0", "depths": "1"}, "units (=0): expected a whole number from 1 to 65536"),
        ({"widths": "1-9000", "depths": "1-900"}, "expected at most 100000 candidates; narrow the ranges"),
        ({"family": "conv", "widths": "8"}, "widths: expected with another family than conv, which has base-widths,"),
        ({"family": "grid", "factors": "2"}, "factors: expected with another family than grid, which has widths,"),
        ({"widths": "8", "factors": "2"}, "widths: expected with another family than dense"),
        ({"hidden": "8", "widths": "8"}, "hidden and widths both choose candidates"),
        ({"hidden": "8", "family": "grid"}, "hidden and family grid both choose candidates"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        select_candidates(**options)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_candidates_by_range_take_the_papers_where_one_is_left_out() -> None:
    assert select_candidates(base_widths="8,16", factors=4, max_width="64") == k_complete([8, 16], [4], 64)
    assert select_candidates(factors=[2]) == k_complete(factors=[2])


def test_depth_filters_what_was_chosen_otherwise_what_was_there() -> None:
    assert names(select_candidates(hidden=["40", "24,192"], depth="2")) == ["24-192"]
    assert select_candidates(depth=["1,2", "3"]) == with_depth(PAPER_CANDIDATES, [1, 2, 3])
    assert names(select_candidates(depth=1, start=[Candidate((3,)), Candidate((3, 3))])) == ["3"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ["40"], "factors": "2"}, "hidden and factors both choose candidates"),
        ({"hidden": ["40", "x"]}, r"hidden \(='x'\)"),
        ({"hidden": [[]]}, r"hidden \(=\(\)\)"),
        ({"depth": "9"}, r"depth \(=9\): no candidate has it"),
        ({"factors": "1"}, "at least 2"),
        ({"base_widths": "2048"}, "from 1 to max_width"),
        ({"max_width": "x"}, r"max-width \(='x'\)"),
    ],
)
def test_candidates_that_cannot_be_chosen_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_candidates(**settings)


def test_a_later_source_outranks_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "mine", {"epochs": 2, "batch_size": 3, "stem": "none"})
    loaded = Loaded({"batch_size": 4, "stem": "conv2"}, {"engine": "loop", "device": "cpu"}, preset="mine")
    protocol, execution, _ = combine(loaded, {"stem": "conv4", "device": "cuda"})
    assert (protocol.activation, protocol.epochs, protocol.batch_size, protocol.stem) == ("relu", 2, 4, "conv4")
    assert (execution.engine, execution.device) == ("loop", "cuda")


def test_the_command_lines_preset_replaces_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "one", {"epochs": 2})
    monkeypatch.setitem(PRESETS, "two", {"batch_size": 3})
    protocol, _, _ = combine(Loaded(preset="one"), {"preset": "two"})
    assert (protocol.epochs, protocol.batch_size) == (20, 3)


def test_epochs_set_both_phases_unless_the_second_is_given() -> None:
    assert combine(Loaded(), {"epochs": "3"})[0].adversarial_epochs == 3
    assert combine(Loaded(), {"epochs": "3", "adversarial_epochs": "5"})[0].adversarial_epochs == 5
    assert combine(Loaded(), {"adversarial_epochs": "5"})[0].epochs == 20


def test_the_command_lines_depth_filters_the_files_candidates() -> None:
    loaded = Loaded({"candidates": (Candidate((3,)), Candidate((3, 3)))})
    assert names(combine(loaded, {"depth": ["2"]})[0].candidates) == ["3-3"]
    assert names(combine(loaded, {"hidden": ["5"]})[0].candidates) == ["5"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"epochs": "20", "seeds": "0", "data_dir": "elsewhere", "download": False}, True),
        ({"epochs": "3"}, False),
        ({"hidden": ["40"]}, False),
        ({"device": "cuda"}, False),
        ({"memory": "4GiB"}, False),
        ({"engine": "loop"}, False),
        ({"recalibrate": True}, False),
    ],
)
def test_a_recorded_plan_is_dropped_when_what_it_depends_on_changes(settings: dict[str, Any], kept: bool) -> None:
    loaded = Loaded(Protocol().replace(dataset="mnist").to_dict() | {
        "candidates": PAPER_CANDIDATES, "seeds": (0,), "attacks": (FGSM(),), "epsilons": (),
    }, {"device": "cpu"}, plan={"groups": []})  # fmt: skip
    assert combine(loaded, settings)[2] == ({"groups": []} if kept else None)


def test_without_settings_everything_is_the_default() -> None:
    assert combine(Loaded(), {}) == (Protocol(), Execution(), None)


def test_ranges_stand_for_a_bounded_number_in_all() -> None:
    assert len(parse_seeds(f"0-{MAX_COUNT - 2},{MAX_COUNT - 1}")) == MAX_COUNT
    for text in (f"0-{MAX_COUNT - 1},7", ",".join(["0-9999"] * 1000), ["0-9999"] * 1000):
        with pytest.raises(InputError, match="expected whole numbers"):
            parse_seeds(text)
