"""Parsing of main.py's flags whose mistakes end in one line, with a suggestion."""

import difflib
import glob
import os
import runpy
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from skipjax.errors import ConfigError


def parse(argv: Sequence[str]) -> list[str]:
    """Parses absl flags, `--config=FILE` and its `--config.FIELD=VALUE` among them.

    Returns:
      What is left of `argv`.

    Raises:
      ConfigError: an unknown flag or field, a value of the wrong type, or a config file that is
        missing or cannot be run.
    """
    arguments = list(_arguments(argv))
    for name, value in arguments:
        if name == "config":
            _check_fields(_load(value), [n for n, _ in arguments if n.startswith("config.")])
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        raise ConfigError(str(error).removeprefix("flag ").replace("\n", " ")) from None


def _load(value: str) -> Any:
    """The config of `--config=FILE` or `--config=FILE:ARGUMENT`."""
    path, *arguments = value.split(":", 1)
    if not os.path.isfile(path):
        there = glob.glob(os.path.join(os.path.dirname(path) or ".", "*.py"))
        raise ConfigError(f"--config={path}: no such file.{_hint(path, there)}")
    try:
        return runpy.run_path(path)["get_config"](*arguments)
    except Exception as error:
        raise ConfigError(f"--config={value} fails: {type(error).__name__}: {error}.") from error


def _check_fields(config: Any, names: Sequence[str]) -> None:
    known = [f"config.{field}" for field in _fields(config)]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no field {name}.{_hint(name, known)}")


def _arguments(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each flag given as --name=value or --name value."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else following


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
