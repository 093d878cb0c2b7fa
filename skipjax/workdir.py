"""Whether a folder that holds a run may be gone on with, or is done."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from skipjax import files, metrics, terminal
from skipjax.errors import CheckpointError, DataError, OutputError, SkipjaxError

SESSIONS = "sessions.parquet"  # the test of every session
SPLIT = "split.parquet"  # the part of each session, where not all are in every part

# Fields that change how long a run goes on, where things lie or what is printed, but no result.
_MAY_CHANGE = {
    "data.path",  # what lies there must be the same: the data's digest is compared
    "data.cache_dir",
    "data.on_bad_session",
    "train.num_epochs",
    "train.patience",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.watchdog_seconds",
    "mesh.data",
    "mesh.tracks",
    "eval.batch_size",
    "eval.chunk_size",
    "eval.metrics",
}
# Fields that older runs do not have, and what they did without. They change no result, either.
_ADDED = {"train.watchdog_seconds": 600.0, "mesh.data": -1, "mesh.tracks": 1}
# What a report of a finished run shows besides metrics.
_REPORTED = {"name", "source", "synthetic", "epochs", "best_epoch", "split", "data"}


def as_json(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries of what JSON can hold."""
    return json.loads(config.to_json())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat


def with_added_fields(config: dict[str, Any]) -> dict[str, Any]:
    """A config as `as_json` made it, perhaps by an older version, with the fields added since."""
    added = {
        section: dict(values) for section, values in config.items() if isinstance(values, dict)
    }
    for field, value in _ADDED.items():
        section, name = field.split(".")
        if section in added or section not in config:
            added.setdefault(section, {}).setdefault(name, value)
    return config | added


def check_same_run(config: Any, workdir: Path, *, fixed: Iterable[str] = ()) -> None:
    """Refuses to go on in `workdir` with a field that would change the result.

    What a checkpoint says the config is counts for more than `config.json`, which is then made
    again, and that is said.

    Args:
      config: of the run that wants to go on.
      workdir: holds the `config.json` of the one before, if there was one.
      fixed: fields that may not change although a run may go on with others, such as its length.

    Raises:
      CheckpointError: naming the field and both values.
      OutputError: `workdir` holds something else.
    """
    path = workdir / "config.json"
    if not path.exists() and not _holds(workdir):
        return
    try:
        check_same_config(_read(path), config, workdir, fixed=fixed)
    except SkipjaxError:
        saved = saved_config(workdir)
        if saved is None:
            raise
        check_same_config(saved, config, workdir, fixed=fixed)
        files.write_json(path, saved)
        terminal.say(f"{path} was lost or damaged; made again from the newest checkpoint.")


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """The config of the run in `workdir` as `as_json` made it, by its newest checkpoint.

    Of that, only the manifest is read, which tells by itself whether it is damaged; if it is, the
    one before it is asked. None if there is none.
    """
    steps = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    for path in sorted(steps, key=lambda path: int(path.name), reverse=True):
        with contextlib.suppress(DataError, KeyError):
            return files.read_manifest(path, check_files=False)["progress"]["config"]
    return None


def _read(path: Path) -> dict[str, Any]:
    """The `config.json` of a run.

    Raises:
      OutputError: it is not there.
      CheckpointError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError(
            f"{path.parent} holds {_holds(path.parent)}, but no config.json: it is not a run's "
            "folder; choose another --workdir, or put the config.json back."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, and no checkpoint is there to make it again "
            "from; choose another --workdir."
        )
    return found


def check_same_config(
    before: dict[str, Any], config: Any, workdir: Path, *, fixed: Iterable[str] = ()
) -> None:
    """`check_same_run` against `before`, as `as_json` made it."""
    before, now = _flat(before), _flat(as_json(config))
    may_change = _MAY_CHANGE - set(fixed)
    if config.optimizer.decay != "constant":
        may_change.discard("train.num_epochs")  # the decay ends with it
    for field in sorted((before.keys() | now.keys()) - may_change):
        if before.get(field) != now.get(field):
            raise CheckpointError(
                f"{workdir} holds a run with config.{field} = {before.get(field)!r}, not "
                f"{now.get(field)!r}; choose another --workdir, or set it back."
            )


def _holds(folder: Path) -> str:
    """Something that lies there; '' if nothing does but what a run that was killed at once left."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return next((name for name in names if not name.startswith(".")), "")


def check_same_data(before: str, now: str, workdir: Path) -> None:
    """Refuses to go on with data of another digest."""
    if before != now:
        raise CheckpointError(
            f"{workdir} was trained on other data than config.data now gives; choose another "
            "--workdir."
        )


def check_same_split(parts: pa.Table | None, workdir: Path) -> None:
    """Refuses to go on with other sessions to train on, to validate with or to test with.

    The same data and config give the same, but for another version of skipjax.

    Args:
      parts: of `parts_table`.
      workdir: may hold what a run saved of it.

    Raises:
      CheckpointError: it saved another split, or that cannot be read.
    """
    path = workdir / SPLIT
    if not path.exists():
        return
    try:
        before = parquet.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); remove it, and training makes "
            "it again."
        ) from None
    if parts is None or not before.equals(parts):
        raise CheckpointError(
            f"{path} has other sessions for training, validation and test than config.data now "
            "gives, of other data or by another version; choose another --workdir."
        )


def finished(config: Any, workdir: Path) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do."""
    path = workdir / "results.json"
    if not path.exists():
        return None
    why = "it is damaged"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        epochs, stale = results["epochs"], results["epochs"] - results["best_epoch"]
        sound = results.keys() >= _REPORTED
    except OSError as error:
        sound, why = False, error.strerror
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{path} cannot be read: {why}; remove it, and the same command makes it again."
        )
    if epochs < config.train.num_epochs and stale < config.train.patience:
        return None
    names = [metrics.canonical(name) for name in config.eval.metrics]
    shown = [f"{which}/{name}" for name in names for which in ("test", "test_full")]
    wanted = {*shown, *(f"baseline/popularity/{name}" for name in shown)}
    return results if results.keys() >= wanted else None
