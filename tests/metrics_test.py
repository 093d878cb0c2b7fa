import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from skipjax import metrics
from skipjax.errors import ConfigError

NAMES = ("hr@1", "hr@5", "hr@10", "ndcg@1", "ndcg@10", "mrr", "mrr@10")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_metrics_are_the_loop(ranks):
    actual = metrics.summarise(np.array(ranks), NAMES)
    for name in NAMES:
        np.testing.assert_allclose(actual[name], reference.metric(name, ranks), rtol=1e-12)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=30), st.randoms())
def test_order_does_not_matter_and_parts_add_up(ranks, random):
    whole = metrics.summarise(np.array(ranks), NAMES)
    shuffled = random.sample(ranks, len(ranks))
    for name, value in metrics.summarise(np.array(shuffled), NAMES).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-12)
    values = metrics.per_session("ndcg@10")(np.array(ranks))
    assert values.shape == (len(ranks),)
    np.testing.assert_allclose(values.mean(), whole["ndcg@10"], rtol=1e-12)


def test_by_hand():
    ranks = np.array([1, 3, 11])
    assert metrics.summarise(ranks, ("hr@10",)) == {"hr@10": 2 / 3}
    # 1 / log2(2) and 1 / log2(4), nothing beyond the tenth.
    assert metrics.summarise(ranks, ("ndcg@10",)) == {"ndcg@10": (1 + 1 / 2 + 0) / 3}
    assert metrics.summarise(ranks, ("mrr",)) == {"mrr": (1 + 1 / 3 + 1 / 11) / 3}


@pytest.mark.parametrize("alias", ["hit@10", "hit_rate@10", "recall@10", "hr@10"])
def test_aliases(alias):
    assert metrics.canonical(alias) == "hr@10"


@pytest.mark.parametrize("name", ["hr", "hr@0", "hr@-1", "hr@x", "precision@3", "", "ndcg", "hr@"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ConfigError, match="there is no metric"):
        metrics.canonical(name)


@pytest.mark.parametrize("ranks", [[], [0, 1]])
def test_impossible_ranks_are_refused(ranks):
    with pytest.raises(ValueError, match="ranks must be"):
        metrics.summarise(np.array(ranks), ("mrr",))
