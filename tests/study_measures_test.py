import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from skipjax.errors import DataError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study import measures
from skipjax.study.measures import Facts, Outcome


def make_facts(num_sessions, rng, **changes):
    fields = {
        "target_skipped": np.arange(num_sessions) % 3 == 0,
        "popularity": rng.integers(0, 50, num_sessions),
        "position": rng.integers(3, 25, num_sessions).astype(np.int32),
        "skips_before": rng.integers(0, 15, num_sessions).astype(np.int32),
    }
    return Facts(**fields | changes)


def make_outcome(num_seeds, num_sessions, rng, num_tracks=30, **changes):
    shape = (num_seeds, num_sessions)
    top = np.argsort(rng.random((*shape, num_tracks)), axis=-1)[..., :12] + FIRST_TRACK_ID
    fields = {
        "key": "arm",
        "seeds": tuple(range(num_seeds)),
        "sampled": rng.integers(1, 25, shape).astype(np.int32),
        "full": rng.integers(1, num_tracks + 1, shape).astype(np.int32),
        "top": top.astype(np.int32),
        "num_tracks": num_tracks,
        "counts": np.concatenate([[0, 0], np.sort(rng.integers(0, 99, num_tracks))[::-1]]),
    }
    return Outcome(**fields | changes)


def test_measures_are_the_loop(rng):
    facts, outcome = make_facts(20, rng), make_outcome(2, 20, rng)
    found = measures.measure(outcome, facts)
    for seed in range(2):
        expected = {}
        for prefix, ranks in (("test", outcome.sampled[seed]), ("test_full", outcome.full[seed])):
            played = [r for r, skip in zip(ranks, facts.target_skipped, strict=True) if not skip]
            skipped = [r for r, skip in zip(ranks, facts.target_skipped, strict=True) if skip]
            for metric in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr"):
                expected[f"{prefix}/{metric}"] = reference.metric(metric, ranks)
                expected[f"played/{prefix}/{metric}"] = reference.metric(metric, played)
                expected[f"skipped/{prefix}/{metric}"] = reference.metric(metric, skipped)
            gap = reference.metric("mrr", played) - reference.metric("mrr", skipped)
            expected[f"{prefix}/gap_mrr"] = gap
            expected[f"{prefix}/auc"] = auc_by_pairs(played, skipped)
            expected[f"{prefix}/skip@10"] = sum(rank <= 10 for rank in skipped) / len(skipped)
        recommended = [track for session in outcome.top[seed] for track in session[:10]]
        expected["coverage@10"] = len(set(recommended)) / 30
        counts = [outcome.counts[track] for track in recommended]
        expected["popularity@10"] = sum(counts) / len(counts)
        assert {*found} == {*expected}
        for name, values in found.items():
            assert values.shape == (2,)
            np.testing.assert_allclose(values[seed], expected[name], rtol=1e-12, err_msg=name)


def auc_by_pairs(played, skipped):
    wins = [(p < s) + (p == s) / 2 for p in played for s in skipped]
    return sum(wins) / len(wins)


@given(st.lists(st.integers(1, 9), min_size=1), st.lists(st.integers(1, 9), min_size=1))
def test_auc_is_the_loop_over_pairs(played, skipped):
    ranks = np.array(played + skipped, np.int32)
    mask = np.arange(len(ranks)) >= len(played)
    np.testing.assert_allclose(measures.auc(ranks, mask), auc_by_pairs(played, skipped), rtol=1e-12)


@pytest.mark.parametrize("skipped", [False, True])
def test_what_sessions_cannot_say_is_left_out(skipped, rng):
    facts = make_facts(9, rng, target_skipped=np.full(9, skipped))
    found = measures.measure(make_outcome(1, 9, rng, top=None), facts)
    present, absent = ("skipped", "played") if skipped else ("played", "skipped")
    assert f"{present}/test/mrr" in found
    assert ("test_full/skip@10" in found) == skipped
    left_out = [f"{absent}/test/mrr", "test/gap_mrr", "test/auc", "coverage@10", "popularity@10"]
    assert not {*left_out} & {*found}
    assert np.isfinite(list(found.values())).all()


def test_ids_that_are_no_tracks_are_not_recommended(rng):
    outcome = make_outcome(1, 2, rng)
    top = np.zeros((1, 2, 10), np.int32)
    top[0, 1, :2] = [FIRST_TRACK_ID, FIRST_TRACK_ID + 3]
    outcome = dataclasses.replace(outcome, top=top)
    found = measures.measure(outcome, make_facts(2, rng))
    assert found["coverage@10"] == [2 / 30]
    assert found["popularity@10"] == [outcome.counts[[FIRST_TRACK_ID, FIRST_TRACK_ID + 3]].mean()]


def test_hr_at_cutoffs_falls_together_with_the_metric(rng):
    outcome = make_outcome(3, 40, rng)
    found = measures.measure(outcome, make_facts(40, rng))
    expected = [found[f"test/hr@{k}"].mean() for k in (1, 5, 10, 20)]
    np.testing.assert_allclose(measures.hr_at(outcome.sampled, (1, 5, 10, 20)), expected)


def test_names_in_words():
    assert measures.spoken("test_full/hr@10") == "HR@10 (all tracks)"
    assert measures.spoken("test/mrr") == "MRR (sampled candidates)"
    assert measures.spoken("test/gap_mrr") == (
        "MRR of played less skipped targets (sampled candidates)"
    )


@given(st.integers(1, 200), st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 40))
def test_groups_are_partitions(num_sessions, seed, num_counts, num_values):
    rng = np.random.default_rng(seed)
    facts = make_facts(
        num_sessions,
        rng,
        popularity=rng.integers(0, num_counts, num_sessions),
        context={"kind": rng.integers(0, num_values, num_sessions)},
    )
    found = measures.groups(facts)
    assert len({(by, value) for by, value, _ in found}) == len(found)
    for name in {by for by, _, _ in found}:
        times = sum(mask.astype(int) for by, _, mask in found if by == name)
        np.testing.assert_array_equal(times, 1)
    assert all(mask.any() for _, _, mask in found)


def test_bins_by_hand(rng):
    facts = Facts(
        target_skipped=np.array([True, False, False, False]),
        popularity=np.array([7, 0, 7, 100]),
        position=np.array([3, 9, 19, 20]),
        skips_before=np.array([0, 2, 1, 11]),
    )
    found = {(by, value): mask.nonzero()[0].tolist() for by, value, mask in measures.groups(facts)}
    assert found == {
        ("target", "played"): [1, 2, 3],
        ("target", "skipped"): [0],
        ("position", "0 to 4"): [0],
        ("position", "5 to 9"): [1],
        ("position", "15 to 19"): [2],
        ("position", "20 and more"): [3],
        ("skips_before", "0"): [0],
        ("skips_before", "1 to 2"): [1, 2],
        ("skips_before", "10 and more"): [3],
        ("popularity_decile", "2"): [1],
        ("popularity_decile", "6"): [0, 2],  # equally popular, and together in the middle
        ("popularity_decile", "9"): [3],
    }


def test_deciles_of_distinct_counts_are_even(rng):
    facts = make_facts(100, rng, popularity=rng.permutation(100))
    deciles = [(v, mask) for by, v, mask in measures.groups(facts) if by == "popularity_decile"]
    for i, (value, mask) in enumerate(deciles):
        assert value == str(i + 1)
        assert sorted(facts.popularity[mask]) == list(range(10 * i, 10 * i + 10))


def groups_of(column, rng):
    facts = make_facts(len(column), rng, context={"kind": column})
    return {v: int(mask.sum()) for by, v, mask in measures.groups(facts) if by == "kind"}


def test_rare_context_values_are_pooled(rng):
    column = np.array(["b"] * 30 + ["a"] * 31 + ["c"] * 29 + ["d"], object)
    assert groups_of(column, rng) == {"a": 31, "b": 30, "other": 30}
    assert list(groups_of(column, rng)) == ["a", "b", "other"]


def test_context_values_in_words(rng):
    assert groups_of(np.array([True, False] * 30), rng) == {"false": 30, "true": 30}
    hours = np.array([10.0, 9.0, np.nan] * 30)
    assert list(groups_of(hours, rng).items()) == [("9", 30), ("10", 30), ("unknown", 30)]
    assert groups_of(np.array([None, "x"] * 30, object), rng) == {"unknown": 30, "x": 30}
    assert groups_of(np.array(["other"] * 40 + ["x"] * 30 + ["y"]), rng) == {"other": 41, "x": 30}


@pytest.mark.parametrize(
    "column", [["same"] * 80, ["a", "b"] * 5, [str(i) for i in range(25)] * 40]
)
def test_columns_that_tell_nothing_or_too_much_are_left_out(column, rng):
    assert groups_of(np.array(column, object), rng) == {}


def test_mismatches_are_refused(rng):
    with pytest.raises(DataError, match="same sessions"):
        make_facts(5, rng, popularity=np.zeros(4, int))
    with pytest.raises(DataError, match="same sessions"):
        make_facts(5, rng, context={"kind": np.zeros(4)})
    with pytest.raises(DataError, match="at least one"):
        make_facts(0, rng)
    with pytest.raises(DataError, match="ranks 4 sessions"):
        measures.measure(make_outcome(1, 4, rng), make_facts(5, rng))
    with pytest.raises(DataError, match="both rankings"):
        make_outcome(2, 4, rng, seeds=(0,))
    with pytest.raises(DataError, match="both rankings"):
        make_outcome(2, 4, rng, full=np.ones((2, 5), np.int32))
    with pytest.raises(DataError, match="below 1"):
        make_outcome(2, 4, rng, full=np.zeros((2, 4), np.int32))
    with pytest.raises(DataError, match="at least 10"):
        make_outcome(2, 4, rng, top=np.zeros((2, 4, 9), np.int32))
