"""Any two arms of a study, compared as the study does, though in draws of their own."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from skipjax import metrics
from skipjax.errors import ConfigError, DataError
from skipjax.limits import did_you_mean
from skipjax.study import measures, statistics
from skipjax.study.baselines import BASELINES

_RANKS = {prefix: f"rank_{ranking}" for prefix, ranking in measures.RANKINGS.items()}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One measure of two arms.

    Attributes:
      measure: such as "test_full/hr@10".
      mean: of the arm, over its seeds and the sessions.
      base_mean: of what it is compared with.
      found: the comparison.
      num_sessions: what both rank.
      sentence: what it says, by an uncorrected p.
    """

    measure: str
    mean: float
    base_mean: float
    found: statistics.Comparison
    num_sessions: int
    sentence: str


def compare_arms(path: str | Path, arm: str, base: str, *, metric: str = "hr@10") -> list[Pair]:
    """Compares two arms among sampled candidates and among all tracks.

    Args:
      path: the `sessions.parquet` of a study.
      arm: key of an arm or baseline, as there.
      base: that of what it is compared with.
      metric: hr@K, ndcg@K, mrr or mrr@K.

    Raises:
      ConfigError: there is no such metric or arm, or both are the same.
      DataError: the file is missing, cannot be read or is not that of a study.
    """
    metric = metrics.canonical(metric)
    if arm == base:
        raise ConfigError(f"{arm!r} is on both sides; name two arms.")
    ranks = _ranks(Path(path), (arm, base))
    pairs = []
    for prefix in _RANKS:
        of_arm, of_base = (metrics.per_session(metric)(ranks[key][prefix]) for key in (arm, base))
        found = statistics.compare(of_arm, of_base)
        name = f"{prefix}/{metric}"
        said = statistics.sentence(arm, base, measures.spoken(name), found, without_seed=BASELINES)
        means = float(of_arm.mean()), float(of_base.mean())
        pairs.append(Pair(name, *means, found, of_arm.shape[1], said))
    return pairs


def _ranks(path: Path, keys: tuple[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """[R, S] ranks of each arm by the prefix of their measures, sessions in the same order."""
    columns = ["session_id", "arm", "seed", *_RANKS.values()]
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent}; name the workdir of a finished study.")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise DataError(
                    f"{path} has no column {missing[0]!r}, so it is not that of a study; name the "
                    "workdir of one."
                )
            table = file.read(columns)
    except (OSError, pa.ArrowException) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        text = "" if isinstance(error, FileNotFoundError) else f" ({str(error).splitlines()[0]})"
        raise DataError(f"{path} {why}{text}; name the workdir of a finished study.") from None
    for name in columns:
        if table[name].null_count:
            raise DataError(f"{path}, column {name}, has empty values; make it again.")
    there = table["arm"].unique().to_pylist()
    found: dict[str, dict[str, np.ndarray]] = {}
    sessions = None
    for key in keys:
        if key not in there:
            hint = did_you_mean(key, there)
            raise ConfigError(f"{path} has no arm {key!r}; there are {', '.join(there)}.{hint}")
        rows = table.filter(pc.equal(table["arm"].cast(pa.string()), key))
        rows = rows.sort_by([("seed", "ascending"), ("session_id", "ascending")])
        runs = len(rows["seed"].unique())
        ids = rows["session_id"].to_numpy()
        sessions = ids[: len(ids) // runs] if sessions is None else sessions
        if not np.array_equal(ids, np.tile(sessions, runs)):
            raise DataError(f"{path} does not have the same sessions of each run; make it again.")
        found[key] = {
            prefix: rows[name].to_numpy().reshape(runs, -1) for prefix, name in _RANKS.items()
        }
    return found
