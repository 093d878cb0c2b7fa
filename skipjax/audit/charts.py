"""Charts that only an audit has: columns, and AUCs with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjax.study.report import drawing
from skipjax.study.report.drawing import LINE, Picture, shorten
from skipjax.study.report.theme import LIGHT


@dataclass(frozen=True)
class Dot:
    """A row of `separability`."""

    label: str
    value: float
    low: float
    high: float
    text: str
    tone: str = "better"


def columns(
    x: Sequence[float],
    y: Sequence[float | None],
    xlabel: str,
    ylabel: str,
    *,
    shares: bool = False,
    level: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
    ticks: Sequence[tuple[float, str]] = (),
) -> Picture:
    """Upright bars from 0.

    Args:
      x: middle of each, evenly apart.
      y: its height; None leaves a gap.
      xlabel: what is on the horizontal axis.
      ylabel: what is on the vertical axis; stands above it.
      shares: whether that is in percent.
      level: where a dotted line crosses all of them, such as their mean.
      marks: places of upright lines, each with a word that stands to its right.
      ticks: places and texts on the horizontal axis, in place of round numbers.
    """
    x, heights = np.asarray(x, float), np.array([np.nan if v is None else v for v in y], float)
    apart = float(np.diff(x).min()) if len(x) > 1 else 1.0

    def draw() -> drawing.Figure:
        figure, axes = drawing.frame(2.3, 0.52, 0.08, 0.3, 0.5)
        axes.bar(x, heights, width=0.8 * apart, color=LIGHT.tones["better"], linewidth=0)
        axes.set_xlim(x[0] - apart, x[-1] + apart)
        highest = np.nanmax(heights, initial=0.0)
        axes.set_ylim(0, 1.12 * max(highest, level or 0.0) or 1.0)
        drawing.levels(axes, 4)
        axes.yaxis.set_major_formatter(_percent if shares else _thousands)
        if ticks:
            axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        else:
            drawing.round_ticks(axes.xaxis, 8, integer=True)
        if level is not None:
            axes.axhline(level, color=LIGHT.ink, linewidth=1.0, linestyle=":")
        for place, text in marks:
            axes.axvline(place, color=LIGHT.tones["worse"], linewidth=1.2)
            # Beside its line, on the side where there is room.
            late = place > x[0] + 0.8 * (x[-1] - x[0])
            axes.annotate(
                text,
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(-3 if late else 3, -2),
                textcoords="offset points",
                ha="right" if late else "left",
                va="top",
                color=LIGHT.tones["worse"],
            )
        axes.set_xlabel(xlabel)
        axes.text(0, 1.05, ylabel, transform=axes.transAxes, color=LIGHT.ink)
        return figure

    return drawing.picture(draw)


def separability(rows: Sequence[Dot], xlabel: str) -> Picture:
    """AUCs with intervals, each under its label, on an axis around a half, which is chance."""
    ends = [end for row in rows for end in (row.low, row.high)]
    low, high = min(0.45, *ends), max(0.6, *ends)
    room = 0.04 * (high - low)

    def draw() -> drawing.Figure:
        figure, axes = drawing.row_axes(0.42 * len(rows) + 0.05, xlabel)
        axes.set_xlim(low - room, high + room)
        across = drawing.across(axes)
        for i, row in enumerate(rows):
            top = 0.42 * i
            axes.text(0, top + 0.12, shorten(row.label, 44), transform=across, color=LIGHT.ink)
            place = {"transform": across, "ha": "right", "color": LIGHT.muted}
            axes.text(1, top + 0.12, row.text, **place)
            middle = top + 0.12 + LINE
            axes.plot([0.5, 0.5], [middle - 0.11, middle + 0.11], color=LIGHT.muted, linewidth=0.8)
            drawing.interval(axes, row.low, row.high, middle, LIGHT.ink)
            drawing.dot(axes, row.value, middle, LIGHT.tones[row.tone], "o", 5.5)
        return figure

    return drawing.picture(draw)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:g} %" if value else "0"


def _thousands(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"
