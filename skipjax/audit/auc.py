"""AUC, its bootstrap interval, and logistic regression, on plain arrays."""

import numpy as np

RESAMPLES = 200
_RIDGE = 1.0  # of standardised columns: keeps what separates by chance from growing for ever
_MOST_STEPS = 25


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """How often a positive has the higher score than a negative, ties counting half.

    Args:
      scores: [n] numbers.
      labels: [n] bool.

    Returns:
      None if one of the two is missing.
    """
    _, groups = np.unique(scores, return_inverse=True)
    return auc_of_groups(np.bincount(groups, labels), np.bincount(groups, ~labels))


def auc_of_groups(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """The same from how many of both have each score, scores rising."""
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def auc_interval(
    scores: np.ndarray, labels: np.ndarray, clusters: np.ndarray, seed: int
) -> tuple[float, float, float] | None:
    """AUC with the ends of its 95 % bootstrap interval, whole clusters being drawn.

    Args:
      scores: [n] numbers.
      labels: [n] bool.
      clusters: [n] int from 0: events of one listener are no independent witnesses.
      seed: of the draws.

    Returns:
      None if there are no positives or no negatives.
    """
    middle = auc(scores, labels)
    if middle is None:
        return None
    _, groups = np.unique(scores, return_inverse=True)
    # Numbers by which one bincount sums positives and negatives of each score.
    places, size = 2 * groups + labels, 2 * (groups.max() + 1)
    number = clusters.max() + 1
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(number, size=number), minlength=number)
        sums = np.bincount(places, times[clusters], size)
        drawn = auc_of_groups(sums[1::2], sums[::2])
        if drawn is not None:
            found.append(drawn)
    low, high = np.quantile(found, [0.025, 0.975])
    return middle, float(low), float(high)


class LogisticRegression:
    """log-odds = a + b · x, x standardised, b with a small ridge; fitted by Newton's method."""

    def __init__(self, columns: np.ndarray, labels: np.ndarray):
        """
        Args:
          columns: [n, d] float.
          labels: [n] bool.
        """
        self._mean, std = columns.mean(axis=0), columns.std(axis=0)
        self._scale = np.where(std > 0, std, 1.0)
        x, y = self._with_ones(columns), labels.astype(np.float64)
        ridge = np.diag([0.0, *[_RIDGE] * columns.shape[1]])
        self._weights = np.zeros(x.shape[1])
        rate = np.clip(y.mean(), 1e-6, 1 - 1e-6)
        self._weights[0] = np.log(rate / (1 - rate))
        for _ in range(_MOST_STEPS):
            p = _sigmoid(x @ self._weights)
            slope = x.T @ (p - y) + ridge @ self._weights
            curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
            curvature[0, 0] += 1e-9
            step = np.linalg.solve(curvature, slope)
            self._weights -= step
            if np.abs(step).max() < 1e-8:
                break

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """[n] log-odds."""
        return self._with_ones(columns) @ self._weights

    def _with_ones(self, columns: np.ndarray) -> np.ndarray:
        standard = (columns - self._mean) / self._scale
        return np.concatenate([np.ones((len(columns), 1)), standard], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))
