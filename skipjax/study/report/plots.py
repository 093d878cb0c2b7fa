"""The charts of a study's report, one function a kind of chart."""

import functools
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from skipjax.study.report import drawing
from skipjax.study.report.drawing import LINE, WIDTH, Picture, shorten
from skipjax.study.report.theme import LIGHT
from skipjax.study.wording import finite, plain

_MARKERS = ("o", "s", "D", "^", "v")  # of arms, as the colours of a theme
_STYLES = ("-", "--", "-", "-.", ":")


@dataclass(frozen=True)
class Bar:
    """A row of `bars`: a value, perhaps with an interval, and what is written beside it."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    tone: str = "plain"


@dataclass(frozen=True)
class Effects:
    """A row of `effects`: sessions, and for each arm (difference, low, high) or None."""

    label: str
    sessions: int | None
    arms: tuple[tuple[float, float, float] | None, ...]


@dataclass(frozen=True)
class Line:
    """A line of `lines`: y over x, with gaps where y is None; an arm's number or a baseline's None.

    Lines with the same label are the same arm under other seeds.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    arm: int | None = None


@dataclass(frozen=True)
class Panel:
    """One of `small_curves`: an arm's lines, one a seed, before those of the arm it is against."""

    title: str
    own: Sequence[Line]
    base: Sequence[Line]


def bars(rows: Sequence[Bar], xlabel: str, shares: bool = False) -> Picture:
    """Horizontal bars from 0, each under its label, with intervals where there are any.

    Args:
      rows: from top to bottom.
      xlabel: what the values are.
      shares: whether the axis is in percent.
    """
    texts = [(shorten(row.label, 54), plain(row.text)) for row in rows]
    lines = [1 if len(name) + len(text) < 56 else 2 for name, text in texts]
    heights = [LINE * count + 0.26 for count in lines]
    bottoms = np.cumsum(heights)

    def draw() -> drawing.Figure:
        figure, axes = drawing.row_axes(bottoms[-1], xlabel, shares)
        lows = [_or(row.low, row.value) for row in rows]
        highs = [_or(row.high, row.value) for row in rows]
        drawing.limits(axes, [0.0, *lows, *highs])
        across = drawing.across(axes)
        for row, (name, text), count, height, bottom in zip(
            rows, texts, lines, heights, bottoms, strict=True
        ):
            top, middle = bottom - height, bottom - 0.15
            colour = LIGHT.tones[row.tone]
            ink = LIGHT.ink if row.tone in ("better", "worse") else LIGHT.muted
            below = top + 0.12 + LINE * (count - 1)
            axes.text(0, top + 0.12, name, transform=across, color=LIGHT.ink)
            axes.text(1, below, text, transform=across, ha="right", color=ink)
            axes.barh(middle, row.value, height=0.15, color=colour, alpha=0.6, linewidth=0)
            axes.plot([0, 0], [middle - 0.11, middle + 0.11], color=LIGHT.muted, linewidth=0.8)
            if row.low is not None and row.high is not None:
                drawing.interval(axes, row.low, row.high, middle, LIGHT.ink)
        return figure

    return drawing.picture(draw)


def pairs(
    rows: Sequence[tuple[str, float, float, str]], names: tuple[str, str], xlabel: str, end: float
) -> Picture:
    """Two values a row, as a full and an open circle with a line between.

    Args:
      rows: label, first value, second value, text.
      names: what the first and the second are.
      xlabel: what the values are.
      end: what the axis reaches at least, to compare charts.
    """
    colour = LIGHT.tones["better"]

    def draw() -> drawing.Figure:
        figure, axes = drawing.row_axes(0.42 * len(rows) + LINE, xlabel)
        drawing.limits(axes, [0.0, end, *(value for row in rows for value in row[1:3])])
        across = drawing.across(axes)
        drawing.legend(axes, [(name, colour, "o") for name in names], second_open=True)
        for i, (name, first, second, text) in enumerate(rows):
            top = 0.42 * i + LINE
            axes.text(0, top + 0.12, shorten(name, 46), transform=across, color=LIGHT.ink)
            axes.text(1, top + 0.12, text, transform=across, ha="right", color=LIGHT.muted)
            middle = top + 0.28
            axes.plot([first, second], [middle] * 2, color=LIGHT.tones["none"], linewidth=1.5)
            for value, inside in ((second, LIGHT.page), (first, None)):
                drawing.dot(axes, value, middle, colour, "o", 5.5, inside)
        return figure

    return drawing.picture(draw)


def effects(rows: Sequence[Effects], names: Sequence[str], xlabel: str, limit: float) -> Picture:
    """Differences with intervals by value of a context, one mark an arm.

    The axis is not stretched for the widest intervals: those that leave it end in an arrow.

    Args:
      rows: from top to bottom.
      names: the arms, the first being the second of its encoder.
      xlabel: what the differences are.
      limit: where the axis ends on both sides, as `effects_limit` of all charts to compare.
    """
    apart = 0.15
    height = apart * len(names) + 0.11
    labels = [shorten(row.label, 22) for row in rows]
    left, right = 0.2 + 0.064 * max(len(name) for name in labels), 0.5
    power = 10.0 ** math.floor(math.log10(limit))
    tick = max(step * power for step in (0.5, 1, 2, 5) if step * power <= 0.95 * limit)
    marks = [(LIGHT.arms[i % 4 + 1], _MARKERS[i % 4 + 1]) for i in range(len(names))]

    def draw() -> drawing.Figure:
        figure, axes = drawing.row_axes(height * len(rows) + 0.22, xlabel, left=left, right=right)
        axes.set_xlim(-limit, limit)
        axes.set_xticks([-tick, 0, tick])
        across = drawing.across(axes)
        found = [(name, *mark) for name, mark in zip(names, marks, strict=True)]
        drawing.legend(axes, found, start=-left / (WIDTH - left - right))
        axes.text(1.16, 0.1, "sessions", transform=across, ha="right", color=LIGHT.muted)
        for i, (row, name) in enumerate(zip(rows, labels, strict=True)):
            top = 0.22 + height * i
            middle = top + height / 2
            axes.axhline(top, color=LIGHT.line, linewidth=0.5, xmin=0)
            place = {"transform": across, "va": "center_baseline", "ha": "right"}
            axes.text(-0.04, middle, name, color=LIGHT.ink, **place)
            if row.sessions is not None:
                axes.text(1.16, middle, f"{row.sessions:,}", color=LIGHT.muted, **place)
            for j, values in enumerate(row.arms):
                if values is not None:
                    at = middle + apart * (j - (len(names) - 1) / 2)
                    _effect(axes, values, at, limit, *marks[j])
        axes.axvline(0, color=LIGHT.muted, linewidth=0.8, zorder=0.5)
        return figure

    return drawing.picture(draw)


def _effect(
    axes: drawing.Axes,
    values: tuple[float, float, float],
    at: float,
    limit: float,
    colour: str,
    marker: str,
) -> None:
    difference, low, high = values
    drawing.interval(axes, max(low, -limit), min(high, limit), at, colour)
    if low < -limit:
        drawing.dot(axes, -limit, at, colour, "<", 4)
    if high > limit:
        drawing.dot(axes, limit, at, colour, ">", 4)
    if abs(difference) <= limit:
        drawing.dot(axes, difference, at, colour, marker, 4.5)


def effects_limit(rows: Sequence[Effects]) -> float:
    """Half the width of an axis for most intervals: all differences, and 85 % of the ends."""
    found = [values for row in rows for values in row.arms if values is not None]
    if not found:
        return 1.0
    ends = [max(abs(low), abs(high)) for _, low, high in found]
    biggest = max(abs(difference) for difference, _, _ in found)
    return 1.08 * max(biggest, float(np.quantile(ends, 0.85))) or 1.0


def lines(
    found: Sequence[Line],
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
    top: float | None = None,
    peaks: bool = False,
    from_zero: bool = True,
) -> Picture:
    """Lines that carry their names at their right end.

    Args:
      found: lines with the same label are one arm's seeds; they are named once.
      xlabel: what is on the horizontal axis.
      ylabel: what is on the vertical axis; stands above it.
      logarithmic: whether the horizontal axis is; then its ticks are the values of x.
      top: upper end of the vertical axis, to compare charts; by default that of the data.
      peaks: whether a dot marks each line's highest value; one marks a line of one point anyway.
      from_zero: whether the vertical axis starts at 0.
    """
    right = 0.2 + 0.07 * max(len(shorten(line.label, 18)) for line in found)
    seeds = max(sum(line.label == one.label for line in found) for one in found)

    def draw() -> drawing.Figure:
        figure, axes = drawing.frame(2.9, 0.48, right, 0.3, 0.5)
        ends: dict[str, tuple[float, float, str]] = {}
        for line in found:
            x, y = np.asarray(line.x, float), _with_gaps(line.y)
            colour, style = LIGHT.tones["none"], ":"
            if line.arm is not None:
                colour = LIGHT.arms[line.arm % len(LIGHT.arms)]
                style = _STYLES[line.arm % len(_STYLES)]
            axes.plot(x, y, style, color=colour, linewidth=1.7 if seeds == 1 else 1.0)
            here = np.flatnonzero(np.isfinite(y))
            if not here.size:
                continue
            if peaks or here.size == 1:
                best = here[np.argmax(y[here])]
                drawing.dot(axes, x[best], y[best], colour, "o", 3.5)
            end = (x[here[-1]], y[here[-1]], colour)
            if line.label not in ends or end[0] > ends[line.label][0]:
                ends[line.label] = end
        if logarithmic:
            ticks = sorted({value for line in found for value in line.x})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        else:
            drawing.round_ticks(axes.xaxis, 6, integer=True)
        drawing.levels(axes, 5)
        if from_zero:
            axes.set_ylim(0, top)
        axes.set_xlabel(xlabel)
        axes.text(0, 1.04, ylabel, transform=axes.transAxes, color=LIGHT.ink)
        drawing.name_ends(axes, ends)
        return figure

    return drawing.picture(draw)


def small_curves(panels: Sequence[Panel], xlabel: str, ylabel: str) -> list[Picture]:
    """Small charts in two columns on common axes, dealt out to two pictures if there are many.

    Args:
      panels: from left to right, then down.
      xlabel: what is on the horizontal axes.
      ylabel: what is on the vertical axes; stands above the first.
    """
    every = [line for panel in panels for line in (*panel.own, *panel.base)]
    end = max((max(line.x) for line in every if len(line.x)), default=1)
    top = 1.05 * max((v for line in every for v in line.y if finite(v) is not None), default=1)
    half = len(panels) if len(panels) <= 4 else 2 * math.ceil(len(panels) / 4)
    titles = [textwrap.wrap(plain(p.title), 25, max_lines=3, placeholder="…") for p in panels]
    above = 0.1 + LINE * max(map(len, titles))

    def draw(start: int) -> drawing.Figure:
        shown = list(zip(panels, titles, strict=True))[start : start + half]
        last_row = len(shown) - 2
        tall = above + 1.15
        height = tall * math.ceil(len(shown) / 2) + 0.55
        figure = drawing.blank(height)
        figure.text(0.02, 1 - 0.15 / height, ylabel, color=LIGHT.ink)
        for i, (panel, words) in enumerate(shown):
            row, column = divmod(i, 2)
            bottom = height - 0.2 - tall * row - above - 0.92
            axes = drawing.add_axes(figure, 0.38 + 1.84 * column, bottom, 1.68, 0.92)
            axes.set_xlim(0, end)
            axes.set_ylim(0, top)
            drawing.round_ticks(axes.xaxis, 4, integer=True)
            drawing.levels(axes, 3)
            axes.tick_params(labelleft=column == 0, labelbottom=i >= last_row)
            for lines_, tone in ((panel.base, "none"), (panel.own, "better")):
                for line in lines_:
                    colour = LIGHT.tones[tone]
                    axes.plot(line.x, _with_gaps(line.y), color=colour, linewidth=1.0)
            axes.text(0, 1.06, "\n".join(words), transform=axes.transAxes, color=LIGHT.ink)
            if i >= last_row:
                axes.set_xlabel(xlabel)
        return figure

    starts = range(0, len(panels), half)
    return [drawing.picture(functools.partial(draw, start=start)) for start in starts]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _with_gaps(values: Iterable[float | None]) -> np.ndarray:
    """[values] float64, NaN where there is no finite number."""
    return np.array([np.nan if finite(v) is None else v for v in values], float)
