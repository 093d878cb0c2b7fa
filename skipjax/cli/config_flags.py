"""Parsing of main.py's flags whose mistakes end in one line, with a suggestion."""

import difflib
import glob
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from skipjax.errors import ConfigError


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
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
        return flag_values(list(argv))
    except flags.Error as error:
        raise ConfigError(str(error).removeprefix("flag ").replace("\n", " ")) from None


def config_of(value: str, overrides: Sequence[str]) -> Any:
    """The config of `--config=value` with `--config.FIELD=VALUE` overrides, for other commands.

    Raises:
      ConfigError: as `parse`.
    """
    flag_values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=flag_values)
    argv = ["skipjax", f"--config={value}", *overrides]
    before, sys.argv = sys.argv, argv  # where ml_collections looks for overrides
    try:
        parse(argv, flag_values)
        return holder.value
    finally:
        sys.argv = before


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
