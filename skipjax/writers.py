"""What a run says: metrics.jsonl, TensorBoard events and the terminal."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorboardX
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from skipjax.files import write_atomically

console = Console(highlight=False)


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard.

    Each line of the former is an object with `step`, `epoch`, `seconds` since this process began
    the run, and the metrics.
    """

    def __init__(self, workdir: str | os.PathLike, step: int):
        """Goes on after `step`: what an interrupted run wrote beyond it is taken back."""
        path = Path(workdir) / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines:
                write_atomically(path, "".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self._board = tensorboardX.SummaryWriter(
            str(Path(workdir) / "tensorboard"), purge_step=step + 1
        )
        self._start = time.monotonic()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        line = {"step": step, "epoch": epoch, "seconds": seconds, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _step_of(line: str) -> float:
    """The step of a line; a line cut short by a crash counts as beyond any."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar; yields `update(done, total, text=None)`. Only shown in a terminal."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def update(done: int, total: int, text: str | None = None) -> None:
            fields = {} if text is None else {"note": text}
            bar.update(task, completed=done, total=total, **fields)

        yield update


def results_table(results: Mapping[str, float], title: str, names: tuple[str, ...]) -> Table:
    """The test results of a model beside the most-popular baseline, sampled and full."""
    table = Table(title=title, title_justify="left")
    table.add_column("test")
    table.add_column("metric")
    table.add_column("model", justify="right")
    table.add_column("most popular", justify="right")
    table.add_column("ratio", justify="right")
    for which, label in (("test", "sampled candidates"), ("test_full", "whole catalogue")):
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
