"""Takes the pictures of docs/report.md: `python tests/browser/screenshots.py [RUN [VIEW ...]]`.

Without the folder of a run the figures are those of a fake run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from playwright.sync_api import sync_playwright

from atras import read, report
from atras.networks import PAPER_CANDIDATES
from atras.testing.fake_run import make_run

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
VIEWS = {
    "light": ({"width": 960, "height": 1040}, "light", "headline"),
    "charts": ({"width": 960, "height": 1250}, "light", "clean_and_robust"),
    "attacks": ({"width": 960, "height": 720}, "light", "attack_parts"),
    "dark": ({"width": 960, "height": 1040}, "dark", "transfer"),
    "phone": ({"width": 390, "height": 844}, "light", "headline"),
}
"""Window, colours and the part that is shown."""


def take(page_file: Path, views: Collection[str]) -> None:
    """Write one picture a view."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name in views:
            window, colours, part = VIEWS[name]
            page = browser.new_page(viewport=window, color_scheme=colours, reduced_motion="reduce")
            page.goto(page_file.as_uri())
            page.evaluate("part => document.getElementById('run1-' + part).scrollIntoView()", part)
            page.screenshot(path=IMAGES / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        names = tuple(candidate.name for candidate in PAPER_CANDIDATES)
        run = (
            read(sys.argv[1])
            if len(sys.argv) > 1
            else make_run(Path(folder) / "run", names=names, seeds=range(3), outcomes=True)
        )
        take(report.write(run, Path(folder) / "report.html"), sys.argv[2:] or VIEWS)
