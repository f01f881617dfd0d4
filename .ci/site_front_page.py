"""Pages of the documentation site that lie beside docs/: the README is its front page."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root, and what they are called on the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links as they hold from inside docs/.

    Args:
        files: those of docs/.
        config: of the site.

    Returns:
        The same, with the pages.
    """
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = (root / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, its_page in PAGES.items():
            text = text.replace(f"]({other}", f"]({its_page}")
        files.append(File.generated(config, page, content=text))
    return files
