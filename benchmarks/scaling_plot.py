"""The plot of benchmarks/scaling.py: what the model says of more GPUs, and what they would send."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.scaling_model import best

# Scope: its name in the plot, colour.
_LINES = {
    "batch": ("negatives shared by the batch", "#1f5fa8"),
    "session": ("each session's own negatives", "#c44e52"),
}


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draws the model of a run into `path`, whose suffix says how."""
    figure, (speed, sent) = plt.subplots(1, 2, figsize=(9.8, 4.8), layout="constrained")
    model = facts["model"]
    for scope, (label, colour) in _LINES.items():
        rows = best(model["steps"].get(scope, []))
        if not rows:
            continue
        gpus = [one["gpus"] for one in rows]
        speeds = [one["sessions_per_second"] for one in rows]
        ideal = [speeds[0] * number / gpus[0] for number in gpus]
        speed.plot(gpus, speeds, color=colour, marker="o", label=label)
        speed.plot(gpus, ideal, color=colour, linestyle=":", linewidth=1)
        for one in rows:
            at = (one["gpus"], one["sessions_per_second"])
            speed.annotate(
                f"T {one['tracks']}", at, (0, -14), textcoords="offset points", fontsize="x-small"
            )
        sent.plot(gpus, [one["sent_bytes"] / 1e6 for one in rows], color=colour, marker="o")
        sent.plot(gpus, [one["least_bytes"] / 1e6 for one in rows], color=colour, linestyle="--")
    speed.set_ylabel("sessions a second")
    sent.set_ylabel("MB that a GPU sends a step (dashed: the least)")
    for axes in (speed, sent):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("GPUs")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    speed.legend(frameon=False)
    figure.suptitle(
        f"A model, not a measurement: {model['tracks'] / 1e6:g} M tracks on GPUs of "
        f"{model['hardware']['memory_bytes'] / 1e9:g} GB (dotted: linear)"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
