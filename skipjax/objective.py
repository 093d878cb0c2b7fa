"""From a batch of sessions to the paper's loss: alpha · InfoNCE + beta · NLL."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from skipjax import losses, sampling, targets
from skipjax.encoders import Encoder
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID, MASK_ID

_CHOICES = {
    "loss.context": ("track", "hidden"),
    "loss.anchors": ("all", "played"),
    "loss.negatives": ("own", "future", "shifted", "random"),
    "loss.polarity": ("skipped", "played"),
    "loss.target": ("next", "next_played"),
    "sampling.scope": ("session", "batch", "full"),
}


@flax.struct.dataclass
class Weights:
    """Scalars of the loss, traced, so that changing them compiles nothing anew."""

    alpha: jax.Array
    beta: jax.Array
    temperature: jax.Array


def make_objective(config: Any, encoder: Encoder) -> Callable[..., dict[str, jax.Array]]:
    """The training loss that `config.loss` and `config.sampling` describe.

    Returns:
      `objective(params, batch, weights, key, *, deterministic=False, reduce_fn=jnp.mean)`, where
      `batch` holds the training spans alone, `tracks` [B, L] int32, `skipped` and `valid` [B, L]
      bool, padded on the right. It returns `loss`, `nll` and `infonce`: scalars, or, with
      `reduce_fn=None`, one value per position without `loss`: nll [B, P] and infonce [B, Q].
      P is the L - 1 positions after the first, or, in a bidirectional encoder, the positions behind
      MASK. Q is L - 1 if the context is "track", else P.

    Raises:
      ConfigError: a field with an impossible value.
    """
    for field, choices in _CHOICES.items():
        section, name = field.split(".")
        value = config[section][name]
        if value not in choices:
            raise ConfigError(f"config.{field} is {value!r}; choose one of {choices}.")
    loss, draws = config.loss, config.sampling
    if loss.negatives == "shifted" and config.train.batch_size < 2:
        raise ConfigError(
            "config.loss.negatives is 'shifted', which needs another session in the batch, but "
            f"config.train.batch_size is {config.train.batch_size}."
        )

    def objective(
        params: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        weights: Weights,
        key: jax.Array,
        *,
        deterministic: bool = False,
        reduce_fn: losses.ReduceFn | None = jnp.mean,
    ) -> dict[str, jax.Array]:
        tracks, valid, table = batch["tracks"], batch["valid"], params["table"]
        skipped = batch["skipped"] if loss.polarity == "skipped" else valid & ~batch["skipped"]
        dropout_key, cloze_key, softmax_key, contrast_key = jax.random.split(key, 4)
        embedded = table[tracks]
        positive_index, has_positive = targets.first_played(skipped, valid)

        def encode(embedded, valid):
            variables = {"params": params["encoder"]}
            rngs = None if deterministic else {"dropout": dropout_key}
            return encoder.apply(variables, embedded, valid, deterministic=deterministic, rngs=rngs)

        # Every context stands before a position, `at`, whose track it is asked for.
        after_first = jnp.broadcast_to(
            jnp.arange(1, tracks.shape[1], dtype=jnp.int32), valid[:, 1:].shape
        )
        if encoder.causal:
            at, predict = after_first, valid[:, 1:]
            hidden = encode(embedded[:, :-1], valid[:, 1:])
            in_plain_view = jnp.zeros_like(valid)
        else:
            masked = targets.cloze(cloze_key, valid, loss.cloze_fraction)
            hidden = encode(jnp.where(masked[..., None], table[MASK_ID], embedded), valid)
            at = targets.masked_positions(masked, loss.cloze_fraction)
            predict = _take(masked, at)
            hidden = _take(hidden, at)
            in_plain_view = ~masked

        positive_at = _take(positive_index, at)
        # A target that the encoder could read off its own input teaches nothing.
        positive_hidden = _take(has_positive, at) & ~_take(in_plain_view, positive_at)

        if loss.target == "next_played":
            target_at, counts = positive_at, predict & positive_hidden
        else:
            target_at, counts = at, predict
        nll = _nll(draws, hidden, table, embedded, target_at, counts, batch, softmax_key, reduce_fn)

        if loss.context == "track":
            # The track embedding before each position, whatever the encoder reads.
            at, counts = after_first, valid[:, 1:] & has_positive[:, 1:]
            context = embedded[:, :-1]
        else:
            # ŷ before the first track stands for no position.
            context, counts = hidden, predict & positive_hidden & (at > 0)
        anchor_at = jnp.maximum(at - 1, 0)
        if loss.anchors == "played":
            counts &= ~_take(skipped, anchor_at)
        anchors = _take(tracks, anchor_at)
        positive_at = _take(positive_index, at)

        random_tracks = targets.position_draws(
            lambda key: sampling.uniform_tracks(key, (), len(table)), contrast_key, tracks.shape
        )
        ids, mask = sampling.contrast_tracks(loss.negatives, tracks, skipped, valid, random_tracks)
        mask = sampling.contrast_mask(
            loss.negatives,
            ids,
            mask,
            next_position=at,
            anchors=anchors,
            positives=_take(tracks, positive_at),
        )
        infonce = losses.skip_infonce(
            context,
            _take(embedded, positive_at),
            table[ids],
            temperature=weights.temperature,
            where_negatives=mask,
            where=counts,
            reduce_fn=reduce_fn,
        )
        values = {"nll": nll, "infonce": infonce}
        if reduce_fn is not None:
            values["loss"] = weights.alpha * infonce + weights.beta * nll
        return values

    return objective


def _nll(draws, hidden, table, embedded, target_at, counts, batch, key, reduce_fn):
    """The softmax NLL of [B, P] targets under sampled or all tracks."""
    tracks, valid = batch["tracks"], batch["valid"]
    if draws.scope == "full":
        real = jnp.arange(len(table)) >= FIRST_TRACK_ID
        return losses.softmax_nll(
            jnp.einsum("bpd,vd->bpv", hidden, table),
            _take(tracks, target_at),
            where=counts[..., None] & real[None, None, :],
            reduce_fn=reduce_fn,
        )
    shape = (draws.num_negatives,)
    if draws.scope == "session":
        shape = (len(tracks), *shape)
    negatives = sampling.uniform_tracks(key, shape, len(table))
    equation = "bpd,bkd->bpk" if draws.scope == "session" else "bpd,kd->bpk"
    target_logits = jnp.sum(hidden * _take(embedded, target_at), axis=-1, keepdims=True)
    logits = jnp.concatenate(
        [target_logits, jnp.einsum(equation, hidden, table[negatives])], axis=-1
    )
    outside = sampling.outside_session(negatives, tracks, valid)[:, None, :]
    where = jnp.concatenate([counts[..., None], counts[..., None] & outside], axis=-1)
    return losses.sampled_softmax_nll(logits, where=where, reduce_fn=reduce_fn)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, L] or [B, L, D] at index [B, P]: [B, P] or [B, P, D]."""
    if x.ndim == 3:
        index = index[..., None]
    return jnp.take_along_axis(x, index, axis=1)
