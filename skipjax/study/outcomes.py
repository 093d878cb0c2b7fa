"""What the sessions of a study are, and what its runs left of each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from skipjax.data.layout import FEEDBACK
from skipjax.data.parts import Split
from skipjax.data.sessions import Sessions
from skipjax.errors import CheckpointError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study.measures import Facts, Outcome
from skipjax.study.tuning import SELECTION

_COLUMNS = ["session_id", "rank_sampled", "rank_full", "top"]  # of a run's sessions.parquet


def facts_of(sessions: Sessions, split: Split) -> Facts:
    """What is known of the test sessions, whatever is trained."""
    starts, lengths = split.spans("test")
    _, targets = split.held_out("test")
    events = starts + lengths
    skips = np.concatenate([[0], np.cumsum(split.skipped)])
    logged = events if split.source_events is None else split.source_events[events]
    context = {
        name: np.array(sessions.context[name].take(pa.array(logged)).to_pylist(), object)
        for name in sessions.context.column_names
        if name not in FEEDBACK  # which is what came of the target, not where it was heard
    }
    return Facts(
        target_skipped=split.skipped[events],
        popularity=split.train_counts[targets],
        position=lengths.astype(np.int32),
        skips_before=(skips[events] - skips[starts]).astype(np.int32),
        context=context,
    )


def outcome_of_runs(
    key: str, seeds: Sequence[int], workdirs: Sequence[Path], split: Split
) -> Outcome:
    """Of an arm whose runs with `seeds` are in `workdirs`.

    Raises:
      CheckpointError: a run left none, or of other sessions.
    """
    found = []
    for workdir in workdirs:
        path = workdir / "sessions.parquet"
        try:
            table = parquet.read_table(path, page_checksum_verification=True).select(_COLUMNS)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise CheckpointError(
                f"{path} cannot be read ({str(error).splitlines()[0]}); remove {workdir}, and it "
                "is run again."
            ) from None
        if not table["session_id"].combine_chunks().equals(split.ids_of("test")):
            raise CheckpointError(f"{path} is of other sessions; remove {workdir}.")
        top = pc.index_in(pc.list_flatten(table["top"]), value_set=split.track_ids)
        top = top.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int32) + FIRST_TRACK_ID
        ranks = (table[name].to_numpy() for name in ("rank_sampled", "rank_full"))
        found.append((*ranks, top.reshape(len(table), -1)))
    return outcome_of(key, tuple(seeds), split, *map(np.stack, zip(*found, strict=True)))


def outcome_of(
    key: str,
    seeds: tuple[int, ...],
    split: Split,
    sampled: np.ndarray,
    full: np.ndarray,
    top: np.ndarray,
) -> Outcome:
    """Of an arm whose ranks [R, S] and best tracks [R, S, K] are known."""
    return Outcome(
        key=key,
        seeds=seeds,
        sampled=sampled,
        full=full,
        top=top,
        num_tracks=split.num_ids - FIRST_TRACK_ID,
        counts=split.train_counts,
    )


def curve_of_run(seed: int, workdir: Path) -> dict[str, Any]:
    """Validation HR@10 and mean training loss of each epoch."""
    losses: dict[int, list[float]] = {}
    valid: dict[int, float] = {}
    before = 0
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # cut short when a disk was full; what counts stands in results.json
            continue
        if "train/loss" in values:  # the mean of the steps since the line before
            steps, before = values["step"] - before, values["step"]
            losses.setdefault(values["epoch"], []).extend([values["train/loss"]] * steps)
        if SELECTION in values:
            valid[values["epoch"]] = values[SELECTION]
    epochs = sorted(valid)
    return {
        "seed": seed,
        "epoch": epochs,
        SELECTION: [valid[epoch] for epoch in epochs],
        "train/loss": [
            float(np.mean(losses[epoch])) if epoch in losses else None for epoch in epochs
        ],
    }
