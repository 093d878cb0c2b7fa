"""What the charts of the report are drawn with: axes, marks and names, and the way to SVG.

Charts are 4 inches wide, so that a phone of 360 pixels shows their text at nearly its own size.
Lengths are in inches and colours those of `theme.LIGHT`. The only place that imports matplotlib.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skipjax.errors import ConfigError
from skipjax.study.report.theme import LIGHT, darker
from skipjax.study.wording import plain

try:
    import matplotlib.style as style_sheets
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import Transform, blended_transform_factory
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise ConfigError(
        "the report draws with matplotlib, which is not installed: pip install 'skipjax[study]'."
    ) from error

WIDTH = 4.0  # of every chart
LINE = 0.165  # of a line of text
_SIZE = 8.5  # points, of all text
_STYLE = {
    "axes.labelsize": _SIZE,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that nothing is missing
    "font.size": _SIZE,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "skipjax",
    "text.parse_math": False,  # labels are data
    "xtick.labelsize": _SIZE,
    "ytick.labelsize": _SIZE,
}


@dataclass(frozen=True)
class Picture:
    """A chart as SVG in both themes, and its size in CSS pixels."""

    light: str
    dark: str
    width: int
    height: int


def picture(draw: Callable[[], Figure]) -> Picture:
    """The figure that `draw` makes, drawn in the one style whatever the user's own is."""
    with style_sheets.context(["default", _STYLE]), warnings.catch_warnings():
        # Letters that DejaVu lacks are drawn by the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = draw()
        FigureCanvasSVG(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = _smaller(file.getvalue())
    width, height = figure.get_size_inches() * 96
    return Picture(svg, darker(svg), round(width), round(height))


def _smaller(svg: str) -> str:
    """The SVG without prologue, comments and indentation, in the reader's own sans-serif."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, 'DejaVu Sans', sans-serif", svg)


def blank(height: float) -> Figure:
    return Figure((WIDTH, height))


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    tall = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, bottom / tall, width / WIDTH, height / tall))
    axes.patch.set_visible(False)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(LIGHT.muted)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=LIGHT.muted, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set_color(LIGHT.ink)
    axes.set_axisbelow(True)
    return axes


def frame(
    height: float, left: float, right: float, above: float, below: float
) -> tuple[Figure, Axes]:
    """A figure `height` tall with one axes inside the given margins."""
    figure = blank(height)
    return figure, add_axes(figure, left, below, WIDTH - left - right, height - above - below)


def row_axes(
    height: float, xlabel: str, shares: bool = False, left: float = 0.06, right: float = 0.06
) -> tuple[Figure, Axes]:
    """Axes whose vertical unit is the inch, downwards, for charts made of rows."""
    figure, axes = frame(height + 0.05 + 0.48, left, right, 0.05, 0.48)
    axes.set_ylim(height, 0)
    axes.yaxis.set_visible(False)
    round_ticks(axes.xaxis, 6)
    axes.xaxis.set_major_formatter(_percent_tick if shares else _tick)
    axes.set_xlabel(xlabel)
    return figure, axes


def across(axes: Axes) -> Transform:
    """Places in `row_axes`: horizontally as a share of the axes, vertically as the data."""
    return blended_transform_factory(axes.transAxes, axes.transData)


def limits(axes: Axes, values: Iterable[float]) -> None:
    """Horizontal limits around the values with room for marks."""
    values = list(values)
    low, high = min(values), max(values)
    room = 0.03 * (high - low) or 1.0
    axes.set_xlim(low - room if low < 0 else 0, high + room)


def round_ticks(axis: Axis, most: int, integer: bool = False) -> None:
    axis.set_major_locator(MaxNLocator(most, integer=integer, steps=[1, 2, 2.5, 5, 10]))


def levels(axes: Axes, most: int) -> None:
    """Up to `most` round numbers on the vertical axis, with lines across."""
    round_ticks(axes.yaxis, most)
    axes.yaxis.set_major_formatter(_tick)
    axes.grid(axis="y", color=LIGHT.line, linewidth=0.6)


def _tick(value: float, _: object = None) -> str:
    """.05, 0, −.1: as in the tables, without needless zeros."""
    text = f"{abs(value):.4g}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    return f"−{text}" if value < 0 else text


def _percent_tick(value: float, _: object = None) -> str:
    return f"{100 * value:g} %" if value else "0"


def interval(axes: Axes, low: float, high: float, at: float, colour: str) -> None:
    axes.plot([low, high], [at, at], color=colour, linewidth=1.4, solid_capstyle="butt")


def dot(
    axes: Axes,
    x: float,
    y: float,
    colour: str,
    marker: str,
    size: float,
    inside: str | None = None,
    transform: Transform | None = None,
) -> None:
    """A mark in `colour`, or a ring of it around the colour `inside`."""
    axes.plot(
        [x],
        [y],
        marker,
        markersize=size,
        color=colour,
        markerfacecolor=inside or colour,
        markeredgewidth=1.4 if inside else 0,
        clip_on=False,
        transform=transform or axes.transData,
    )


def legend(
    axes: Axes,
    names: Sequence[tuple[str, str, str]],
    start: float = 0.0,
    second_open: bool = False,
) -> None:
    """Marks (name, colour, marker) with their names in one line at the top of rows."""
    width = axes.get_position().width * WIDTH
    place = across(axes)
    x = start
    for i, (name, colour, marker) in enumerate(names):
        inside = LIGHT.page if second_open and i else None
        dot(axes, x + 0.06 / width, 0.06, colour, marker, 5, inside, place)
        axes.text(x + 0.15 / width, 0.1, name, transform=place, color=LIGHT.ink)
        x += (0.35 + 0.073 * len(name)) / width


def name_ends(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Writes each line's name beside its end (x, y, colour), moved apart from the others."""
    box = axes.get_position()
    height = box.height * axes.figure.get_figheight()
    low, high = axes.get_ylim()
    order = sorted(ends, key=lambda name: ends[name][1])
    wanted = [(ends[name][1] - low) / (high - low) * height for name in order]
    for name, at, want in zip(order, spread(wanted, 0.15), wanted, strict=True):
        colour = ends[name][2]
        axes.annotate(
            shorten(name, 18),
            xy=(1.0, want / height),
            xycoords="axes fraction",
            xytext=(1 + 0.14 / (box.width * WIDTH), at / height),
            textcoords="axes fraction",
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def shorten(text: str, length: int) -> str:
    text = plain(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the same order, near to the sorted places `wanted`.

    Least squares by pooling neighbours that are too near: in u_i = place_i − i · gap the
    condition is that u does not fall.
    """
    pools: list[list[float]] = []
    for i, place in enumerate(wanted):
        pools.append([place - i * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    flat = itertools.chain.from_iterable([float(np.mean(pool))] * len(pool) for pool in pools)
    return [u + i * gap for i, u in enumerate(flat)]
