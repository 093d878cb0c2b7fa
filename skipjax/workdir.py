"""Whether a folder that holds a run may be gone on with, or is done."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipjax import metrics
from skipjax.errors import CheckpointError, OutputError

# Fields that change how long a run goes on, where things lie or what is printed, but no result.
_MAY_CHANGE = {
    "data.path",  # what lies there must be the same: the data's digest is compared
    "data.cache_dir",
    "data.on_bad_session",
    "train.num_epochs",
    "train.patience",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "eval.batch_size",
    "eval.chunk_size",
    "eval.metrics",
}


def as_json(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries of what JSON can hold."""
    return json.loads(config.to_json())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat


def check_same_run(config: Any, workdir: Path, *, fixed: Iterable[str] = ()) -> None:
    """Refuses to go on in `workdir` with a field that would change the result.

    Args:
      config: of the run that wants to go on.
      workdir: holds the `config.json` of the one before, if there was one.
      fixed: fields that may not change although a run may go on with others, such as its length.

    Raises:
      CheckpointError: naming the field and both values.
      OutputError: `workdir` holds something else.
    """
    path = workdir / "config.json"
    if not path.exists():
        _check_ours(workdir)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); choose another --workdir."
        ) from None
    if not isinstance(before, dict):
        raise CheckpointError(f"{path} does not hold a config; choose another --workdir.")
    check_same_config(before, config, workdir, fixed=fixed)


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


def _check_ours(workdir: Path) -> None:
    """Refuses a folder that holds other things, among which results would get lost."""
    for path in workdir.iterdir() if workdir.is_dir() else ():
        if not path.name.startswith("."):  # what a run that was killed at once leaves is hidden
            raise OutputError(
                f"{workdir} holds {path.name}, but no config.json: it is not a run's folder; "
                "choose another --workdir, or put the config.json back."
            )


def check_same_data(before: str, now: str, workdir: Path) -> None:
    """Refuses to go on with data of another digest."""
    if before != now:
        raise CheckpointError(
            f"{workdir} was trained on other data than config.data now gives; choose another "
            "--workdir."
        )


def finished(config: Any, workdir: Path) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do."""
    path = workdir / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        epochs, best_epoch = results["epochs"], results["best_epoch"]
        stale = epochs - best_epoch < config.train.patience
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); remove it.") from None
    if epochs < config.train.num_epochs and stale:
        return None
    missing = [n for n in config.eval.metrics if f"test/{metrics.canonical(n)}" not in results]
    return None if missing else results
