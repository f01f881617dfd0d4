"""The first block of a report names the most robust network, its equals, and what is missing, in every format."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl

from atras.analysis import ranking, winner_sentences
from atras.report.contents import contents
from atras.report.headline import headline
from atras.report.markdown import markdown
from atras.report.page import page
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_the_block_stands_before_all_sections_on_the_page_and_in_markdown(full: Results, full_page: str) -> None:
    best = ranking(full).row(0, named=True)
    title = f"Most robust: {best['hidden_layers']}"
    assert full_page.index(title) < full_page.index('<nav class="contents"')
    assert "<li>Only 2 seeds: fewer than 5" in full_page
    text = markdown(contents([full]))
    assert text.index(title) < text.index("## What was run")
    assert f"- worst-case robust accuracy: {best['mean']:.3f} ({best['low']:.3f} to {best['high']:.3f})" in text


def test_equals_are_counted_and_named(full: Results) -> None:
    tied = ranking(full)["tied"][0]
    assert headline(full).title.endswith(f", one of {len(tied) + 1} that cannot be told apart")
    others = full.table.filter(status="trained")["hidden_layers"].n_unique() - 1
    assert headline(full).text == (f"Not distinguishable from it (95 %): {len(tied)} of the {others} others "
                                   f"that may be first: {', '.join(tied)}.",)  # fmt: skip


def test_of_two_the_equal_is_the_other() -> None:
    assert (
        headline(make_run(names=("64-512", "24-192")))
        .text[0]
        .startswith("Not distinguishable from it (95 %): the other: ")
    )


def test_networks_that_did_not_train_are_no_equals() -> None:
    """Of five one is dead; of two one."""
    one = headline(make_run(seeds=(0,)))
    assert one.title.endswith(", one of 4 that cannot be told apart")
    assert one.text[0].startswith("One seed gives no ranks: ")
    assert one.text[0].endswith("any of the 4 (of 5) that trained and see the images may be the first.")
    for seeds in ((0,), range(2)):
        run = make_run(names=("8-16-32", "24-192"), seeds=seeds)
        dead = pl.when(hidden_layers="8-16-32").then(pl.lit("dead")).otherwise("status")
        run = replace(run, table=run.table.with_columns(status=dead))
        alone = headline(run)
        assert alone.title == "Most robust: 24-192"
        assert alone.text[0].startswith("It alone of 2 may be first: ")
        assert winner_sentences(run)[1].startswith("It alone of 2 may be first: ")
        assert "best of" not in " ".join(winner_sentences(run))


def test_one_network_alone_is_first_of_nothing() -> None:
    found = headline(make_run(names=("24-192",), seeds=range(5)))
    assert (found.title, found.text) == ("24-192", ())


def test_a_run_of_which_nothing_trained_says_so(full: Results) -> None:
    dead = Results(full.table.head(1), full.metrics.clear(), full.history.clear(), full.timings, full.run)
    assert headline(dead).title == "No candidate trained"
    assert re.search(r"<h2[^>]*>No candidate trained</h2>", page(contents([dead])))
