"""The study as a whole: what it chooses, what it knows of sessions, what it leaves on disk."""

import collections
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_sessions, random_listening
from pyarrow import parquet

from skipjax.cli import main as cli
from skipjax.cli.study import _overrides
from skipjax.data.split import leave_one_out, split_as
from skipjax.errors import ConfigError, DataError
from skipjax.study.arms import arms_of, chosen, configured
from skipjax.study.outcomes import curve_of_run, facts_of
from skipjax.study.tuning import SELECTION, tune

ROOT = Path(__file__).parent.parent
FILES = ("study.json", "study.md", "report.html", "sessions.parquet")


def table1(**changes):
    config = importlib.import_module("configs.table1").get_config()
    config.study.update(changes)
    return config


def runner(score):
    """Stands for training: `score(config)` is a run's validation, None if it diverges."""
    made = []

    def run(wanted):
        configs = [configured(table1(), arm.key, settings) for arm, settings in wanted]
        made.extend(configs)
        scores = [score(config) for config in configs]
        return [None if s is None else {SELECTION: s} for s in scores]

    return run, made


def test_tuning_takes_the_best_rate_and_then_the_best_weights():
    config = table1()
    arms = arms_of(config)

    def score(run):
        if run.optimizer.learning_rate == 5e-3:
            return None
        best = 1e-3 if run.model.causal else 5e-4
        return 1 - abs(run.optimizer.learning_rate - best) - abs(run.loss.alpha - 0.3) / 1e3

    run, made = runner(score)
    tried, tuned = tune(config, arms, run)
    assert len(made) == len(tried) == 6 * 4 + 4 * 4 <= config.study.most_tuning_runs
    assert len({str(config) for config in made}) == len(made)
    assert tuned["causal"] == {"optimizer.learning_rate": 1e-3}
    expected = {"optimizer.learning_rate": 5e-4, "loss.alpha": 0.3, "loss.beta": 0.7}
    assert tuned["bi_track"] == expected
    assert (
        tuned["shifted"] == tuned["embedding_own"] == {**expected, "optimizer.learning_rate": 1e-3}
    )
    assert tuned["embedding"] == {"optimizer.learning_rate": 1e-3}
    for arm in ("causal", "causal_track", "bi"):
        winners = [one for one in tried if one["arm"] == arm and one["chosen"]]
        assert len(winners) == 1
        own = [one[SELECTION] for one in tried if one["arm"] == arm]
        assert winners[0][SELECTION] == max(s for s in own if s is not None)
        assert None in own


def test_tuning_that_cannot_succeed_is_named():
    run, made = runner(lambda config: None)
    with pytest.raises(DataError, match=r"no learning rate of .* trains the arm 'causal'"):
        tune(table1(), arms_of(table1()), run)
    made.clear()
    with pytest.raises(ConfigError, match=r"come to 40 runs, more than .*most_tuning_runs"):
        tune(table1(most_tuning_runs=39), arms_of(table1()), run)
    assert not made


def test_without_grids_nothing_is_tuned():
    config = table1(learning_rates=(), ratios=())
    run, made = runner(lambda config: 0.0)
    arms = chosen(arms_of(config), ["embedding"])
    assert tune(config, arms, run) == ([], {"causal": {}, "embedding": {}})
    assert not made


def test_what_an_arm_sets_itself_is_not_taken_over():
    config = table1()
    entry = {"group": "other", "against": None, "label": "", "tuned_as": "causal_track"}
    loss = {"alpha": 0.9, "beta": 0.1}
    config.study.arms = (
        *config.study.arms,
        {**entry, "key": "heavy", "set": {"loss": loss}},
        {**entry, "key": "slow", "set": {"optimizer": {"learning_rate": 1e-5}}},
    )
    run, _ = runner(lambda run: float(run.optimizer.learning_rate == 5e-4))
    _, tuned = tune(config, arms_of(config), run)
    assert tuned["heavy"] == {"optimizer.learning_rate": 5e-4}
    assert "optimizer.learning_rate" not in tuned["slow"]


def test_a_curve_is_the_mean_over_an_epochs_steps(tmp_path):
    lines = [
        {"step": 20, "epoch": 1, "train/loss": 4.0},
        {"step": 23, "epoch": 1, "train/loss": 3.0},
        {"step": 23, "epoch": 1, SELECTION: 0.1},
        {"step": 43, "epoch": 2, "train/loss": 2.0},
        {"step": 46, "epoch": 2, SELECTION: 0.2},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 46, "ep')  # a disk was full
    curve = curve_of_run(7, tmp_path)
    assert curve == {
        "seed": 7,
        "epoch": [1, 2],
        SELECTION: [0.1, 0.2],
        "train/loss": [pytest.approx((20 * 4 + 3 * 3) / 23), 2.0],
    }


def test_facts_are_the_loop(rng):
    listening = random_listening(rng, num_sessions=25, low=2, high=8)
    sessions = make_sessions(listening)
    kept = [s for s in listening if len(s) >= 4]
    ends = np.cumsum([len(s) for s in listening]) - 1
    hours = pa.array(np.arange(sessions.num_events) % 24, pa.int8())
    object.__setattr__(sessions, "context", pa.table({"hour": hours}))
    split = leave_one_out(sessions, min_length=4, max_length=20, skip_levels=(1, 2))
    facts = facts_of(sessions, split)
    assert facts.target_skipped.tolist() == [s[-1][1] in (1, 2) for s in kept]
    assert facts.position.tolist() == [len(s) - 1 for s in kept]
    skips = [sum(level in (1, 2) for _, level in s[:-1]) for s in kept]
    assert facts.skips_before.tolist() == skips
    counts = [sum(t == s[-1][0] for other in kept for t, _ in other[:-2]) for s in kept]
    assert facts.popularity.tolist() == counts
    expected = [int(e) % 24 for e, s in zip(ends, listening, strict=True) if len(s) >= 4]
    assert facts.context["hour"].tolist() == expected


def test_facts_of_a_split_in_time_are_of_its_test(rng):
    """Also where rare tracks are taken out, so that events are not where the source has them."""
    listening = random_listening(rng, num_sessions=30, num_tracks=20, low=2, high=8)
    times = np.concatenate([s * 3600 + np.arange(len(some)) for s, some in enumerate(listening)])
    names = np.arange(len(times))
    context = {
        "time": pa.array(times),
        "reaction": pa.array(names % 3 - 1, pa.int8()),
        "event": pa.array(names),
    }
    feedback = ["level", "reaction"]
    sessions = make_sessions(listening, context=context, feedback=feedback, time_unit="s")
    config = importlib.import_module("configs.common").get_config()
    config.data.split, config.data.min_length, config.data.min_plays = "temporal", 2, 6
    config.data.temporal.update({"test_hours": 8.5, "valid_hours": 8.0, "gap_minutes": 1.0})
    split = split_as(config.data, sessions)
    facts = facts_of(sessions, split)
    plays = collections.Counter(track for some in listening for track, _ in some)
    event, expected = 0, []
    for s, some in enumerate(listening):
        often = [(e, t) for e, (t, _) in enumerate(some, start=event) if plays[t] >= 6]
        event += len(some)
        if (
            len(often) >= 2
            and 3600 * s + often[0][0] - (event - len(some)) >= times[-1] - 8.5 * 3600
        ):
            expected.append((len(often) - 1, often[-1][0]))
    assert split.left_out_events
    assert 2 <= len(expected) == facts.num_sessions
    assert facts.position.tolist() == [position for position, _ in expected]
    assert facts.context["event"].tolist() == [event for _, event in expected]
    assert facts.context["time"].tolist() == [int(times[event]) for _, event in expected]
    # What came of the target is no context of it.
    assert set(facts.context) == {"hour_of_day", "time", "event"}


def command(workdir, *more):
    return [
        *(sys.executable, "-m", "skipjax", "study", "--config=configs/table1.py", "--quick"),
        *(f"--workdir={workdir}", f"--config.data.cache_dir={workdir.parent / 'cache'}", *more),
    ]


def run(workdir, *more):
    done = subprocess.run(
        command(workdir, *more), cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


SMALL = ("--arms=causal_track", "--config.study.learning_rates=(0.001,0.003)")


@pytest.fixture
def in_process(capsys, monkeypatch, trains_here):
    """Calls a study's command here."""
    monkeypatch.chdir(ROOT)

    def call(workdir, *more):
        capsys.readouterr()
        code = cli.main(command(workdir, *more)[3:])
        return code, *capsys.readouterr()

    return call


@pytest.mark.usefixtures("traced_once")
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_a_study_leaves_its_files_and_is_not_repeated(tmp_path, in_process):
    workdir = tmp_path / "study"
    code, said, complaints = in_process(workdir, *SMALL, "--seeds=2")
    assert (code, complaints) == (0, "")
    found = json.loads((workdir / "study.json").read_text())
    trained = [arm for arm in found["arms"] if arm["group"] != "baseline"]
    assert [arm["key"] for arm in trained] == ["causal", "causal_track"]
    assert [arm["seeds"] for arm in trained] == [[0, 1], [0, 1]]
    assert len(found["tuning"]) == 4
    assert found["synthetic"] is True
    assert found["name"] == "table1, a quick look: tiny models, nothing tuned"
    # What the study says of a run is what the run said.
    results = json.loads((workdir / "runs" / "causal" / "seed1" / "results.json").read_text())
    for name in ("test/hr@10", "test_full/mrr"):
        assert trained[0]["metrics"][name]["values"][1] == pytest.approx(results[name], rel=1e-9)
    rate = trained[0]["settings"]["optimizer.learning_rate"]
    winner = max(
        (one for one in found["tuning"] if one["arm"] == "causal"), key=lambda o: o[SELECTION]
    )
    assert rate == winner["learning_rate"]
    popular = next(arm for arm in found["arms"] if arm["key"] == "most_popular")
    assert popular["metrics"]["test_full/hr@10"]["mean"] == pytest.approx(
        results["baseline/popularity/test_full/hr@10"]
    )
    table = parquet.read_table(workdir / "sessions.parquet")
    assert len(table) == found["sessions"] * (4 + 4)
    assert trained[1]["comparisons"]["test_full/hr@10"]["sentence"] in said
    for name in FILES:
        assert f"{workdir / name}  " in said

    before = {name: (workdir / name).read_bytes() for name in FILES}
    stamps = [p.stat().st_mtime_ns for p in sorted(workdir.glob("*/*/*/results.json"))]
    assert len(stamps) == 8
    assert in_process(workdir, *SMALL, "--seeds=2")[0] == 0
    assert [p.stat().st_mtime_ns for p in sorted(workdir.glob("*/*/*/results.json"))] == stamps
    assert {name: (workdir / name).read_bytes() for name in FILES} == before

    # With anything else that would change a result, it says so before it runs anything.
    for change in ("--config.train.num_epochs=3", "--config.study.learning_rates=(0.001,)"):
        arguments = [one for one in SMALL if one.split("=")[0] != change.split("=")[0]]
        code, _, complaint = in_process(workdir, *arguments, "--seeds=2", change)
        assert code == 76
        assert f"holds a run with {change[2:].split('=')[0]} = " in complaint

    # The command and the runs know all that stands in here.
    config = (workdir / "config.json").read_text()
    for damage in (lambda path: path.write_text("{"), Path.unlink):
        damage(workdir / "config.json")
        code, said, _ = in_process(workdir, *SMALL, "--seeds=2")
        assert code == 0
        assert f"{workdir / 'config.json'} was lost or damaged; made again." in said
        assert (workdir / "config.json").read_text() == config
        assert {name: (workdir / name).read_bytes() for name in FILES} == before
    # What would no longer be in the tables is said.
    code, said, _ = in_process(workdir, *SMALL, "--seeds=1")
    assert code == 0
    assert "leaves out of the tables: 1 of causal, 1 of causal_track;" in said
    assert "--seeds=1" in json.loads((workdir / "study.json").read_text())["command"]


@pytest.mark.slow
def test_a_study_of_a_split_in_time_names_it(tmp_path):
    workdir, name = tmp_path / "study", "temporal: last 6 h, gap 30 min"
    hours = ("test_hours=6", "valid_hours=4")
    by_time = [f"--config.data.temporal.{hour}" for hour in hours]
    said = run(workdir, "--arms=bi_hidden", "--seeds=1", "--config.data.split=temporal", *by_time)
    found = json.loads((workdir / "study.json").read_text())
    results = json.loads((workdir / "runs" / "bi" / "seed0" / "results.json").read_text())
    assert found["split"] == results["split"] == name
    assert found["sessions"] == results["parts"]["test"] < results["sessions"]
    assert found["cold_targets"] == pytest.approx(results["test/cold_share"])
    assert found["cold_targets"] > 0
    assert f"{found['sessions']:,} sessions; {name}" in said
    cold = f"{100 * found['cold_targets']:.1f} % of the targets never seen in training"
    for file in ("study.md", "report.html"):
        text = (workdir / file).read_text()
        assert f"split {name}" in text
        assert cold in text
    parts = [parquet.read_table(path) for path in workdir.glob("runs/*/*/split.parquet")]
    assert len(parts) == 2
    assert all(table.equals(parts[0]) for table in parts)
    tested = {row["session_id"] for row in parts[0].to_pylist() if row["part"] == "test"}
    table = parquet.read_table(workdir / "sessions.parquet")
    assert set(table["session_id"].to_pylist()) == tested
    assert len(table) == len(tested) * (2 + 4)
    popular = next(arm for arm in found["arms"] if arm["key"] == "most_popular")
    assert popular["metrics"]["test_full/hr@10"]["mean"] == pytest.approx(
        results["baseline/popularity/test_full/hr@10"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_ends_with_the_same_files(tmp_path, number):
    whole = tmp_path / "whole"
    run(whole, *SMALL, "--seeds=2", "--jobs=1")
    broken = tmp_path / "broken"
    broken.mkdir()
    # The same date, that is: files say when a study was begun.
    for name in ("config.json", "begun.json"):
        (broken / name).write_bytes((whole / name).read_bytes())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    # Between two runs, and within one, after its first epoch of two.
    for new, pattern in ((1, "results.json"), (1, "checkpoints/5"), (2, "results.json")):
        there = {*broken.glob(f"*/*/*/{pattern}")}
        process = subprocess.Popen(
            command(broken, *SMALL, "--seeds=2", "--jobs=1"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 200
        while len({*broken.glob(f"*/*/*/{pattern}")} - there) < new:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        time.sleep(2)  # for a run to notice
    signal.signal(signal.SIGINT, before)
    run(broken, *SMALL, "--seeds=2", "--jobs=2")
    for name in FILES:
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --config"),
        (("--config=configs/table1.py", "--seedz=2"), "unrecognized arguments: --seedz"),
        (("--config=configs/none.py",), "configs/none.py: no such file"),
        (("--config=configs/sasrec.py",), "has no config.study; see configs/table1.py"),
        (
            ("--config=configs/table1.py", "--config.loss.tempature=1"),
            "Did you mean config.loss.temperature?",
        ),
        (("--config=configs/table1.py", "--quick", "--arms=best"), "there is no arm 'best'"),
        (("--config=configs/table1.py", "--arms=,"), "--arms=, names no arm"),
        (
            ("--config=configs/table1.py", "--quick", "--seeds=0"),
            "argument --seeds: '0' is not a whole number of at least 1",
        ),
        (("--config=configs/table1.py", "--seeds=-1"), "'-1' is not a whole number of at least 1"),
        (
            ("--config=configs/table1.py", "--jobs=0"),
            "argument --jobs: '0' is not a whole number of at least 1",
        ),
        (
            ("--config=configs/table1.py", "--config.train.batch_size", "x"),
            "train.batch_size=x: it",
        ),
        (
            ("--config=configs/table1.py", "--config.model.width=10"),
            "config.model.width (10) must be divisible by config.model.num_heads (8).",
        ),
        (("--config=configs/table1.py", "--config.study.arms=()"), "is (); it must be a tuple of"),
        (("--config=configs/table1.py", "--config.study.arms=(5,)"), "is (5,); it must be a tuple"),
        (
            ("--config=configs/table1.py", "--config.study.ratios=((0,0),)"),
            "is ((0, 0),); it must be a tuple of pairs (alpha, beta), neither below 0",
        ),
        (
            ("--config=configs/table1.py", "--config.study.learning_rates=('x',)"),
            "is ('x',); it must be a tuple of finite numbers of at least 0.",
        ),
        (
            ("--config=configs/table1.py", "--config.study.most_tuning_runs=9"),
            "come to 40 runs, more than config.study.most_tuning_runs (9)",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "skipjax", "study", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_in_an_arm_is_said_before_anything_is_imported(tmp_path):
    config = (ROOT / "configs" / "table1.py").read_text()
    wrong = config.replace('"temperature": 1.0', '"temperature": "warm"')
    assert wrong != config
    (tmp_path / "mine.py").write_text(wrong)
    program = """
import sys
from skipjax.cli.main import main
code = main(["study", f"--config={sys.argv[1]}", f"--workdir={sys.argv[2]}"])
assert "jax" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "mine.py", tmp_path / "study"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    expected = (
        "skipjax: the arm 'tau_10' sets config.loss.temperature to 'warm'; it must be a finite "
        "number of at least 1e-06.\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert not (tmp_path / "study").exists()


def test_fields_are_set_with_or_without_an_equals_sign():
    given = ["--seeds", "3", "--config.seed", "-1", "--config.model.causal", "--config", "a.py"]
    given += ["--config.loss.alpha=1", "--config.train.patience", "2", "--quick"]
    assert _overrides(given) == (
        [
            "--config.seed=-1",
            "--config.model.causal",
            "--config.loss.alpha=1",
            "--config.train.patience=2",
        ],
        ["--seeds", "3", "--config", "a.py", "--quick"],
    )
