"""A run's best epoch as a folder that needs neither the run nor flax: see exported.py."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipjax import __version__, files, ranking, targets
from skipjax.data import sources
from skipjax.data.batches import spans
from skipjax.data.catalogue import TRACKS
from skipjax.data.inputs import Progress
from skipjax.data.split import split_as
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.serving import card
from skipjax.serving.exported import BEST, CARD, FORMAT, HIDDEN
from skipjax.serving.index import Index
from skipjax.trained import Trained
from skipjax.workdir import as_json, check_same_data

PLATFORMS = ("cpu", "cuda", "tpu")  # what the functions are lowered for
_PRIVATE = ("path", "cache_dir")  # of config.data: where somebody's files lie
_ROW_GROUP = 1 << 16


def export(
    trained: Trained,
    out: str | os.PathLike,
    *,
    ks: Sequence[int] = (20, 100),
    index: Index | None = None,
) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all.

    Args:
      trained: of `skipjax.trained.read`.
      out: a folder that does not exist yet, or is empty.
      ks: how many tracks can be asked for; any number below the largest can, at the cost of the
        next larger one here.
      index: of the same tracks, to be written beside them.

    Returns:
      What its manifest says.

    Raises:
      ConfigError: a k that is below 1 or more than there are tracks.
      OutputError: `out` exists already, or cannot be written.
    """
    config, encoder = trained.config, trained.encoder
    number = len(trained.catalogue)
    for k in ks:
        if not 1 <= k <= number:
            raise ConfigError(
                f"--k {k}: it must be from 1 to {number}, the number of tracks that the model "
                "knows."
            )
    settings = as_json(config)
    for name in _PRIVATE:
        del settings["data"][name]
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": config.name,
        "about": trained.about,
        "tracks": number,
        "width": int(trained.params["table"].shape[1]),
        "max_length": encoder.max_length - (not encoder.causal),
        "ks": sorted({int(k) for k in ks}),
        "reads_skips": encoder.skip_embedding,
        "skip_levels": list(config.data.skip_levels),
        "platforms": list(PLATFORMS),
        "versions": {"skipjax": __version__, "jax": jax.__version__},
        "index": index.facts if index else {},
        "config": settings,
        "results": trained.results,
    }
    with files.new_folder(out, **facts) as folder:
        (folder / HIDDEN).write_bytes(_hidden(trained))
        for k in facts["ks"]:
            (folder / BEST.format(k=k)).write_bytes(_best(trained, k))
        _write_tracks(folder / TRACKS, trained)
        if index:
            index.write(folder)
        popular = trained.catalogue.track_ids[:2].to_pylist()
        (folder / CARD).write_text(card.text(facts, popular), encoding="utf-8")
    return facts


def _hidden(trained: Trained) -> bytes:
    """`ranking.next_hidden` with the encoder's parameters in it, the table being an argument."""
    encoder, parameters = trained.encoder, trained.params["encoder"]
    longest = encoder.max_length - (not encoder.causal)

    def hidden(table, tracks, valid, feedback):
        params = {"encoder": parameters, "table": table}
        return ranking.next_hidden(encoder, params, tracks, valid, feedback, pad_to=1)

    scope = jax.export.SymbolicScope([f"l <= {longest}"])
    shape = jax.export.symbolic_shape("b, l", scope=scope)
    spans = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (np.int32, bool, np.int32)]
    return _lowered(hidden, trained.params["table"], *spans)


def _best(trained: Trained, k: int) -> bytes:
    """`ranking.top_k`."""
    scoring = trained.config.eval

    def best(table, hidden, exclude):
        return ranking.top_k(
            hidden,
            table,
            k,
            chunk_size=scoring.chunk_size,
            exclude=exclude,
            precision=scoring.precision,
            pad_to=1,
        )

    table = trained.params["table"]
    batch, width = jax.export.symbolic_shape("b, e")
    return _lowered(
        best,
        table,
        jax.ShapeDtypeStruct((batch, table.shape[1]), np.float32),
        jax.ShapeDtypeStruct((batch, width), np.int32),
    )


def _lowered(function: Any, table: jax.Array, *arguments: jax.ShapeDtypeStruct) -> bytes:
    export = jax.export.export(jax.jit(function), platforms=PLATFORMS)
    return bytes(export(jax.ShapeDtypeStruct(table.shape, table.dtype), *arguments).serialize())


def _write_tracks(path: Path, trained: Trained) -> None:
    """One row for each id; those of no track have neither name nor plays."""
    table = np.asarray(trained.params["table"])
    nothing = FIRST_TRACK_ID * [None]
    ids = pa.chunked_array(
        [pa.array(nothing, pa.large_string()), trained.catalogue.track_ids], pa.large_string()
    )
    plays = pa.chunked_array([pa.array(nothing, pa.int64()), pa.array(trained.catalogue.plays)])
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
    pq.write_table(
        pa.table({"track_id": ids, "plays": plays, "embedding": embedding}),
        path,
        row_group_size=_ROW_GROUP,
        use_dictionary=False,
        compression={"track_id": "zstd", "plays": "zstd", "embedding.list.element": "none"},
        write_page_checksum=True,
    )


def default_ks(trained: Trained) -> list[int]:
    """20 and 100 tracks, or as many as there are."""
    return sorted({min(k, len(trained.catalogue)) for k in (20, 100)})


def measured_index(
    trained: Trained, ks: Sequence[int], number: int, progress: Progress | None = None
) -> Index:
    """An index of the tracks, and what it finds for test sessions of the run's own data.

    Args:
      trained: of `skipjax.trained.read`.
      ks: numbers of tracks to measure at.
      number: how many sessions to measure with, if there are as many.
      progress: called as (done, total, what) while data is read.

    Raises:
      ConfigError: faiss is not installed.
      CheckpointError: the data is no longer that of the run.
      DataError: the data cannot be read.
    """
    config, model = trained.config, trained.model()
    split = split_as(config.data, sources.load(config.data, progress=progress))
    check_same_data(trained.data, split.digest, trained.workdir)
    index = Index.build(np.asarray(model.table))
    starts, lengths = split.spans("test")
    number = min(number, len(starts))
    rows = np.random.default_rng(0).choice(len(starts), number, replace=False)
    batch = spans(split, starts[rows], lengths[rows], (number, config.data.max_length - 1))
    feedback = np.asarray(targets.feedback(batch["skipped"], batch["valid"]))
    hidden = np.asarray(model.hidden(batch["tracks"], batch["valid"], feedback))
    index.measure(hidden, lambda states, k: np.asarray(model.best(states, None, k)[1]), ks)
    return index
