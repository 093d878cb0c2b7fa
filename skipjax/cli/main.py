"""Finds the command, runs it, and turns what it raises into one line and an exit code."""

import importlib
import sys
from collections.abc import Sequence

from skipjax import __version__
from skipjax.cli.parsing import choose
from skipjax.errors import BadSessionError, SkipjaxError, one_line

# Command: what it does. Each is a module of this package with `run(arguments)`, imported only
# when asked for, so that none waits for what another needs.
COMMANDS = {
    "prepare": "raw listening logs to a folder of sessions",
    "audit": "what a folder of sessions hides, on one page, before training on it",
    "recommend": "the next tracks for sessions in a file, by a trained model",
    "similar": "the tracks nearest to one",
    "export": "a trained model as a folder that stands alone",
    "serve": "trained models over HTTP, with a page to try them on",
    "evaluate": "the test of a trained model, again",
    "study": "do skips help: arms, seeds, baselines, statistics, a report",
    "compare": "any two arms of a study",
    "demo": "made-up logs in MSSD's schema, to try things on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments == ["--version"]:
        print(f"skipjax {__version__}")
        return 0
    try:
        if not arguments:
            print(_help(), file=sys.stderr)
            return 2
        name = choose(arguments[0], COMMANDS, "command")
        importlib.import_module(f"skipjax.cli.{name}").run(arguments[1:])
    except SkipjaxError as error:
        if isinstance(error, BadSessionError):
            error.switch = error.switch or "--on_bad_session=drop"
        print(one_line(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"skipjax: interrupted; {when_stopped(arguments)}.", file=sys.stderr)
        return 130
    return 0


def when_stopped(arguments: Sequence[str]) -> str:
    """What becomes of a command's work when a signal ends it."""
    if arguments[:1] == ["study"]:
        return "what is finished is kept, and the same command goes on from there"
    if arguments[:1] == ["serve"]:
        return "what was in flight has been answered"
    return "nothing unfinished is left behind"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m skipjax COMMAND ...",
            "",
            *lines,
            "",
            "python -m skipjax COMMAND --help says more. To train: python main.py --help",
        ]
    )
