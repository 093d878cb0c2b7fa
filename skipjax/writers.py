"""What a run records: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from skipjax.errors import OutputError
from skipjax.files import make_folder, write_atomically


class NullWriter:
    """Records nothing: where another process does."""

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """See `MetricWriter`."""

    def sync(self) -> None:
        """See `MetricWriter`."""

    def close(self) -> None:
        """See `MetricWriter`."""


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard.

    Each line of the former is an object with `step`, `epoch`, `seconds` since this process began
    the run, and the metrics. All methods raise OutputError if they cannot write.
    """

    def __init__(self, workdir: str | os.PathLike, step: int):
        """Goes on after `step`: lines written beyond it, or of a test, are taken back."""
        self._path = path = Path(workdir) / "metrics.jsonl"
        board = Path(workdir) / "tensorboard"
        make_folder(board)
        with self._written():
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace")
                lines = lines.splitlines(keepends=True)
                kept = [line for line in lines if _stands(line, step)]
                if kept != lines:
                    write_atomically(path, "".join(kept))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
            # Not its SummaryWriter: that writes in a thread, and waits for ever if the disk fills.
            # A name of its own, as it would write over a file made in the same second.
            self._board = EventsWriter(str(board / "events"), f".{time.time_ns()}")
            self._board.write_event(
                Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            )
        self._start = time.monotonic()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        line = {"step": step, "epoch": epoch, "seconds": seconds, **values}
        with self._written():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in values.items():
                summary = scalar(name, value)
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._board.flush()

    def sync(self) -> None:
        """Returns when the lines are on disk: a checkpoint must not outlive what led to it."""
        with self._written():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        # What was not written has been said already, or is said by whoever closes a file next.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}.") from error


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
