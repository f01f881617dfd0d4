"""docs/networks.md says what there is: every spelling is read, every name and count is right, the example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atras.networks import (
    ACTIVATIONS,
    INITIALISATIONS,
    LAYERS,
    NETWORKS,
    Candidate,
    Network,
    Own,
    Spec,
    parse_layers,
    spell_layers,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = (each for each in section if each.startswith(heading))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_kind_of_layer_has_its_line_in_the_grammar() -> None:
    written = [row[0].strip(" `") for row in rows("The grammar")]
    kinds = [type(layer) for text in written for layer in parse_layers(text)]
    assert set(kinds) == {kind for kind in LAYERS.values() if kind is not Own}
    assert [spell_layers(parse_layers(text)) for text in written] == written


def test_named_networks_are_as_the_table_says() -> None:
    table = rows("Named networks")
    assert [row[0].strip("` ") for row in table] == list(NETWORKS)
    for name, layers, images, parameters, _ in table:
        candidate = Candidate.parse(name.strip("` "))
        assert f"`{spell_layers(candidate.layers)}`" == layers
        channels, height, width = map(int, images.split("x"))
        assert f"{Network(Spec((channels, height, width), 10), candidate).parameter_count:,}" == parameters


def test_activations_and_initial_weights_are_all_named() -> None:
    assert [row[0].strip("` ") for row in rows("Activations")] == list(INITIALISATIONS)
    for name in ACTIVATIONS:
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("example", re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))
def test_the_example_runs(example: str) -> None:
    exec(compile(example, "networks.md", "exec"), {})  # noqa: S102
