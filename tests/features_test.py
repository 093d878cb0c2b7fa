"""MSSD's track features beside the tracks of its logs."""

import gzip
import io
import os
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from logs import FEATURES, WHOLE_FEATURES, feature_rows, features_csv

from skipjax.cli.main import main
from skipjax.data import demo, layout, mssd
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    demo.write_logs(folder / "logs", num_sessions=60, num_tracks=200)
    return folder / "logs", mssd.prepare(folder / "logs", folder / "plain")


def expected(track_ids, rows):
    """The table as Python values."""
    known = {row["track_id"]: row for row in rows}
    convert = dict.fromkeys(FEATURES, lambda text: float(np.float32(text)))
    convert |= dict.fromkeys(WHOLE_FEATURES, int) | {"mode": str, "track_id": str}
    nothing = dict.fromkeys(FEATURES)
    return [
        {n: convert[n](t) for n, t in known[i].items()} if i in known else nothing | {"track_id": i}
        for i in track_ids
    ]


def test_a_row_for_each_track(logs, tmp_path, capsys):
    """Nulls where nothing is known; other tracks are counted; nothing else changes."""
    folder, plain = logs
    tracks = plain.track_ids.to_pylist()
    rows = feature_rows([*tracks[::2][::-1], "t_other", "t_more"])
    data = tmp_path / "track_features"
    data.mkdir()
    (data / "tf_000000000000.csv").write_bytes(features_csv(rows[:40]))
    (data / "tf_000000000001.csv").write_bytes(features_csv(rows[40:]))
    (data / "notes.csv").write_text("not,of,these\n")
    out = tmp_path / "out"
    assert main(["prepare", "mssd", str(folder), "--features", str(data), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    known = len(tracks[::2])
    assert f"Features: of {known} of {len(tracks)} tracks; 2 rows are of other tracks.\n" in said
    sessions = Sessions.open(out)
    assert sessions.info["features"] == {"tracks": known, "others": 2}
    assert sessions.digest == plain.digest
    assert sessions.features.column_names == FEATURES
    assert sessions.features.to_pylist() == expected(tracks, rows)
    assert plain.features is None


def packed(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_the_same_however_they_are_packed_and_read(logs, tmp_path):
    folder, plain = logs
    rows = feature_rows(plain.track_ids.to_pylist()[1:])
    data, tables = features_csv(rows), []
    plain_file = tmp_path / "tf_0.csv"
    plain_file.write_bytes(data)
    packed_file = tmp_path / "tf_1.csv.gz"
    packed_file.write_bytes(gzip.compress(data))
    turned = tmp_path / "tf_2.csv"
    turned.write_bytes(features_csv(rows[::-1], FEATURES[::-1]))
    other = "x/log_0.csv"
    tar = packed(tmp_path / "track_features.tar.gz", {other: b"a\n", "x/tf_0.csv": data})
    for number, given in enumerate((plain_file, packed_file, turned, tar)):
        out = tmp_path / str(number)
        tables.append(mssd.prepare(folder, out, track_features=given).features)
    assert tables[0].to_pylist() == expected(plain.track_ids.to_pylist(), rows)
    assert all(table.equals(tables[0]) for table in tables)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("track_id", "", "column track_id: '' is not an id"),
        ("track_id", None, "is not a track that was not there before"),
        ("duration", "", "column duration: '' is not a number from -1e+30 to 1e+30"),
        ("energy", "nan", "column energy: 'nan' is not a number"),
        ("tempo", "fast", "column tempo: 'fast' is not a number"),
        ("key", "1.5", "column key: '1.5' is not a whole number from 0 to 9999"),
        ("mode", "dorian", "column mode: 'dorian' is not major or minor"),
    ],
)
def test_a_bad_value_is_named(logs, tmp_path, capsys, column, value, says):
    folder, plain = logs
    rows = feature_rows(plain.track_ids.to_pylist())
    rows[7][column] = rows[3][column] if value is None else value
    path = tmp_path / "tf_0.csv"
    path.write_bytes(features_csv(rows))
    for policy in ("error", "drop"):
        command = ["prepare", "mssd", str(folder), "--features", str(path)]
        command += ["--out", str(tmp_path / "out"), f"--on_bad_session={policy}"]
        assert main(command) == 65
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "tf_0.csv row 9, " in err
        assert says in err
        assert "leave out" not in err
        assert os.listdir(tmp_path) == ["tf_0.csv"]


def test_what_is_wrong_is_said_before_the_logs_are_read(logs, tmp_path, monkeypatch):
    def unread(*_, **__):
        raise AssertionError

    monkeypatch.setattr(mssd, "read_csv", unread)
    (tmp_path / "log_0.csv").write_text("x\n")
    with pytest.raises(DataError, match=r"has no tf_\* or track_features\* file; it holds log_0"):
        mssd.prepare(logs[0], tmp_path / "out", track_features=tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        mssd.prepare(logs[0], tmp_path / "out", track_features=tmp_path / "none")


def test_damage_is_found(logs, tmp_path):
    folder, plain = logs
    path = tmp_path / "tf_0.csv"
    path.write_bytes(features_csv(feature_rows(plain.track_ids.to_pylist())))
    out = tmp_path / "out"
    sessions = mssd.prepare(folder, out, track_features=path)
    file = out / layout.FEATURES
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=layout.FEATURES):
        Sessions.open(out)
    with pytest.raises(DataError, match=f"{layout.FEATURES} cannot be read"):
        _ = sessions.features
    layout.write_batches(file, pa.schema({"a": pa.int8()}), [])
    with pytest.raises(DataError, match=r"has 0 rows for \d+ tracks; prepare the data again"):
        _ = sessions.features
