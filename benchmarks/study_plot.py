"""Draws studies side by side: every arm against its S-, in HR@10, with intervals.

    python -m benchmarks.study_plot NAME=FILE ... --plot benchmarks/study.png

FILE is the `study.json` of a study, NAME its title.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

# Measure: its name in the plot, colour, and how far above its line it lies.
_MEASURES = {
    "test/hr@10": ("1,000 sampled candidates", "#1f5fa8", 0.16),
    "test_full/hr@10": ("all tracks", "#dd8452", -0.16),
}
_GROUPS = {"table1": "the paper's arms", "ablation": "ablations", "other": "other ways"}
_WIDE = 60  # letters of a label that leave room for the panels
_MOST = 0.75  # of an increase that is shown, either way


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "studies", nargs="+", metavar="NAME=FILE", help="study.json, with its title"
    )
    parser.add_argument("--plot", type=Path, required=True, metavar="FILE", help="PNG or SVG")
    args = parser.parse_args(arguments)
    studies = {}
    for one in args.studies:
        name, equals, path = one.partition("=")
        if not equals or not Path(path).is_file():
            parser.error(f"{one!r}: wanted NAME=FILE, with the study.json of a study")
        try:
            study = json.loads(Path(path).read_text(encoding="utf-8"))
            compared = any(arm["comparisons"] for arm in study["arms"])
        except (ValueError, KeyError, TypeError):
            parser.error(f"{path}: not the study.json of a study")
        if not compared:
            parser.error(f"{path}: no arm is compared with another, so there is nothing to draw")
        studies[name] = study
    if args.plot.suffix not in (".png", ".svg"):
        parser.error(f"--plot={args.plot}: wanted a name that ends in .png or .svg")
    if not args.plot.parent.is_dir():
        parser.error(f"--plot={args.plot}: there is no folder {args.plot.parent}")
    draw(studies, args.plot)
    print(args.plot)


def draw(studies: dict[str, Any], path: Path) -> None:
    """Draws studies, by their titles, into `path`, whose suffix says how."""
    rows = _rows(studies)
    figure, panels = plt.subplots(
        1,
        len(studies),
        figsize=(3.2 + 3.0 * len(studies), 1.3 + 0.235 * len(rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (title, study) in zip(panels[0], studies.items(), strict=True):
        found = {arm["key"]: arm["comparisons"] for arm in study["arms"]}
        ends = [
            abs(one[end])
            for of_arm in found.values()
            for one in map(of_arm.get, _MEASURES)
            for end in ("relative_low", "relative_high")
            if one and one[end] is not None
        ]
        most = min(_MOST, max(ends, default=_MOST))
        for y, (key, _) in enumerate(rows):
            for measure, (_, colour, up) in _MEASURES.items():
                if one := found.get(key, {}).get(measure):
                    _interval(axes, one, most, y - up, colour)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlim(-1.04 * most, 1.04 * most)
        axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+g} %" if x else "0")
        axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title(title)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    first = panels[0][0]
    first.set_yticks(range(len(rows)), [label for _, label in rows])
    for tick, (key, _) in zip(first.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if key else "bold")
        tick.set_fontsize("x-small" if "\n" in tick.get_text() else "medium")
    first.set_ylim(len(rows) - 0.5, -0.5)
    for label, colour, _ in _MEASURES.values():
        first.plot([], [], color=colour, marker="o", label=label)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel(
        "increase of HR@10 over S-, 95 % interval (arrow: goes on); filled: corrected p < .05"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rows(studies: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys and labels of the arms that are compared, behind '' and the name of their group."""
    labels = {arm["key"]: arm["label"] for study in studies.values() for arm in study["arms"]}
    rows: list[tuple[str, str]] = []
    # In the order of the study that has most of them.
    longest_first = sorted(studies.values(), key=lambda study: -len(study["arms"]))
    for group, name in _GROUPS.items():
        of_group = {
            arm["key"]: _label(arm, labels)
            for study in longest_first
            for arm in study["arms"]
            if arm["group"] == group and arm["comparisons"]
        }
        rows += [("", name), *of_group.items()] if of_group else []
    return rows


def _label(arm: dict[str, Any], labels: dict[str, str]) -> str:
    against = labels[arm["against"]]
    if against.endswith("S-"):
        return arm["label"]
    gap = "\n" if len(arm["label"] + against) > _WIDE else " "
    return f"{arm['label']}{gap}(over {against})"


def _interval(axes: Any, found: dict[str, Any], most: float, y: float, colour: str) -> None:
    low, high = found["relative_low"], found["relative_high"]
    if found["relative"] is None:
        return  # the base is 0
    if low is None:  # or about 0, so that any increase may be
        low, high = -1.0, math.inf
    axes.plot([max(low, -most), min(high, most)], [y, y], color=colour, linewidth=1.4)
    if abs(found["relative"]) <= most:
        face = colour if found["p_holm"] < 0.05 else "white"
        axes.plot(found["relative"], y, "o", color=colour, markerfacecolor=face, markersize=4.5)
    for end in (low, high):
        if abs(end) > most:
            at, marker = (most, ">") if end > 0 else (-most, "<")
            axes.plot(at, y, marker, color=colour, markersize=4, clip_on=False)


if __name__ == "__main__":
    main()
