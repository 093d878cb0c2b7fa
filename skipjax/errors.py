"""What skipjax refuses, each with the exit code its command ends with.

Every message is one line that names the file, row or field, the value, and the fix.
"""

import contextlib
import os
import sys
import threading
from typing import NoReturn


class SkipjaxError(ValueError):
    """Base class; commands print its message alone, without a traceback."""

    exit_code = 1


class ConfigError(SkipjaxError):
    """A config field or command-line option that cannot be honoured."""

    exit_code = 2


class DataError(SkipjaxError):
    """Input that is missing, malformed or has nothing usable in it."""

    exit_code = 65


class BadSessionError(DataError):
    """A value that cannot be used, in a session that could be left out instead.

    Attributes:
      switch: how to ask for that where the caller is; '' for Python.
    """

    switch = ""

    def __str__(self) -> str:
        switch = self.switch or "on_bad_session='drop'"
        return f"{self.args[0]}; correct it, or leave out bad sessions with {switch}."


class OutputError(SkipjaxError):
    """A place that cannot be written to, or that holds something else already."""

    exit_code = 73


class BusyError(SkipjaxError):
    """Something that another process is using right now."""

    exit_code = 75


class PeerError(SkipjaxError):
    """A process of the same training that did not come, or that has gone."""

    exit_code = 75


class StuckError(SkipjaxError):
    """Work that no longer gets anywhere."""

    exit_code = 75


class CheckpointError(SkipjaxError):
    """A run folder or checkpoint that this run cannot go on from."""

    exit_code = 76


class DivergedError(SkipjaxError):
    """Training that left the finite numbers."""


class Interrupted(KeyboardInterrupt):
    """Training that a signal asked to end, and that ended with all of it saved.

    Attributes:
      exit_code: 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


def one_line(error: BaseException) -> str:
    """What a program prints of an error: its message, with control characters escaped.

    Paths, ids and values in it may have line breaks, or what a terminal would obey.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))
    return f"skipjax: {text}"


def end_now(error: SkipjaxError) -> NoReturn:
    """Ends the process with an error's line and exit code, whatever its main thread waits for.

    Nothing else is cleaned up: what holds the main thread may never let go of it.
    """

    def flush():
        with contextlib.suppress(Exception):
            sys.stdout.flush()

    flushing = threading.Thread(target=flush, daemon=True)  # it may be what never returns
    flushing.start()
    flushing.join(1.0)
    os.write(2, f"{one_line(error)}\n".encode(errors="replace"))
    os._exit(error.exit_code)
