"""The plot of benchmarks/train_step.py: step time against the size of the catalogue."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

# Contender: its name in the plot, colour, marker.
_LINES = {
    "torch Adam": ("PyTorch, Adam", "#c44e52", "s"),
    "torch Adam fused": ("PyTorch, Adam fused", "#dd8452", "D"),
    "torch SparseAdam": ("PyTorch, SparseAdam (not Adam)", "#8172b3", "v"),
    "skipjax dense": ("skipjax, dense Adam", "#7f7f7f", "^"),
    "skipjax": ("skipjax", "#1f5fa8", "o"),
}
_TITLES = {"batch": "negatives shared by the batch", "session": "each session's own negatives"}


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draws the results of a run, a panel for each scope, into `path`; its suffix says how."""
    scopes = facts["results"]
    figure, panels = plt.subplots(
        1,
        len(scopes),
        figsize=(1.4 + 4.2 * len(scopes), 4.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (scope, workloads) in zip(panels[0], scopes.items(), strict=True):
        sizes = sorted({workload["num_tracks"] for workload in workloads.values()})
        for name, (label, colour, marker) in _LINES.items():
            points = _points(workloads, lambda one, name=name: one["contenders"].get(name))
            ours = name == "skipjax"
            width, size = (2.6, 7) if ours else (1.4, 5)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    marker=marker,
                    linewidth=width,
                    markersize=size,
                    label=label,
                    zorder=3 if ours else 2,
                )
        points = _points(workloads, lambda one: one["floor"])
        if points:
            label = "floor, counted"
            axes.plot(*zip(*points, strict=True), color="black", linestyle=":", label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [_short(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,g}"))
        axes.set_title(_TITLES[scope], fontsize="medium")
        axes.set_xlabel("tracks in the catalogue")
        axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0][0].set_ylabel("ms a training step")
    handles, labels = panels[0][0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: (labels[i] != "skipjax", i))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=3 if len(scopes) > 1 else 2,
        frameon=False,
    )
    size, where = facts["config"]["train.batch_size"], facts["device"]["device"]
    where = f"{facts['cpus_used']} CPU cores" if where == "cpu" else where
    figure.suptitle(
        f"Time of a training step: batch {size}, d {facts['config']['model.width']}, {where}"
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _points(workloads, chosen) -> list[tuple[int, float]]:
    """(tracks, ms) of what `chosen` takes of each workload that has it, by size."""
    pairs = [(one["num_tracks"], chosen(one)) for one in workloads.values()]
    return sorted((size, 1e3 * each["seconds_median"]) for size, each in pairs if each)


def _short(number: int) -> str:
    for unit, letter in ((10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return str(number)
