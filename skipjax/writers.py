"""What a run records: metrics.jsonl and TensorBoard events."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import tensorboardX

from skipjax.files import write_atomically


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard.

    Each line of the former is an object with `step`, `epoch`, `seconds` since this process began
    the run, and the metrics.
    """

    def __init__(self, workdir: str | os.PathLike, step: int):
        """Goes on after `step`: lines written beyond it, or of a test, are taken back."""
        path = Path(workdir) / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _stands(line, step)]
            if kept != lines:
                write_atomically(path, "".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self._board = tensorboardX.SummaryWriter(
            str(Path(workdir) / "tensorboard"), purge_step=step + 1
        )
        self._start = time.monotonic()

    def sync(self) -> None:
        """Returns when the lines are on disk: a checkpoint must not outlive what led to it."""
        os.fsync(self._file.fileno())

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


def _stands(line: str, step: int) -> bool:
    """Whether a line stays when a run goes on after `step`; not if a crash cut it short."""
    try:
        values = json.loads(line)
        return (
            line.endswith("\n")
            and values["step"] <= step
            and not any(name.startswith("test") for name in values)
        )
    except (ValueError, KeyError, TypeError):
        return False
