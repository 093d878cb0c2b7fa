"""Parsing of main.py's flags whose mistakes end in one line, with a suggestion."""

import glob
import os
import runpy
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from skipjax.errors import ConfigError
from skipjax.limits import check_limits, did_you_mean, fields, wanted


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses absl flags, `--config=FILE` and its `--config.FIELD=VALUE` among them.

    Returns:
      What is left of `argv`.

    Raises:
      ConfigError: an unknown flag or field, a value of the wrong type or outside its limits, or a
        config file that is missing or cannot be run.
    """
    given = dict(_arguments(argv))
    overrides = {n.removeprefix("config."): v for n, v in given.items() if n.startswith("config.")}
    if "config" in given:
        _check_fields(_load(given["config"]), overrides)
    try:
        left = flag_values(list(argv))
    except flags.IllegalFlagValueError as error:
        for field, value in overrides.items():
            instead = wanted(field, value)
            if instead and str(error).startswith(f"flag --config.{field}="):
                raise ConfigError(f"--config.{field}={value}: {instead}") from None
        raise ConfigError(_line(error)) from None
    except flags.Error as error:
        raise ConfigError(_line(error)) from None
    if "config" in given:
        check_limits(flag_values["config"].value)
    return left


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
        raise ConfigError(f"--config={path}: no such file.{did_you_mean(path, there)}")
    try:
        config = runpy.run_path(path)["get_config"](*arguments)
    except Exception as error:
        text = f"--config={value} fails: {type(error).__name__}: {_line(error)}."
        raise ConfigError(text) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={value}: get_config() returns a {type(config).__name__}; it must return a "
            "ConfigDict, as in configs/common.py."
        )
    return config


def _check_fields(config: Any, names: Iterable[str]) -> None:
    known = [field for field, _ in fields(config)]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, "config.")
            raise ConfigError(f"there is no field config.{name}.{hint}")


def _arguments(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each flag given as --name=value or --name value."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else following


def _line(error: Exception) -> str:
    """What an error of absl or of a config file says, in one line."""
    return " ".join(str(error).removeprefix("flag ").split())
