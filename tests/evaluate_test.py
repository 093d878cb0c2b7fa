import dataclasses
import importlib

import jax
import numpy as np
import pyarrow as pa
import pytest
import reference
from conftest import make_sessions, random_listening

from skipjax import encoders, evaluate
from skipjax.data.parts import Part
from skipjax.data.split import leave_one_out
from skipjax.errors import ConfigError, DataError
from skipjax.limits import check_limits

METRICS = ("hr@1", "hr@10", "ndcg@10", "mrr")


def tiny(**changes):
    config = importlib.import_module("configs.tiny").get_config()
    config.eval.num_candidates = 20
    config.eval.update(changes)
    return config


def make_split(seed=0):
    listening = random_listening(np.random.default_rng(seed), num_sessions=30)
    names = [f"session-{i}" for i in range(30)]
    sessions = make_sessions(listening, session_ids=names)
    return leave_one_out(sessions, min_length=4, max_length=20, skip_levels=(1, 2))


def make_model(split, causal=True):
    config = tiny()
    config.model.causal = causal
    encoder = encoders.make_encoder(config.model, 20)
    return encoder, encoders.init_params(jax.random.key(0), encoder, split.num_ids, 16)


def reorder(split, order):
    """The same sessions in another order."""
    return dataclasses.replace(
        split,
        starts=split.starts[order],
        lengths=split.lengths[order],
        session_ids=split.session_ids.take(pa.array(order)),
    )


def by_time(split):
    """The same sessions, each in one part."""
    part = np.random.default_rng(1).permutation(30) % 3
    rows = {which: np.flatnonzero(part == i) for i, which in enumerate(("train", "valid", "test"))}
    parts = {which: Part(some, int(which != "train")) for which, some in rows.items()}
    return dataclasses.replace(split, parts=parts)


def test_a_session_ranks_the_same_whichever_part_it_is_in():
    """By time, validation and test ask what the test of leave-one-out asks."""
    split = make_split()
    timed = by_time(split)
    encoder, params = make_model(split)
    evaluator = evaluate.Evaluator(tiny(), encoder, split)
    whole = evaluator.ranks(params, "test", full=True)
    popular = evaluate.popularity_ranks(split, "test", evaluator.candidates)
    table = evaluate.sessions_table(split, whole, None)
    again = evaluate.Evaluator(tiny(batch_size=7, keep_top=3), encoder, timed)
    for which in ("valid", "test"):
        rows = timed.parts[which].sessions
        top = np.zeros((len(rows), 3), np.int32)
        ranks = again.ranks(params, which, full=True, top=top)
        assert (top > 1).all()
        np.testing.assert_array_equal(ranks[which], whole["test"][rows])
        np.testing.assert_array_equal(ranks[f"{which}_full"], whole["test_full"][rows])
        baseline = evaluate.popularity_ranks(timed, which, again.candidates)
        np.testing.assert_array_equal(baseline[which], popular["test"][rows])
        np.testing.assert_array_equal(baseline[f"{which}_full"], popular["test_full"][rows])
    assert evaluate.sessions_table(timed, ranks, None).equals(table.take(pa.array(rows)))
    drawn = evaluate.Candidates(split, 20, seed=0)(rows)
    for keep_bytes in (0, 4 * 20 * 20):  # of the twenty sessions that are asked for
        some = evaluate.Candidates(timed, 20, seed=0, keep_bytes=keep_bytes)
        for _ in range(2):
            np.testing.assert_array_equal(some(rows), drawn)
    assert some._kept.shape == (20, 20)


@pytest.mark.parametrize("causal", [True, False])
def test_ranks_depend_on_neither_batch_size_nor_chunks_nor_order(causal):
    split = make_split()
    encoder, params = make_model(split, causal)
    whole = evaluate.Evaluator(tiny(), encoder, split).ranks(params, "test", full=True)
    assert whole["test"].max() > 1
    for changes in ({"batch_size": 7, "chunk_size": 9}, {"batch_size": 1, "chunk_size": 10_000}):
        ranks = evaluate.Evaluator(tiny(**changes), encoder, split).ranks(params, "test", full=True)
        for name, found in whole.items():
            np.testing.assert_array_equal(found, ranks[name])
    order = np.random.default_rng(5).permutation(30)
    moved = evaluate.Evaluator(tiny(), encoder, reorder(split, order))
    for name, found in moved.ranks(params, "test", full=True).items():
        np.testing.assert_array_equal(found, whole[name][order])


def test_progress_goes_through_all_sessions():
    split = make_split()
    encoder, params = make_model(split)
    seen = []
    evaluator = evaluate.Evaluator(tiny(batch_size=7), encoder, split)
    evaluator.ranks(params, "test", full=True, progress=lambda *args: seen.append(args))
    assert seen == [(done, 30, "testing") for done in (7, 14, 21, 28, 30)]


def test_precision_is_used():
    split = make_split()
    encoder, params = make_model(split)
    params["table"] = params["table"].round(3)
    config = tiny(precision="bfloat16")
    rough = evaluate.Evaluator(config, encoder, split).ranks(params, "test", full=True)
    exact = evaluate.Evaluator(tiny(), encoder, split).ranks(params, "test", full=True)
    for name, found in exact.items():
        assert (rough[name] != found).any()
        assert np.abs(rough[name] - found).max() < 10


def test_unknown_precision_is_named():
    with pytest.raises(ConfigError, match=r"config\.eval\.precision is 'float16'; choose"):
        check_limits(tiny(precision="float16"))


@pytest.mark.parametrize("which", ["valid", "test"])
def test_ranks_are_the_loop(which):
    split = make_split()
    encoder, params = make_model(split)
    config = tiny()
    ranks = evaluate.Evaluator(config, encoder, split).ranks(params, which, full=True)
    table = np.array(params["table"])
    lengths, targets = split.held_out(which)
    candidates = evaluate.Candidates(split, 20, config.eval.seed)(np.arange(30))
    apply = jax.jit(encoder.apply)
    for i in (0, 3, 29):
        tracks = np.zeros((1, 19), np.int32)
        tracks[0, : lengths[i]] = split.tracks[split.starts[i] :][: lengths[i]]
        hidden = apply({"params": params["encoder"]}, table[tracks], tracks > 0)
        scores = table @ np.array(hidden[0, lengths[i] - 1])
        assert ranks[which][i] == reference.rank(scores, targets[i], candidates[i])
        full = reference.rank(scores, targets[i], range(2, split.num_ids))
        assert ranks[f"{which}_full"][i] == full


def test_candidates_are_distinct_tracks_outside_the_session():
    split = make_split()
    drawn = evaluate.Candidates(split, 25, seed=3)(np.arange(30))
    for i, row in enumerate(drawn):
        own = split.tracks[split.starts[i] : split.starts[i] + split.lengths[i]]
        assert len(set(row.tolist())) == 25
        assert not set(row.tolist()) & set(own.tolist())
        assert row.min() >= 2
        assert row.max() < split.num_ids


def test_candidates_are_places_among_the_tracks_outside():
    """Published numbers depend on which are drawn."""
    split = make_split()
    drawn = evaluate.Candidates(split, 25, seed=3)(np.arange(30))
    for i, row in enumerate(drawn):
        own = split.tracks[split.starts[i] : split.starts[i] + split.lengths[i]].tolist()
        outside = [v for v in range(2, split.num_ids) if v not in own]
        rng = np.random.default_rng((3, int(split.session_hashes[i])))
        places = rng.choice(len(outside), 25, replace=False, shuffle=False)
        assert row.tolist() == [outside[place] for place in places]


def test_candidates_depend_on_seed_and_session_id_alone():
    split = make_split()
    drawn = evaluate.Candidates(split, 25, seed=3)(np.arange(30))
    order = np.random.default_rng(1).permutation(30)
    moved = evaluate.Candidates(reorder(split, order), 25, seed=3)(np.arange(30))
    np.testing.assert_array_equal(moved, drawn[order])
    # Whether they are kept, drawn again, or asked for in parts.
    for keep_bytes in (0, 1 << 30):
        some = evaluate.Candidates(split, 25, seed=3, keep_bytes=keep_bytes)
        for rows in ([7], [7, 2], [0, 7, 29], [2]):
            np.testing.assert_array_equal(some(np.array(rows)), drawn[rows])
    assert (evaluate.Candidates(split, 25, seed=4)(np.arange(30)) != drawn).any()


def test_candidates_are_uniform_outside_the_session():
    split = make_split()
    counts = np.zeros(split.num_ids)
    for seed in range(2000):
        counts[evaluate.Candidates(split, 5, seed)(np.array([0]))[0]] += 1
    own = split.tracks[split.starts[0] : split.starts[0] + split.lengths[0]]
    outside = np.setdiff1d(np.arange(2, split.num_ids), own)
    expected = 2000 * 5 / len(outside)
    assert counts.sum() == counts[outside].sum()
    assert np.abs(counts[outside] - expected).max() < 5 * expected**0.5


def test_as_many_candidates_as_there_can_be():
    split = make_split()
    longest = int(np.argmax(split.lengths))
    own = np.unique(split.tracks[split.starts[longest] :][: split.lengths[longest]])
    outside = np.setdiff1d(np.arange(2, split.num_ids), own)
    num = split.num_ids - 2 - int(split.lengths.max())
    drawn = evaluate.Candidates(split, num, seed=0)(np.array([longest]))[0]
    assert len(set(drawn)) == num
    assert set(drawn) <= set(outside)


@pytest.mark.parametrize("num", [0, 60])
def test_impossible_numbers_of_candidates_are_named(num):
    split = make_split()
    encoder, _ = make_model(split)
    with pytest.raises(ConfigError, match=rf"num_candidates is {num}; with .* from 1 to"):
        evaluate.Evaluator(tiny(num_candidates=num), encoder, split)


def test_sessions_that_leave_no_candidates_are_named():
    listening = [[(f"t{i}", 0) for i in range(9)], [("t0", 0)] * 4]
    split = leave_one_out(make_sessions(listening), min_length=4, max_length=20, skip_levels=(1, 2))
    with pytest.raises(DataError, match="there are 9 tracks and sessions of up to 9, so no others"):
        evaluate.Candidates(split, 10, seed=0)


def test_a_model_of_another_catalogue_is_refused():
    """Its table would be read out of bounds, or its ids mean other tracks."""
    split = make_split()
    encoder, params = make_model(split)
    evaluator = evaluate.Evaluator(tiny(), encoder, split)
    params["table"] = params["table"][:-1]
    message = rf"table has {split.num_ids - 1} rows, but the data {split.num_ids} ids"
    with pytest.raises(DataError, match=message):
        evaluator.ranks(params, "test", full=True)


def test_popularity_is_the_loop():
    split = make_split()
    config = tiny()
    candidates = evaluate.Candidates(split, 20, config.eval.seed)
    ranks = evaluate.popularity_ranks(split, "test", candidates)
    _, targets = split.held_out("test")
    drawn = candidates(np.arange(30))
    for i, target in enumerate(targets):
        counts = split.train_counts
        full = reference.rank(counts, target, range(2, split.num_ids))
        assert ranks["test_full"][i] == full
        assert ranks["test"][i] == reference.rank(counts, target, drawn[i])


def test_summaries_are_named_by_split():
    ranks = {"test": np.array([1, 30]), "test_full": np.array([11, 5])}
    assert evaluate.summarise(ranks, ("hr@10",), prefix="baseline/popularity/") == {
        "baseline/popularity/test/hr@10": 0.5,
        "baseline/popularity/test_full/hr@10": 0.5,
    }


def test_the_sessions_table_holds_what_was_ranked():
    split = make_split()
    encoder, params = make_model(split)
    evaluator = evaluate.Evaluator(tiny(keep_top=3), encoder, split)
    top = np.zeros((split.num_sessions, 3), np.int32)
    ranks = evaluator.ranks(params, "test", full=True, top=top)
    table = evaluate.sessions_table(split, ranks, top).to_pylist()
    assert len(table) == 30
    _, targets = split.held_out("test")
    for i, row in enumerate(table):
        end = split.starts[i] + split.lengths[i] - 1
        assert row["session_id"] == f"session-{i}"
        assert row["target"] == split.track_ids[int(targets[i]) - 2].as_py()
        assert row["target_skipped"] == split.skipped[end]
        assert (row["rank_sampled"], row["rank_full"]) == (ranks["test"][i], ranks["test_full"][i])
        # A target among the first three stands where its rank says.
        if row["rank_full"] <= 3:
            assert row["top"][row["rank_full"] - 1] == row["target"]
        else:
            assert row["target"] not in row["top"]
        assert len(set(row["top"])) == 3
    few = np.where(np.arange(3) < 2, top, 0)
    assert [len(r["top"]) for r in evaluate.sessions_table(split, ranks, few).to_pylist()] == [
        2
    ] * 30
    assert "top" not in evaluate.sessions_table(split, ranks, None).column_names
