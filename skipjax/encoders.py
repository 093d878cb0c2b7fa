"""The session encoder: one Transformer, causal like SASRec or bidirectional like BERT4Rec."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from skipjax.errors import ConfigError
from skipjax.ids import HELD_OUT

_ACTIVATIONS = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}
_POSITIONS = ("from_end", "absolute")


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

    @nn.compact
    def __call__(
        self, embedded: jax.Array, valid: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Encodes sessions padded on the right.

        Args:
          embedded: [B, L, D] embeddings of tracks, L ≤ max_length.
          valid: [B, L] bool, not padding. Padding is never attended to.
          deterministic: no dropout; otherwise a "dropout" PRNG key is needed.

        Returns:
          `hidden` [B, L, D]; what stands at padded positions means nothing.
        """
        length, width = embedded.shape[1:]
        dropout = nn.Dropout(self.dropout, deterministic=deterministic)
        table = self.param("positions", self.initializer, (self.num_positions, width))
        places = jnp.broadcast_to(jnp.arange(length), valid.shape)
        if self.positions == "from_end":
            places = valid.sum(axis=-1, keepdims=True) - 1 - places
        places = jnp.clip(places, 0, self.num_positions - 1)
        mask = nn.make_attention_mask(jnp.ones_like(valid), valid, dtype=bool)
        if self.causal:
            mask = nn.combine_masks(mask, nn.make_causal_mask(valid, dtype=bool), dtype=bool)

        x = dropout(embedded + table[places])
        for layer in range(self.num_layers):
            attend = nn.MultiHeadDotProductAttention(
                num_heads=self.num_heads,
                dropout_rate=self.dropout,
                broadcast_dropout=False,
                deterministic=deterministic,
                kernel_init=self.initializer,
                bias_init=self.initializer,
                name=f"attention_{layer}",
            )

            def feed_forward(x, layer=layer, width=width):
                x = self._dense(self.feedforward_width, f"feedforward_{layer}_in")(x)
                x = dropout(_ACTIVATIONS[self.activation](x))
                return self._dense(width, f"feedforward_{layer}_out")(x)

            for branch, name in (
                (lambda x, attend=attend: attend(x, mask=mask), f"norm_{layer}_attention"),
                (feed_forward, f"norm_{layer}_feedforward"),
            ):
                norm = self._norm(name)
                x = x + dropout(branch(norm(x))) if self.pre_norm else norm(x + dropout(branch(x)))
        if self.pre_norm:
            x = self._norm("norm_last")(x)
        return nn.gelu(self._dense(width, "head")(x), approximate=False)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, kernel_init=self.initializer, bias_init=self.initializer, name=name)

    def _norm(self, name: str) -> nn.LayerNorm:
        init = {"scale_init": self.initializer, "bias_init": self.initializer}
        return nn.LayerNorm(epsilon=1e-5, name=name, **(init if self.init_norms else {}))


def make_encoder(model: Any, max_length: int) -> Encoder:
    """The encoder that `config.model` describes.

    Raises:
      ConfigError: a field with an impossible value.
    """
    if model.width % model.num_heads:
        raise ConfigError(
            f"config.model.width ({model.width}) must be divisible by config.model.num_heads "
            f"({model.num_heads})."
        )
    for name, value, choices in (
        ("activation", model.activation, tuple(_ACTIVATIONS)),
        ("positions", model.positions, _POSITIONS),
    ):
        if value not in choices:
            raise ConfigError(f"config.model.{name} is {value!r}; choose one of {choices}.")
    # Counted from the end, a place that no training span reaches would stay untrained, yet be
    # used for the oldest tracks of a test. A causal input lacks the span's last track, too.
    longest_input = max_length - HELD_OUT - model.causal
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
    embedded = jnp.zeros((1, encoder.max_length, width))
    variables = encoder.init(encoder_key, embedded, jnp.ones(embedded.shape[:2], bool))
    return {
        "encoder": variables["params"],
        "table": encoder.initializer(table_key, (num_ids, width), jnp.float32),
    }


def truncated_normal(stddev: float, bound: float) -> nn.initializers.Initializer:
    """A normal distribution of the given standard deviation, cut at ±bound."""
    limit = bound / stddev
    return nn.initializers.truncated_normal(stddev, lower=-limit, upper=limit)
