"""What a run says: of its data before it, of its results after it."""

from pathlib import Path
from typing import Any

import jax

from skipjax import metrics, processes, terminal
from skipjax.data.catalogue import TRACKS
from skipjax.data.parts import Split
from skipjax.ids import FIRST_TRACK_ID, LEAVE_ONE_OUT
from skipjax.mesh import Layout
from skipjax.workdir import SESSIONS


def facts(config: Any, split: Split, layout: Layout) -> str:
    """What is trained on what, and what of the data is left out."""
    label = " (synthetic)" if split.synthetic else ""
    lines = [
        f"{config.name} on {config.data.source}{label}: {split.num_sessions:,} sessions, "
        f"{split.num_ids - FIRST_TRACK_ID:,} tracks; "
        f"{_devices(layout)}"
    ]
    if split.name != LEAVE_ONE_OUT:
        counts = {which: len(part.sessions) for which, part in split.parts.items()}
        lines.append(
            f"{split.name}; {counts['train']:,} sessions to train on, {counts['valid']:,} to "
            f"validate with, {counts['test']:,} to test with"
        )
    lines += [f"left out: {n:,} sessions {why}" for why, n in split.left_out.items() if n]
    lines += [f"left out: {n:,} events {why}" for why, n in split.left_out_events.items()]
    if config.data.labels != "logged":
        lines.append(f"a control: skip labels of training are {config.data.labels}")
    share = split.skip_share()
    if config.loss.alpha and share in (0, 1):
        which = "every event counts" if share else "no event counts"
        lines.append(
            f"{which} as skipped ({split.skipped_means}), so there is nothing to learn from skips; "
            "see the fields config.data.skip_*"
        )
    return "\n".join(lines)


def show(config: Any, results: dict[str, Any], workdir: Path) -> None:
    """Prints a table of what stands in `results.json`, and what else lies in `workdir`."""
    label = "synthetic demo sessions" if results["synthetic"] else results["source"]
    title = f"{results['name']} on {label}, epoch {results['best_epoch']} of {results['epochs']}"
    if results["split"] != LEAVE_ONE_OUT:
        title += f"; {results['split']}"
    names = tuple(metrics.canonical(name) for name in config.eval.metrics)
    terminal.out().print(terminal.results_table(title, results, names))
    if cold := results.get("test/cold_share"):
        terminal.say(terminal.cold_targets(cold))
    for name, what in (
        ("results.json", "these numbers"),
        (SESSIONS, "the rank of every test session"),
        (TRACKS, "the catalogue, for recommending"),
        ("metrics.jsonl", "the curves; tensorboard/ has them, too"),
        ("checkpoints/", "the best epoch and the newest"),
        ("config.json", "the configuration"),
    ):
        terminal.say(f"{workdir / name}{'/' * name.endswith('/')}  {what}")


def _devices(layout: Layout) -> str:
    kind = jax.devices()[0].device_kind
    if layout.size == 1:
        return f"device: {kind}"
    several = f" of {processes.number()} processes" if processes.number() > 1 else ""
    return f"{layout.size} devices{several} (data {layout.data} x tracks {layout.tracks}): {kind}"
