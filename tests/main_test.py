"""main.py as a user meets it: one command, and one line for each mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KUAIRAND = os.environ.get("SKIPJAX_KUAIRAND")


def run(*arguments, cwd=ROOT, timeout=300):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.usefixtures("quick_start")
def test_from_nothing_to_results_and_again(tmp_path):
    """No flag but --config: results and cache lie where the README says."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = run("--config=configs/tiny.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    workdir = tmp_path / "runs" / "tiny-track-demo"
    results = json.loads((workdir / "results.json").read_text())
    for text in (f"{results['test/hr@10']:.4f}", f"{results['test_full/mrr']:.4f}", "synthetic"):
        assert text in done.stdout
    assert "runs/tiny-track-demo/results.json" in done.stdout
    assert {p.name for p in workdir.iterdir() if not p.name.startswith(".")} == {
        "config.json",
        "metrics.jsonl",
        "results.json",
        "sessions.parquet",
        "tracks.parquet",
        "checkpoints",
        "tensorboard",
    }
    assert len(list((tmp_path / "runs" / "cache").iterdir())) == 1

    again = run("--config=configs/tiny.py", cwd=tmp_path)
    assert again.returncode == 0
    assert "runs/tiny-track-demo is finished" in again.stdout
    assert f"{results['test/hr@10']:.4f}" in again.stdout

    other = run("--config=configs/tiny.py:hidden", "--config.train.num_epochs=1", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs" / "tiny-hidden-demo" / "results.json").exists()

    refused = run("--config=configs/tiny.py", "--config.seed=1", cwd=tmp_path)
    assert refused.returncode == 76
    assert "config.seed = 0, not 1" in refused.stderr


@pytest.mark.slow
def test_the_main_job_beats_most_popular(tmp_path):
    """The README's first command, as it stands."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = run("--config=configs/sasrec_skip.py", cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "runs" / "sasrec_skip-track-demo" / "results.json").read_text()
    results = json.loads(found)
    popular = results["baseline/popularity/test_full/hr@10"]
    assert results["test_full/hr@10"] >= 2 * popular > 0


@pytest.mark.usefixtures("quick_start")
def test_mssd_from_logs_to_results(tmp_path):
    logs = tmp_path / "logs"
    made = subprocess.run(
        [sys.executable, "-m", "skipjax", "demo", "--out", logs, "--sessions=90", "--tracks=200"],
        cwd=ROOT,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    done = run(
        f"--config={ROOT / 'configs' / 'tiny.py'}",
        "--config.data.source=mssd",
        f"--config.data.path={logs}",
        "--config.train.num_epochs=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "on mssd (synthetic): 90 sessions" in done.stdout  # as the logs' own manifest says
    assert (tmp_path / "runs" / "tiny-track-mssd" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say what to run: --config=configs/sasrec_skip.py"),
        (["--config=configs/sasrec_skp.py"], 2, "Did you mean configs/sasrec_skip.py?"),
        (["--config=no\nsuch\x1b.py"], 2, r"--config=no\nsuch\x1b.py: no such file."),
        (["--confg=configs/tiny.py"], 2, "Did you mean: config ?"),
        (["--config=configs/tiny.py", "more"], 2, "unknown argument 'more'"),
        (
            ["--config=configs/tiny.py", "--config.data.sorce=mssd"],
            2,
            "there is no field config.data.sorce. Did you mean config.data.source?",
        ),
        (
            ["--config=configs/tiny.py", "--config.optimizr.learning_rate=1"],
            2,
            "Did you mean config.optimizer.learning_rate?",
        ),
        (["--config=configs/tiny.py", "--config.train.batch_size=x"], 2, "train.batch_size=x"),
        (["--config=configs/tiny.py", "--config.loss.alpha=much"], 2, "loss.alpha=much"),
        (["--config=configs/tiny.py", "--config.model.causal=maybe"], 2, "model.causal=maybe"),
        (["--config=configs/sasrec.py:hidden"], 2, "--config=configs/sasrec.py:hidden fails"),
        (["--config=setup.cfg"], 2, "--config=setup.cfg fails"),
        (["--config=configs/tiny.py", "--config.data.source=msd"], 2, "Did you mean 'mssd'?"),
        (
            ["--config=configs/tiny.py", "--config.data.source=mssd", "--config.data.path=none"],
            65,
            "none: no such file or folder",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, arguments, code, message):
    for name in ("configs", "setup.cfg"):
        (tmp_path / name).symlink_to(ROOT / name)
    before = sorted(tmp_path.iterdir())
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("skipjax: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.skipif(not KUAIRAND, reason="SKIPJAX_KUAIRAND does not name the KuaiRand extract")
@pytest.mark.parametrize("name", ["sasrec", "sasrec_skip", "bert4rec", "bert4rec_skip"])
def test_real_feedback_through_the_table_reader(tmp_path, name):
    done = run(
        f"--config=configs/{name}.py",
        "--config.data.source=table",
        f"--config.data.path={KUAIRAND}",
        "--config.data.table.session_column=user_id",
        "--config.data.table.track_column=video_id",
        "--config.data.table.time_column=time_ms",
        "--config.data.table.skip_column=is_hate",
        "--config.train.num_epochs=1",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
    )
    assert done.returncode == 0, done.stderr
    assert "1,744 sessions" in done.stdout
    assert "left out" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test/hr@10"] > 0
    assert results["synthetic"] is False
