"""Strictness that catches mistakes, small sessions to work on, and a count of injected faults."""

import functools
import gc
import json
import os
import signal
import sys
import tempfile

import jax
import numpy as np
import pyarrow as pa
import pytest

from skipjax import step
from skipjax.data.sessions import Sessions
from skipjax.mesh import ONE
from skipjax.workdir import as_json

COMPILED = "SKIPJAX_TESTS_COMPILED"  # a folder of compiled programs, shared by all workers

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells have it for what runs behind them
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_platforms", "cpu")
# Most of the suite's time is compiling: less of it, and none of it twice.
jax.config.update("jax_disable_most_optimizations", True)
XLA_FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):  # it knows kernels that are simpler to compile
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
with pytest.MonkeyPatch.context() as patch:  # processes of their own compile as users do
    patch.setenv("XLA_FLAGS", XLA_FLAGS)
    jax.devices()  # reads it
if COMPILED not in os.environ:  # else this is a worker, and its parent has made one for all
    _compiled = tempfile.TemporaryDirectory(prefix="skipjax-compiled-")
    os.environ[COMPILED] = _compiled.name
jax.config.update("jax_compilation_cache_dir", os.environ[COMPILED])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_configure(config):
    # Two workers may compile the same: what one of them reads half written, it compiles itself.
    message = "Error reading persistent compilation cache entry"
    config.addinivalue_line("filterwarnings", f"ignore:{message}:UserWarning")


def pytest_collection_finish():
    gc.freeze()  # thousands of objects that stay: tracing would have them looked at again and again
    gc.set_threshold(20_000, 50, 100)


def pytest_addoption(parser):
    parser.addoption("--short", action="store_true", help="of the injected faults, every eighth")


def pytest_terminal_summary(terminalreporter):
    """What each promise withstood, as the table that README shows."""
    rows: dict[str, list[int]] = {}
    reports = [
        report for which in ("passed", "failed") for report in terminalreporter.stats.get(which, [])
    ]
    for report in sorted(reports, key=lambda report: report.nodeid):
        for name, value in report.user_properties:
            if name == "tally":
                promise, tried, lost = value
                row = rows.setdefault(promise, [0, 0])
                row[:] = row[0] + tried, row[1] + lost
    if rows:
        terminalreporter.section("injected faults")
        terminalreporter.line("| promise | faults tried | lost |")
        terminalreporter.line("|---|---|---|")
        for promise, (tried, lost) in rows.items():
            terminalreporter.line(f"| {promise} | {tried:,} | {lost:,} |")


@pytest.fixture
def quick_start(monkeypatch):
    """Processes that the test starts compile as quickly as the test itself, if not as well."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAGS)


@pytest.fixture
def traced_once(monkeypatch):
    """Runs share the step of configs that differ in nothing that it reads but traced values.

    Not for what a run must find the same in another process: there, each traces its own.
    """
    make_train_step = step.make_train_step

    def shared(config, encoder, num_steps, layout=ONE):
        reads = as_json(config)
        del reads["optimizer"]["learning_rate"]
        names = ("model", "loss", "sampling", "optimizer")
        key = json.dumps(
            [num_steps, config.train.batch_size, config.data.max_length]
            + [reads[name] for name in names]
        )
        if key not in _steps:
            _steps[key] = make_train_step(config, encoder, num_steps, layout)
        return _steps[key]

    monkeypatch.setattr(step, "make_train_step", shared)


_steps = {}


@pytest.fixture
def trains_here(monkeypatch):
    """Studies train in the test's own process: processes have tests of their own."""
    from skipjax import train
    from skipjax.study import study
    from skipjax.workdir import finished

    def run_all(runs, **_):
        return [
            finished(run.config, run.workdir) or train.train_and_evaluate(run.config, run.workdir)
            for run in runs
        ]

    monkeypatch.setattr(study, "run_all", run_all)
    monkeypatch.setattr("skipjax.cli.study._at_a_time", lambda: (1, ()))  # asks another process


@pytest.fixture
def tally(record_property):
    """Called with a promise, how many faults were tried against it, and how many broke it."""

    def tally(promise: str, tried: int, lost: int) -> None:
        record_property("tally", (promise, tried, lost))

    return tally


@pytest.fixture(scope="session")
def short(request):
    """Whether every eighth fault is enough."""
    return request.config.getoption("short")


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The library that makes I/O fail (tests/faults/shim.c), or None without a C compiler."""
    if not sys.platform.startswith("linux"):
        pytest.skip("faults are injected on Linux only")
    from faults.trials import compile_shim

    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def trials(shim, tmp_path_factory):
    """Starts programs with faults."""
    from faults.trials import Trials

    trials = Trials(tmp_path_factory.mktemp("trials"), shim)
    yield trials
    trials.close()


@pytest.fixture(scope="session")
def small_run(trials, tmp_path_factory):
    """small_run(0) is of a causal encoder, small_run(1) of a bidirectional one."""
    from faults.runs import SmallRun

    place = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        place = place.parent  # of all workers of this session
    return functools.cache(lambda i: SmallRun(trials, place / f"small-run-{i}", causal=not i))


def make_sessions(listening, track_ids=None, session_ids=None, context=None, **info) -> Sessions:
    """Sessions from [[(track, level), ...], ...], tracks being names such as "t3".

    `context` has further columns of the events, by name; `info` is what is known of them.
    """
    names = sorted({track for session in listening for track, _ in session})
    track_ids = names if track_ids is None else track_ids
    code = {name: i for i, name in enumerate(track_ids)}
    lengths = [len(session) for session in listening]
    events = [event for session in listening for event in session]
    if session_ids is None:
        session_ids = [f"s{i}" for i in range(len(listening))]
    return Sessions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tracks=np.array([code[track] for track, _ in events], np.int32),
        levels=np.array([level for _, level in events], np.int8),
        session_ids=pa.array(session_ids, pa.large_string()),
        track_ids=pa.array(track_ids, pa.large_string()),
        context=pa.table(
            {"hour_of_day": pa.array([0] * len(events), pa.int8()), **(context or {})}
        ),
        info={"source": "test", **info},
    )


def random_listening(rng, num_sessions=40, num_tracks=60, low=4, high=20):
    """Sessions whose tracks mostly follow one another in a ring, so that there is structure."""
    listening = []
    for _ in range(num_sessions):
        n = int(rng.integers(low, high + 1))
        start = int(rng.integers(num_tracks))
        tracks = [
            (start + i) % num_tracks if rng.random() < 0.8 else int(rng.integers(num_tracks))
            for i in range(n)
        ]
        listening.append([(f"t{t:04d}", int(rng.integers(4))) for t in tracks])
    return listening


@pytest.fixture
def rng():
    return np.random.default_rng(0)
