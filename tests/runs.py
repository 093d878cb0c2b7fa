"""A run's folder as training leaves it, made without training."""

import functools
import importlib
import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from skipjax import encoders, files
from skipjax.checkpoints import Checkpoints
from skipjax.workdir import as_json


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    optimizer: dict


def names(num_tracks):
    return [f"t{i:03d}" for i in range(num_tracks)]


def tiny(**model):
    config = importlib.import_module("configs.tiny").get_config()
    config.model.update(model)
    return config


@functools.cache
def _params(model_json, num_tracks, seed):
    config = ConfigDict(json.loads(model_json))
    encoder = encoders.make_encoder(config, 20)

    def init(key):
        params = encoders.init_params(key, encoder, num_tracks + 2, config.width)
        return jax.tree.map(lambda x: 20 * x, params)

    return jax.device_get(jax.jit(init)(jax.random.key(seed)))


def make_model(config, num_tracks=60, seed=0):
    """An encoder and parameters large enough for scores to lie apart."""
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    return encoder, jax.tree.map(jnp.array, _params(config.model.to_json(), num_tracks, seed))


def make_run(workdir, config=None, num_tracks=60, *, steps=(7,), best=7, history=(0.25,)):
    """Checkpoints, config.json and tracks.parquet; returns the config, encoder and parameters."""
    config = config or tiny()
    encoder, params = make_model(config, num_tracks)
    workdir.mkdir(exist_ok=True)
    files.write_json(workdir / "config.json", as_json(config))
    plays = np.arange(num_tracks, dtype=np.int64)[::-1] // 2
    tracks = {"track_id": pa.array(names(num_tracks), pa.large_string()), "plays": plays}
    pq.write_table(pa.table(tracks), workdir / "tracks.parquet", write_page_checksum=True)
    checkpoints = Checkpoints(workdir / "checkpoints")
    progress = {"config": as_json(config), "data": "", "history": list(history), "pending": []}
    for step in steps:
        moved = jax.tree.map(lambda x, step=step: x + (step - best), params)
        slots = jax.tree.map(jnp.zeros_like, params)
        checkpoints.save(State(jnp.int32(step), moved, slots), progress, best_step=best)
    checkpoints.wait()
    checkpoints.close()
    return config, encoder, params
