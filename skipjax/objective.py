"""From a batch of sessions to the paper's loss: alpha · InfoNCE + beta · NLL."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from skipjax import losses, sampling, targets
from skipjax.choices import check_choices
from skipjax.data.packing import Packing, parts_of
from skipjax.encoders import Encoder
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID, MASK_ID
from skipjax.mesh import ONE, Layout

# Its numbers are shapes of the compiled step.
jax.tree_util.register_static(Packing)

Rows = Mapping[str, Any]


@flax.struct.dataclass
class Weights:
    """Scalars of the loss, traced, so that changing them compiles nothing anew."""

    alpha: jax.Array
    beta: jax.Array
    temperature: jax.Array


class Objective:
    """The training loss that `config.loss` and `config.sampling` describe.

    It is made in two steps, so that what a step touches of the track table is known, and read,
    before anything is computed: `ids` says which rows it needs, and `loss` takes those rows.
    Calling the objective does both on a whole table.

    In all of it, `batch` holds the training spans alone, padded on the right: `tracks` [B, L]
    int32, `skipped` and `valid` [B, L] bool and, perhaps, `packing` (see skipjax/data/packing.py),
    with which padding costs next to nothing. With several devices, all of it is for the inside of
    what their layout maps: B is then how many sessions a device has, and each device's loss is its
    share, the sum of which is the loss of the batch.

    Attributes:
      shared: which of `ids` are the same for all sessions.
    """

    def __init__(self, config: Any, encoder: Encoder, layout: Layout = ONE):
        """
        Args:
          config: as `configs/common.py`.
          encoder: of the model.
          layout: how sessions and the track table lie over devices.

        Raises:
          ConfigError: a field with an impossible value.
        """
        check_choices(config.loss, "loss")
        check_choices(config.sampling, "sampling")
        if config.loss.negatives in ("shifted", "batch") and config.train.batch_size < 2:
            raise ConfigError(
                f"config.loss.negatives is {config.loss.negatives!r}, which needs another session "
                f"in the batch, but config.train.batch_size is {config.train.batch_size}."
            )
        self._loss, self._draws, self._encoder = config.loss, config.sampling, encoder
        self._layout = layout
        self.shared = {"mask"} | ({"negatives"} if config.sampling.scope == "batch" else set())

    def __call__(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, Any],
        weights: Weights,
        key: jax.Array,
        *,
        deterministic: bool = False,
        per_position: bool = False,
    ) -> dict[str, jax.Array]:
        """`loss` of {"encoder": tree, "table": [V, D]}."""
        table = params["table"]
        ids_key, loss_key = jax.random.split(key)
        ids = self.ids(batch, ids_key, self._layout.count(table))
        rows = self.read(table, ids)
        if self._draws.scope == "full":
            rows["all"] = table
        return self.loss(
            params["encoder"],
            rows,
            ids,
            batch,
            weights,
            loss_key,
            deterministic=deterministic,
            per_position=per_position,
        )

    def read(self, table: jax.Array, ids: Rows, read: Any = None) -> dict[str, Any]:
        """The rows of `ids`; `table` and `read` are as for `Layout.rows`."""
        return {
            name: jax.tree.map(
                lambda ids, shared=name in self.shared: self._layout.rows(
                    table, ids, shared=shared, read=read
                ),
                some,
            )
            for name, some in ids.items()
        }

    def ids(self, batch: Mapping[str, Any], key: jax.Array, num_ids: int) -> dict[str, Any]:
        """The rows of the table that `loss` reads, a tree of int32 arrays; `num_ids` is V."""
        softmax_key, contrast_key = jax.random.split(key)
        tracks = batch["tracks"]
        numbers = self._layout.sessions(len(tracks))
        ids: dict[str, Any] = {"tracks": tracks}
        if not self._encoder.causal:
            ids["mask"] = jnp.array([MASK_ID], jnp.int32)
        if self._draws.scope == "batch":
            shape = (self._draws.num_negatives,)
            ids["negatives"] = sampling.uniform_tracks(softmax_key, shape, num_ids)
        elif self._draws.scope == "session":
            count = self._draws.num_negatives
            drawn = sampling.session_tracks(softmax_key, numbers, count, num_ids)
            ids["negatives"] = tuple(drawn[part] for part in parts_of(len(tracks)))
        if self._loss.negatives == "random":
            ids["random"] = targets.position_draws(
                lambda key: sampling.uniform_tracks(key, (), num_ids),
                contrast_key,
                tracks.shape,
                numbers,
            )
        return ids

    def loss(
        self,
        encoder_params: Any,
        rows: Rows,
        ids: Rows,
        batch: Mapping[str, Any],
        weights: Weights,
        key: jax.Array,
        *,
        deterministic: bool = False,
        per_position: bool = False,
    ) -> dict[str, jax.Array]:
        """The loss, and its two terms.

        Args:
          encoder_params: of the encoder.
          rows: the table's rows [..., D] at `ids`; for the softmax over all tracks, "all" holds
            the device's rows of the table itself.
          ids: from `ids`.
          batch: see the class.
          weights: of the terms.
          key: PRNG key, another than that of `ids`.
          deterministic: no dropout.
          per_position: no means.

        Returns:
          `loss`, `nll` and `infonce`: scalars, or, with `per_position`, one value per position
          without `loss` and before weights: nll [B, P] and infonce [B, Q]. P is the L - 1 positions
          after the first, or, in a bidirectional encoder, the positions behind MASK. Q is L - 1 if
          the context is "track", else P.
        """
        tracks, valid = batch["tracks"], batch["valid"]
        embedded = rows["tracks"]
        skipped = (
            batch["skipped"] if self._loss.polarity == "skipped" else valid & ~batch["skipped"]
        )
        positive_index, has_positive = targets.first_played(skipped, valid)
        # Every context stands before a position, `at`, whose track it is asked for.
        after_first = jnp.broadcast_to(
            jnp.arange(1, tracks.shape[1], dtype=jnp.int32), valid[:, 1:].shape
        )
        hidden, at, predict, in_plain_view = self._encode(
            encoder_params, rows, batch, after_first, key, deterministic
        )
        positive_at = _take(positive_index, at)
        # A target that the encoder could read off its own input teaches nothing.
        positive_hidden = _take(has_positive, at) & ~_take(in_plain_view, positive_at)

        if self._loss.target == "next_played":
            target_at, counts = positive_at, predict & positive_hidden
        else:
            target_at, counts = at, predict
        nll = self._nll(hidden, rows, ids, target_at, counts, skipped, batch)
        nll_weight = counts.astype(jnp.float32)
        if self._loss.skipped_weight != 1:
            nll_weight *= jnp.where(_take(skipped, target_at), self._loss.skipped_weight, 1.0)

        if self._loss.context == "track":
            # The track embedding before each position, whatever the encoder reads.
            at, counts = after_first, valid[:, 1:] & has_positive[:, 1:]
            context = embedded[:, :-1]
        else:
            # ŷ before the first track stands for no position.
            context, counts = hidden, predict & positive_hidden & (at > 0)
        anchor_at = jnp.maximum(at - 1, 0)
        if self._loss.anchors == "played":
            counts &= ~_take(skipped, anchor_at)
        positive_at = _take(positive_index, at)
        kind = self._loss.negatives
        random = (ids.get("random"), rows.get("random"))
        numbers = self._layout.sessions(len(tracks))
        (pushed, pushed_rows), mask = sampling.contrast_tracks(
            kind, (tracks, embedded), skipped, valid, random, numbers, self._whole_batch
        )
        anchors, positives = _take(tracks, anchor_at), _take(tracks, positive_at)
        positive, shape = _take(embedded, positive_at), counts.shape
        if kind == "batch":  # every context against the tracks of all sessions
            sessions = jnp.broadcast_to(jnp.arange(len(pushed))[:, None], pushed.shape)
            own = jnp.broadcast_to(numbers[:, None], shape)
            others = _flat(sessions)[:, None, :] != _flat(own)[:, :, None]
            pushed, pushed_rows, mask = _flat(pushed), _flat(pushed_rows), _flat(mask)
            context, positive, counts = _flat(context), _flat(positive), _flat(counts)
            at, anchors, positives = _flat(at), _flat(anchors), _flat(positives)
        mask = sampling.contrast_mask(
            kind, pushed, mask, next_position=at, anchors=anchors, positives=positives
        )
        if kind == "batch":
            mask &= others
        infonce = losses.skip_infonce(
            context,
            positive,
            pushed_rows,
            temperature=weights.temperature,
            where_negatives=mask,
            where=counts,
            reduce_fn=None,
        )
        if per_position:
            return {"nll": nll, "infonce": infonce.reshape(shape)}
        nll = self._mean(nll, nll_weight)
        infonce = self._mean(infonce, (counts & mask.any(axis=-1)).astype(jnp.float32))
        loss = weights.alpha * infonce + weights.beta * nll
        return {"nll": nll, "infonce": infonce, "loss": loss}

    def _mean(self, values, weight):
        """This device's share of the weighted mean over the whole batch; 0 where nothing weighs."""
        total = self._layout.total(weight.sum())
        return (values * weight).sum() / jnp.where(total > 0, total, 1)

    def _whole_batch(self, tree):
        return jax.tree.map(self._layout.of_all_sessions, tree)

    def _encode(self, encoder_params, rows, batch, after_first, key, deterministic):
        """Hidden states [B, P, D], the positions they stand before, and what they were not told."""
        dropout_key, cloze_key = jax.random.split(key)
        valid, embedded, packing = batch["valid"], rows["tracks"], batch.get("packing")

        def encode(embedded, valid, num_tokens, feedback):
            parts = ()
            if packing:  # a causal model does not read the last track
                lengths = [length - self._encoder.causal for length in packing.lengths]
                parts = list(zip(parts_of(len(valid)), lengths, strict=True))
            return self._encoder.apply(
                {"params": encoder_params},
                embedded,
                valid,
                feedback=feedback,
                numbers=self._layout.sessions(len(valid)),
                num_tokens=num_tokens,
                parts=parts,
                deterministic=deterministic,
                rngs=None if deterministic else {"dropout": dropout_key},
            )

        if self._encoder.causal:
            num_tokens = packing and packing.num_inputs
            feedback = targets.feedback(batch["skipped"][:, :-1], valid[:, :-1])
            hidden = encode(embedded[:, :-1], valid[:, 1:], num_tokens, feedback)
            return hidden, after_first, valid[:, 1:], jnp.zeros_like(valid)
        fraction = self._loss.cloze_fraction
        masked = targets.cloze(cloze_key, valid, fraction, self._layout.sessions(len(valid)))
        embedded = jnp.where(masked[..., None], rows["mask"], embedded)
        # Of a target, the encoder is told neither which it is nor whether it was skipped.
        feedback = targets.feedback(batch["skipped"], valid & ~masked)
        hidden = encode(embedded, valid, packing and packing.num_tokens, feedback)
        at = targets.masked_positions(masked, fraction)
        return _take(hidden, at), at, _take(masked, at), ~masked

    def _nll(self, hidden, rows, ids, target_at, counts, skipped, batch):
        """The softmax NLL of [B, P] targets under sampled or all tracks, 0 where not counted."""
        tracks, valid, packing = batch["tracks"], batch["valid"], batch.get("packing")
        target_logits = jnp.sum(hidden * _take(rows["tracks"], target_at), axis=-1)
        target = _take(tracks, target_at)
        where_not = None
        if self._loss.skipped_target == "not_to_recommend":
            where_not = _take(skipped, target_at)
        if self._draws.scope == "full":
            scores, some = self._against_all(hidden, rows["all"], target)
            return losses.contrast_nll(
                target_logits,
                scores,
                where_others=some,
                where_not=where_not,
                where=counts,
                reduce_fn=None,
            )
        extra = ()
        if self._loss.skipped_negatives:
            pushed = (skipped & valid)[:, None, :] & (tracks[:, None, :] != target[..., None])
            extra = (jnp.einsum("bpd,bld->bpl", hidden, rows["tracks"]), pushed)
        if self._draws.scope == "batch":
            outside = sampling.outside_session(ids["negatives"], tracks, valid)
            session = jnp.broadcast_to(jnp.arange(len(tracks))[:, None], counts.shape)
            # In a causal model, no more positions count than have an input.
            size = packing.num_inputs if packing and self._encoder.causal else counts.size
            place = jnp.nonzero(counts.reshape(-1), size=size, fill_value=counts.size)[0]

            def pack(x):
                x = x.reshape(counts.size, *x.shape[2:])
                return x.at[place].get(mode="fill", fill_value=0)

            logits, where_others = _with(
                jnp.einsum("td,kd->tk", pack(hidden), rows["negatives"]),
                outside[pack(session)],
                *map(pack, extra),
            )
            found = losses.contrast_nll(
                pack(target_logits),
                logits,
                where_others=where_others,
                where_not=None if where_not is None else pack(where_not),
                where=pack(counts),
                reduce_fn=None,
            )
            return jnp.zeros(counts.size).at[place].set(found, mode="drop").reshape(counts.shape)
        # In parts, each of which fits a CPU's cache, and has less padding where they are packed.
        values = []
        for i, part in enumerate(parts_of(len(tracks))):
            length = packing.lengths[i] if packing else None
            kept = slice(self._num_asked(length))
            outside = sampling.outside_session(
                ids["negatives"][i], tracks[part, :length], valid[part, :length]
            )
            logits, where_others = _with(
                jnp.einsum("bpd,bkd->bpk", hidden[part, kept], rows["negatives"][i]),
                outside[:, None, :],
                *(x[part, kept] for x in extra),
            )
            found = losses.contrast_nll(
                target_logits[part, kept],
                logits,
                where_others=where_others,
                where_not=None if where_not is None else where_not[part, kept],
                where=counts[part, kept],
                reduce_fn=None,
            )
            missing = counts.shape[1] - found.shape[1]
            values.append(jnp.pad(found, ((0, 0), (0, missing))))
        return jnp.concatenate(values)

    def _against_all(self, hidden, table, target):
        """log Σ exp of the scores of all tracks but the target [B, P, T], a column for each device
        that shares the table; and which of the columns have any."""
        layout = self._layout
        hidden, target = layout.of_sharers(hidden), layout.of_sharers(target)
        ids = layout.first_row(table) + jnp.arange(len(table))[None, None, :]
        others = (ids >= FIRST_TRACK_ID) & (ids < layout.count(table)) & (ids != target[..., None])
        logits = jnp.einsum("bpd,vd->bpv", hidden, table)
        some = others.any(axis=-1, keepdims=True)
        scores = jax.nn.logsumexp(logits, axis=-1, where=others | ~some, keepdims=True)
        return layout.own_parts(scores, 2), layout.own_parts(some, 2)

    def _num_asked(self, length):
        """How many positions of a session of `length` tracks are asked for, at most."""
        if length is None:
            return None
        if self._encoder.causal:
            return length - 1
        return targets.most_masked(length, self._loss.cloze_fraction)


def _with(logits, where, more_logits=None, more_where=None):
    """Logits [..., K] and which of them count, with more of both behind them."""
    if more_logits is None:
        return logits, where
    where = jnp.broadcast_to(where, logits.shape)
    return (
        jnp.concatenate([logits, more_logits], axis=-1),
        jnp.concatenate([where, more_where], axis=-1),
    )


def _flat(x: jax.Array) -> jax.Array:
    """[B, L, ...] as one session, [1, B · L, ...]."""
    return x.reshape(1, -1, *x.shape[2:])


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, L] or [B, L, D] at index [B, P]: [B, P] or [B, P, D]."""
    if x.ndim == 3:
        index = index[..., None]
    return jnp.take_along_axis(x, index, axis=1)
