"""The report of one or several runs, as a page, as Markdown or as image files. A report is a list of sections: the
register knows them by name, `contents` makes them, and the page, Markdown and image files write whatever sections
they are given. The report reads finished results and analyses; it trains nothing, and only the command line knows of
it."""

from .contents import figures
from .files import Format, write, write_search
from .registry import fresh_sections, register_section, section_keys, unregister_section
from .section import Figure, Section

__all__ = [
    "Figure",
    "Format",
    "Section",
    "figures",
    "fresh_sections",
    "register_section",
    "section_keys",
    "unregister_section",
    "write",
    "write_search",
]
