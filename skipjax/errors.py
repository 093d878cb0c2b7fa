"""What skipjax refuses, each with the exit code its command ends with.

Every message is one line that names the file, row or field, the value, and the fix.
"""


class SkipjaxError(ValueError):
    """Base class; commands print its message alone, without a traceback."""

    exit_code = 1


class ConfigError(SkipjaxError):
    """A config field or command-line option that cannot be honoured."""

    exit_code = 2


class DataError(SkipjaxError):
    """Input that is missing, malformed or has nothing usable in it."""

    exit_code = 65


class OutputError(SkipjaxError):
    """A place that cannot be written to, or that holds something else already."""

    exit_code = 73


class BusyError(SkipjaxError):
    """Something that another process is using right now."""

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
