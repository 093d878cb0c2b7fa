import dataclasses
import threading

import numpy as np
import pytest
from conftest import make_sessions, random_listening

from skipjax.data import batches
from skipjax.data.parts import Part
from skipjax.data.split import leave_one_out
from skipjax.errors import ConfigError


@pytest.fixture
def split(rng):
    sessions = make_sessions(random_listening(rng, num_sessions=10, low=4, high=8))
    return leave_one_out(sessions, min_length=4, max_length=8, skip_levels=(1, 2))


@pytest.fixture
def by_time(split):
    """The same sessions, each in one part."""
    rows = np.arange(10)
    parts = {
        "train": Part(rows[[0, 2, 3, 5, 8, 9]], 0),
        "valid": Part(rows[[1, 6]], 1),
        "test": Part(rows[[4, 7]], 1),
    }
    return dataclasses.replace(split, parts=parts)


def spans_of(split):
    return [
        (split.tracks[s : s + n - 2].tolist(), split.skipped[s : s + n - 2].tolist())
        for s, n in zip(split.starts, split.lengths, strict=True)
    ]


def rows_of(batch):
    """The sessions of a batch, after checking its padding."""
    for tracks, skipped, valid in zip(
        *(batch[k] for k in ("tracks", "skipped", "valid")), strict=True
    ):
        n = valid.sum()
        assert valid[:n].all()
        assert (tracks[n:] == 0).all()
        assert not skipped[n:].any()
        if n:
            yield tracks[:n].tolist(), skipped[:n].tolist()


def test_every_training_span_once_an_epoch_and_nothing_else(split):
    loader = batches.SessionBatches(split, batch_size=4, max_length=8, seed=3)
    assert loader.steps_per_epoch == 3
    orders = []
    for epoch in range(2):
        found = [row for i in range(3) for row in rows_of(loader.batch(3 * epoch + i))]
        assert sorted(found) == sorted(spans_of(split))
        orders.append(found)
    assert orders[0] != orders[1]
    for i in range(3):
        batch = loader.batch(i)
        arrays = {k: v for k, v in batch.items() if k != "packing"}
        assert {k: (v.shape, v.dtype.name) for k, v in arrays.items()} == {
            "tracks": ((4, 6), "int32"),
            "skipped": ((4, 6), "bool"),
            "valid": ((4, 6), "bool"),
        }


def test_by_time_whole_sessions_of_training_and_no_others(by_time):
    loader = batches.SessionBatches(by_time, batch_size=4, max_length=8, seed=3)
    assert loader.steps_per_epoch == 2
    found = [row for i in range(2) for row in rows_of(loader.batch(i))]
    whole = [
        (by_time.tracks[s : s + n].tolist(), by_time.skipped[s : s + n].tolist())
        for s, n in zip(by_time.starts, by_time.lengths, strict=True)
    ]
    assert sorted(found) == sorted(whole[i] for i in by_time.parts["train"].sessions)
    assert loader.batch(0)["tracks"].shape == (4, 8)
    for which in ("valid", "test"):
        ((rows, _, batch),) = batches.held_out_batches(by_time, which, batch_size=4, max_length=8)
        assert rows.tolist() == [0, 1]
        assert batch["tracks"].shape == (4, 7)
        asked = [whole[i] for i in by_time.parts[which].sessions]
        assert list(rows_of(batch)) == [(tracks[:-1], skips[:-1]) for tracks, skips in asked]
        assert batch["targets"].tolist() == [tracks[-1] for tracks, _ in asked] + [0, 0]


def test_a_batch_is_a_function_of_seed_and_step(split):
    def loader(seed):
        return batches.SessionBatches(split, batch_size=4, max_length=8, seed=seed)

    straight = [b["tracks"] for b, _ in zip(loader(3).from_step(0), range(9), strict=False)]
    for start in (1, 4, 8):
        later = next(loader(3).from_step(start))["tracks"]
        np.testing.assert_array_equal(later, straight[start])
    assert any((loader(4).batch(i)["tracks"] != straight[i]).any() for i in range(3))


@pytest.mark.parametrize("which", ["valid", "test"])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 16])
def test_held_out_batches_cover_all_sessions_in_order(split, which, batch_size):
    back = {"valid": 2, "test": 1}[which]
    seen = []
    for rows, _, batch in batches.held_out_batches(
        split, which, batch_size=batch_size, max_length=8
    ):
        assert batch["tracks"].shape == (batch_size, 7)
        for row, (tracks, _) in zip(rows, rows_of(batch), strict=True):
            start, n = split.starts[row], split.lengths[row]
            assert tracks == split.tracks[start : start + n - back].tolist()
        for row, target in zip(rows, batch["targets"], strict=False):
            assert target == split.tracks[split.starts[row] + split.lengths[row] - back]
        seen += rows.tolist()
    assert seen == list(range(10))


def test_prefetch_keeps_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise KeyError("the sixth")

    ready = batches.prefetch(items())
    assert [next(ready) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError, match="the sixth"):
        next(ready)


def test_closing_prefetch_ends_its_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    ready = batches.prefetch(endless())
    assert next(ready) == 0
    assert threading.active_count() == before + 1
    ready.close()
    assert threading.active_count() == before


def test_batch_size_must_be_positive(split):
    with pytest.raises(ConfigError, match=r"config.train.batch_size is 0"):
        batches.SessionBatches(split, batch_size=0, max_length=8, seed=0)


def test_sessions_are_never_cut_short(split):
    longest = split.lengths.max()
    message = f"max_length is {longest - 1}, but there are sessions of {longest} tracks"
    with pytest.raises(ConfigError, match=message):
        batches.SessionBatches(split, batch_size=4, max_length=longest - 1, seed=0)
    with pytest.raises(ConfigError, match=message):
        next(batches.held_out_batches(split, "test", batch_size=4, max_length=longest - 1))


def test_held_out_tracks_and_labels_never_reach_training(rng):
    listening = random_listening(rng, num_sessions=10, low=4, high=8)
    # Every track is in some training span, so that ids stay what they are.
    listening.append([(f"t{i:04d}", 0) for i in range(60)] + [("t0000", 0)] * 2)
    changed = [
        [
            *session[:-2],
            *(
                (f"t{(7 * i) % 60:04d}", (level + 2) % 4)
                for i, (_, level) in enumerate(session[-2:])
            ),
        ]
        for session in listening
    ]
    first, second = (
        leave_one_out(make_sessions(s), min_length=4, max_length=62, skip_levels=(1, 2))
        for s in (listening, changed)
    )
    assert (first.tracks != second.tracks).any()
    assert (first.skipped != second.skipped).any()
    loaders = [
        batches.SessionBatches(s, batch_size=4, max_length=62, seed=0) for s in (first, second)
    ]
    for i in range(3):
        one, two = (loader.batch(i) for loader in loaders)
        for name, values in one.items():
            np.testing.assert_array_equal(values, two[name])
