"""A model as `export` left it in a folder; needs no more than jax, flatbuffers, NumPy and pyarrow.

  model_card.md      what it is, for readers
  tracks.parquet     row i is id i: track_id (null for PAD and MASK), plays, embedding [D]
  hidden.jaxexport   embedding [V, D] float32, tracks [b, l] int32, valid [b, l] bool, feedback
                     [b, l] int32 (0 unknown, 1 played, 2 skipped) -> hidden [b, D] float32
  best_K.jaxexport   embedding [V, D], hidden [b, D], exclude [b, e] int32 (ids to leave out, padded
                     with 0) -> scores [b, K] float32 and ids [b, K] int32, best first
  index.faiss        (if asked for) an HNSW index of the embeddings, row i being id i + 2
  manifest.json      facts, and the size and sha256 of all the others

Sessions are padded on the right; b, l (up to max_length) and e are any.
"""

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq

from skipjax import files
from skipjax.data.catalogue import TRACKS, Catalogue
from skipjax.data.inputs import reading, shown
from skipjax.errors import CheckpointError, ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID, PAD_ID
from skipjax.model import Model

FORMAT = "skipjax exported model 1"
HIDDEN, BEST, CARD = "hidden.jaxexport", "best_{k}.jaxexport", "model_card.md"
_SIZES = (1, 4, 16, 32, 64, 128, 256)  # of batches: padding costs what sessions do


def load(folder: Path, *, approximate: bool = False) -> Model:
    """The model in `folder`, every file of it verified.

    Args:
      folder: what `export` wrote.
      approximate: search the index in place of all tracks.

    Raises:
      CheckpointError: it is something else, damaged, or of a jax that this one does not read.
    """
    try:
        facts = files.read_manifest(folder)
    except DataError as error:
        raise CheckpointError(f"{error} Export it again.") from error
    if facts.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} holds {facts.get('format')!r}, not {FORMAT!r}; give a folder that this "
            "version's export wrote, or a run's --workdir."
        )
    catalogue, table = _tracks(folder / TRACKS)
    hidden = _function(folder / HIDDEN, facts)
    if approximate:
        from skipjax.serving.index import Index

        best = Index.open(folder, facts["index"]).best
    else:
        exact = {k: _function(folder / BEST.format(k=k), facts) for k in facts["ks"]}

        def best(state, exclude, k):
            if exclude is None:  # in the shape that most have, so that less is compiled
                exclude = np.full((state.shape[0], facts["max_length"]), PAD_ID, np.int32)
            enough = next(most for most in exact if most >= k)
            scores, ids = exact[enough](table, state, exclude)
            return (scores, ids) if k == enough else (scores[:, :k], ids[:, :k])

    return Model(
        name=facts["name"],
        about=facts["about"],
        catalogue=catalogue,
        table=table,
        skip_levels=tuple(facts["skip_levels"]),
        reads_skips=facts["reads_skips"],
        longest=facts["max_length"],
        lengths=(facts["max_length"],),
        sizes=_SIZES,
        max_k=facts["ks"][-1],
        hidden=lambda *batch: hidden(table, *batch),
        best=best,
    )


def _tracks(path: Path) -> tuple[Catalogue, jax.Array]:
    with reading(str(path)):
        found = pq.read_table(path, page_checksum_verification=True, pre_buffer=False)
    ids, plays, embedding = (found[name].combine_chunks() for name in found.column_names)
    table = embedding.flatten().to_numpy().reshape(len(found), -1)
    catalogue = Catalogue(ids[FIRST_TRACK_ID:], plays[FIRST_TRACK_ID:].to_numpy())
    return catalogue, jnp.asarray(table)


def _function(path: Path, facts: dict[str, Any]) -> Any:
    """What an artifact computes, compiled once for each shape."""
    try:
        return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    except ImportError:
        raise ConfigError(
            "jax reads exported functions with flatbuffers, which is not installed: "
            "pip install flatbuffers."
        ) from None
    except Exception as error:  # of what kind differs between versions of jax
        raise CheckpointError(
            f"{path} was written by jax {facts['versions']['jax']} and cannot be read by "
            f"{jax.__version__} ({shown(str(error), 200)}); export it again, or install that one."
        ) from error
