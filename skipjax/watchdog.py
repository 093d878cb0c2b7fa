"""Ends a process that no longer gets anywhere. Standard library only."""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from skipjax.errors import StuckError, end_now

_PACKAGE = os.path.join(os.path.dirname(__file__), "")


class Watchdog:
    """Ends the process with exit code 75 when nobody has called `beat` for some time.

    It watches within its `with` block, from a thread of its own, and counts from where the block
    begins. Time in which the machine or this process was suspended does not count. A main thread
    that waits without letting go of Python's lock is not noticed; XLA and file systems let go.

    Args:
      seconds: how long nothing may happen.
      what: what should have gone on, for the message.
      tell: told in a few words why the process ends, just before it does.
    """

    def __init__(
        self,
        seconds: float,
        what: str = "training",
        tell: Callable[[str], None] = lambda why: None,
    ):
        self._seconds = seconds
        self._what = what
        self._tell = tell
        self._turn = min(1.0, seconds / 10)
        self._quiet = 0.0  # seconds without a beat
        self._beats = 0
        self._pauses = 0
        self._main = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Says that something happened; it costs next to nothing."""
        self._beats += 1

    @contextlib.contextmanager
    def paused(self, why: str) -> Iterator[None]:
        """Does not watch within the block, which may itself be within such a block.

        Args:
          why: what takes long there and is not hanging, such as compiling; for the reader.
        """
        self._pauses += 1
        try:
            yield
        finally:
            self._beats += 1
            self._pauses -= 1

    def __enter__(self) -> "Watchdog":
        self._main = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, before = self._beats, time.monotonic()
        while not self._stopped.wait(self._turn):
            now = time.monotonic()
            if self._pauses or self._beats != seen:
                seen, self._quiet = self._beats, 0.0
            else:
                # One long turn is a suspended machine, or one without a moment for this thread.
                self._quiet += min(now - before, 2 * self._turn)
            before = now
            if self._quiet >= self._seconds:
                why, where = f"{self._what} got nowhere for {self._seconds:g} s", self._where()
                self._tell(why)
                end_now(
                    StuckError(
                        f"{why}, {where}; the same command goes on from the last checkpoint."
                    )
                )

    def _where(self) -> str:
        """The line that the main thread is at; where it is in a library, ours that called it."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return "and its thread has ended"
        stack = [(f.f_code.co_filename, line) for f, line in traceback.walk_stack(frame)]
        ours = [place for place in stack if place[0].startswith(_PACKAGE)]
        return "and stands at {}:{}".format(*(ours or stack)[0])
