"""The session encoder: one Transformer, causal like SASRec or bidirectional like BERT4Rec."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from skipjax.choices import check_choices
from skipjax.errors import ConfigError
from skipjax.ids import HELD_OUT, UNKNOWN

_ACTIVATIONS = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}

Parts = Sequence[tuple[slice, int]]


class Attention(nn.Module):
    """Multi-head attention of sessions to themselves, where only valid positions are projected."""

    num_heads: int
    dropout: float
    deterministic: bool
    initializer: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        masks: list[jax.Array],
        places: list[jax.Array],
        pack: Callable,
        unpack: Callable,
    ) -> jax.Array:
        """x [..., D] as `pack` gives it, to the like; a mask [b, 1, l, l] of each part, and the
        numbers [b, l] that its places have for Dropout."""
        width = x.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        dropout = Dropout(self.dropout, self.deterministic)
        # One for all parts: with one each, draws would depend on how sessions are cut into parts.
        drawn_with = None if self.deterministic else self.make_rng("dropout")

        def dense(name, features, axis=-1):
            return nn.DenseGeneral(
                features,
                axis=axis,
                kernel_init=self.initializer,
                bias_init=self.initializer,
                name=name,
            )

        def attend(query, key, value, mask, place):
            scores = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(heads[1]), key)
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
            # By heads last, so that a shorter session has the same draws.
            weights = dropout(nn.softmax(scores).transpose(0, 2, 3, 1), place, drawn_with)
            return jnp.einsum("bqkh,bkhd->bqhd", weights, value)

        read = [unpack(dense(name, heads)(x)) for name in ("query", "key", "value")]
        attended = [attend(*part) for part in zip(*read, masks, places, strict=True)]
        return dense("out", width, axis=(-2, -1))(pack(attended))


class Dropout(nn.Module):
    """Zeroes values at random and scales up the rest.

    As `nn.Dropout`, but what is drawn for a place depends on nothing but its number: not on where
    it is worked on, nor on what else is. And 16 random bits a value are enough, as making them is a
    good part of a step's time. So the rate is a multiple of 2^-16.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, place: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """x [*place.shape, ...], and the numbers of its places, to the like of x.

        Without a PRNG `key`, each call has one of its own.
        """
        dropped = round(self.rate * 2**16)
        if self.deterministic or not dropped:
            return x
        key = self.make_rng("dropout") if key is None else key
        count = math.prod(x.shape[place.ndim :])

        def draw(number):
            bits = jax.random.bits(jax.random.fold_in(key, number), (-(-count // 2),), jnp.uint32)
            return jax.lax.bitcast_convert_type(bits, jnp.uint16).reshape(-1)[:count]

        bits = jax.vmap(draw)(place.reshape(-1)).reshape(x.shape)
        return jnp.where(bits >= dropped, x * (2**16 / (2**16 - dropped)), 0)


def _packing(
    valid: jax.Array, num_tokens: int | None, parts: Parts
) -> tuple[Callable[[list[jax.Array]], jax.Array], Callable[[jax.Array], list[jax.Array]]]:
    """From the parts' grids [b, l, ...] to [num_tokens, ...], valid positions first, and back.

    Without `num_tokens`, to one grid of all.
    """
    if num_tokens is None:
        return jnp.concatenate, lambda x: [x[part, :longest] for part, longest in parts]
    grids = [valid[part, :longest] for part, longest in parts]
    flat = jnp.concatenate([grid.reshape(-1) for grid in grids])
    place = jnp.nonzero(flat, size=num_tokens, fill_value=len(flat))[0]
    token = jnp.where(flat, jnp.cumsum(flat) - 1, num_tokens)
    ends = np.cumsum([grid.size for grid in grids])

    def pack(xs):
        x = jnp.concatenate([x.reshape(-1, *x.shape[2:]) for x in xs])
        return x.at[place].get(mode="fill", fill_value=0)

    def unpack(x):
        return [
            x.at[token[end - grid.size : end].reshape(grid.shape)].get(mode="fill", fill_value=0)
            for grid, end in zip(grids, ends, strict=True)
        ]

    return pack, unpack


class Encoder(nn.Module):
    """Embedded tracks to hidden states ŷ (paper, section 4.1).

    Post-LN (or pre-LN) Transformer blocks over track plus position embeddings, then the prediction
    head Dense(D) + GELU. The track embeddings themselves, tied between input and output, are the
    caller's: see `init_params`.

    Attributes:
      causal: each position sees itself and what is before it, not what follows.
      max_length: longest session, MASK included.
      num_layers, num_heads, feedforward_width: of the blocks.
      dropout: rate, on embeddings, attention weights and both branches of a block.
      activation: "relu" or "gelu", in the feed-forward part.
      pre_norm: normalise before each branch rather than after it.
      positions: "from_end" counts positions from the last track, as SASRec and BERT4Rec do by
        padding on the left; "absolute" from the first.
      num_positions: how many positions have an embedding; those beyond share the last one.
      initializer: of weights, biases and embeddings.
      init_norms: of the gains and biases of normalisations, too, which otherwise begin at 1 and 0.
      skip_embedding: an embedding of UNKNOWN, PLAYED or SKIPPED is added to each track's.
    """

    causal: bool
    max_length: int
    num_layers: int
    num_heads: int
    feedforward_width: int
    dropout: float
    activation: str
    pre_norm: bool
    positions: str
    num_positions: int
    initializer: nn.initializers.Initializer
    init_norms: bool
    skip_embedding: bool

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        valid: jax.Array,
        *,
        feedback: jax.Array | None = None,
        numbers: jax.Array | None = None,
        num_tokens: int | None = None,
        parts: Parts = (),
        deterministic: bool = True,
    ) -> jax.Array:
        """Encodes sessions padded on the right.

        Args:
          embedded: [B, L, D] embeddings of tracks, L ≤ max_length.
          valid: [B, L] bool, not padding. Padding is never attended to.
          feedback: [B, L] int, UNKNOWN (all of it, if not given), PLAYED or SKIPPED; only read with
            `skip_embedding`.
          numbers: [B] int32, of the sessions in their batch, which is what dropout depends on; 0 to
            B - 1, if not given.
          num_tokens: at least as many as are valid: then only so many positions are worked on,
            whatever L is, and `hidden` is 0 at the padded ones.
          parts: slices of the sessions, all of them in order, each with its longest length at most,
            to which attention is then confined.
          deterministic: no dropout; otherwise a "dropout" PRNG key is needed.

        Returns:
          `hidden` [B, L, D]; what stands at padded positions means nothing.
        """
        length, width = embedded.shape[1:]
        parts = parts or ((slice(None), length),)
        pack, unpack = _packing(valid, num_tokens, parts)
        dropout = Dropout(self.dropout, deterministic)
        table = self.param("positions", self.initializer, (self.num_positions, width))
        places = jnp.broadcast_to(jnp.arange(length), valid.shape)
        if self.positions == "from_end":
            places = valid.sum(axis=-1, keepdims=True) - 1 - places
        places = jnp.clip(places, 0, self.num_positions - 1)
        mask = nn.make_attention_mask(jnp.ones_like(valid), valid, dtype=bool)
        if self.causal:
            mask = nn.combine_masks(mask, nn.make_causal_mask(valid, dtype=bool), dtype=bool)

        masks = [mask[part, :, :longest, :longest] for part, longest in parts]

        def grids(x):
            return [x[part, :longest] for part, longest in parts]

        numbers = jnp.arange(valid.shape[0]) if numbers is None else numbers
        drawn_by = grids(numbers[:, None] * self.max_length + jnp.arange(length)[None, :])
        packed_by = pack(drawn_by)
        x = pack(grids(embedded)) + table[pack(grids(places))]
        if self.skip_embedding:
            codes = self.param("feedback", self.initializer, (3, width))
            if feedback is None:
                feedback = jnp.full(valid.shape, UNKNOWN)
            x += codes[pack(grids(feedback))]
        x = dropout(x, packed_by)
        for layer in range(self.num_layers):
            attend = Attention(
                self.num_heads,
                self.dropout,
                deterministic,
                self.initializer,
                name=f"attention_{layer}",
            )

            def feed_forward(x, layer=layer, width=width):
                x = self._dense(self.feedforward_width, f"feedforward_{layer}_in")(x)
                x = dropout(_ACTIVATIONS[self.activation](x), packed_by)
                return self._dense(width, f"feedforward_{layer}_out")(x)

            for branch, name in (
                (
                    lambda x, attend=attend: attend(x, masks, drawn_by, pack, unpack),
                    f"norm_{layer}_attention",
                ),
                (feed_forward, f"norm_{layer}_feedforward"),
            ):
                norm = self._norm(name)
                if self.pre_norm:
                    x = x + dropout(branch(norm(x)), packed_by)
                else:
                    x = norm(x + dropout(branch(x), packed_by))
        if self.pre_norm:
            x = self._norm("norm_last")(x)
        hidden = unpack(nn.gelu(self._dense(width, "head")(x), approximate=False))
        padding = [((0, 0), (0, length - x.shape[1]), (0, 0)) for x in hidden]
        return jnp.concatenate([jnp.pad(x, p) for x, p in zip(hidden, padding, strict=True)])

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, kernel_init=self.initializer, bias_init=self.initializer, name=name)

    def _norm(self, name: str) -> nn.LayerNorm:
        init = {"scale_init": self.initializer, "bias_init": self.initializer}
        return nn.LayerNorm(epsilon=1e-5, name=name, **(init if self.init_norms else {}))


def make_encoder(model: Any, max_length: int, held_out: int = HELD_OUT["leave_one_out"]) -> Encoder:
    """The encoder that `config.model` describes.

    Args:
      model: `config.model`.
      max_length: longest session.
      held_out: tracks at the end of each session that training does not see.

    Raises:
      ConfigError: a field with an impossible value.
    """
    if model.width % model.num_heads:
        raise ConfigError(
            f"config.model.width ({model.width}) must be divisible by config.model.num_heads "
            f"({model.num_heads})."
        )
    check_choices(model, "model")
    # Counted from the end, a place that no training span reaches would stay untrained, yet be
    # used for the oldest tracks of a test. A causal input lacks the span's last track, too.
    longest_input = max_length - held_out - model.causal
    return Encoder(
        causal=model.causal,
        max_length=max_length,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        feedforward_width=model.feedforward_width,
        dropout=model.dropout,
        activation=model.activation,
        pre_norm=model.pre_norm,
        positions=model.positions,
        num_positions=longest_input if model.positions == "from_end" else max_length,
        initializer=truncated_normal(model.init_stddev, model.init_bound),
        init_norms=model.init_norms,
        skip_embedding=model.skip_embedding,
    )


def init_params(key: jax.Array, encoder: Encoder, num_ids: int, width: int) -> dict[str, Any]:
    """Fresh parameters.

    Args:
      key: PRNG key.
      encoder: what to initialise.
      num_ids: V, PAD and MASK included.
      width: D.

    Returns:
      {"encoder": tree, "table": [V, D] float32 track embeddings}.
    """
    encoder_key, table_key = jax.random.split(key)
    embedded = jax.ShapeDtypeStruct((1, encoder.max_length, width), jnp.float32)
    # Lazily: each operation of a forward pass would be compiled, for nothing, at every start.
    variables = encoder.lazy_init(
        encoder_key, embedded, jax.ShapeDtypeStruct(embedded.shape[:2], jnp.bool_)
    )
    return {
        "encoder": variables["params"],
        # Compiled, or each of its steps would leave an array of the table's size behind.
        "table": jax.jit(encoder.initializer, static_argnums=(1, 2))(
            table_key, (num_ids, width), jnp.float32
        ),
    }


def truncated_normal(stddev: float, bound: float) -> nn.initializers.Initializer:
    """A normal distribution of the given standard deviation, cut at ±bound."""
    limit = bound / stddev
    return nn.initializers.truncated_normal(stddev, lower=-limit, upper=limit)
