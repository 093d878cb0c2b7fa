"""Ids of a source and of a model, there and back, and what a history becomes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.data import catalogue as module
from skipjax.data import histories
from skipjax.data.catalogue import Catalogue, encode
from skipjax.errors import DataError

NAMES = ["b", "a", "007", "7", "é", "B"]


def make(names=NAMES):
    ids = pa.array(names, pa.large_string())
    return Catalogue(ids, np.arange(len(names), dtype=np.int64)[::-1])


def test_ids_and_names(monkeypatch):
    for bits in (64, 1, 0):  # with few, different names have the same hash
        monkeypatch.setattr(
            module, "hash", lambda name, bits=bits: hash(name) % (1 << min(bits, 62)), raising=False
        )
        catalogue = make()
        asked = ["7", "x", "b", "007", "B", "7", "", "é", "a"]
        expected = [NAMES.index(name) + 2 if name in NAMES else 0 for name in asked]
        found = catalogue.ids_of(pa.array(asked))
        assert found.dtype == np.int32
        assert found.tolist() == expected
        assert catalogue.ids_of(pa.array([], pa.string())).tolist() == []
        assert catalogue.names_of(np.array([2, 7, 2])).to_pylist() == ["b", "B", "b"]
        assert catalogue.num_ids == 8


def test_what_a_name_is_like():
    names = [f"track-{i:03d}" for i in range(200)] + ["Album", "album2"]
    catalogue = make(names)
    assert catalogue.like("TRACK-007") == ["track-007"]
    assert catalogue.like(" track-01 ")[0] in names
    assert sorted(catalogue.like("albu")) == ["Album", "album2"]
    assert catalogue.like("rack-007")[0] == "track-007"
    assert catalogue.like("?") == []


def test_a_catalogue_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "tracks.parquet"
    table = pa.table({"track_id": make().track_ids, "plays": make().plays})
    pq.write_table(table, path, write_page_checksum=True)
    found = Catalogue.open(path)
    assert found.track_ids.to_pylist() == NAMES
    assert found.plays.tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"track_id": pa.array(["a"]), "plays": [1]}, "not a catalogue"),
        ({"plays": [1]}, "not a catalogue"),
        ({"track_id": pa.array(["a", None], pa.large_string()), "plays": [1, 1]}, "without an id"),
        ({"track_id": pa.array(["a"], pa.large_string()), "plays": pa.nulls(1, "int64")}, "count"),
        ({"track_id": pa.array([*"aba"], pa.large_string()), "plays": [2, 1, 1]}, "a track twice"),
    ],
)
def test_what_is_not_a_catalogue_is_refused(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "tracks.parquet")
    with pytest.raises(DataError, match=message):
        Catalogue.open(tmp_path / "tracks.parquet")


def test_a_history_becomes_its_last_known_tracks(rng):
    catalogue = make()
    pool = [*NAMES, "x", "y"]
    sessions = [[pool[t] for t in rng.integers(8, size=n)] for n in (0, 1, 3, 9, 20, 5)]
    sessions.append(["x", "y", "x"])
    skipped = [rng.integers(2, size=len(session)).astype(bool) for session in sessions]
    encoded = encode(histories.from_lists(sessions, skipped), catalogue, most=4)
    for number, session in enumerate(sessions):
        known = [i for i, track in enumerate(session) if track in NAMES]
        seen = sorted({NAMES.index(session[i]) + 2 for i in known})
        start, length = encoded.starts[number], encoded.lengths[number]
        tracks = encoded.tracks[start : start + length]
        assert tracks.tolist() == [NAMES.index(session[i]) + 2 for i in known[-4:]]
        read = encoded.skipped[start : start + length]
        assert read.tolist() == [bool(skipped[number][i]) for i in known[-4:]]
        assert encoded.seen[slice(*encoded.seen_offsets[number : number + 2])].tolist() == seen
    strange = [track for session in sessions for track in session if track not in NAMES]
    assert encoded.unknown == len(strange)
    assert encoded.examples == list(dict.fromkeys(strange))[:3]
    assert encoded.skips_known
    assert not encode(histories.from_lists(sessions), catalogue, most=4).skips_known
