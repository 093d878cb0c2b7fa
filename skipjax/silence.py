"""What a program does not let libraries below it print."""

import logging
import sys
import warnings

import absl.logging


def silence_failed_writes() -> None:
    """From here on, a failed write is told by OutputError alone.

    orbax would log its traceback, and threads of it and of tensorstore those of what follows, such
    as that their event loop is closed, or that what was to be written next never was. For
    programs; a library must not change a process that much.
    """
    raised, unraisable = sys.excepthook, sys.unraisablehook

    def follows(error):
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    def excepthook(kind, error, traceback):
        if not follows(error):
            raised(kind, error, traceback)

    def unraisablehook(what):
        if not follows(what.exc_value):
            unraisable(what)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    absl.logging.set_verbosity(absl.logging.FATAL)
