"""The report in a real browser: sorting, filtering, hovering, keyboard, narrow and dark windows, and no requests."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from atras import report
from atras.report.charts import Table
from atras.report.registry import fresh_sections, register_section
from atras.report.section import Section
from atras.testing.fake_run import make_run

pytestmark = pytest.mark.browser
ROWS = "#run1-candidates .sortable >> nth=0 >> tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    # A section from elsewhere, whose table has no depth and no status to filter by.
    toys = Table("Toys", ("toy", "price"), (("doll", "12"), ("ball", "3"), ("kite", "-")), sortable=True)
    with fresh_sections():
        register_section("toys", lambda results: Section("toys", "Toys", tables=(toys,)))
        stamps = Table("Stamps", ("stamp", "price"), tuple((f"s{n}", str(n)) for n in range(12)), sortable=True)
        register_section("stamps", lambda results: Section("stamps", "Stamps", tables=(stamps,)))
        runs = [make_run(outcomes=True), make_run(dataset="mnist", seeds=(0,))]
        return report.write(runs, folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a window; a test that leaves an error in the console or a request on the wire fails."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **getattr(request, "param", {})})
    requests: list[str] = []
    problems: list[str] = []
    tab = context.new_page()
    tab.on("request", lambda sent: requests.append(sent.url))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(address)
    yield tab
    assert problems == []
    assert [url for url in requests if not url.startswith("file:") and not url.startswith("data:")] == []
    context.close()


def first_cells(page: Any) -> list[str]:
    return page.locator(f"{ROWS} >> th").all_inner_texts()


def figures(page: Any, column: int) -> list[float]:
    texts = page.locator(ROWS).evaluate_all(
        "(rows, i) => rows.map((row) => row.cells[i].firstChild.textContent)", column
    )
    return [float(text.split(" ")[0]) for text in texts if text != "-"]


def test_a_click_sorts_and_a_second_one_turns_the_order(page: Any) -> None:
    button = page.locator("#run1-candidates thead button", has_text="white-box").first
    head = page.locator("#run1-candidates thead th", has_text="white-box").first
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    down = figures(page, 4)
    assert down == sorted(down, reverse=True)
    # The candidate that never trained has no figure: last in both orders.
    assert first_cells(page)[-1] == "8-16-32"
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert figures(page, 4) == down[::-1]
    assert first_cells(page)[-1] == "8-16-32"


def test_the_table_comes_sorted_by_the_worst_case_and_a_click_turns_it(page: Any) -> None:
    head = page.locator("#run1-candidates thead th", has_text="worst case").first
    assert head.get_attribute("aria-sort") == "descending"
    down = figures(page, 3)
    assert down == sorted(down, reverse=True)
    head.locator("button").click()
    assert figures(page, 3) == down[::-1]


def test_ranks_and_names_begin_with_the_first(page: Any) -> None:
    page.locator("#run1-candidates thead button", has_text="rank set").first.click()
    ranks = figures(page, 0)
    assert ranks == sorted(ranks)


def test_the_keyboard_sorts(page: Any) -> None:
    page.locator("#run1-candidates thead button", has_text="parameters").first.focus()
    page.keyboard.press("Enter")
    sizes = figures(page, 6)
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_names_sort_by_their_numbers(page: Any) -> None:
    page.locator("#run1-candidates thead button", has_text="network").first.click()
    assert first_cells(page) == ["8-16-32", "24-192", "40", "64", "64-512"]


def test_a_registered_section_is_sorted_and_searched_like_the_others(page: Any) -> None:
    box = page.locator("#run1-toys .sortable")
    box.locator("thead button", has_text="price").click()
    assert box.locator("tbody th").all_inner_texts() == ["doll", "ball", "kite"]
    box.get_by_label("Search").fill("doll")
    assert box.locator("tbody tr:not([hidden]) th").all_inner_texts() == ["doll"]
    assert box.locator("select").count() == 0


GRID = ("c16k5zsamepauto-c32k5zsamepauto-c64k5zsamepauto-1024", "c16k5zsamepauto-1024", "c32k3p2-512", "conv64-32")


@pytest.fixture(scope="module")
def grid_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose candidates and worst case have long names."""
    run = make_run(names=("24-192", "40", "64", "64-512"), outcomes=True)
    names = dict(zip(run.run["protocol"]["candidates"], GRID, strict=True))
    long = "worst(" + ", ".join(["fgsm", *(f"pgd(steps={n}, restarts=5, loss=margin)" for n in (10, 20, 40))]) + ")"
    frames = {}
    for frame in ("table", "metrics", "history", "outcomes", "transfer"):
        found = getattr(run, frame)
        for column in {"hidden_layers", "source_hidden_layers", "target_hidden_layers"} & set(found.columns):
            found = found.with_columns(pl.col(column).replace(names))
        if "attack" in found.columns:
            found = found.with_columns(pl.col("attack").replace({"worst": long}))
        frames[frame] = found
    protocol = {**run.run["protocol"], "candidates": list(GRID)}
    named = dataclasses.replace(run, run={**run.run, "protocol": protocol}, examples=run.examples[:0], **frames)
    return report.write(named, tmp_path_factory.mktemp("grid") / "report.html").as_uri()


@pytest.mark.parametrize("media", ["screen", "print"])
def test_long_names_break_no_table(page: Any, grid_address: str, media: str) -> None:
    """What is wider than its box is cut on paper."""
    page.goto(grid_address)
    page.emulate_media(media=media)
    if media == "print":
        page.set_viewport_size({"width": 700, "height": 1000})
    wide = page.locator("article table").evaluate_all(
        """(found, sheet) => found.filter((table) => table.closest("details") === null || sheet)
          .filter((table) => table.offsetParent !== null && table.scrollWidth > document.body.clientWidth)
          .map((table) => table.tHead.textContent.trim().slice(0, 60))""",
        media == "print",
    )
    assert wide == []


def test_the_table_of_candidates_fits_its_page(page: Any) -> None:
    page.set_viewport_size({"width": 1080, "height": 900})
    box = page.locator("#run1-candidates .scroll").first
    assert box.evaluate("box => box.clientWidth") <= 1048
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_filters_narrow_and_count(page: Any) -> None:
    box = page.locator("#run1-candidates .sortable").first
    count = box.locator(".count")
    assert count.inner_text() == "5 of 5"
    box.get_by_label("Depth").select_option("2")
    assert first_cells(page) == ["64-512", "24-192"]
    box.get_by_label("Search").fill("512")
    assert (first_cells(page), count.inner_text()) == (["64-512"], "1 of 5")
    box.get_by_label("Search").fill("")
    box.get_by_label("Depth").select_option("")
    box.get_by_label("Status").select_option("dead")
    assert first_cells(page) == ["8-16-32"]


def test_hovering_a_mark_tells_its_values(page: Any) -> None:
    mark = page.locator("#run1-clean_and_robust svg .m .f").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text().startswith("40, 1 layer, clean accuracy 0.")
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_hovering_the_transfer_map_tells_both_phases(page: Any) -> None:
    chart = page.locator("#run1-transfer svg").first
    chart.scroll_into_view_if_needed()
    grid = chart.evaluate("svg => JSON.parse(svg.dataset.grid)")
    scale = chart.evaluate("svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
    middle = [(grid[axis] + (index + 0.5) * grid["cell"]) * scale for axis, index in (("x", 2), ("y", 1))]
    chart.hover(position={"x": middle[0], "y": middle[1]})
    names, layers = grid["names"], grid["layers"]
    parts = [f"{label} {values[1 * len(names) + 2] / 10000:.4f}" for label, values in layers.items()]
    assert page.locator("#tip").inner_text() == f"{names[1]} → {names[2]}: {', '.join(parts)}"
    assert len(parts) == 2


def test_arrow_keys_walk_through_charts(page: Any) -> None:
    tip = page.locator("#tip")
    page.locator("#run1-clean_and_robust svg").first.focus()
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator("#run1-transfer svg").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    names = page.locator("#run1-transfer svg").first.evaluate("svg => JSON.parse(svg.dataset.grid).names")
    assert tip.inner_text().startswith(f"{names[0]} → {names[1]}:")


def test_the_run_selector_shows_one_run_or_all(page: Any) -> None:
    button = page.locator("nav.runs button").nth(1)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("article:visible").evaluate_all("found => found.map((a) => a.id)") == ["run2"]
    page.locator("nav.runs button[data-all]").click()
    assert page.locator("article:visible").count() == 2


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 780}}], indirect=True)
def test_a_phone_scrolls_only_downwards(page: Any) -> None:
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_a_phone_shows_an_image_its_change_and_their_sum_in_one_line(page: Any) -> None:
    tops = page.locator("#run1-pictures .picture").evaluate_all(
        "found => found.map((one) => [...one.querySelectorAll('img')].map((i) => i.getBoundingClientRect().top))"
    )
    assert len(tops) > 10
    assert all(len(own) == 3 and len(set(own)) == 1 for own in tops)
    assert tops[0] == tops[1]  # two beside each other


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": width, "height": 900}} for width in (390, 1100)], indirect=True
)
def test_bars_and_their_names_stay_within_their_chart(page: Any) -> None:
    outside = page.locator("#run1-attack_parts svg.chart").evaluate_all(
        """found => found.map((svg) => [...svg.querySelectorAll("text, rect, path")].filter((part) => {
          const box = part.getBBox(), all = svg.viewBox.baseVal;
          return box.x < 0 || box.x + box.width > all.width || box.y < all.y || box.y + box.height > all.y + all.height;
        }).length)"""
    )
    assert outside == [0] * 8  # wide and narrow, one of which is not drawn


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_charts_fit_a_phone_and_can_be_read_on_it(page: Any, grid_address: str) -> None:
    for _ in range(2):
        shown = page.locator("svg.chart:visible").evaluate_all(
            """found => found.map((svg) => [svg.getBoundingClientRect().right, svg.dataset.grid ? 1 :
              svg.getBoundingClientRect().width / svg.viewBox.baseVal.width, svg.parentElement.scrollWidth
              - svg.parentElement.clientWidth, svg.dataset.grid ? 0 : [...svg.querySelectorAll("text")].filter((text) =>
              { const box = text.getBoundingClientRect(), all = svg.getBoundingClientRect();
                return box.left < all.left - 1 || box.right > all.right + 1; }).length])"""
        )
        assert len(shown) > 10
        assert max(right for right, *_ in shown) <= 390
        assert min(scale for _, scale, *_ in shown) > 0.9  # a text of 12 px stays one
        assert {over for _, _, over, _ in shown} == {0}
        assert sum(cut for *_, cut in shown) == 0
        page.goto(grid_address)


@pytest.mark.parametrize("page", [{"viewport": {"width": 900, "height": 1200}}], indirect=True)
def test_where_all_is_printed_nothing_is_collapsed_on_paper(page: Any) -> None:
    page.get_by_label("Print all").check()
    page.emulate_media(media="print")
    height = "box.lastElementChild.getBoundingClientRect().height"
    hidden = f"found => found.filter((box) => !box.open && {height} < 20).length"
    assert page.locator("details").count() > 10
    assert page.locator("details").evaluate_all(hidden) == 0
    heads = page.locator("thead th:visible").first
    assert heads.evaluate("head => getComputedStyle(head).printColorAdjust") == "exact"
    assert page.locator(".narrow svg:visible").count() == 0
    kept = "found => found.filter((lead) => getComputedStyle(lead).breakInside !== 'avoid').length"
    assert page.locator(".lead:has(figure) > h2, .lead:has(figure) > h3").count() > 10
    assert page.locator(".lead").evaluate_all(kept) == 0


def test_unless_all_is_asked_for_paper_has_the_findings_alone(page: Any) -> None:
    page.locator("#run1-training details > summary").first.click()
    rows = page.locator("#run1-stamps tbody tr:visible")
    pages = []
    for everything in (False, True):
        page.get_by_label("Print all").set_checked(everything)
        page.emulate_media(media="print")
        assert page.locator("#run1-headline:visible, #run1-candidates:visible, #comparison:visible").count() == 3
        assert page.locator("#run1-clean_and_robust svg:visible").count() == 2
        hidden = page.locator("#run1-pictures:visible, #run1-transfer:visible, #run1-provenance:visible").count()
        assert (rows.count(), hidden) == ((12, 3) if everything else (10, 0))
        assert page.locator("#run1-stamps .on-paper:visible").count() == (0 if everything else 1)
        opened = page.locator("#run1-training details[open]:visible, #run1-recovery details:visible").count()
        assert opened == (2 if everything else 1)  # what the reader has opened is printed
        pages.append(len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))))
        page.emulate_media(media="screen")
    assert 2 * pages[0] < pages[1]


def test_paper_counts_the_rows_that_a_search_leaves(page: Any) -> None:
    """Also where all of them stand far down in the whole table."""
    table, cut = page.locator("#run1-stamps .sortable"), page.locator("#run1-stamps .on-paper")
    rows = table.locator("tbody tr")
    rows.evaluate_all("found => found.slice(1).forEach((row) => { row.cells[0].textContent += ' late'; })")
    table.get_by_label("Search").fill("late")
    page.get_by_label("Print all").uncheck()
    page.emulate_media(media="print")
    left = rows.count() - 1
    assert cut.text_content() == f"The first 10 of {left} rows."
    page.emulate_media(media="screen")
    # Thirty rows that do not match before one that does.
    rows.first.evaluate("row => { for (let i = 0; i < 30; i++) row.after(row.cloneNode(true)); }")
    page.emulate_media(media="print")
    assert table.locator("tbody tr:visible").count() == 10
    page.emulate_media(media="screen")
    rows.last.evaluate("row => { row.cells[0].textContent += ' sole'; }")
    table.get_by_label("Search").fill("sole")
    page.emulate_media(media="print")
    assert table.locator("tbody tr:visible").count() == 1
    assert cut.is_hidden()


CONTRAST = """(selector) => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll(selector)].map((element) => {
    const style = getComputedStyle(element);
    const ink = light(element.closest("svg") ? style.fill : style.color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }));
}"""


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_light_and_dark_can_be_read(page: Any, request: pytest.FixtureRequest) -> None:
    dark = request.node.callspec.params["page"]["color_scheme"] == "dark"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    # WCAG 2.2: 4.5:1 for text, 3:1 for graphics.
    assert page.evaluate(CONTRAST, "p, a, td, th, summary, svg text") >= 4.5
    assert page.evaluate(CONTRAST, "svg .f") >= 3


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_print_is_light_and_shows_every_run(page: Any) -> None:
    page.locator("nav.runs button").first.click()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("article:visible").count() == 2
    assert page.locator("nav:visible").count() == 0
    assert page.locator(".tall").first.evaluate("box => box.scrollHeight <= box.clientHeight + 1")


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_nothing_moves_for_those_who_ask(page: Any) -> None:
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_everything_is_there(page: Any) -> None:
    assert page.locator("article:visible").count() == 2
    assert page.locator("#run1-clean_and_robust svg .m title").count() > 0


def test_accessible_names_and_order(page: Any) -> None:
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, svg.chart, img, [role=region]")]
          .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("alt") || e.textContent.trim()
            || e.labels?.length)).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    levels = page.locator("h1, h2, h3, h4").evaluate_all("found => found.map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("main").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
