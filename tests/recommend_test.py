"""From a run to recommendations: against loops, whatever the batch; what is refused, and how."""

import dataclasses
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference
import runs
from conftest import make_sessions, random_listening

from skipjax import ranking, targets, trained
from skipjax.checkpoints import Checkpoints
from skipjax.data.batches import held_out_batches
from skipjax.data.catalogue import Catalogue
from skipjax.data.histories import Columns
from skipjax.data.split import leave_one_out
from skipjax.errors import CheckpointError, ConfigError, DataError
from skipjax.evaluate import Evaluator
from skipjax.ids import PLAYED, SKIPPED, UNKNOWN
from skipjax.recommend import Recommender

ROOT = Path(__file__).parent.parent
NUM_TRACKS = 60
NAMES = runs.names(NUM_TRACKS)


def make(num_tracks=NUM_TRACKS, **model):
    config = runs.tiny(**model)
    encoder, params = runs.make_model(config, num_tracks)
    ids = pa.array(runs.names(num_tracks), pa.large_string())
    catalogue = Catalogue(ids, np.arange(num_tracks, dtype=np.int64)[::-1])
    model = trained.model_of(config, encoder, params, catalogue)
    return Recommender(model), (config, encoder, params)


def slow(model, apply, session, skipped, k, exclude_seen):
    """[(track, score), ...] of one session."""
    config, _, params = model
    known = [i for i, track in enumerate(session) if track in NAMES]
    seen = {NAMES.index(session[i]) + 2 for i in known}
    if not known:
        return [(track, None) for track in NAMES[:k]]
    known = known[-(20 if config.model.causal else 19) :]
    tracks = [NAMES.index(session[i]) + 2 for i in known]
    codes = {None: UNKNOWN, False: PLAYED, True: SKIPPED}
    feedback = [codes[skipped and skipped[i]] for i in known]
    if not config.model.causal:
        tracks, feedback = [*tracks, 1], [*feedback, UNKNOWN]
    table, padding = np.asarray(params["table"]), [0] * (20 - len(tracks))
    hidden = apply(
        {"params": params["encoder"]},
        table[np.array([tracks + padding])],
        np.arange(20)[None] < len(tracks),
        feedback=np.array([feedback + padding]),
    )
    scores = table @ np.asarray(hidden[0, len(tracks) - 1])
    found = reference.top_k(scores, k, seen if exclude_seen else ())
    return [(NAMES[track - 2], score) for score, track in found if track]


def listening(rng):
    """Of all kinds: long, short, exactly as long as what is read, with unknown tracks, empty."""
    lengths = [1, 2, 7, 18, 19, 20, 21, 35, 55, 0, 3]
    sessions = [[NAMES[t] for t in rng.choice(NUM_TRACKS, n, replace=n > 30)] for n in lengths]
    sessions[2][3] = sessions[2][6] = "never heard of"
    sessions[10] = ["who", "knows", "these"]
    return sessions, [[bool(s) for s in rng.integers(2, size=n)] for n in lengths]


def by_session(table):
    rows: dict = {}
    for row in table.to_pylist():
        rows.setdefault(row["session_id"], []).append(row)
    return rows


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(
    "model", [{}, {"causal": False}, {"skip_embedding": True, "positions": "absolute"}]
)
@pytest.mark.filterwarnings("ignore:.*the model:UserWarning")
def test_recommendations_are_the_loop(model, exclude_seen, rng):
    recommender, parts = make(**model)
    apply = jax.jit(parts[1].apply)
    sessions, skipped = listening(rng)
    for given in (None, skipped):
        found = by_session(recommender.recommend(sessions, 12, exclude_seen, skipped=given))
        assert list(found) == list(range(len(sessions)))
        for number, session in enumerate(sessions):
            wanted = slow(parts, apply, session, given and given[number], 12, exclude_seen)
            rows = found[number]
            assert [row["track_id"] for row in rows] == [track for track, _ in wanted]
            assert [row["rank"] for row in rows] == list(range(1, len(wanted) + 1))
            if wanted[0][1] is None:
                assert all(row["score"] is None for row in rows)
            else:
                scores = [row["score"] for row in rows]
                np.testing.assert_allclose(scores, [s for _, s in wanted], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [True, False])
def test_it_recommends_what_evaluation_keeps(causal, precision):
    """The same tracks with the same scores, bit for bit, as for the test of each session."""
    config = runs.tiny(causal=causal, skip_embedding=True)
    config.eval.update({"keep_top": 15, "num_candidates": 20, "precision": precision})
    split = leave_one_out(
        make_sessions(random_listening(np.random.default_rng(1), 90)),
        min_length=4,
        max_length=20,
        skip_levels=config.data.skip_levels,
    )
    num_tracks = len(split.track_ids)
    encoder, params = runs.make_model(config, num_tracks)
    top = np.zeros((90, 15), np.int32)
    Evaluator(config, encoder, split).ranks(params, "test", full=False, top=top)
    catalogue = Catalogue(split.track_ids, split.train_counts[2:])
    recommender = Recommender(trained.model_of(config, encoder, params, catalogue))
    lengths, _ = split.held_out("test")
    spans = [slice(a, a + n) for a, n in zip(split.starts, lengths, strict=True)]
    found = recommender.recommend(
        [catalogue.names_of(split.tracks[span]).to_pylist() for span in spans],
        15,
        exclude_seen=False,
        skipped=[split.skipped[span].tolist() for span in spans],
    )
    tracks = found["track_id"].to_numpy().reshape(90, 15)
    assert tracks.tolist() == [catalogue.names_of(row).to_pylist() for row in top]
    ((_, _, batch),) = held_out_batches(split, "test", batch_size=90, max_length=20)

    @jax.jit
    def scored(params, tracks, valid, skipped):
        feedback = targets.feedback(skipped, valid)
        hidden = ranking.next_hidden(encoder, params, tracks, valid, feedback)
        return ranking.top_k(hidden, params["table"], 15, chunk_size=512, precision=precision)[0]

    expected = scored(params, batch["tracks"], batch["valid"], batch["skipped"])
    np.testing.assert_array_equal(found["score"].to_numpy().reshape(90, 15), expected)


def test_what_the_model_reads(rng):
    """Skips change the scores of a model with an embedding of them alone; unknown is neither."""
    sessions, skipped = listening(rng)
    sessions, skipped = sessions[:2], skipped[:2]
    for reads in (True, False):
        recommender, _ = make(skip_embedding=reads)
        found = {
            json.dumps(recommender.recommend(sessions, 5, skipped=given)["score"].to_pylist())
            for given in (None, skipped, [[not s for s in some] for some in skipped])
        }
        assert len(found) == (3 if reads else 1)


@pytest.mark.filterwarnings("ignore:.*the model:UserWarning")
@pytest.mark.parametrize("causal", [True, False])
def test_neither_company_nor_order_changes_a_bit(causal, rng):
    recommender, _ = make(causal=causal)
    lengths = [*range(1, 24), 40]
    sessions = [[NAMES[t] for t in rng.integers(NUM_TRACKS, size=n)] for n in lengths]
    alone = [recommender.recommend([session], 10) for session in sessions]
    many = [sessions[i % len(sessions)] for i in range(330)]
    for number, rows in by_session(recommender.recommend(many, 10)).items():
        single = alone[number % len(sessions)]
        assert [row["track_id"] for row in rows] == single["track_id"].to_pylist()
        assert [row["score"] for row in rows] == single["score"].to_pylist()


def test_little_is_compiled(monkeypatch, rng):
    traced = []
    for name in ("next_hidden", "top_k"):
        called = getattr(ranking, name)

        def counted(*args, name=name, called=called, **more):
            traced.append(name)
            return called(*args, **more)

        monkeypatch.setattr(ranking, name, counted)
    recommender, _ = make(num_tracks=400)
    names = runs.names(400)
    for size in (1, 2, 15, 40, 64, 65, 100, 129, 300, 600):
        lengths = rng.integers(1, 30, size=size)
        sessions = [[names[t] for t in rng.integers(400, size=n)] for n in lengths]
        recommender.recommend(sessions, 5)
    assert traced.count("next_hidden") == 4  # two sizes of batch, and two lengths
    assert traced.count("top_k") == 4  # two sizes of batch, and two numbers of tracks left out


def test_all_that_was_heard_is_left_out_however_much_that_is():
    recommender, _ = make(num_tracks=400)
    names = runs.names(400)
    session = names[:390] + names[:25]
    with pytest.warns(UserWarning, match="2 of 3 sessions with fewer recommendations than asked"):
        found = recommender.recommend([session, session[:7], names], 20)
    rows = by_session(found)
    assert sorted(row["track_id"] for row in rows[0]) == names[390:]  # all that is left
    assert len(rows[1]) == 20
    assert not {row["track_id"] for row in rows[1]} & set(names[:7])
    assert 2 not in rows


def test_tables(rng):
    """Columns by name, rows in any order, ids as they were given."""
    recommender, _ = make(skip_embedding=True)
    sessions, skipped = listening(rng)
    sessions, skipped = sessions[3:8], skipped[3:8]
    expected = recommender.recommend(sessions, 6, skipped=skipped)
    rows = [
        {"who": 70 - s, "what": track, "when": f"2024-01-01 00:{i:02d}", "no": skipped[s][i]}
        for s, session in enumerate(sessions)
        for i, track in enumerate(session)
    ]
    order = rng.permutation(len(rows))
    table = pa.Table.from_pylist([rows[i] for i in order])
    columns = Columns("who", "what", time_column="when", skip_column="no")
    found = recommender.recommend(table, 6, columns=columns)
    by_id, wanted = by_session(found), by_session(expected)
    assert found.schema.field("session_id").type == pa.int64()
    first = dict.fromkeys(rows[i]["who"] for i in order)
    assert list(by_id) == list(first)
    for number in range(len(sessions)):
        for one, other in zip(by_id[70 - number], wanted[number], strict=True):
            assert one == other | {"session_id": 70 - number}


def test_levels_are_the_runs():
    config = runs.tiny(skip_embedding=True)
    config.data.skip_levels = (3,)
    encoder, params = runs.make_model(config)
    ids = pa.array(NAMES, pa.large_string())
    catalogue = Catalogue(ids, np.zeros(60, np.int64))
    recommender = Recommender(trained.model_of(config, encoder, params, catalogue))
    table = pa.table({"session_id": ["a"] * 4, "track_id": NAMES[:4], "level": [0, 1, 2, 3]})
    found = recommender.recommend(table, 5, columns=Columns(level_column="level"))
    expected = recommender.recommend([NAMES[:4]], 5, skipped=[[False, False, False, True]])
    assert found["score"].to_pylist() == expected["score"].to_pylist()


def test_what_is_strange_is_warned_of():
    recommender, _ = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender.recommend([NAMES[:3], NAMES[4:6]], 3)
        assert recommender.recommend([], 3).num_rows == 0
    with pytest.warns(UserWarning, match="the model") as caught:
        found = recommender.recommend([[NAMES[0], "x", "y", "x"], ["z"], [7], []], 3)
    first, second = (str(warning.message) for warning in caught)
    assert first == (
        "5 of 6 events on tracks that the model does not know, such as 'x', 'y', 'z': passed over."
    )
    assert second.startswith("3 of 4 sessions without a track that the model knows")
    assert caught[0].filename == __file__
    for number in (1, 2, 3):  # the most played, in order
        rows = by_session(found)[number]
        assert [(r["track_id"], r["score"], r["rank"]) for r in rows] == [
            (NAMES[i], None, i + 1) for i in range(3)
        ]


@pytest.mark.parametrize(
    ("sessions", "options", "kind", "message"),
    [
        ([["t001"]], {"k": 61}, ConfigError, "k is 61; it must be from 1 to 60"),
        ([["t001"]], {"k": 0}, ConfigError, "k is 0; it must be from 1 to 60"),
        ("t001", {}, DataError, "sessions is str; give a table or a list of lists"),
        (7, {}, DataError, "sessions is int; give a table or a list of lists"),
        (["t001"], {}, DataError, r"sessions\[0\] is 't001'; give a list of its tracks"),
        ([["t001"], [None]], {}, DataError, r"sessions\[1\]\[0\] is None; give track ids"),
        ([["t001", 1.0]], {}, DataError, r"sessions\[0\]\[1\] is 1.0; give track ids"),
        ([["t001"]], {"skipped": [[]]}, DataError, "skipped does not have the shape of sessions"),
        ([["t001"]], {"skipped": [[1]]}, DataError, r"skipped\[0\]\[0\] is 1; give True or False"),
        ([["t001"]], {"columns": Columns()}, ConfigError, "columns goes with a table"),
        (pa.table({"a": [1]}), {"skipped": [[]]}, ConfigError, "skipped goes with lists"),
        (pa.table({"a": [1]}), {}, DataError, "sessions has no column 'session_id'"),
        (
            pa.table({"session_id": ["s"], "track_id": pa.nulls(1, pa.string())}),
            {},
            DataError,
            "sessions row 0, column track_id: None is not a value",
        ),
        (
            pa.table({"session_id": ["s"], "track_id": pa.nulls(1, pa.string())}),
            {"on_bad_session": "drop"},
            DataError,
            "no session is left: sessions row 0, column track_id: None",
        ),
        ([["t001"]], {"on_bad_session": "skip"}, ConfigError, "on_bad_session is 'skip'; choose"),
    ],
)
def test_what_cannot_be_recommended_for_is_one_line(sessions, options, kind, message):
    recommender, _ = make()
    with pytest.raises(kind, match=message) as caught:
        recommender.recommend(sessions, **options)
    assert "\n" not in str(caught.value)


def test_similar_tracks_are_the_loop():
    recommender, (_, _, params) = make()
    zeroed = params["table"].at[9].set(0)
    recommender = Recommender(dataclasses.replace(recommender.model, table=zeroed))
    table = np.asarray(zeroed)
    for number in (0, 7, 33):
        cosines = [reference.cosine(table[number + 2], row) for row in table]
        wanted = reference.top_k(cosines, 59, (number + 2,))
        found = recommender.similar(NAMES[number], 59)
        assert found["track_id"].to_pylist() == [NAMES[track - 2] for _, track in wanted]
        np.testing.assert_allclose(found["cosine"].to_pylist(), [s for s, _ in wanted], atol=1e-6)
        assert found["rank"].to_pylist() == list(range(1, 60))
    with pytest.raises(DataError, match=r"the model knows no track 'T007'\. Do you mean 't007'\?"):
        recommender.similar("T007")
    with pytest.raises(ConfigError, match="k is 60; it must be from 1 to 59"):
        recommender.similar("t007", 60)


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    runs.make_run(workdir, steps=(5, 7, 9), best=7, history=(0.125, 0.25))
    return workdir


def test_a_run_is_loaded_at_its_best(sound_run):
    """The best step's parameters, though it is not the newest; and nothing is written."""
    _, params = runs.make_model(runs.tiny())
    before = sorted(sound_run.rglob("*"))
    recommender = Recommender.load(sound_run)
    assert recommender.model.about == "tiny-track, epoch 2 (validation HR@10 0.2500)"
    np.testing.assert_array_equal(recommender.model.table, params["table"])
    expected = make()[0].recommend([NAMES[:5]], 9)
    assert recommender.recommend([NAMES[:5]], 9).equals(expected)
    assert sorted(sound_run.rglob("*")) == before


def flip(path, place=-200):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def edit(path, **changes):
    config = json.loads(path.read_text())
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (config[section] if section else config)[field] = value
    path.write_text(json.dumps(config))


def largest(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return max(paths, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", [None, "mesh"])
def test_a_run_from_before_a_field_was_there_is_read(sound_run, tmp_path, damage):
    shutil.copytree(sound_run, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["mesh"], config["train"]["watchdog_seconds"]
    path.write_text(json.dumps(config | ({damage: 3} if damage else {})))
    if damage:
        with pytest.raises(CheckpointError, match=r"config\.json cannot be used .config\.mesh"):
            Recommender.load(tmp_path)
        return
    found = Recommender.load(tmp_path).recommend([NAMES[:5]], 9)
    assert found.equals(Recommender.load(sound_run).recommend([NAMES[:5]], 9))


def other_tracks(run):
    table = pq.read_table(run / "tracks.parquet")
    pq.write_table(table.slice(1), run / "tracks.parquet")


def without_config_and_checkpoints(run):
    (run / "config.json").unlink()
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_lost_config_is_that_of_the_newest_checkpoint(sound_run, tmp_path, content, capsys):
    shutil.copytree(sound_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").unlink()
    if content:
        (tmp_path / "config.json").write_text(content)
    found = Recommender.load(tmp_path).recommend([NAMES[:5]], 9)
    assert capsys.readouterr().out == (
        f"{tmp_path}/config.json is lost or damaged; the newest checkpoint's is used.\n"
    )
    assert found.equals(Recommender.load(sound_run).recommend([NAMES[:5]], 9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_config_and_checkpoints, r"holds neither a run of main\.py nor an exported"),
        (lambda run: edit(run / "config.json", model__width=7), "width .7. must be divisible"),
        (lambda run: edit(run / "config.json", seed=1), "holds a run with config.seed = 0, not 1"),
        (lambda run: edit(run / "config.json", model__causal=False), "causal = True, not False"),
        (lambda run: (run / "tracks.parquet").unlink(), r"tracks\.parquet: no such file"),
        (lambda run: flip(run / "tracks.parquet", 60), r"tracks\.parquet is damaged"),
        (lambda run: other_tracks(run), r"as \.params\['table'\], but this run has float32\[61"),
        (
            lambda run: flip(run / "checkpoints" / "9" / "manifest.json"),
            "9/manifest.json.*once more",
        ),
        (lambda run: flip(largest(run / "checkpoints" / "7"), 50), "7/.* differs from its manif"),
        (lambda run: flip(run / "checkpoints" / "7" / "manifest.json"), "cannot be read|differs"),
        (lambda run: (run / "checkpoints").rename(run / "gone"), "has no finished epoch yet"),
    ],
)
def test_a_run_that_cannot_be_used_is_one_line(sound_run, tmp_path, damage, message):
    shutil.copytree(sound_run, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        Recommender.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "checkpoints").glob("damaged-*"))


def test_a_run_before_its_first_epoch_is_refused(tmp_path):
    runs.make_run(tmp_path, steps=(3,), best=-1)
    with pytest.raises(CheckpointError, match=r"has no finished epoch yet; train it with main\.py"):
        Recommender.load(tmp_path)


@pytest.mark.parametrize("name", ["", "a_file"])
def test_what_holds_no_model_is_said_to(tmp_path, name):
    (tmp_path / "a_file").touch()
    message = f"^{tmp_path / name} holds neither a run of main.py nor an exported model "
    with pytest.raises(CheckpointError, match=message):
        Recommender.load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"/none: there is no such folder\.$"):
        Recommender.load(tmp_path / "none")


def test_parameters_are_restored_as_they_were(sound_run):
    _, params = runs.make_model(runs.tiny())
    checkpoints = Checkpoints(sound_run / "checkpoints")
    like = {"table": params["table"]}
    with pytest.raises(CheckpointError, match=r"\.params\['encoder'\].*but this run has nothing"):
        checkpoints.restore_params(7, like)
    half = params | {"table": params["table"].astype("bfloat16")}
    with pytest.raises(CheckpointError, match=r"holds float32\[62, 16\] as \.params\['table'\]"):
        checkpoints.restore_params(7, half)
    with pytest.raises(CheckpointError, match="8 is missing"):
        checkpoints.restore_params(8, params)
    restored = checkpoints.restore_params(7, params)
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    assert {x.sharding for x in jax.tree.leaves(restored)} == {
        jax.sharding.SingleDeviceSharding(jax.devices()[0])
    }


def test_no_training_code_is_imported():
    program = """
import sys
import skipjax.recommend
training = {"optax", "skipjax.train", "skipjax.step", "skipjax.objective", "skipjax.optimizers"}
training |= {"skipjax.row_adam", "skipjax.losses", "tensorboardX", "pandas"}
print(sorted(training & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
