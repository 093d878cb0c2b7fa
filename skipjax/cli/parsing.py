"""Command-line parsing whose mistakes end in one line, with a suggestion."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from skipjax.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError instead of printing and exiting."""

    def __init__(self, command: str, usage: str, description: str):
        prog = f"python -m skipjax {command}"
        super().__init__(
            prog=prog, usage=f"{prog} {usage}", description=description, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split("=")[0].split(" ")[0]
        close = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
        hint = f" Did you mean {close[0]}?" if unknown and close else ""
        raise ConfigError(f"{message}.{hint} See {self.prog} --help.")


def choose(name: str, choices: Iterable[str], what: str) -> str:
    """Returns `name`, or raises a ConfigError if it is not among `choices`."""
    choices = list(choices)
    if name in choices:
        return name
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"there is no {what} {name!r}; there are {', '.join(choices)}.{hint}")


def count(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return _whole(text, 1)


class Devices(NamedTuple):
    """As `config.mesh`: a table on each of `data` times `tracks` devices."""

    data: int
    tracks: int


def devices(text: str) -> Devices:
    """An argparse type: DATAxTRACKS, two whole numbers of at least 1."""
    found = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not DATAxTRACKS, such as 1x8")
    return Devices(*map(int, found.groups()))


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds the option --devices."""
    parser.add_argument(
        "--devices",
        type=devices,
        default=Devices(1, 1),
        metavar="DATAxTRACKS",
        help="copies of the track table, and devices that share each (default: 1x1)",
    )


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value
