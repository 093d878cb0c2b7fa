"""One pure, jitted training step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from skipjax.encoders import Encoder, init_params
from skipjax.objective import Weights, make_objective
from skipjax.optimizers import make_optimizer, schedule_factor


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
      step: [] int32, steps done.
      params: {"encoder": tree, "table": [V, D]}.
      optimizer: optax state.
    """

    step: jax.Array
    params: dict[str, Any]
    optimizer: Any


@flax.struct.dataclass
class Hyperparameters:
    """Scalars of training, traced, so that a study over them compiles once."""

    learning_rate: jax.Array
    loss: Weights


def hyperparameters(config: Any) -> Hyperparameters:
    """Those of `config`, as arrays."""
    return Hyperparameters(
        learning_rate=jnp.float32(config.optimizer.learning_rate),
        loss=Weights(
            alpha=jnp.float32(config.loss.alpha),
            beta=jnp.float32(config.loss.beta),
            temperature=jnp.float32(config.loss.temperature),
        ),
    )


def init_state(config: Any, encoder: Encoder, num_ids: int) -> TrainState:
    """The state before the first step, a function of `config.seed`; `num_ids` is V."""
    key = jax.random.fold_in(jax.random.key(config.seed), _INIT)
    params = init_params(key, encoder, num_ids, config.model.width)
    optimizer = make_optimizer(config.optimizer)
    return TrainState(step=jnp.int32(0), params=params, optimizer=optimizer.init(params))


def make_train_step(
    config: Any, encoder: Encoder, num_steps: int
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step `train_step(state, batch, hyper, key) -> (state, metrics)`.

    `state` is donated. `batch` is as `make_objective` says, `key` the run's key: the step folds
    its own number in, so that (key, step) is all the randomness there is. `metrics` are the
    scalars loss, nll and infonce before the update. `num_steps` is where a learning-rate decay
    ends.
    """
    objective = make_objective(config, encoder)
    optimizer = make_optimizer(config.optimizer)

    def train_step(
        state: TrainState, batch: Mapping[str, jax.Array], hyper: Hyperparameters, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(key, state.step)

        def loss(params):
            values = objective(params, batch, hyper.loss, step_key)
            return values["loss"], values

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        factor = schedule_factor(config.optimizer, state.step, num_steps)
        rate = -hyper.learning_rate * factor
        updates = jax.tree.map(lambda update: rate * update, updates)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return jax.jit(train_step, donate_argnames="state")


def train_key(config: Any) -> jax.Array:
    """The key of all random draws of training, a function of `config.seed`."""
    return jax.random.fold_in(jax.random.key(config.seed), _TRAIN)


# Purposes that keys are split by.
_INIT, _TRAIN = 0, 1
