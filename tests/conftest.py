"""Strictness that catches mistakes, and small sessions to work on."""

import tempfile

import jax
import numpy as np
import pyarrow as pa
import pytest

from skipjax.data.sessions import Sessions

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_platforms", "cpu")
# Most of the suite's time is compiling: less of it, and none of it twice. Commands that run in
# processes of their own are not affected.
jax.config.update("jax_disable_most_optimizations", True)
_compiled = tempfile.TemporaryDirectory(prefix="skipjax-compiled-")
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def make_sessions(listening, track_ids=None, session_ids=None) -> Sessions:
    """Sessions from [[(track, level), ...], ...], tracks being names such as "t3"."""
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
        context=pa.table({"hour_of_day": pa.array([0] * len(events), pa.int8())}),
        info={"source": "test"},
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
