"""Candidates and the k-complete search space."""

from __future__ import annotations

import pytest
from torch import nn

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import (
    NETWORKS,
    PAPER_CANDIDATES,
    Candidate,
    Conv,
    Factory,
    Network,
    Own,
    Spec,
    k_complete,
    with_depth,
)
from atras.running.prepare import make_spec

PAPER_TABLES = """
8-16-32-64-128-256-512-1024 16-32-64-128-256-512-1024 24-48-96-192-384-768 32-64-128-256-512-1024 40-80-160-320-640
48-96-192-384-768 56-112-224-448-896 64-128-256-512-1024 8-32-128-512 16-64-256-1024 24-96-384 32-128-512 40-160-640
48-192-768 56-224-896 64-256-1024 8-64-512 16-128-1024 24-192 32-256 40-320 48-384 56-448 64-512 8-128 16-256 24-384
32-512 40-640 48-768 56-896 64-1024 8-256 16-512 24-768 32-1024 40 48 56 64
"""


def test_default_space_is_the_papers_forty_in_the_order_of_its_tables() -> None:
    assert [candidate.name for candidate in PAPER_CANDIDATES] == PAPER_TABLES.split()


def test_depths_of_the_papers_space() -> None:
    counts = {depth: len(with_depth(PAPER_CANDIDATES, [depth])) for depth in range(1, 9)}
    assert counts == {1: 4, 2: 18, 3: 8, 4: 2, 5: 4, 6: 2, 7: 1, 8: 1}


def test_other_ranges_grow_by_their_factor_up_to_the_widest() -> None:
    names = [candidate.name for candidate in k_complete([3, 5], [3], max_width=30)]
    assert names == ["3-9-27", "5-15"]


def test_a_candidate_reached_twice_stands_once() -> None:
    assert [c.name for c in k_complete([8], [2, 4], max_width=8)] == ["8"]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64)], ids=str)
def test_the_papers_other_reading_has_forty_candidates_that_fit_any_image(shape: tuple[int, int, int]) -> None:
    candidates = k_complete(kind="conv")
    assert [candidate.name.replace("c", "") for candidate in candidates] == PAPER_TABLES.split()
    spec = make_spec(Protocol(candidates=candidates), shape, 10)
    for candidate in candidates:
        network = Network(spec, candidate)
        assert [type(place.layer) for place in network.hidden] == [Conv] * candidate.depth
        side = max(1, shape[1] >> candidate.depth)
        assert network.places[-1].inputs == (candidate.widths[-1], side, side)


def test_another_kind_of_family_is_refused() -> None:
    with pytest.raises(InputError, match=r"kind .='convolution'.: expected one of dense, conv"):
        k_complete(kind="convolution")


def test_a_stem_chosen_by_the_images_stands_before_dense_layers_alone_and_a_named_one_before_all() -> None:
    candidates = tuple(map(Candidate.parse, ("24-192", "c40-8", "wong-mnist")))
    auto = make_spec(Protocol(candidates=candidates), (1, 28, 28), 10)
    named = make_spec(Protocol(candidates=candidates, stem="conv2"), (1, 28, 28), 10)
    assert [len(Network(auto, candidate).stem) for candidate in candidates] == [2, 0, 0]
    assert [len(Network(named, candidate).stem) for candidate in candidates] == [2, 2, 2]
    assert [Network(auto, candidate).places[0].inputs for candidate in candidates] == [(1, 28, 28)] * 3
    assert Spec(**auto.to_dict()) == auto != named == Spec(**named.to_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_known_network_is_read_by_its_name_and_named_by_its_layers(name: str) -> None:
    candidate = Candidate.parse(name)
    assert candidate.layers == NETWORKS[name]
    assert candidate.name == name
    assert Candidate.parse("-".join(map(str, NETWORKS[name]))) == candidate


def test_a_network_that_is_nearly_known_is_suggested() -> None:
    with pytest.raises(InputError, match=r"^hidden .='madri-mnist'.: did you mean madry-mnist\? Expected"):
        Candidate.parse("madri-mnist")
    with pytest.raises(InputError, match=rf"^hidden .='resnet18'.: expected widths .*: {', '.join(NETWORKS)}$"):
        Candidate.parse("resnet18")


def test_two_candidates_of_one_name_are_refused() -> None:
    same = (Candidate([Own(Factory.of("wong-mnist", nn.Identity))]), Candidate.parse("wong-mnist"))
    with pytest.raises(InputError, match=r"network .='wong-mnist'.: expected a name that is no built-in network's"):
        Protocol(candidates=same)
    with pytest.raises(InputError, match="candidates: wong-mnist came twice"):
        Protocol(candidates=tuple(map(Candidate.parse, ("wong-mnist", "c16k4s2z1-c32k4s2z1-100"))))


@pytest.mark.parametrize("text", ["24,192", "24-192", " 24 , 192 "])
def test_candidates_are_read_as_written_by_people_and_by_the_paper(text: str) -> None:
    assert Candidate.parse(text) == Candidate((24, 192))


@pytest.mark.parametrize("text", ["", "24,,192", "24;192", "-24", "24.0", "0", "99999999", "²"])
def test_unreadable_candidates_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^hidden \(=.*expected") as caught:
        Candidate.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hidden", [(), (0,), (8, True), (8, 2.0)])
def test_candidates_are_validated(hidden: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected one or more whole numbers"):
        Candidate(hidden)


def test_candidates_are_hashable_and_frozen() -> None:
    assert {Candidate((8,)): 1}[Candidate((8,))] == 1
    with pytest.raises(AttributeError):
        Candidate((8,)).layers = (9,)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([8], [1], 64), "factors"),
        (([0], [2], 64), "base_widths"),
        (([128], [2], 64), "base_widths"),
        (([], [2], 64), "at least one base width"),
    ],
)
def test_impossible_ranges_are_refused(arguments: tuple[list[int], list[int], int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        k_complete(*arguments)


def test_a_depth_nobody_has_is_refused_with_the_depths_there_are() -> None:
    with pytest.raises(InputError, match=r"depth \(=9\).*choose from 1, 2, 3"):
        with_depth(PAPER_CANDIDATES, [9])
    with pytest.raises(InputError, match="more digits than Python prints"):
        with_depth(PAPER_CANDIDATES, [10**5000])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ((range(1, 10_000), range(2, 10_000), 10_000), "at most 100000 candidates; narrow the ranges"),
        (([8], [2], 10**5000), "max_width .=more digits than Python prints.: expected a whole number from 1 to 65536"),
    ],
)
def test_ranges_that_stand_for_too_much_are_refused_at_once(ranges, message):
    with pytest.raises(InputError, match=message):
        k_complete(*ranges)


def test_layers_are_bounded():
    assert Candidate((1,) * 1000).depth == 1000
    with pytest.raises(InputError, match="expected at most 1000 layers, got 1001"):
        Candidate((1,) * 1001)


@pytest.mark.parametrize("hidden", [5, None, "40", {40}, 1.5])
def test_what_is_no_tuple_of_widths_is_refused(hidden):
    with pytest.raises(InputError, match="expected one or more whole numbers"):
        Candidate(hidden)
