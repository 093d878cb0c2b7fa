"""From every step of a run, what follows is the same to the last bit."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_sessions, random_listening
from faults.states import differing

from skipjax import encoders, step
from skipjax.checkpoints import Checkpoints
from skipjax.data.batches import SessionBatches
from skipjax.data.split import split_as

pytestmark = pytest.mark.reliability

STEPS = 40
CASES = {
    "causal": {
        "sampling.scope": "batch",
        "optimizer.warmup_steps": 4,
        "optimizer.decay": "linear",
        "optimizer.clip_norm": 0.5,
    },
    "bidirectional": {"model.causal": False, "sampling.num_negatives": 20},
    "hidden-context": {"loss.context": "hidden", "sampling.num_negatives": 20},
}


class Run:
    """40 steps as `train_and_evaluate` makes them, one at a time."""

    def __init__(self, changes: dict[str, Any]):
        config = importlib.import_module("configs.tiny").get_config()
        fewer = {"model.num_layers": 1, "train.batch_size": 12}
        config.update_from_flattened_dict({**fewer, **changes})
        assert config.loss.alpha > 0
        assert config.model.dropout > 0
        listening = random_listening(np.random.default_rng(0), num_sessions=120, num_tracks=900)
        self.split = split_as(config.data, make_sessions(listening))
        assert step.by_rows(config, self.split.num_ids)
        self.config = config
        self.encoder = encoders.make_encoder(config.model, config.data.max_length)
        self.train_step = step.make_train_step(config, self.encoder, STEPS)
        self.hyper = step.hyperparameters(config, STEPS)
        self.flush = step.make_flush(config)
        self.key = step.train_key(config)

    def start(self) -> step.TrainState:
        return step.init_state(self.config, self.encoder, self.split.num_ids)

    def batches(self) -> SessionBatches:
        size, length = self.config.train.batch_size, self.config.data.max_length
        seed = self.config.seed
        return SessionBatches(self.split, batch_size=size, max_length=length, seed=seed)

    def rest(self, state, first, *, batch=None, after=lambda state: None):
        """Steps from `first` on, and `after` each of them; the last state and all losses."""
        batches, losses = self.batches(), []
        for i in range(first, STEPS):
            made = batches.batch(i if batch is None else batch + i - first)
            state, metrics = self.train_step(state, made, self.hyper, self.key)
            if not (i + 1) % batches.steps_per_epoch:
                state = self.flush(state, self.hyper)
            losses.append(metrics["loss"])
            after(state)
        return jax.device_get(state), [np.float32(loss).tobytes() for loss in losses]


@pytest.mark.parametrize("name", CASES)
def test_from_every_step(name, tmp_path, short, tally):
    run = Run(CASES[name])

    def save(state):
        # The next step is given the arrays away while they are being written.
        checkpoints = Checkpoints(tmp_path / str(int(state.step)))
        checkpoints.save(state, {}, best_step=-1)
        saving.append(checkpoints)

    saving: list[Checkpoints] = []
    state = run.start()
    save(state)
    like, fresh = jax.eval_shape(lambda: state), jax.device_get(state.optimizer)
    expected, losses = run.rest(state, 0, after=save)
    for checkpoints in saving:
        checkpoints.wait()
        checkpoints.close()

    lost = []
    steps = range(0, STEPS + 1, 8 if short else 1)
    for k in steps:
        checkpoints = Checkpoints(tmp_path / str(k))
        assert checkpoints.latest_step == k
        state = checkpoints.restore(k, like)
        checkpoints.close()
        assert int(state.step) == k
        ending, after = run.rest(state, k)
        if after != losses[k:] or differing(ending, expected):
            lost.append((k, differing(ending, expected)))
    tally("resume from every step: state and losses equal, bit for bit", len(steps), len(lost))
    assert not lost

    # And it would have been noticed if any of it were lost.
    for k in (7, 20, 33):
        checkpoints = Checkpoints(tmp_path / str(k))
        for loss in ("optimizer", "encoder's optimizer", "step", "place in the data"):
            state = checkpoints.restore(k, like)
            batch = None
            if loss == "optimizer":
                state = state.replace(optimizer=fresh)
            elif loss == "encoder's optimizer":
                partly = {**state.optimizer, "encoder": fresh["encoder"]}
                state = state.replace(optimizer=partly)
            elif loss == "step":
                state = state.replace(step=jnp.int32(0))
            else:
                batch = 0
            ending, after = run.rest(state, k, batch=batch)
            assert after != losses[k:], loss
            table, same = ending.params["table"], expected.params["table"]
            assert not np.array_equal(table, same), loss
        checkpoints.close()
