"""Charts, heat maps and pictures as values that draw themselves. A `Chart` or a `HeatMap` becomes SVG that needs
nothing but itself, and its data a `Table`; the scales, colours and intervals that they share are here as well.
Nothing here knows of a run, of a section, or of the page that shows it."""

from .bars import Bar, Bars
from .heatmap import HeatMap
from .intervals import Estimate, group_estimate
from .pictures import Gallery, Picture, data_uri
from .plots import Chart, Point, Series, Table
from .scales import Axis, categories, interval, linear, logarithmic, number, rounded
from .style import PAGE_CSS

__all__ = [
    "PAGE_CSS",
    "Axis",
    "Bar",
    "Bars",
    "Chart",
    "Estimate",
    "Gallery",
    "HeatMap",
    "Picture",
    "Point",
    "Series",
    "Table",
    "categories",
    "data_uri",
    "group_estimate",
    "interval",
    "linear",
    "logarithmic",
    "number",
    "rounded",
]
