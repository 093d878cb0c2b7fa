"""From a run to recommendations: histories of listening to the tracks that fit next."""

import dataclasses
import functools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from skipjax import files
from skipjax.data import batches, recommendations
from skipjax.data.catalogue import Encoded, encode
from skipjax.data.histories import Columns, Histories, from_lists, from_table, is_table
from skipjax.data.inputs import counted
from skipjax.errors import CheckpointError, ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID, PAD_ID, PLAYED, SKIPPED, UNKNOWN
from skipjax.mesh import EVERYWHERE, ROWS, Layout
from skipjax.model import Model

_SEEN_GROWTH = 4  # from one width of what is left out to the next
_MOST_LEFT_OUT = 1 << 18  # places for that in a batch
_EXAMPLES = 3


@dataclasses.dataclass
class Report:
    """What recommending has met with so far."""

    sessions: int = 0
    events: int = 0
    recommendations: int = 0
    unknown: int = 0  # events of tracks that the model does not know
    examples: list[str] = dataclasses.field(default_factory=list)  # a few of those tracks
    fallbacks: int = 0  # sessions without a track that it knows
    full: int = 0  # sessions that get as many tracks as were asked for
    dropped: int = 0
    dropped_rows: int = 0
    first_fault: str = ""

    def remarks(self) -> list[str]:
        """What a user should know, in sentences."""
        said = []
        if self.unknown:
            examples = ", ".join(map(repr, self.examples))
            said.append(
                f"{self.unknown:,} of {counted(self.events, 'event')} on tracks that the model "
                f"does not know, such as {examples}: passed over."
            )
        if self.fallbacks:
            said.append(
                f"{self.fallbacks:,} of {counted(self.sessions, 'session')} without a track that "
                "the model knows: given the most played ones, without a score."
            )
        if short := self.sessions - self.full:
            said.append(
                f"{short:,} of {counted(self.sessions, 'session')} with fewer recommendations than "
                "asked for: all other tracks that the model knows were heard there."
            )
        if self.dropped or self.dropped_rows:
            rows = f" and {counted(self.dropped_rows, 'row')} of no session"
            said.append(
                f"Dropped: {counted(self.dropped, 'session')}{rows if self.dropped_rows else ''}; "
                f"first {self.first_fault}."
            )
        return said

    def add(self, histories: Histories, encoded: Encoded) -> None:
        self.sessions += len(histories.session_ids)
        self.events += len(histories.tracks)
        self.unknown += encoded.unknown
        new = (name for name in encoded.examples if name not in self.examples)
        self.examples = [*self.examples, *new][:_EXAMPLES]
        self.fallbacks += int((encoded.lengths == 0).sum())
        self.dropped += histories.dropped
        self.dropped_rows += histories.dropped_rows
        if histories.faults:
            self.first_fault = self.first_fault or histories.faults[0]

    def add_table(self, table: pa.Table, k: int) -> None:
        self.recommendations += len(table)
        self.full += int((table["rank"].to_numpy() == k).sum())


class Recommender:
    """Recommends the next tracks for histories, whether or not the model has met them.

    A history longer than the model reads counts with its last tracks: `max_length` for a causal
    encoder, one less for a bidirectional one, which puts a MASK behind them.
    """

    def __init__(self, model: Model):
        """`load` makes one from a folder."""
        self.model = model
        self._near = jax.jit(functools.partial(_near, model.layout), static_argnames="k")

    @classmethod
    def load(
        cls, folder: str | os.PathLike, *, approximate: bool = False, devices: Any = None
    ) -> "Recommender":
        """The best epoch of a run, from its workdir or from what was exported of it.

        Args:
          folder: either.
          approximate: search the index that was exported in place of all tracks.
          devices: as `config.mesh`, how a run's table is to lie; None for one device.

        Raises:
          CheckpointError: it holds neither, no finished epoch, no index, or something is damaged.
          ConfigError: an index is to be searched, but faiss is not installed, or there are not so
            many devices, or what was exported is to lie on several.
        """
        exported_there = (Path(folder) / files.MANIFEST).is_file()
        run = (os.path.join(folder, name) for name in ("config.json", "checkpoints"))
        if not exported_there and not any(map(os.path.exists, run)):
            if not os.path.exists(folder):
                raise CheckpointError(f"{folder}: there is no such folder.")
            raise CheckpointError(
                f"{folder} holds neither a run of main.py nor an exported model (there is no "
                f"config.json, and no {files.MANIFEST}); give the folder of one."
            )
        # Imported here, since either needs packages that the other does not.
        if exported_there:
            if devices and devices.data * devices.tracks > 1:
                raise ConfigError(
                    f"{folder} is an exported model, which takes one device; give the workdir of "
                    "the run, or leave out --devices."
                )
            from skipjax.serving import exported

            return cls(exported.load(Path(folder), approximate=approximate))
        if approximate:
            raise CheckpointError(
                f"{folder} has no index; make one with python -m skipjax export --index faiss."
            )
        from skipjax import trained

        return cls(trained.read(Path(folder), devices).model())

    def recommend(
        self,
        sessions: Any,
        k: int = 20,
        exclude_seen: bool = True,
        *,
        skipped: Iterable[Iterable[bool]] | None = None,
        columns: Columns | None = None,
        on_bad_session: str = "error",
    ) -> pa.Table:
        """The `k` tracks that fit best after each session; unknown tracks are passed over.

        A session without any track that the model knows gets the most played ones, with null as
        score. That, and unknown tracks, are warned of.

        Args:
          sessions: lists of track ids (text or whole numbers); or a table with a row for each
            event: Arrow, pandas, Polars, or what else has the Arrow stream interface. The rows of
            a session may lie anywhere in it.
          k: how many tracks for each session, if there are as many.
          exclude_seen: leave out all tracks of the session itself.
          skipped: with lists, whether each track was skipped; only models with
            `config.model.skip_embedding` read it.
          columns: which columns the table has (default: session_id and track_id, rows in order).
          on_bad_session: "error", or "drop" to leave out sessions with a value that cannot be used.

        Returns:
          session_id (as given; of lists, the place from 0), track_id (text), score (of the model;
          comparable within a session only) and rank (from 1), in the order of sessions.

        Raises:
          ConfigError: k is below 1 or more than there are tracks, or arguments that do not go
            together.
          DataError: a value in `sessions` that cannot be used.
        """
        if on_bad_session not in ("error", "drop"):
            raise ConfigError(
                f"on_bad_session is {on_bad_session!r}; choose one of ('error', 'drop')."
            )
        if is_table(sessions):
            if skipped is not None:
                raise ConfigError(
                    "skipped goes with lists; of a table, name the column in columns."
                )
            histories: Iterable[Histories] = from_table(
                sessions,
                columns or Columns(),
                skip_levels=self.model.skip_levels,
                on_bad_session=on_bad_session,
            )
        else:
            if columns is not None:
                raise ConfigError("columns goes with a table, but sessions is none.")
            histories = [from_lists(sessions, skipped)]
        report = Report()
        tables = list(self.tables(histories, k, exclude_seen, report))
        for remark in report.remarks():
            warnings.warn(remark, stacklevel=2)
        return pa.concat_tables(tables)

    def tables(
        self, histories: Iterable[Histories], k: int, exclude_seen: bool, report: Report
    ) -> Iterator[pa.Table]:
        """`recommend`, one table for each of many histories; `report` grows meanwhile.

        The device works on the next ones while the caller has a table.
        """
        most, tracks = self.model.max_k, len(self.model.catalogue)
        if not isinstance(k, int | np.integer) or not 1 <= k <= most:
            why = "the number of tracks that the model knows"
            if most < tracks:
                why = "the largest that was exported: export again with --k"
            raise ConfigError(f"k is {k}; it must be from 1 to {most}, {why}.")
        waiting: deque[Callable[[], pa.Table]] = deque()
        for some in histories:
            encoded = encode(some, self.model.catalogue, self.model.longest)
            report.add(some, encoded)
            waiting.append(self._begun(some, encoded, k, exclude_seen))
            if len(waiting) > 1:
                table = waiting.popleft()()
                report.add_table(table, k)
                yield table
        for finish in waiting:
            table = finish()
            report.add_table(table, k)
            yield table
        if report.first_fault and not report.sessions:
            raise DataError(f"no session is left: {report.first_fault}.")

    def similar(self, track_id: str, k: int = 10) -> pa.Table:
        """The `k` tracks whose embeddings have the largest cosine with that of `track_id`.

        Returns:
          track_id, cosine and rank (from 1).

        Raises:
          ConfigError: k is below 1 or more than there are other tracks.
          DataError: an unknown track.
        """
        others = len(self.model.catalogue) - 1
        if not 1 <= k <= others:
            raise ConfigError(
                f"k is {k}; it must be from 1 to {others}, the number of other tracks."
            )
        (number,) = self.model.catalogue.ids_of(pa.array([str(track_id)])).tolist()
        if number == PAD_ID:
            like = ", ".join(map(repr, self.model.catalogue.like(str(track_id))))
            hint = f" Do you mean {like}?" if like else ""
            raise DataError(f"the model knows no track {str(track_id)!r}.{hint}")
        cosines, ids = jax.device_get(self._near(self.model.table, number, k=k))
        return pa.table(
            {
                "track_id": self.model.catalogue.names_of(ids),
                "cosine": pa.array(cosines),
                "rank": pa.array(np.arange(1, k + 1, dtype=np.int32)),
            }
        )

    def _begun(
        self, histories: Histories, encoded: Encoded, k: int, exclude_seen: bool
    ) -> Callable[[], pa.Table]:
        """Gives the device its work; returns what waits for it."""
        size = len(encoded.lengths)
        begun = [
            (rows, self._scored(encoded, rows, shape, k, width))
            for rows, shape, width in self._batches(encoded, exclude_seen)
        ]

        def finish() -> pa.Table:
            # By falling plays, as ids are: what is left so has no track that is known.
            ids = np.tile(np.arange(FIRST_TRACK_ID, FIRST_TRACK_ID + k, dtype=np.int32), (size, 1))
            scores = np.full((size, k), np.nan, np.float32)
            for rows, (found_scores, found_ids) in begun:
                scores[rows] = np.asarray(found_scores)[: len(rows)]
                ids[rows] = np.asarray(found_ids)[: len(rows)]
            return recommendations.table_of(
                histories.session_ids, scores, ids, self.model.catalogue
            )

        return finish

    def _batches(
        self, encoded: Encoded, exclude_seen: bool
    ) -> Iterator[tuple[np.ndarray, tuple[int, int], int]]:
        """Sessions to work on together, the shape of their batch, and how many tracks to leave out.

        Which length a session is padded to depends on nothing but its own, as scores do in their
        last bits.
        """
        sizes, choices = self.model.sizes, np.array(self.model.lengths)
        lengths = choices[np.searchsorted(choices, encoded.lengths)]
        widths = np.zeros_like(lengths)
        if exclude_seen:
            seen = np.diff(encoded.seen_offsets)
            widths[:] = choices[-1]
            while (short := widths < seen).any():
                widths[short] *= _SEEN_GROWTH
        some = encoded.lengths > 0
        shapes = lengths * (widths.max(initial=0) + 1) + widths
        for shape in np.unique(shapes[some]).tolist():
            rows = np.flatnonzero(some & (shapes == shape))
            length, width = lengths[rows[0]].item(), widths[rows[0]].item()
            while len(rows):
                # Rather a small batch more than one with few sessions in it.
                size = next((size for size in sizes if len(rows) <= 1.25 * size), sizes[-1])
                size = max(1, min(size, _MOST_LEFT_OUT // max(width, 1)))
                yield rows[:size], (size, length), width
                rows = rows[size:]

    def _scored(
        self, encoded: Encoded, rows: np.ndarray, shape: tuple[int, int], k: int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        """Scores and ids of the best `k` for each session, [B, k]."""
        model = self.model
        batch = batches.spans(encoded, encoded.starts[rows], encoded.lengths[rows], shape)
        feedback = np.where(batch["skipped"], SKIPPED, PLAYED) if encoded.skips_known else UNKNOWN
        feedback = np.where(batch["valid"], feedback, UNKNOWN).astype(np.int32)
        hidden = model.hidden(batch["tracks"], batch["valid"], feedback)
        exclude = _seen(encoded, rows, (shape[0], width)) if width else None
        return model.best(hidden, exclude, k)


def _seen(encoded: Encoded, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The different tracks of each session in `rows`, padded to `shape` [B, E]."""
    starts, ends = encoded.seen_offsets[rows], encoded.seen_offsets[rows + 1]
    columns = np.arange(shape[1])
    seen = np.full(shape, PAD_ID, np.int32)
    there = columns[None, :] < (ends - starts)[:, None]
    seen[: len(rows)][there] = encoded.seen[(starts[:, None] + columns[None, :])[there]]
    return seen


def _near(
    layout: Layout, table: jax.Array, track: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Cosines and ids of the k tracks nearest to one; a row of zeros has cosine 0 with all."""

    def on_device(table, track):
        row = layout.rows(table, track, shared=True)
        products = jnp.matmul(table, row, precision=jax.lax.Precision.HIGHEST)
        norms = jnp.linalg.norm(table, axis=1) * jnp.linalg.norm(row)
        cosines = jnp.where(norms > 0, products / jnp.where(norms > 0, norms, 1), 0)
        ids = layout.first_row(table) + jnp.arange(len(table), dtype=jnp.int32)
        left_out = (ids < FIRST_TRACK_ID) | (ids >= layout.count(table)) | (ids == track)
        cosines = jnp.where(left_out, -jnp.inf, cosines)
        cosines, places = jax.lax.top_k(cosines, min(k, len(table)))
        # Those of all devices, in the order of their ids: of equals, the first is taken.
        cosines, ids = layout.of_sharers(cosines), layout.of_sharers(ids[places])
        cosines, best = jax.lax.top_k(cosines, k)
        return cosines, ids[best]

    return layout.on_devices(on_device, (ROWS, EVERYWHERE), EVERYWHERE)(table, track)
