"""What config.data names is prepared once, found again, and refused clearly."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from skipjax.data import demo, mssd, sources, table
from skipjax.errors import ConfigError, DataError, OutputError

TABLE = {
    "session_column": "session_id",
    "track_column": "track_id",
    "position_column": "",
    "time_column": "",
    "time_unit": "",
    "level_column": "",
    "skip_column": "",
    "rating_column": "",
    "percent_column": "",
    "context_columns": (),
}


@pytest.fixture
def data(tmp_path):
    return ConfigDict(
        {
            "source": "demo",
            "path": "",
            "cache_dir": str(tmp_path / "cache"),
            "num_sessions": 0,
            "min_length": 4,
            "max_length": 20,
            "gap_minutes": -1.0,
            "on_bad_session": "error",
            "table": TABLE,
            "demo": {"num_sessions": 60, "num_tracks": 200, "skip_share": 0.0, "seed": 0},
        }
    )


@pytest.fixture
def preparations(monkeypatch):
    """Names of the folders that are prepared from here on."""
    made = []
    for module in (mssd, table):
        prepare = module.prepare

        def note(paths, out, *args, prepare=prepare, **options):
            made.append(os.path.basename(out))
            return prepare(paths, out, *args, **options)

        monkeypatch.setattr(module, "prepare", note)
    return made


def test_demo_is_made_once(data, preparations, tmp_path):
    first = sources.load(data)
    assert first.num_sessions == 60
    assert first.info["source"] == "demo"
    assert first.info["options"]["demo"]["seed"] == 0
    assert first.info["options"]["demo"]["skip_share"] is None
    assert sources.load(data).digest == first.digest
    assert len(preparations) == 1
    assert preparations[0].startswith("demo-")
    assert os.listdir(tmp_path / "cache") == preparations  # the logs are gone


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("demo.seed", 1),
        ("demo.num_sessions", 61),
        ("demo.num_tracks", 201),
        ("demo.skip_share", 0.15),
        ("num_sessions", 20),
        ("max_length", 15),
        ("min_length", 12),
    ],
)
def test_another_option_makes_another_folder(data, preparations, field, value):
    first = sources.load(data)
    data.update_from_flattened_dict({field: value})
    assert sources.load(data).digest != first.digest
    assert len(set(preparations)) == 2


def test_logs_of_a_killed_process_are_removed(data, preparations, tmp_path):
    digest, cache = sources.load(data).digest, tmp_path / "cache"
    shutil.rmtree(cache / preparations[0])
    (cache / f".{preparations[0]}-logs.tmp-killed" / "log.csv").mkdir(parents=True)
    assert sources.load(data).digest == digest
    assert os.listdir(cache) == preparations[:1]


def test_another_generator_makes_another_folder(data, preparations, monkeypatch):
    sources.load(data)
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    sources.load(data)
    assert len(set(preparations)) == 2


@pytest.fixture
def logs(tmp_path):
    demo.write_logs(tmp_path / "logs", num_sessions=50, num_tracks=200)
    return tmp_path / "logs"


def test_mssd_is_prepared_again_when_a_file_changes(data, preparations, logs):
    data.source, data.path = "mssd", str(logs)
    first = sources.load(data)
    assert first.info["source"] == "mssd"
    assert sources.load(data).digest == first.digest
    assert len(preparations) == 1
    (path,) = logs.iterdir()
    os.utime(path, ns=(0, 0))
    assert sources.load(data).digest == first.digest
    assert len(preparations) == 2
    path.rename(path.with_name("log_renamed.csv"))
    sources.load(data)
    assert len(set(preparations)) == 3


def test_several_paths(data, logs, tmp_path):
    demo.write_logs(tmp_path / "more", num_sessions=30, num_tracks=200, seed=1)
    data.source, data.path = "mssd", f"{logs}{os.pathsep}{tmp_path}/more/*.csv"
    assert sources.load(data).num_sessions == 80
    odd = tmp_path / f"od{os.pathsep}d"
    logs.rename(odd)
    data.path = str(odd)
    assert sources.load(data).num_sessions == 50


def test_table(data, preparations, tmp_path):
    rows = "".join(f"u,{i},{i},0\n" for i in range(6))
    (tmp_path / "log.csv").write_text("session_id,track_id,p,skip\n" + rows)
    data.source, data.path = "table", str(tmp_path / "log.csv")
    with pytest.raises(ConfigError, match=r"config\.data\.table: give exactly one of position"):
        sources.load(data)
    data.table.position_column, data.table.skip_column = "p", "skip"
    first = sources.load(data)
    assert first.num_events == 6
    data.table.context_columns = ("p",)
    assert sources.load(data).context.column_names == ["p"]
    assert len(set(preparations)) == 2


def test_bad_sessions_are_dropped_if_that_is_asked_for(data, preparations, logs):
    data.source, data.path = "mssd", str(logs)
    good = sources.load(data)
    data.on_bad_session = "drop"
    other = sources.load(data)
    assert len(set(preparations)) == 2  # what was dropped is known of the second alone
    assert other.digest == good.digest
    assert other.info["dropped"] == {"sessions": 0, "events": 0, "rows": 0}
    (log,) = logs.iterdir()
    log.write_text(log.read_text().replace("true", "yes", 1))
    assert sources.load(data).num_sessions == 49
    assert sources.load(data).info["dropped"]["sessions"] == 1
    data.on_bad_session = "error"
    said = r"csv row .*'yes' is not true or false;.* --config\.data\.on_bad_session=drop\."
    with pytest.raises(DataError, match=said):
        sources.load(data)


def test_prepared(data, logs, tmp_path):
    made = mssd.prepare(logs, tmp_path / "made")
    data.source, data.path = "prepared", str(tmp_path / "made")
    assert sources.load(data).digest == made.digest
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"source": "msd"},
            ConfigError,
            r"config\.data\.source is 'msd'; it must be one of demo, mssd, yambda, lastfm, "
            r"spotify, inter, table, prepared\. Did you mean 'mssd'",
        ),
        ({"source": "mssd"}, ConfigError, r"config\.data\.path is empty; set --config\.data\.path"),
        ({"source": "table"}, ConfigError, r"set --config\.data\.path"),
        ({"source": "prepared"}, ConfigError, r"set --config\.data\.path"),
        ({"source": "mssd", "path": "nowhere"}, DataError, "nowhere: no such file or folder"),
        ({"source": "prepared", "path": "nowhere"}, DataError, "nowhere: no such folder"),
        ({"min_length": 21, "max_length": 30}, DataError, "no session has 21 or more"),
        ({"demo.skip_share": 7.0}, ConfigError, "skip_share"),
        ({"cache_dir": "/dev/null/x"}, OutputError, "/dev/null/x"),
    ],
)
def test_refusals_leave_nothing(data, tmp_path, fields, error, message):
    data.update_from_flattened_dict(fields)
    with pytest.raises(error, match=message) as caught:
        sources.load(data)
    assert "\n" not in str(caught.value)
    cache = tmp_path / "cache"
    assert not cache.exists() or os.listdir(cache) == []


def test_a_damaged_cache_says_what_to_delete(data, preparations, tmp_path):
    sources.load(data)
    folder = tmp_path / "cache" / preparations[0]
    (folder / "events.arrow").unlink()
    with pytest.raises(DataError, match=f"is missing.* delete {folder}"):
        sources.load(data)


def test_threads_that_make_the_same_all_get_it(data, logs, monkeypatch):
    """All start before any is done, so all but one come too late with their folder."""
    data.source, data.path = "mssd", str(logs)
    together = threading.Barrier(3, timeout=30)
    prepare = mssd.prepare

    def wait(*args, **options):
        together.wait()
        return prepare(*args, **options)

    monkeypatch.setattr(mssd, "prepare", wait)
    digests = []
    threads = [
        threading.Thread(target=lambda: digests.append(sources.load(data).digest)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 3
    assert len(set(digests)) == 1


def test_two_processes_that_make_the_same_both_get_it(data):
    code = (
        "import json, sys, types\n"
        "from skipjax.data import sources\n"
        "as_object = lambda pairs: types.SimpleNamespace(**dict(pairs))\n"
        "data = json.loads(sys.argv[1], object_pairs_hook=as_object)\n"
        "print(sources.load(data).digest)\n"
        "assert 'jax' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, data.to_json()]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1] == sources.load(data).digest + "\n"


def test_prepared_data_is_taken_whole(data, tmp_path):
    sources.load(data)
    (folder,) = (tmp_path / "cache").iterdir()
    data.source, data.path = "prepared", str(folder)
    assert sources.load(data).num_sessions == 60
    for field, value in (("num_sessions", 20), ("on_bad_session", "drop")):
        asked = ConfigDict({**data, field: value})
        with pytest.raises(ConfigError, match=rf"{field} is .*, but prepared data is taken whole"):
            sources.load(asked)


def yambda_file(path):
    events = {
        "uid": pa.array([7] * 12, pa.uint32()),
        "timestamp": pa.array([5 * i + 2400 * (i > 5) for i in range(12)], pa.uint32()),
        "item_id": pa.array(range(12), pa.uint32()),
        "is_organic": pa.array([1] * 12, pa.uint8()),
        "played_ratio_pct": pa.array([100] * 12, pa.uint16()),
        "track_length_seconds": pa.array([200] * 12, pa.uint32()),
    }
    pq.write_table(pa.table(events), path)


def lastfm_file(path):
    times = [f"2009-05-04T{20 + i // 6}:{i:02}:00Z" for i in range(12)][::-1]
    path.write_text("".join(f"u\t{at}\t\ta\t\tt{i}\n" for i, at in enumerate(times)))


def spotify_file(path):
    values = [
        {
            "ts": f"2009-05-04T{20 + i // 6}:{i:02}:00Z",
            "ms_played": 1,
            "spotify_track_uri": f"spotify:track:{i:022}",
        }
        for i in range(12)
    ]
    path.write_text(json.dumps(values))


def inter_file(path):
    rows = "".join(f"u\ti{i}\t{i % 5}\t{60 * i + 2400 * (i > 5)}\n" for i in range(12))
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)


@pytest.mark.parametrize(
    ("source", "make", "gap_by_default"),
    [
        ("yambda", yambda_file, True),
        ("lastfm", lastfm_file, True),
        ("spotify", spotify_file, True),
        ("inter", inter_file, False),
        ("table", inter_file, False),
    ],
)
def test_gaps_are_the_sources_own_unless_one_is_set(data, tmp_path, source, make, gap_by_default):
    """Twelve plays, with more than half an hour in the middle; each setting has its folder."""
    make(tmp_path / "log")
    data.source, data.path = source, str(tmp_path / "log")
    data.table.time_unit = "s"
    if source == "table":
        path = (tmp_path / "log").rename(tmp_path / "log.tsv")
        path.write_text(path.read_text().replace(":token", "").replace(":float", ""))
        data.path = str(path)
        data.table.update(
            session_column="user_id",
            track_column="item_id",
            time_column="timestamp",
            rating_column="rating",
        )
    found = {}
    for gap in (-1.0, 0, 30.0, 20, 1000):
        data.gap_minutes = gap
        found[gap] = np.diff(sources.load(data).offsets).tolist()
    assert found == {
        -1.0: [6, 6] if gap_by_default else [12],
        0: [12],
        30.0: [6, 6],
        20: [6, 6],
        1000: [12],
    }
    assert len(os.listdir(tmp_path / "cache")) == 4  # -1 is one of the others


def test_the_unit_of_times_is_part_of_what_is_kept(data, preparations, tmp_path):
    inter_file(tmp_path / "l.inter")
    data.source, data.path = "inter", str(tmp_path / "l.inter")
    assert sources.load(data).times() is None
    data.table.time_unit = "ms"
    assert sources.load(data).times()[1] == "ms"
    assert len(os.listdir(tmp_path / "cache")) == 2


@pytest.mark.parametrize("source", ["demo", "mssd", "prepared"])
def test_sessions_that_are_there_already_have_no_gap(data, tmp_path, source):
    data.source, data.path, data.gap_minutes = source, str(tmp_path), 30.0
    with pytest.raises(
        ConfigError, match=r"gap_minutes is 30, but config\.data\.source .* already"
    ):
        sources.load(data)
