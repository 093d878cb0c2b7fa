"""Slow, obvious NumPy loops that the library is checked against."""

import math

import numpy as np


def softmax_nll(logits, target, where):
    """One position: -log of the target's share among the ids that count; 0 if it does not."""
    if not where[target]:
        return 0.0
    top = max(float(x) for x, w in zip(logits, where, strict=True) if w)
    total = sum(math.exp(float(x) - top) for x, w in zip(logits, where, strict=True) if w)
    return top + math.log(total) - float(logits[target])


def cosine(a, b):
    norms = math.sqrt(float(np.dot(a, a))) * math.sqrt(float(np.dot(b, b)))
    return float(np.dot(a, b)) / norms if norms else 0.0


def infonce(context, positive, negatives, where_negatives, temperature):
    """One position: -log(e^p / (e^p + Σ e^n)) of cosines over the temperature."""
    kept = [n for n, w in zip(negatives, where_negatives, strict=True) if w]
    if not kept:
        return 0.0
    p = math.exp(cosine(context, positive) / temperature)
    return -math.log(p / (p + sum(math.exp(cosine(context, n) / temperature) for n in kept)))


def first_played(skipped, valid):
    """[B, L] lists of the first played position at or after each, or None."""
    result = []
    for skips, valids in zip(skipped, valid, strict=True):
        row = []
        for i in range(len(skips)):
            later = [j for j in range(i, len(skips)) if valids[j] and not skips[j]]
            row.append(later[0] if later else None)
        result.append(row)
    return result


def rank(scores, target, among):
    """1 + how many of `among`, the target itself left out, score at least what it does."""
    return 1 + sum(1 for v in among if v != target and not scores[v] < scores[target])


def top_k(scores, k, exclude):
    """[(score, id), ...] of the best k real ids, ties by lower id; then (-inf, 0)."""
    left = [v for v in range(2, len(scores)) if v not in exclude]
    best = sorted(left, key=lambda v: (-scores[v], v))[:k]
    return [(float(scores[v]), v) for v in best] + (k - len(best)) * [(-math.inf, 0)]


def metric(name, ranks):
    kind, _, k = name.partition("@")
    k = int(k) if k else None
    values = []
    for r in ranks:
        inside = k is None or r <= k
        value = {"hr": 1.0, "ndcg": 1 / math.log2(1 + r), "mrr": 1 / r}[kind]
        values.append(value if inside else 0.0)
    return sum(values) / len(values)


def session_losses(
    hidden, table, tracks, skipped, *, at, masked, negatives, contrast, kinds, temperature
):
    """NLL and InfoNCE of one session without padding, {position: value}, loop by loop.

    Args:
      hidden: {position: vector}, ŷ before each position in `at`.
      table: [V, D].
      tracks, skipped: the training span.
      at: positions the encoder is asked for.
      masked: positions behind MASK, or None for a causal encoder.
      negatives: ids drawn for the softmax.
      contrast: ids to push away, where the session's own skips are not what is pushed.
      kinds: config.loss.
    """
    n = len(tracks)
    skipped = [bool(s) == (kinds.polarity == "skipped") for s in skipped]
    played_from = first_played([skipped], [[True] * n])[0]
    usable = [v for v in negatives if v not in set(tracks)]

    def hidden_from_input(position):
        return position is not None and (masked is None or position in masked)

    nll = {}
    for i in at:
        goal = i if kinds.target == "next" else played_from[i]
        if kinds.target == "next_played" and not hidden_from_input(goal):
            continue
        others = list(usable)
        if kinds.skipped_negatives:
            others += [tracks[j] for j in range(n) if skipped[j] and tracks[j] != tracks[goal]]
        logits = [float(np.dot(hidden[i], table[v])) for v in [tracks[goal], *others]]
        nll[i] = softmax_nll(logits, 0, [True] * len(logits))
        if kinds.skipped_target == "not_to_recommend" and skipped[goal]:
            nll[i] = -math.log(1 - math.exp(-nll[i])) if others else 0.0

    infonce_by_position = {}
    for i in range(1, n) if kinds.context == "track" else at:
        p = played_from[i]
        if i == 0 or p is None or (kinds.context == "hidden" and not hidden_from_input(p)):
            continue
        if kinds.anchors == "played" and skipped[i - 1]:
            continue
        anchor = tracks[i - 1]
        if kinds.negatives in ("own", "future"):
            start = i if kinds.negatives == "future" else 0
            pushed = [tracks[j] for j in range(start, n) if skipped[j]]
        else:
            pushed = contrast
        pushed = [v for v in pushed if v not in (anchor, tracks[p])]
        if not pushed:
            continue
        context = table[anchor] if kinds.context == "track" else hidden[i]
        infonce_by_position[i] = infonce(
            context,
            table[tracks[p]],
            [table[v] for v in pushed],
            [True] * len(pushed),
            temperature,
        )
    return nll, infonce_by_position
