"""A complete fake run, its page, and a strict reader of pages, for every test of the report."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from atras.report.contents import contents
from atras.report.page import page
from atras.results.results import Results
from atras.testing.fake_run import make_run

VOID = {"meta", "input", "br", "img", "link", "hr"}


class PageReader(HTMLParser):
    """A page read strictly: every element closed by its own tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], PageReader]:
    return PageReader


@pytest.fixture(scope="session")
def full() -> Results:
    return make_run()


@pytest.fixture(scope="session")
def full_page(full: Results) -> str:
    return page(contents([full]))
