"""Which reader fits a file or folder, by names and first lines: for messages, never for reading."""

import glob
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skipjax import files as folders
from skipjax.data import layout, spotify
from skipjax.data.inputs import open_stream
from skipjax.errors import DataError

_FIRST_BYTES = 1 << 16
_MOST_FILES = 50  # of a folder
_MSSD = {"session_id", "session_position", "track_id_clean", "skip_1"}
_YAMBDA = {"uid", "timestamp", "item_id", "played_ratio_pct"}
_SHORT_HISTORY = {"endTime", "msPlayed"}  # Spotify's account data, without skips

WHAT = {
    "mssd": "logs of MSSD",
    "yambda": "Yambda's listens",
    "lastfm": "a log in the form of Last.fm-1K",
    "spotify": "Spotify's extended streaming history",
    "inter": "RecBole's interactions",
    "table": "a table",
}
NO_READER = {
    "prepared": "it holds sessions that are prepared already; give it as config.data.path, with "
    "config.data.source 'prepared'",
    "short history": "it is the streaming history of Spotify's account data, which does not tell "
    "of skips; ask Spotify for the extended streaming history",
    "zip": "it is a zip archive; unpack it first",
}


def kinds(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """The readers that fit, keys of WHAT, or what keeps any from fitting, keys of NO_READER.

    Of a folder whatever one of its files says counts. Never raises: what cannot be read fits none.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    found = {kind for source in sources for kind in _of(source)}
    if found - {"table"}:
        found -= {"table"}
    return sorted(found)


COMMAND = "python -m skipjax prepare {}"


def advice(
    sources: str | os.PathLike | Sequence[str | os.PathLike], kind: str, how: str = COMMAND
) -> str:
    """A sentence that says what fits `sources` if `kind` does not; "" if that is not known.

    Args:
      sources: as for `inputs.find`.
      kind: what they were read as.
      how: to read them as `{}`.
    """
    fitting = kinds(sources)
    if not fitting or kind in fitting:
        return ""
    reasons = [NO_READER[name] for name in fitting if name in NO_READER]
    if reasons:
        return f"By its looks, {reasons[0]}."
    return f"By its looks, this is {described(fitting, how)}."


def described(fitting: Sequence[str], how: str = COMMAND) -> str:
    """What it is, and what to do then."""
    return " or ".join(f"{WHAT[kind]} ({how.format(kind)})" for kind in fitting)


def _of(source: str | os.PathLike) -> set[str]:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            if (path / folders.MANIFEST).is_file() and (path / layout.EVENTS).is_file():
                return {"prepared"}
            inside = sorted(p for p in path.iterdir() if p.is_file())
        elif path.exists():
            inside = [path]
        else:
            inside = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        some = itertools.islice((p for p in inside if not p.name.startswith(".")), _MOST_FILES)
        return set().union(*map(_of_file, some))
    except (OSError, ValueError):
        return set()


def _of_file(path: Path) -> set[str]:
    if not path.is_file():
        return set()  # a pipe would be read from
    name = path.name.lower()
    if name.startswith("userid-profile"):
        return set()
    if name.endswith((".parquet", ".pq")):
        return _of_parquet(path)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return {"lastfm"} if "lastfm" in name else {"mssd", "lastfm"}
    if name.startswith("tf_"):
        return set()
    try:
        with open_stream(path) as (stream, _):
            start = stream.read(_FIRST_BYTES)
    except (OSError, EOFError, DataError):
        return set()
    if start.startswith(b"PK\3\4"):
        return {"zip"}
    if start.startswith(b"PAR1"):
        return _of_parquet(path)
    return _of_text(start.decode("utf-8-sig", errors="replace"), name)


def _of_parquet(path: Path) -> set[str]:
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError):
        return set()
    return {"yambda"} if names >= _YAMBDA else {"table"}


def _of_text(text: str, name: str) -> set[str]:
    if text.lstrip().startswith("["):
        keys = _first_keys(text.lstrip()[1:].lstrip())
        if keys >= _SHORT_HISTORY:
            return {"short history"}
        return {"spotify"} if keys >= set(spotify.NEEDED) else set()
    first = text.split("\n", 1)[0].rstrip("\r")
    if not first.replace("\t", " ").isprintable() or "\ufffd" in first:
        return set()
    if first.startswith("{"):
        return {"table"}
    columns = [column.strip().strip('"') for column in first.split("\t")]
    if all(column.rpartition(":")[2] in ("token", "float", "token_seq") for column in columns):
        return {"inter"}
    if len(columns) == 6 and columns[1][:2].isdigit() and columns[1].endswith("Z"):
        return {"lastfm"}
    if {column.strip().strip('"') for column in first.split(",")} >= _MSSD:
        return {"mssd"}
    return {"table"} if any(mark in first for mark in ",\t") or name.endswith(".csv") else set()


def _first_keys(text: str) -> set[str]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()
