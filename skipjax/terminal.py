"""What commands print: a progress bar on stderr, facts and tables on stdout."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from skipjax.ids import LEAVE_ONE_OUT

_FEEDBACK = {
    "level": "skip levels",
    "played_percent": "share played",
    "next_gap_seconds": "time to the next play (skips are inferred)",
    "reaction": "likes and dislikes",
    "rating": "ratings",
}


_quiet = False


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Prints nothing within the block, if `wanted`: one of several processes speaks for all."""
    global _quiet
    before, _quiet = _quiet, wanted
    try:
        yield
    finally:
        _quiet = before


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """Yields `progress(done, total, what, note="")`, `what` naming the phase.

    The bar is gone when the block ends, and only shown in a terminal.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=_quiet or not console.is_terminal,
        # What is printed meanwhile must pass above the bar, but not if it goes to a file.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task("starting", total=None, note="")
        current = "starting"

        def progress(done: int, total: int, what: str, note: str = "") -> None:
            nonlocal current
            if what != current:  # a new phase, with a speed of its own
                bar.reset(task, description=what)
                current = what
            bar.update(task, completed=min(done, total), total=total, note=note)

        yield progress


def out() -> Console:
    """Where results are printed. Made anew, since tests and pipes change what stdout is."""
    return Console(highlight=False, soft_wrap=True, quiet=_quiet)


def say(text: str) -> None:
    """Prints `text` as it is, above a progress bar if there is one."""
    if not _quiet:
        print(text, flush=True)


def sessions_table(title: str, facts: Mapping[str, Any], min_length: int) -> Table:
    """The facts of `Sessions.summary`, under the names that the paper uses."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("sessions", "events", "tracks"):
        table.add_row(name, f"{facts[name]:,}")
    if "level" in facts["feedback"]:
        table.add_row("skipped (levels 1 and 2)", f"{facts['skipped_share']:.2%}")
        labels = ("not skipped", "played very briefly", "played briefly", "played mostly")
        for level, (share, label) in enumerate(zip(facts["level_shares"], labels, strict=True)):
            table.add_row(f"  level {level}, {label}", f"{share:.2%}")
    table.add_row("feedback logged", ", ".join(map(_FEEDBACK.get, facts["feedback"])))
    for label, share in facts["feedback_shares"].items():
        table.add_row(f"  {label}", f"{share:.2%}")
    table.add_row("session length", f"{facts['length_min']} to {facts['length_max']}")
    table.add_row("  mean", f"{facts['length_mean']:.2f}")
    left_out = facts["left_out"]
    table.add_row(f"left out, shorter than {min_length}", f"{left_out['sessions']:,} sessions")
    table.add_row("", f"{left_out['events']:,} events")
    for what, number in left_out.items():
        if number and what not in ("sessions", "events"):
            table.add_row(f"left out, {escape(what)}", f"{number:,}")
    return table


def study_table(study: Mapping[str, Any]) -> Table:
    """The arms of a study, as its `study.json` holds them."""
    label = "synthetic demo sessions" if study["synthetic"] else study["source"]
    split = "" if study["split"] == LEAVE_ONE_OUT else f"; {study['split']}"
    table = Table(
        title=escape(
            f"{study['name']} on {label}: {study['sessions']:,} sessions{split}; HR@10, and the "
            "difference among all tracks"
        ),
        title_justify="left",
    )
    table.add_column("arm", overflow="fold")
    for column in ("seeds", "sampled", "all tracks", "difference", "p"):
        table.add_column(column, justify="right")
    table.add_column("to", overflow="fold")
    arms = study["arms"]
    labels = {arm["key"]: arm["label"] for arm in arms}
    for arm, following in zip(arms, [*arms[1:], None], strict=True):
        compared = arm["comparisons"].get("test_full/hr@10", {})
        difference = ""
        if compared.get("relative_low") is not None:
            difference = f"{round(100 * compared['relative'], 1) + 0.0:+.1f} %"  # never -0.0
        elif compared:  # the base is about 0, so that a ratio says nothing
            difference = f"{round(compared['difference'], 4) + 0.0:+.4f}"
        table.add_row(
            escape(arm["label"]),
            str(len(arm["seeds"])),
            *(f"{arm['metrics'][name]['mean']:.4f}" for name in ("test/hr@10", "test_full/hr@10")),
            difference,
            f"{compared['p_holm']:.3f}" if compared else "",
            escape(labels.get(arm["against"], "")),
            end_section=following is None or following["group"] != arm["group"],
        )
    return table


def cold_targets(share: float) -> str:
    """Says of how many targets a model cannot know anything."""
    return (
        f"cold: training never sees {share:.1%} of the test targets, which are ranked all the same"
    )


def results_table(title: str, results: Mapping[str, float], names: tuple[str, ...]) -> Table:
    """The test results of a model beside the most-popular baseline.

    Args:
      title: stands above.
      results: of `train_and_evaluate`.
      names: canonical names of metrics.
    """
    table = Table(title=escape(title), title_justify="left")
    table.add_column("ranked among")
    table.add_column("metric")
    for column in ("model", "most popular", "ratio"):
        table.add_column(column, justify="right")
    for which, label in (("test", "sampled candidates"), ("test_full", "all tracks")):
        for i, name in enumerate(names):
            model = results[f"{which}/{name}"]
            popular = results[f"baseline/popularity/{which}/{name}"]
            table.add_row(
                "" if i else label,
                name.upper(),
                f"{model:.4f}",
                f"{popular:.4f}",
                f"{model / popular:.1f}x" if popular else "",
                end_section=i == len(names) - 1,
            )
    return table
