import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skipjax.errors import ConfigError, DataError
from skipjax.study import statistics
from skipjax.study.statistics import Comparison, compare, holm, sentence


def draw_hits(rng, num_seeds, num_sessions, seed_effect, difficulty, lift=0.0):
    """Hits [R, S] of R seeds of one arm; `difficulty` [S] is shared by the arms of a test."""
    latent = difficulty + seed_effect * rng.standard_normal((num_seeds, 1))
    return latent + rng.standard_normal((num_seeds, num_sessions)) + lift > 0.5


def compare_draws(num_draws, num_seeds, seed_effect, lift=0.0, num_sessions=150, base_seeds=None):
    rng = np.random.default_rng(0)
    found = []
    for i in range(num_draws):
        difficulty = 1.5 * rng.standard_normal(num_sessions)
        arm = draw_hits(rng, num_seeds, num_sessions, seed_effect, difficulty, lift)
        base = draw_hits(rng, base_seeds or num_seeds, num_sessions, seed_effect, difficulty)
        found.append(compare(arm, base, resamples=100, seed=i))
    return found


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("seed_effect", [0.15, 0.5])
def test_seeds_of_the_same_arm_are_rarely_found_to_differ(num_seeds, seed_effect):
    found = compare_draws(300, num_seeds, seed_effect)
    assert np.mean([each.p < 0.05 for each in found]) <= 0.05
    outside = [not each.low <= 0 <= each.high for each in found]
    assert np.mean(outside) == np.mean([each.p < 0.05 for each in found])


def test_sessions_alone_would_find_differences_that_are_none():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        difficulty = 1.5 * rng.standard_normal(150)
        arm, base = (draw_hits(rng, 5, 150, 0.5, difficulty).mean(axis=0) for _ in range(2))
        found.append(compare(arm, base, resamples=100).p)
    assert np.mean(np.array(found) < 0.05) > 0.4


@pytest.mark.parametrize(("num_seeds", "lift"), [(3, 1.0), (5, 0.65)])
def test_a_planted_shift_is_found(num_seeds, lift):
    found = compare_draws(100, num_seeds, 0.15, lift)
    assert np.mean([each.p < 0.05 and each.difference > 0 for each in found]) > 0.9
    assert not any(each.p < 0.05 and each.difference < 0 for each in found)


def test_intervals_hold_the_planted_shift():
    found = compare_draws(200, 4, 0.15, 0.3, base_seeds=3)
    truth = np.mean([each.difference for each in found])
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.95


def test_runs_of_one_seed_give_the_paired_t_test(rng):
    arm, base = rng.random(80), rng.random(80)
    found, expected = compare(arm, base), stats.ttest_rel(arm, base)
    assert found.num_seeds == (1, 1)
    np.testing.assert_allclose(found.difference, (arm - base).mean())
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], interval, atol=0.003)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=0.05)


@pytest.mark.parametrize(("num_seeds", "base_seeds"), [(3, 3), (5, 5), (5, 3), (3, 5)])
def test_sessions_all_alike_leave_the_welch_t_test(num_seeds, base_seeds, rng):
    arm, base = rng.random((num_seeds, 1)), rng.random((base_seeds, 1)) + 0.5
    found = compare(np.tile(arm, 30), np.tile(base, 30))
    expected = stats.ttest_ind(arm[:, 0], base[:, 0], equal_var=False)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=0.06)
    width = np.subtract(*expected.confidence_interval(0.95))
    np.testing.assert_allclose(found.low - found.high, width, rtol=0.04)


def test_a_baseline_without_a_seed_leaves_the_t_test_of_one_sample(rng):
    arm = rng.random((5, 1))
    found = compare(np.tile(arm, 30), np.full(30, 0.2))
    np.testing.assert_allclose(found.p, stats.ttest_1samp(arm[:, 0], 0.2).pvalue, rtol=0.06)
    assert found.num_seeds == (5, 1)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(3, 5),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([0, 0.1, 1]),
)
def test_the_interval_is_the_sum_of_its_parts(seed, num_seeds, base_seeds, seed_effect):
    """What an infinite number of resamples would give, written down as sums over cells."""
    rng = np.random.default_rng(seed)
    session = rng.standard_normal(60)
    arm, base = (
        session + seed_effect * rng.standard_normal((n, 1)) + rng.standard_normal((n, 60))
        for n in (num_seeds, base_seeds)
    )
    variance = np.var(arm.mean(axis=0) - base.mean(axis=0), ddof=1) / 60
    floors = []
    for values in (arm, base):
        count = len(values)
        if count > 1:
            residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True)
            residuals += values.mean()
            cell = (residuals**2).sum() / ((count - 1) * 59) / 60
            spread = values.mean(axis=1).var(ddof=1)
            variance += max(spread - cell, 0) / count
            floors.append((max(spread, cell) / count, count - 1))
    rest = max(variance - sum(floor for floor, _ in floors), 0)
    uncertain = sum(floor**2 / n for floor, n in floors) + rest**2 / 59
    freedom = max(variance**2 / uncertain, 1)
    width = 2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    found = compare(arm, base, resamples=4000, seed=seed)
    np.testing.assert_allclose(found.high - found.low, width, rtol=0.12)
    np.testing.assert_allclose((found.high + found.low) / 2, found.difference)


@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
)
@settings(max_examples=50, deadline=None)
def test_the_relative_interval_holds_0_just_when_the_other_does(seed, r, q, hits, base_hits):
    rng = np.random.default_rng(seed)
    found = compare(
        rng.random((r, 40)) < hits, rng.random((q, 40)) < base_hits, resamples=50, seed=seed
    )
    assert found.low <= found.difference <= found.high
    assert 0 <= found.p <= 1
    if found.relative_low is not None:
        assert found.relative_low <= found.relative + 1e-9
        assert found.relative <= found.relative_high + 1e-9
        for limit, other in (
            (found.low, found.relative_low),
            (found.high, found.relative_high),
        ):
            assert limit * other >= -1e-9
    assert all(value is None or np.isfinite(value) for value in dataclasses.astuple(found)[:7])


def test_fieller_holds_the_true_ratio(rng):
    """The base varies, too, which dividing the interval of the difference by it would forget."""
    held = []
    for i in range(200):
        arm, base = 3 + rng.standard_normal((1, 25)), 2 + rng.standard_normal((1, 25))
        found = compare(arm, base, resamples=200, seed=i)
        held.append(found.relative_low <= 0.5 <= found.relative_high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_base_near_zero_has_no_relative_interval(rng):
    few = np.zeros((3, 100))
    few[0, :2] = 1
    found = compare(rng.random((3, 100)) < 0.5, few)
    assert found.relative > 1
    assert found.relative_low is found.relative_high is None
    assert compare(np.ones((3, 9)), np.zeros((3, 9))).relative is None


def test_a_contrast_is_the_difference_of_groups(rng):
    arm, base = rng.random((3, 200)), rng.random((3, 200))
    played = np.arange(200) % 4 > 0
    found = compare(arm, base, contrast=played)
    expected = [x[:, played].mean() - x[:, ~played].mean() for x in (arm, base)]
    np.testing.assert_allclose(found.difference, expected[0] - expected[1])
    assert found.relative is None
    one = compare(arm[0], base[0], contrast=played)
    d = arm[0] - base[0]
    error = np.sqrt(d[played].var(ddof=1) / 150 + d[~played].var(ddof=1) / 50)
    np.testing.assert_allclose(one.high - one.low, 2 * stats.t.ppf(0.975, 49) * error, rtol=0.04)


def test_many_sessions_are_drawn_in_bundles(rng):
    assert statistics._MAX_UNITS < 50_000
    values = rng.random((2, 50_000)) ** 4
    found = compare(values[0], values[1], resamples=1000)
    np.testing.assert_allclose(found.difference, values[0].mean() - values[1].mean())
    error = (values[0] - values[1]).std(ddof=1) / np.sqrt(50_000)
    np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * error, rtol=0.06)


def test_draws_are_shared_and_repeat(rng):
    values = rng.random((7, 30))
    runs = statistics.resample(values, resamples=100, seed=3)
    shared = statistics.compare_resampled(runs.runs(slice(2, 5)), runs.runs(slice(5, 7)), seed=3)
    alone = compare(values[2:5], values[5:7], resamples=100, seed=3)
    np.testing.assert_allclose(dataclasses.astuple(shared)[:7], dataclasses.astuple(alone)[:7])


def test_chunks_do_not_matter(rng, monkeypatch):
    values = rng.random((2, 30))
    whole = statistics.resample(values, resamples=50)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 7 * 30 * 8)
    np.testing.assert_allclose(
        statistics.resample(values, resamples=50).replicates, whole.replicates
    )


def test_the_same_values_do_not_differ(rng):
    values = rng.random((3, 40)) < 0.5
    for some in (values, values[:1], np.zeros((3, 40)), np.ones((1, 40))):
        found = compare(some, some, resamples=100)
        assert (found.difference, found.p) == (0, 1)
        assert found.low <= 0 <= found.high


def test_more_of_the_level_is_wider(rng):
    arm, base = rng.random((3, 40)), rng.random((3, 40))
    widths = [compare(arm, base, level=x, resamples=50) for x in (0.5, 0.9, 0.99)]
    assert widths[0].high < widths[1].high < widths[2].high


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"base": np.ones((1, 5))}, DataError, "4 sessions, its base of 5"),
        ({"arm": np.full((1, 4), np.nan)}, DataError, "finite"),
        ({"arm": np.ones((1, 1)), "base": np.ones((1, 1))}, DataError, "1 sessions"),
        ({"contrast": np.array([True, False, False, False])}, DataError, "1 sessions"),
        ({"resamples": 1}, ConfigError, "resamples is 1"),
        ({"level": 95}, ConfigError, "level is 95"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, error, message):
    arguments = {"arm": np.ones((2, 4)), "base": np.ones((1, 4))} | arguments
    with pytest.raises(error, match=message):
        compare(arguments.pop("arm"), arguments.pop("base"), **arguments)


def test_holm_by_hand():
    # .01 × 4, .02 × 3, then .03 × 2 is no less than .06, and .9 × 1.
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.9, 0.02])), [0.06, 0.04, 0.9, 0.06])
    assert holm(np.array([])).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test(p):
    """An adjusted p is the largest Bonferroni p of all the sets of questions it belongs to."""
    sets = [
        chosen
        for size in range(1, len(p) + 1)
        for chosen in itertools.combinations(range(len(p)), size)
    ]
    for i, adjusted in enumerate(holm(np.array(p))):
        bonferroni = [min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s]
        np.testing.assert_allclose(adjusted, max(bonferroni), rtol=1e-12)


FOUND = Comparison(
    difference=0.0123456,
    relative=0.0312,
    low=0.004,
    high=0.02,
    relative_low=0.0118,
    relative_high=0.0504,
    p=0.001,
    level=0.95,
    num_seeds=(5, 5),
)
NOTHING = dataclasses.replace(
    FOUND, difference=0.001, relative=0.004, relative_low=-0.01, relative_high=0.0189, p=0.4
)


@pytest.mark.parametrize(
    ("found", "p_holm", "expected"),
    [
        (FOUND, 0.004, "S+ beats S- by 3.1 % HR@10, 95 % CI 1.2 to 5.0, Holm-corrected p = .004."),
        (
            dataclasses.replace(
                FOUND, difference=-1.0, relative=-0.0312, relative_low=-0.05, relative_high=-0.012
            ),
            0.0004,
            "S+ is worse than S- by 3.1 % in HR@10, 95 % CI 1.2 to 5.0, Holm-corrected p < .001.",
        ),
        (
            NOTHING,
            0.412,
            "No difference found between S+ and S- in HR@10: +0.4 %, 95 % CI -1.0 to 1.9, "
            "Holm-corrected p = .41.",
        ),
        (
            FOUND,
            0.0504,
            "No difference found between S+ and S- in HR@10: +3.1 %, 95 % CI 1.2 to 5.0, "
            "Holm-corrected p = .050. (The interval is not corrected.)",
        ),
        (
            dataclasses.replace(FOUND, relative=None, relative_low=None, num_seeds=(1, 1)),
            0.0496,
            "S+ beats S- by 0.0123 in HR@10, 95 % CI 0.0040 to 0.0200, Holm-corrected p = .0496. "
            "One run each, so seeds are not counted.",
        ),
        (
            dataclasses.replace(FOUND, num_seeds=(3, 1)),
            0.004,
            "S+ beats S- by 3.1 % HR@10, 95 % CI 1.2 to 5.0, Holm-corrected p = .004. "
            "One run of S-, so its seed is not counted.",
        ),
        (
            dataclasses.replace(
                NOTHING, difference=0.0, relative=None, relative_low=None, low=-1e-3, high=1e-3
            ),
            1.0,
            "No difference found between S+ and S- in HR@10: +0.00000, 95 % CI -0.00100 to "
            "0.00100, Holm-corrected p = 1.",
        ),
    ],
)
def test_sentences(found, p_holm, expected):
    assert sentence("S+", "S-", "HR@10", found, p_holm) == expected


@given(st.floats(0.001, 0.99))
def test_the_printed_p_agrees_with_the_verdict(p):
    said = sentence("S+", "S-", "HR@10", FOUND, p)
    printed = float(said.partition("p = ")[2].split()[0].rstrip("."))
    assert ("beats" in said) == (printed < 0.05)


def test_nothing_falls_by_more_than_all_of_it():
    """Seeds that far apart would have the interval reach below."""
    arm = np.repeat([[0.0], [0.9], [0.0]], 50, axis=1)
    base = np.tile([0.0, 1.0], (3, 25))
    found = compare(arm, base)
    assert found.low < -base.mean()
    assert found.relative_low == -1.0
    assert found.relative_high > 0
