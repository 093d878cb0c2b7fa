"""What a training step cannot do without, counted, and how long that takes at a machine's rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax.ids import FIRST_TRACK_ID

_FLOAT_BYTES, _MASK_BYTES = 4, 1


def step_cost(
    config: Any, batch: Mapping[str, np.ndarray], negatives: np.ndarray
) -> dict[str, int]:
    """Counts the work of a step of a causal config with sampled negatives and each session's skips.

    Only what counts is counted, never padding. With n tracks in a training span, the encoder reads
    n - 1 positions, N over the batch; A is the pairs of positions where one sees the other,
    n (n - 1) / 2 of each session; C is the pairs of an anchor and a skipped track.

    * `matmul_flops`, 2 for a multiplication and an addition. Forward, for each position and layer:
      8 D² for query, key, value and output, 4 D F for the feed-forward part; once, 2 D² for the
      head, 2 D for the target's score and for the positive's, 2 D K for the negatives' scores; for
      each of A and layer, 4 D; for each of C, 2 D. Backward twice that: a product for the gradient
      of either factor. Drawing a session's negatives K · B times, or K times, makes no difference.
    * `elementwise_bytes`, of float32, if each stage between two products is one pass that reads and
      writes as little as it can: forward x in and y out, backward x and dy in and dx out, so 5
      values an element. The stages, with their sizes: position added (N D); softmax of the
      attention weights (A heads); activation (N F); two sums with a normalisation, which read the
      residual and write its gradient, too, so 7 values (N D); the head's GELU (N D). Softmax over
      the 1 + K logits gives one number, so 3 values each: read, read, written.
      Where there is dropout (all of these but GELU and softmax over logits), one byte each way for
      its mask. What it costs to draw the mask's bits, exponentials and so on is not counted.
    * `row_bytes`: the different rows R of tracks and negatives, of table, m and v, each read and
      written once.

    Args:
      config: a whole config.
      batch: `tracks`, `skipped` and `valid` [B, L].
      negatives: [K] or [B, K] int.

    Returns:
      Those three, and the counts N, A, C and R as `positions`, `attention_pairs`, `contrast_pairs`
      and `rows`.
    """
    model, num_negatives = config.model, negatives.shape[-1]
    width, feedforward = model.width, model.feedforward_width
    lengths = batch["valid"].sum(axis=1, dtype=np.int64)
    anchors = np.maximum(lengths - 1, 0)
    positions = int(anchors.sum())
    attention_pairs = int((lengths * anchors // 2).sum())
    contrast_pairs = int((anchors * (batch["skipped"] & batch["valid"]).sum(axis=1)).sum())
    heard = batch["tracks"][batch["valid"]]
    rows = len(np.unique(np.concatenate([heard, negatives.ravel()])))

    by_position = model.num_layers * (8 * width**2 + 4 * width * feedforward)
    by_position += 2 * width**2 + 2 * (2 * width) + 2 * width * num_negatives
    forward = positions * by_position
    forward += attention_pairs * model.num_layers * 4 * width + contrast_pairs * 2 * width

    block = 5 * (attention_pairs * model.num_heads + positions * feedforward)
    block += 2 * 7 * positions * width
    values = model.num_layers * block + 2 * 5 * positions * width
    values += 3 * positions * (1 + num_negatives)
    masked = attention_pairs * model.num_heads + positions * (feedforward + 2 * width)
    masked = model.num_layers * masked + positions * width
    masks = 2 * masked if model.dropout else 0
    return {
        "matmul_flops": 3 * forward,
        "elementwise_bytes": _FLOAT_BYTES * values + _MASK_BYTES * masks,
        "row_bytes": rows * width * _FLOAT_BYTES * 3 * 2,
        "positions": positions,
        "attention_pairs": attention_pairs,
        "contrast_pairs": contrast_pairs,
        "rows": rows,
    }


def mean_step_cost(
    config: Any, batches: list[Mapping[str, np.ndarray]], num_ids: int
) -> dict[str, float]:
    """The mean of `step_cost` over some batches, with negatives as a step draws them."""
    rng = np.random.default_rng(config.seed)
    size = config.sampling.num_negatives
    if config.sampling.scope == "session":
        size = (config.train.batch_size, size)
    costs = [
        step_cost(config, batch, rng.integers(FIRST_TRACK_ID, num_ids, size=size))
        for batch in batches
    ]
    return {name: float(np.mean([cost[name] for cost in costs])) for name in costs[0]}


def floor_seconds(cost: Mapping[str, float], rates: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each term at the rates of benchmarks/floor.py, in 10⁹ a second."""
    return {
        "matmul": cost["matmul_flops"] / rates["matmul_gflops"] / 1e9,
        "elementwise": cost["elementwise_bytes"] / rates["copy_gbps"] / 1e9,
        "rows": cost["row_bytes"] / rates["gather_gbps"] / 1e9,
    }
