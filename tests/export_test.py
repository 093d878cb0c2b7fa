"""An exported folder: the same recommendations as the run, from jax, NumPy and pyarrow alone."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax.export
import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
import runs

from skipjax import files, trained
from skipjax.cli.main import main
from skipjax.errors import CheckpointError, ConfigError, OutputError
from skipjax.recommend import Recommender
from skipjax.serving import exported
from skipjax.serving.export import default_ks, export
from skipjax.serving.index import Index
from skipjax.train import train_and_evaluate

ROOT = Path(__file__).parent.parent
NAMES = runs.names(60)
MODELS = {
    "causal": {"skip_embedding": True},
    "bidirectional": {"causal": False},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*the model:UserWarning")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """pairs("causal"): a folder with a run and what was exported of it."""
    return functools.cache(lambda name: make_pair(tmp_path_factory.mktemp(name), name))


def make_pair(folder, name):
    runs.make_run(folder / "run", runs.tiny(**MODELS[name]))
    best = trained.read(folder / "run")
    table = np.asarray(best.params["table"])
    index = Index.build(table)
    index.measure(table[:9], lambda states, k: np.argsort(-states @ table[2:].T)[:, :k] + 2, [10])
    export(best, folder / "model", ks=(20, 10), index=index)
    return folder


@pytest.fixture(params=MODELS)
def pair(request, pairs):
    return pairs(request.param)


@pytest.fixture
def sound(pairs):
    return pairs("causal")


def listening(rng):
    lengths = [1, 2, 7, 18, 19, 20, 21, 35, 0, 3]
    sessions = [[NAMES[t] for t in rng.integers(60, size=n)] for n in lengths]
    sessions[2][3] = sessions[9][0] = "never heard of"
    return sessions, [[bool(s) for s in rng.integers(2, size=n)] for n in lengths]


def same(found, expected):
    assert found.select(["session_id", "rank"]).equals(expected.select(["session_id", "rank"]))
    assert found["track_id"].equals(expected["track_id"])
    scores, wanted = (table["score"].to_numpy(zero_copy_only=False) for table in (found, expected))
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_it_recommends_what_the_run_does(pair, exclude_seen, rng):
    run, model = (Recommender.load(pair / name) for name in ("run", "model"))
    assert model.model.about == run.model.about
    assert model.model.reads_skips == run.model.reads_skips
    sessions, skipped = listening(rng)
    for k, given in ((3, None), (10, skipped), (20, None)):
        expected = run.recommend(sessions, k, exclude_seen, skipped=given)
        same(model.recommend(sessions, k, exclude_seen, skipped=given), expected)
    many = [sessions[i % len(sessions)] for i in range(90)]
    same(model.recommend(many, 5, exclude_seen), run.recommend(many, 5, exclude_seen))
    assert model.similar(NAMES[4], 7).equals(run.similar(NAMES[4], 7))


def test_the_loader_gives_what_the_functions_give(pair, rng):
    """Bit for bit, whatever is around them."""
    hidden, best = (
        jax.export.deserialize(bytearray((pair / "model" / name).read_bytes()))
        for name in ("hidden.jaxexport", "best_20.jaxexport")
    )
    assert hidden.platforms == best.platforms == ("cpu", "cuda", "tpu")
    model = Recommender.load(pair / "model")
    table = pq.read_table(pair / "model" / "tracks.parquet")
    embedding = np.array(table["embedding"].to_pylist(), np.float32)
    length = model.model.longest
    ids = rng.choice(60, 5, replace=False)
    tracks = np.zeros((1, length), np.int32)
    tracks[0, :5] = ids + 2
    valid = tracks > 0
    state = hidden.call(embedding, tracks, valid, np.zeros_like(tracks))
    exclude = np.zeros((1, length), np.int32)
    exclude[0, :5] = ids + 2
    scores, found = best.call(embedding, state, exclude)
    table_of = model.recommend([[NAMES[i] for i in ids]], 20)
    assert table_of["score"].to_numpy().tolist() == scores[0].tolist()
    assert table_of["track_id"].to_pylist() == [NAMES[i - 2] for i in found[0].tolist()]


def test_the_parquet_is_the_vocabulary_and_the_table(pair):
    table = pq.read_table(pair / "model" / "tracks.parquet", page_checksum_verification=True)
    assert table["track_id"].to_pylist() == [None, None, *NAMES]
    best = trained.read(pair / "run")
    assert table["plays"].to_pylist() == [None, None, *best.catalogue.plays.tolist()]
    np.testing.assert_array_equal(table["embedding"].to_pylist(), best.params["table"])


def test_the_card_says_what_it_is_and_how_to_use_it(pair, monkeypatch, capsys):
    card = (pair / "model" / "model_card.md").read_text(encoding="utf-8")
    assert "60 tracks" in card
    assert "Not tested: the run had not ended." in card
    assert ("takes no notice" in card) == (
        not trained.read(pair / "run").config.model.skip_embedding
    )
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert "skipjax" not in code
    monkeypatch.chdir(pair / "model")
    exec(code, {})
    printed = capsys.readouterr().out
    expected = Recommender.load(pair / "model").recommend([NAMES[:2]], 10)
    assert printed == f"{expected['track_id'].to_pylist()}\n"
    (config,) = re.findall(r"^```json\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert json.loads(config)["model"]["width"] == 16


def test_the_card_has_the_results_of_the_epoch_exported(sound, tmp_path):
    best = trained.read(sound / "run")
    names = ("test/hr@10", "test_full/hr@10")
    results = {"split": "leave-one-out", "seed": 0, "best_epoch": 1, "sessions": 7, "tracks": 60}
    results |= {"data": "d1ge57"} | dict.fromkeys(names, 0.125)
    results |= {f"baseline/popularity/{name}": 0.0625 for name in names}
    export(dataclasses.replace(best, results=results), tmp_path / "model", ks=[3])
    card = (tmp_path / "model" / "model_card.md").read_text(encoding="utf-8")
    assert "| HR@10 | 0.1250 (0.0625) | 0.1250 (0.0625) |" in card
    assert "7 sessions on 60 tracks" in card
    assert "d1ge57" in card
    assert "made up" in card


def test_it_does_not_say_where_the_data_lay(tmp_path):
    config = runs.tiny()
    config.data.update(source="mssd", path="/home/somebody/logs")
    config.data.cache_dir = "/home/somebody/cache"
    runs.make_run(tmp_path / "run", config)
    export(trained.read(tmp_path / "run"), tmp_path / "model", ks=[3])
    for name in ("manifest.json", "model_card.md"):
        assert "somebody" not in (tmp_path / "model" / name).read_text(encoding="utf-8")


def test_what_cannot_be_asked_for_is_refused(sound, tmp_path):
    best = trained.read(sound / "run")
    assert default_ks(best) == [20, 60]
    for k in (0, 61):
        with pytest.raises(ConfigError, match=f"--k {k}: it must be from 1 to 60"):
            export(best, tmp_path / "model", ks=[20, k])
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="model exists already"):
        export(best, sound / "model", ks=[3])
    with pytest.raises(ConfigError, match="from 1 to 20, the largest that was exported: export"):
        Recommender.load(sound / "model").recommend([NAMES[:3]], 21)


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "tracks.parquet", "hidden.jaxexport", "best_20.jaxexport", "index.faiss"],
)
@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_damage_is_noticed(sound, tmp_path, name, fault):
    for path in (sound / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 4
    if fault == "flip":
        (tmp_path / name).write_bytes(content)
    elif fault == "cut":
        (tmp_path / name).write_bytes(content[:-9])
    else:
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError) as raised:
        exported.load(tmp_path)
    assert "\n" not in str(raised.value)


def rewrite(folder, place, **changes):
    """A folder with other facts, its manifest being sound."""
    facts = files.read_manifest(folder)
    del facts["files"]
    with files.new_folder(place, **(facts | changes)) as new:
        for path in folder.iterdir():
            if path.name != "manifest.json":
                (new / path.name).write_bytes(path.read_bytes())


def test_another_format_or_an_unreadable_function_is_one_line(sound, tmp_path, monkeypatch):
    rewrite(sound / "model", tmp_path / "later", format="skipjax exported model 2")
    with pytest.raises(CheckpointError, match=r"holds 'skipjax exported model 2', not 'skipjax"):
        exported.load(tmp_path / "later")
    with files.new_folder(tmp_path / "other", facts="none"):
        pass
    with pytest.raises(CheckpointError, match=r"holds None, not 'skipjax exported model 1'; give"):
        Recommender.load(tmp_path / "other")
    rewrite(sound / "model", tmp_path / "old", versions={"jax": "0.1", "skipjax": "0"})

    def refuse(blob):
        raise ValueError("version 3 is\nno longer supported")

    monkeypatch.setattr(jax.export, "deserialize", refuse)
    with pytest.raises(CheckpointError, match=r"written by jax 0\.1 and cannot be read by .*again"):
        exported.load(tmp_path / "old")


def test_an_index_finds_nearly_all_and_leaves_out_what_was_heard(rng):
    table = rng.standard_normal((3002, 16), dtype=np.float32)
    hidden = rng.standard_normal((50, 16), dtype=np.float32)
    scores = hidden @ table.T

    def best(states, k):
        return np.array([[i for _, i in reference.top_k(row, k, ())] for row in states @ table.T])

    index = Index.build(table)
    index.measure(hidden, best, [10, 30])
    assert index.facts["recall"]["10"] >= 0.95
    assert index.facts["tried"][-1]["ef_search"] == index.facts["ef_search"]
    exclude = np.zeros((50, 4), np.int32)
    exclude[:, :3] = best(hidden, 3)
    found, ids = index.best(hidden, exclude, 10)
    assert not (ids[:, :, None] == exclude[:, None, :3]).any()
    wanted = best(hidden, 13)[:, 3:]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, wanted, strict=True)]) >= 9.5
    np.testing.assert_allclose(found, np.take_along_axis(scores, ids, axis=1), rtol=1e-3)
    assert (np.diff(found, axis=1) <= 0).all()


def test_all_that_an_index_finds_may_be_left_out(rng):
    """Fewer than k tracks are left: the rest is padding, as of an exact search."""
    index = Index.build(rng.standard_normal((12, 8), dtype=np.float32))
    index.facts["ef_search"] = 16
    found, ids = index.best(np.ones((1, 8), np.float32), np.arange(2, 9, dtype=np.int32)[None], 6)
    assert set(ids[0].tolist()) == {0, 9, 10, 11}
    assert np.isfinite(found[0]).sum() == 3


def test_recommending_by_the_index(sound, rng):
    near = Recommender.load(sound / "model", approximate=True)
    sessions, _ = listening(rng)
    same(near.recommend(sessions, 5), Recommender.load(sound / "model").recommend(sessions, 5))
    with pytest.raises(CheckpointError, match=r"has no index; make one with .*--index faiss"):
        Recommender.load(sound / "run", approximate=True)


def test_an_export_without_an_index_says_so(sound, tmp_path, monkeypatch):
    export(trained.read(sound / "run"), tmp_path / "model", ks=[3])
    with pytest.raises(CheckpointError, match=r"has no index; export it again with --index faiss"):
        exported.load(tmp_path / "model", approximate=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss, which is not installed: pip install 'skipjax\["):
        exported.load(sound / "model", approximate=True)


def test_the_command(sound, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["export", "--workdir", str(sound / "run"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("tiny-track, epoch 1 (validation HR@10 ")
    assert printed[1] == f"{out}: up to 60 tracks for a session; model_card.md says more"
    assert files.read_manifest(out)["ks"] == [20, 60]
    assert main(["export", "--workdir", str(tmp_path), "--out", str(out)]) == 76
    capsys.readouterr()
    for command in (["export", "--out", str(tmp_path / "other")], ["evaluate"]):
        assert main([*command, "--workdir", str(out)]) == 76
        message = f"skipjax: {out} is an exported model, and the workdir of a run of main.py is "
        assert capsys.readouterr().err.startswith(message)


@pytest.mark.slow
def test_the_command_after_training(tmp_path, capsys, monkeypatch):
    """After a run that really trained, with its data; what it finds is said."""
    monkeypatch.chdir(tmp_path)
    config = runs.tiny()
    config.train.num_epochs = 1
    config.data.cache_dir = str(tmp_path / "cache")
    train_and_evaluate(config, tmp_path / "run")
    capsys.readouterr()
    command = ["export", "--workdir", "run", "--out", "model", "--index", "faiss", "--k", "5"]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("tiny-track, epoch 1 (validation HR@10 ")
    assert printed[1] == "model: up to 5 tracks for a session; model_card.md says more"
    assert re.fullmatch(r"model/index\.faiss finds [\d.]+% of the best 5", printed[2])
    facts = files.read_manifest("model")
    assert facts["index"]["queries"] == 150
    assert facts["results"]["best_epoch"] == 1
    assert main(command) == 73
    assert capsys.readouterr().err.startswith("skipjax: model exists already")
    (tmp_path / "heard.csv").write_text(f"session_id,track_id\n1,{exported_tracks('model')[2]}\n")
    for more in ([], ["--approximate"]):
        arguments = ["--workdir", "model", "--input", "heard.csv", "--output", "next.csv"]
        assert main(["recommend", *arguments, "--k", "5", *more]) == 0
        assert len((tmp_path / "next.csv").read_text().splitlines()) == 6


def exported_tracks(folder):
    return pq.read_table(Path(folder) / "tracks.parquet")["track_id"].to_pylist()


LOAD = """
import sys
if {block}:
    others = ("flax", "optax", "orbax", "absl", "ml_collections", "rich", "tensorboardX", "faiss")
    sys.modules.update(dict.fromkeys(others))
import json
from skipjax.recommend import Recommender
model = Recommender.load(sys.argv[1])
found = model.recommend([["t003", "t007"], ["t001"]], 7)
print(json.dumps([found["track_id"].to_pylist(), found["score"].to_pylist()]))
"""


def recommended(folder):
    found = Recommender.load(folder).recommend([["t003", "t007"], ["t001"]], 7)
    return [found["track_id"].to_pylist(), found["score"].to_pylist()]


def test_no_training_code_is_needed(sound):
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(block=True), str(sound / "model")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert not done.stderr
    tracks, scores = json.loads(done.stdout)
    assert tracks == recommended(sound / "model")[0]
    np.testing.assert_allclose(scores, recommended(sound / "model")[1], rtol=1e-5)


@pytest.mark.slow
def test_it_works_in_an_environment_with_nothing_else(tmp_path):
    """jax, flatbuffers, NumPy and pyarrow, of the versions here, and this library's own code."""
    runs.make_run(tmp_path / "run")
    export(trained.read(tmp_path / "run"), tmp_path / "model", ks=[10])
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    names = ("jax", "jaxlib", "flatbuffers", "numpy", "pyarrow")
    subprocess.run([*pip, *(f"{name}=={version(name)}" for name in names)], check=True)
    source = tmp_path / "source"  # pip leaves what it builds beside what it builds from
    shutil.copytree(ROOT / "skipjax", source / "skipjax")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "--no-deps", source], check=True)
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path)
    listed = run([python, "-m", "pip", "list", "--format=freeze"]).stdout.lower()
    assert "flax" not in listed
    # Under the same compiler flags the same functions give the same bits.
    here = run([sys.executable, "-c", LOAD.format(block=False), "model"], env=clean(ROOT))
    bare = run([python, "-c", LOAD.format(block=False), "model"], env=clean())
    assert bare.returncode == 0, bare.stderr
    assert json.loads(bare.stdout) == json.loads(here.stdout)
    assert json.loads(bare.stdout)[0] == recommended(tmp_path / "run")[0]
    card = (tmp_path / "model" / "model_card.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    done = run([python, "-c", code], cwd=tmp_path / "model", env=clean())
    expected = Recommender.load(tmp_path / "model").recommend([NAMES[:2]], 10)
    assert done.stdout == f"{expected['track_id'].to_pylist()}\n", done.stderr


def clean(*path):
    """The environment without what would show other packages to Python."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, path))}
