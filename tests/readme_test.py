"""The README, taken at its word."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import logs
import pytest

from skipjax.cli import prepare

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "main.py": [
        "--config.train.num_epochs=1",
        "--config.train.batch_size=16",
        "--config.sampling.num_negatives=50",
        "--config.eval.num_candidates=50",
    ],
    "-m skipjax study": [
        "--quick",
        "--seeds=1",
        "--arms=causal_track",
        "--config.train.batch_size=16",
    ],
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_losses_alone():
    _, code = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    namespace = {}
    exec(code.split("optimizer =")[0], namespace)
    first = float(namespace["loss_fn"](namespace["params"]))
    exec(code, namespace)
    assert float(namespace["loss"]) < 0.5 * first
    imported = set(re.findall(r"^(?:from|import) (.*)$", code, re.MULTILINE))
    assert imported == {"flax.linen as nn, jax, jax.numpy as jnp, optax", "skipjax import losses"}


def test_links_and_files_that_are_named_exist():
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if not t.startswith("http")]
    targets += re.findall(r"\b(?:configs|benchmarks|tests)/[\w/]+\.(?:py|json|png)\b", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def commands():
    """Each `python ...` and `awk ...` of the shell blocks, continuation lines joined, that needs
    one device, nothing that the test cannot plant, and ends by itself."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            elsewhere = ("kuairand", "benchmarks", "skipjax serve", "config.mesh")
            if line.startswith(("python ", "awk ")) and not any(word in line for word in elsewhere):
                yield line


@pytest.mark.slow
@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("studies", [True, False])
def test_each_command_runs(tmp_path, studies):
    """As it stands, on small inputs of the names it mentions, and for one epoch."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "main.py").symlink_to(ROOT / "main.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(command):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (command, done.stderr)

    plays, mine = logs.listening(tracks=80), logs.listening(listeners=1)
    logs.put_mssd(tmp_path / "training_set", plays)
    logs.put_features(tmp_path / "track_features", plays)
    logs.put_yambda(tmp_path / "flat" / "50m", plays)
    logs.put_lastfm(tmp_path / "lastfm-dataset-1K.tar.gz", plays)
    logs.put_spotify(tmp_path / "my data" / "Spotify Extended Streaming History", mine)
    logs.put_inter(tmp_path / "ml-100k.inter", plays)
    logs.put_ratings(tmp_path / "ratings.csv", plays)
    logs.put_plays(tmp_path / "plays.csv", plays)
    (heard,) = re.findall(r"^cat > heard.csv <<'END'\n(.*?)^END$", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "heard.csv").write_text(heard)
    if not studies:
        # What the README begins with, shorter: other commands, and the code, use what it leaves.
        run([sys.executable, "main.py", "--config=configs/sasrec_skip.py", *SMALL["main.py"]])
        use, _ = blocks("python")
        run([sys.executable, "-c", use])
    found = list(commands())
    assert set(re.findall("skipjax prepare ([a-z]+)", "\n".join(found))) == set(prepare.KINDS)
    of_studies = [line for line in found if "skipjax study" in line or line.startswith("awk ")]
    for line in of_studies if studies else [line for line in found if line not in of_studies]:
        small = [more for command, more in SMALL.items() if f"python {command} " in line]
        python = re.sub("^python", shlex.quote(sys.executable), line)
        run(["sh", "-c", f"{python} {shlex.join(small[0]) if small else ''}"])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_start")
def test_eight_devices_that_a_cpu_plays(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "main.py").symlink_to(ROOT / "main.py")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    lines = re.findall("^XLA_FLAGS=.*", README, re.MULTILINE)
    assert [" main.py " in line for line in lines] == [True, False]
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        if "main.py" in line:
            assert "8 devices (data 2 x tracks 4)" in done.stdout
            trained = re.findall("^│.*HR@.*", done.stdout, re.MULTILINE)
    assert re.findall("^│.*HR@.*", done.stdout, re.MULTILINE) == trained
