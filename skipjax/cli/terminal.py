"""What commands print: a progress bar on stderr, tables on stdout."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from skipjax.data import inputs


@contextlib.contextmanager
def progress_bar() -> Iterator[inputs.Progress]:
    """Yields a progress callback; the bar is gone when the block ends, and only for terminals."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=None)
        current = "starting"

        def progress(done: int, total: int, what: str) -> None:
            nonlocal current
            if what != current:  # a new phase, with a speed of its own
                bar.reset(task, description=what)
                current = what
            bar.update(task, completed=min(done, total), total=total)

        yield progress


def out() -> Console:
    """Where results are printed. Made anew, since tests and pipes change what stdout is."""
    return Console(highlight=False, soft_wrap=True)


def summary_table(title: str, facts: dict[str, Any], min_length: int) -> Table:
    """The facts of `Sessions.summary`, under the names that the paper uses."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("sessions", "events", "tracks"):
        table.add_row(name, f"{facts[name]:,}")
    table.add_row("skipped (levels 1 and 2)", f"{facts['skipped_share']:.2%}")
    labels = ("not skipped", "played very briefly", "played briefly", "played mostly")
    for level, (share, label) in enumerate(zip(facts["level_shares"], labels, strict=True)):
        table.add_row(f"  level {level}, {label}", f"{share:.2%}")
    table.add_row("session length", f"{facts['length_min']} to {facts['length_max']}")
    table.add_row("  mean", f"{facts['length_mean']:.2f}")
    left_out = facts["left_out"]
    table.add_row(f"left out, shorter than {min_length}", f"{left_out['sessions']:,} sessions")
    table.add_row("", f"{left_out['events']:,} events")
    return table
