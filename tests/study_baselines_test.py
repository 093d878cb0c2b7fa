import dataclasses
import itertools
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import reference
from conftest import make_sessions, random_listening
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax import evaluate
from skipjax.data.parts import Part, Split, everywhere
from skipjax.data.split import leave_one_out
from skipjax.errors import ConfigError
from skipjax.study import baseline_ranks, baselines

ALL = [
    (baselines.MostPopular, {}),
    (baselines.ItemKNN, {}),
    (baselines.ItemKNN, {"regularisation": 0, "neighbours": 3}),
    (baselines.SessionKNN, {}),
    (baselines.SessionKNN, {"neighbours": 2}),
    (baselines.Markov, {}),
]
seeds = st.integers(0, 2**32 - 1)


def make_split(seed=0, num_sessions=14, num_tracks=18, high=8):
    rng = np.random.default_rng(seed)
    listening = random_listening(rng, num_sessions, num_tracks, high=high)
    return split_of(listening)


def split_of(listening):
    """Of [[(track, level), ...], ...], or of words whose letters are played tracks."""
    if isinstance(listening[0], str):
        listening = [[(letter, 0) for letter in word] for word in listening]
    names = [f"session-{i}" for i in range(len(listening))]
    sessions = make_sessions(listening, session_ids=names)
    return leave_one_out(sessions, min_length=4, max_length=20, skip_levels=(1, 2))


def in_time(split, seed):
    """The same sessions, each in one part."""
    part = np.random.default_rng(seed).permutation(split.num_sessions) % 3
    rows = {which: np.flatnonzero(part == i) for i, which in enumerate(("train", "valid", "test"))}
    parts = {which: Part(some, int(which != "train")) for which, some in rows.items()}
    return dataclasses.replace(split, parts=parts)


def draw_candidates(split, most=10):
    num = min(most, split.num_ids - 2 - int(split.lengths.max()))
    return evaluate.Candidates(split, num, seed=0)


def all_scores(baseline, which):
    return baseline.scores(np.arange(len(baseline.split.parts[which].sessions)), which).toarray()


def training_spans(split, played_only):
    """[S] lists of tracks, empty for sessions that are not trained on."""
    result = [[] for _ in range(split.num_sessions)]
    rows = split.parts["train"].sessions
    for row, start, length in zip(rows, *split.spans("train"), strict=True):
        events = range(start, start + length)
        result[row] = [
            int(split.tracks[e]) for e in events if not (played_only and split.skipped[e])
        ]
    return result


def loop_scores(kind, split, which, *, played_only=False, regularisation=20, neighbours=None):
    """[N][V] of the definitions, track by track."""
    spans = training_spans(split, played_only)
    rows = split.parts[which].sessions
    result = np.zeros((len(rows), split.num_ids))
    for i, (row, start, length) in enumerate(zip(rows, *split.spans(which), strict=True)):
        heard = split.tracks[start : start + length].tolist()
        score = {
            baselines.MostPopular: lambda spans, heard, row: loop_popular(spans),
            baselines.ItemKNN: lambda spans, heard, row: loop_item_knn(
                spans, heard[-1], regularisation, neighbours
            ),
            baselines.SessionKNN: lambda spans, heard, row: loop_session_knn(
                spans, set(heard), row, neighbours or 100, split.session_hashes
            ),
            baselines.Markov: lambda spans, heard, row: loop_markov(spans, heard[-1]),
        }[kind](spans, heard, row)
        for track, value in score.items():
            result[i, track] = value
    return result


def loop_popular(spans):
    counts = {}
    for span in spans:
        for track in span:
            counts[track] = counts.get(track, 0) + 1
    return counts


def loop_item_knn(spans, last, regularisation, neighbours):
    scores = {}
    for track in {track for span in spans for track in span} - {last}:
        both = sum(last in span and track in span for span in spans)
        of_last = sum(last in span for span in spans) + regularisation
        of_track = sum(track in span for span in spans) + regularisation
        if both:
            scores[track] = math.sqrt(both**2 / (of_last * of_track))
    best = sorted(scores, key=lambda track: (-scores[track], track))[:neighbours]
    return {track: scores[track] for track in best}


def loop_session_knn(spans, heard, own, neighbours, hashes):
    found = []
    for row, span in enumerate(spans):
        both = len(heard & set(span))
        if row != own and both:
            squared = Fraction(both**2, len(heard) * len(set(span)))
            found.append((-squared, int(hashes[row]), row))
    scores = {}
    for negative_squared, _, row in sorted(found)[:neighbours]:
        for track in set(spans[row]):
            scores[track] = scores.get(track, 0.0) + math.sqrt(-negative_squared)
    return scores


def loop_markov(spans, last):
    counts = {}
    for span in spans:
        for before, after in itertools.pairwise(span):
            if before == last:
                counts[after] = counts.get(after, 0) + 1
    return counts


@pytest.mark.parametrize(("kind", "options"), ALL)
@settings(max_examples=20, deadline=None)
@given(
    seed=seeds,
    played_only=st.booleans(),
    which=st.sampled_from(["valid", "test"]),
    by_time=st.booleans(),
)
def test_scores_are_the_loops(kind, options, seed, played_only, which, by_time):
    split = in_time(make_split(seed), seed) if by_time else make_split(seed)
    options = {**options, "played_only": played_only}
    scores = all_scores(kind(split, **options), which)
    np.testing.assert_array_equal(scores, loop_scores(kind, split, which, **options))


@pytest.mark.parametrize(("kind", "options"), ALL)
@settings(max_examples=20, deadline=None)
@given(
    seed=seeds,
    which=st.sampled_from(["valid", "test"]),
    k=st.integers(1, 12),
    chunk_size=st.integers(1, 20),
    budget=st.sampled_from([1, 50, 1 << 22]),
    by_time=st.booleans(),
)
def test_ranks_are_the_loops_whatever_the_chunks(
    kind, options, seed, which, k, chunk_size, budget, by_time
):
    split = in_time(make_split(seed), seed) if by_time else make_split(seed)
    k = min(k, split.num_ids - 2)
    candidates = draw_candidates(split)
    sampled, full, top = baseline_ranks.rank(
        kind(split, **options), split, which, candidates, k=k, chunk_size=chunk_size, budget=budget
    )
    assert sampled.dtype == full.dtype == top.dtype == np.int32
    scores = loop_scores(kind, split, which, **options)
    _, targets = split.held_out(which)
    drawn = candidates(split.parts[which].sessions)
    for row, target in enumerate(targets):
        assert sampled[row] == reference.rank(scores[row], target, drawn[row])
        assert full[row] == reference.rank(scores[row], target, range(2, split.num_ids))
        expected = [track for _, track in reference.top_k(scores[row], k, ())]
        assert top[row].tolist() == expected


def test_popularity_is_that_of_the_evaluation():
    split = make_split(num_sessions=40, num_tracks=40)
    candidates = draw_candidates(split)
    for which in ("valid", "test"):
        expected = evaluate.popularity_ranks(split, which, candidates)
        found = baseline_ranks.rank(baselines.MostPopular(split), split, which, candidates, k=3)
        np.testing.assert_array_equal(found[0], expected[which])
        np.testing.assert_array_equal(found[1], expected[f"{which}_full"])
        np.testing.assert_array_equal(found[2], np.tile([2, 3, 4], (40, 1)))


# Training spans abc, abd, bce and abx; the last letters are for validation and test.
WORDS = ["abcaz", "abday", "bceaw", "abxav"]


def scored(baseline, row, which="test"):
    """{letter: score} of the tracks that have one."""
    names = baseline.split.track_ids.to_pylist()
    scores = baseline.scores(np.array([row]), which).toarray()[0]
    assert not scores[:2].any()
    return {names[i - 2]: float(scores[i]) for i in np.flatnonzero(scores)}


def test_popularity_by_hand():
    assert scored(baselines.MostPopular(split_of(WORDS)), 0) == {
        **{"a": 3, "b": 4, "c": 2},
        **{"d": 1, "e": 1, "x": 1},
    }


def test_item_knn_by_hand():
    found = scored(baselines.ItemKNN(split_of(WORDS), regularisation=1), 0)  # the last track is a
    assert found == pytest.approx(
        {
            "b": 3 / math.sqrt((3 + 1) * (4 + 1)),
            "c": 1 / math.sqrt((3 + 1) * (2 + 1)),
            "d": 1 / math.sqrt((3 + 1) * (1 + 1)),
            "x": 1 / math.sqrt((3 + 1) * (1 + 1)),
        }
    )


def test_session_knn_by_hand():
    # The input is {a, b, c}, all of them in its own span. Others share ab, bc and ab with it.
    one = 2 / math.sqrt(3 * 3)
    assert scored(baselines.SessionKNN(split_of(WORDS)), 0) == pytest.approx(
        {"a": 2 * one, "b": 3 * one, "c": one, "d": one, "e": one, "x": one}
    )


def test_markov_by_hand():
    # In the validation of the first, c is last, which e follows once; in the test a.
    markov = baselines.Markov(split_of(WORDS))
    assert scored(markov, 0, "valid") == {"e": 1}
    assert scored(markov, 0) == {"b": 3}


def test_learning_from_played_tracks_alone():
    split = split_of([[("a", 0), ("s", 2), ("b", 0), ("a", 0), ("y", 0)]])
    assert scored(baselines.Markov(split), 0) == {"s": 1}
    assert scored(baselines.Markov(split, played_only=True), 0) == {"b": 1}
    assert scored(baselines.MostPopular(split, played_only=True), 0) == {"a": 1, "b": 1}
    assert set(scored(baselines.ItemKNN(split), 0)) == {"s", "b"}
    assert set(scored(baselines.ItemKNN(split, played_only=True), 0)) == {"b"}


def test_what_nobody_heard_has_no_score():
    split = split_of(["abxy", "cdyx"])  # x and y are only held out
    rows = np.arange(2)
    for kind in (baselines.ItemKNN, baselines.Markov):
        assert kind(split).scores(rows, "test").nnz == 0
    assert baselines.SessionKNN(split).scores(rows, "test").nnz == 0  # no neighbour but oneself
    sampled, full, top = baseline_ranks.rank(
        baselines.Markov(split), split, "test", lambda rows: np.full((len(rows), 1), 2), k=4
    )
    assert sampled.tolist() == [2, 2]
    assert full.tolist() == [6, 6]
    assert top.tolist() == [[2, 3, 4, 5]] * 2


def test_as_many_neighbours_as_asked_for():
    split = make_split(num_sessions=60, num_tracks=30)
    rows = np.arange(60)
    everyone = baselines.ItemKNN(split).scores(rows, "test")
    assert np.diff(everyone.indptr).max() > 4
    few = baselines.ItemKNN(split, neighbours=4).scores(rows, "test")
    np.testing.assert_array_equal(np.diff(few.indptr), np.minimum(np.diff(everyone.indptr), 4))


def changed(split, **arrays):
    """The split with other events; what was counted in the training spans stays."""
    return dataclasses.replace(split, **arrays)


@pytest.mark.parametrize(("kind", "options"), ALL)
@pytest.mark.parametrize("played_only", [False, True])
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_held_out_tracks_move_no_other_session(kind, options, played_only, seed):
    split = make_split(seed)
    rng = np.random.default_rng(seed)
    row = int(rng.integers(split.num_sessions))
    others = np.arange(split.num_sessions) != row
    before = {
        which: all_scores(kind(split, played_only=played_only, **options), which)
        for which in ("valid", "test")
    }
    for back in (1, 2):
        tracks = split.tracks.copy()
        event = split.starts[row] + split.lengths[row] - back
        tracks[event] = 2 + (tracks[event] - 1) % (split.num_ids - 2)
        assert tracks[event] != split.tracks[event]
        moved = kind(changed(split, tracks=tracks), played_only=played_only, **options)
        # Nothing sees the test's target; the validation's is the last of the test's own input.
        np.testing.assert_array_equal(all_scores(moved, "valid"), before["valid"])
        same = others | (back == 1)
        np.testing.assert_array_equal(all_scores(moved, "test")[same], before["test"][same])


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_labels_count_in_training_and_where_asked_for_alone(kind, options):
    split = make_split(3)
    held_out = np.zeros(len(split.tracks), bool)
    for back in (1, 2):
        held_out[split.starts + split.lengths - back] = True
    other_held_out = changed(split, skipped=split.skipped ^ held_out)
    other = changed(split, skipped=split.skipped ^ ~held_out)
    for which in ("valid", "test"):
        for played_only in (False, True):
            options = {**options, "played_only": played_only}
            scores = all_scores(kind(split, **options), which)
            np.testing.assert_array_equal(
                all_scores(kind(other_held_out, **options), which), scores
            )
            unmoved = (all_scores(kind(other, **options), which) == scores).all()
            assert unmoved == (not played_only)


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_the_order_of_sessions_is_no_matter(kind, options):
    split = make_split(1, num_sessions=50)
    order = np.random.default_rng(5).permutation(50)
    moved = changed(
        split,
        starts=split.starts[order],
        lengths=split.lengths[order],
        session_ids=split.session_ids.take(pa.array(order)),
    )
    candidates = draw_candidates(split)
    ranks = baseline_ranks.rank(kind(split, **options), split, "test", candidates, k=5)
    again = baseline_ranks.rank(kind(moved, **options), moved, "test", draw_candidates(moved), k=5)
    for one, other in zip(ranks, again, strict=True):
        np.testing.assert_array_equal(one[order], other)


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_memory_does_not_grow_with_sessions_times_tracks(kind, options):
    num_sessions, num_ids, length = 400, 1_000_000, 12
    rng = np.random.default_rng(0)
    tracks = rng.integers(2, 100, num_sessions * length).astype(np.int32)
    starts = np.arange(num_sessions) * length
    lengths = np.full(num_sessions, length, np.int32)
    _, events = baselines._events(starts, lengths - 2)
    split = Split(
        tracks=tracks,
        skipped=rng.random(len(tracks)) < 0.5,
        starts=starts,
        lengths=lengths,
        session_ids=pa.array([f"s{i}" for i in range(num_sessions)]),
        track_ids=pa.nulls(num_ids - 2),
        train_counts=np.bincount(tracks[events], minlength=num_ids),
        left_out={},
        digest="",
        parts=everywhere(num_sessions),
    )
    drawn = np.full((num_sessions, 5), num_ids - 1, np.int32)
    tracemalloc.start()
    _, full, _ = baseline_ranks.rank(
        kind(split, **options), split, "test", lambda r: drawn[r], k=10
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(full.tolist())) > 1
    assert peak < 100e6  # [S, V] bool would take 400 MB


def test_candidates_are_asked_for_in_chunks():
    split = make_split(num_sessions=50)
    candidates = draw_candidates(split)
    asked = []

    def spied(rows):
        asked.append(rows)
        return candidates(rows)

    baseline_ranks.rank(baselines.MostPopular(split), split, "test", spied, k=1, chunk_size=7)
    assert max(map(len, asked)) == 7
    assert sorted(np.concatenate(asked).tolist()) == list(range(50))


def test_equal_cosines_are_equal_floats():
    """Rounding would break ties in favour of some: 1 / √2 and 3 / √18 are one number."""
    sizes = [(a, b, c) for a in range(1, 21) for b in range(a, 21) for c in range(1, a + 1)]
    one, other, both = np.array(sizes, float).T
    floats = {}
    for (a, b, c), cosine in zip(sizes, baselines._cosines(both, one, other), strict=True):
        assert cosine == pytest.approx(c / math.sqrt(a * b), rel=1e-15)
        floats.setdefault(Fraction(c * c, a * b), set()).add(float(cosine))
    assert all(len(found) == 1 for found in floats.values())
    assert len(floats) == len(set.union(*floats.values()))


def test_chunks_keep_to_the_budget():
    costs = np.array([3, 4, 2, 9, 0, 0, 1, 5])
    chunks = [rows.tolist() for rows in baseline_ranks._chunks(costs, 3, 8)]
    assert chunks == [[0, 1], [2], [3], [4, 5, 6], [7]]


@pytest.mark.parametrize(("kind", "options"), ALL)
@pytest.mark.parametrize("which", ["valid", "test"])
def test_costs_bound_what_is_kept(kind, options, which):
    baseline = kind(make_split(2, num_sessions=50), **options)
    stored = np.diff(baseline.scores(np.arange(50), which).indptr)
    costs = baseline.costs(which)
    assert costs.shape == (50,)
    assert (stored <= costs).all()


def test_the_baselines_of_the_study():
    split = make_split()
    labels = {key: label for key, (label, _) in baselines.BASELINES.items()}
    assert labels == {
        "most_popular": "most popular",
        "item_knn": "item-kNN",
        "session_knn": "session-kNN",
        "markov": "last-track Markov",
    }
    for _, factory in baselines.BASELINES.values():
        assert all_scores(factory(split), "test").shape == (split.num_sessions, split.num_ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: baselines.ItemKNN(s, neighbours=0), "neighbours is 0; it must be at least 1"),
        (lambda s: baselines.SessionKNN(s, neighbours=-1), "neighbours is -1; it must be at"),
        (lambda s: baselines.ItemKNN(s, regularisation=-0.5), "regularisation is -0.5; it must"),
    ],
)
def test_impossible_parameters_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make(make_split())


@pytest.mark.parametrize("k", [0, 6])
def test_impossible_numbers_of_recommendations_are_named(k):
    split = split_of(["abxy", "cayx"])
    baseline = baselines.Markov(split)
    with pytest.raises(ConfigError, match=f"k is {k}; with 5 tracks it must be from 1 to 5"):
        baseline_ranks.rank(baseline, split, "test", lambda rows: rows[:, None], k=k)
