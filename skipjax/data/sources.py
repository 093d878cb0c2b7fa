"""What a run's `config.data` names, prepared once and then reused."""

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skipjax import files
from skipjax.choices import CHOICES
from skipjax.data import demo, inter, lastfm, layout, mssd, recognise, spotify, table, yambda
from skipjax.data.inputs import Progress
from skipjax.data.sessions import Sessions
from skipjax.errors import BadSessionError, ConfigError, DataError, OutputError

READERS = {
    "mssd": mssd,
    "yambda": yambda,
    "lastfm": lastfm,
    "spotify": spotify,
    "inter": inter,
    "table": table,
}
NAMES = CHOICES["data.source"]
_WITHOUT_GAPS = ("demo", "mssd", "prepared")  # their sessions are what they are


def load(data: Any, *, progress: Progress | None = None) -> Sessions:
    """Opens the sessions of a run, after preparing them if this was not done before.

    Args:
      data: the `config.data` of a run. `prepared` data is opened where `path` says; any other is
        prepared into a folder in `cache_dir`, named after the options and the size and time of
        each file, and found there by the next run.
      progress: called with what is done, what there is in all, and a word for it.

    Raises:
      ConfigError: an unknown source, no path, or options that do not go together.
      DataError: the input cannot be used, or what was prepared from it is damaged.
    """
    if data.source not in NAMES:
        close = difflib.get_close_matches(str(data.source), NAMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"config.data.source is {data.source!r}; it must be one of {', '.join(NAMES)}.{hint}"
        )
    if data.source != "demo" and not data.path:
        raise ConfigError(
            f"config.data.source is {data.source!r} but config.data.path is empty; set "
            "--config.data.path to where the data lies."
        )
    try:
        return _loaded(data, progress)
    except BadSessionError:
        raise
    except (ConfigError, DataError) as error:
        fits = recognise.advice(_paths(data.path), data.source, "config.data.source {!r}")
        if fits and data.source != "demo":
            raise type(error)(f"{str(error).removesuffix('.')}. {fits}") from error
        raise


def _loaded(data: Any, progress: Progress | None) -> Sessions:
    if data.source in _WITHOUT_GAPS and data.gap_minutes not in (-1, 0):
        raise ConfigError(
            f"config.data.gap_minutes is {data.gap_minutes:g}, but config.data.source "
            f"{data.source!r} has sessions already; set it to -1"
            + (", and give --gap_minutes when the data is prepared." * (data.source == "prepared"))
        )
    if data.source == "prepared":
        if data.num_sessions:
            raise ConfigError(
                f"config.data.num_sessions is {data.num_sessions}, but prepared data is taken "
                "whole; sample it when it is prepared, with --sessions."
            )
        if data.on_bad_session != "error":
            raise ConfigError(
                f"config.data.on_bad_session is {data.on_bad_session!r}, but prepared data is "
                "taken whole; give --on_bad_session when it is prepared."
            )
        return Sessions.open(data.path)

    options = {
        "num_sessions": data.num_sessions,
        "min_length": data.min_length,
        "max_length": data.max_length,
        "on_bad_session": data.on_bad_session,
    }
    if data.source == "demo":
        key: dict[str, Any] = {"demo": _demo_options(data), "version": demo.VERSION}

        def prepare(folder: Path) -> Sessions:
            return _prepare_demo(data, folder, options, progress)
    else:
        paths, reader = _paths(data.path), READERS[data.source]
        if data.source not in _WITHOUT_GAPS:
            gap = reader.GAP_MINUTES if data.gap_minutes == -1 else data.gap_minutes
            options["gap_minutes"] = float(gap)
        own: dict[str, Any] = {}
        if data.source == "inter":
            own["time_unit"] = data.table.time_unit
            own["context_columns"] = tuple(data.table.context_columns)
        elif data.source == "table":
            own["columns"] = table_columns(data.table)
        key = {"files": _identities(reader.files(paths))} | own

        def prepare(folder: Path) -> Sessions:
            return reader.prepare(paths, folder, **own, **options, progress=progress)

    key |= options | {"format": layout.FORMAT_VERSION}
    text = json.dumps(key, sort_keys=True, default=dataclasses.asdict)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _cached(Path(data.cache_dir).expanduser() / f"{data.source}-{digest}", prepare)


def table_columns(config: Any) -> table.Columns:
    """The columns that `config.data.table` names."""
    values = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(table.Columns)
    }
    values["context_columns"] = tuple(values["context_columns"])
    try:
        return table.Columns(**values)
    except ConfigError as error:
        raise ConfigError(f"config.data.table: {error}") from None


def _cached(folder: Path, prepare: Callable[[Path], Sessions]) -> Sessions:
    if not folder.exists():
        try:
            return prepare(folder)
        except OutputError:
            if not folder.exists():
                raise
            # Another process prepared the same data meanwhile; what it made is as good.
        except BadSessionError as error:
            error.switch = "--config.data.on_bad_session=drop"
            raise
    try:
        return Sessions.open(folder)
    except DataError as error:
        what = str(error).removesuffix(" Prepare the data again.")
        raise DataError(f"{what} To have it made again, delete {folder}.") from error


def _prepare_demo(
    data: Any, folder: Path, options: dict[str, Any], progress: Progress | None
) -> Sessions:
    settings = _demo_options(data)
    files.make_folder(folder.parent)
    with files.temporary_folder(folder.with_name(f"{folder.name}-logs")) as logs:
        demo.write_logs(logs, **settings, progress=progress)
        facts = {"demo": settings, "demo_version": demo.VERSION}
        return mssd.prepare(
            logs, folder, **options, source="demo", options=facts, progress=progress
        )


def _demo_options(data: Any) -> dict[str, Any]:
    return {
        "num_sessions": data.demo.num_sessions,
        "num_tracks": data.demo.num_tracks,
        "seed": data.demo.seed,
        "skip_share": data.demo.skip_share or None,  # 0 stands for MSSD's own shares
    }


def _paths(path: str) -> list[str]:
    """One path, or several with os.pathsep between them."""
    return [path] if os.path.exists(path) else path.split(os.pathsep)


def _identities(paths: list[Path]) -> list[list[Any]]:
    stats = [(path.resolve(), path.stat()) for path in paths]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
