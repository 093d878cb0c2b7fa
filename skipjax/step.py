"""One pure, jitted training step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from skipjax import row_adam
from skipjax.choices import check_choices
from skipjax.encoders import Encoder, init_params
from skipjax.ids import HELD_OUT
from skipjax.mesh import EVERYWHERE, ONE, ROWS, SESSIONS, Layout
from skipjax.objective import Objective, Weights
from skipjax.optimizers import clip_factor, make_adam, schedule_factor, squares


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
      step: [] int32, steps done.
      params: {"encoder": tree, "table": [V, D]}.
      optimizer: {"encoder": optax state, "table": optax state, or RowAdam if the table is updated
        by rows}.

    With several devices, the table and what is kept of its rows have rows of zeros after the V.
    """

    step: jax.Array
    params: dict[str, Any]
    optimizer: dict[str, Any]


@flax.struct.dataclass
class Hyperparameters:
    """Scalars of training, traced, so that a study over them compiles once.

    Attributes:
      learning_rate: before the schedule.
      loss: weights of its terms.
      catch_up: sums of the learning rates to come, for deferred Adam alone.
    """

    learning_rate: jax.Array
    loss: Weights
    catch_up: row_adam.CatchUp | None


def hyperparameters(config: Any, num_steps: int) -> Hyperparameters:
    """Those of `config`, as arrays; `num_steps` is where a learning-rate decay ends.

    Raises:
      ConfigError: a field with an impossible value.
    """
    catch_up = None
    if config.optimizer.table == "deferred" and config.sampling.scope != "full":
        catch_up = row_adam.make_catch_up(config.optimizer, num_steps)
    return Hyperparameters(
        learning_rate=jnp.float32(config.optimizer.learning_rate),
        loss=Weights(
            alpha=jnp.float32(config.loss.alpha),
            beta=jnp.float32(config.loss.beta),
            temperature=jnp.float32(config.loss.temperature),
        ),
        catch_up=catch_up,
    )


def by_rows(config: Any, num_ids: int) -> bool:
    """Whether the table's V = `num_ids` rows are updated one by one.

    Not where a step reads as many ids as there are rows: dense Adam then does the same with less.
    Lazy Adam, which is another optimiser, always is, except under the softmax over all tracks, when
    there is no difference.
    """
    table, draws = config.optimizer.table, config.sampling
    check_choices(config.optimizer, "optimizer")
    if table == "dense" or draws.scope == "full":
        return False
    sessions = config.train.batch_size
    read = sessions * (config.data.max_length - HELD_OUT[config.data.split])
    if config.loss.negatives == "random":
        read *= 2
    read += draws.num_negatives * (sessions if draws.scope == "session" else 1)
    return table == "lazy" or read < num_ids


def init_state(config: Any, encoder: Encoder, num_ids: int, layout: Layout = ONE) -> TrainState:
    """The state before the first step, a function of `config.seed`; `num_ids` is V."""
    encoder_adam, table_adam = _adams(config)

    def around(params):
        table = params["table"]
        return TrainState(
            step=jnp.int32(0),
            params=params,
            optimizer={
                "encoder": encoder_adam.init(params["encoder"]),
                "table": row_adam.init_rows(table)
                if by_rows(config, num_ids)
                else table_adam.init(table),
            },
        )

    key = jax.random.fold_in(jax.random.key(config.seed), _INIT)
    if layout.mesh is None:
        return around(init_params(key, encoder, num_ids, config.model.width))
    num_rows = layout.padded(num_ids)

    def init(encoder_params):
        key = jax.random.fold_in(jax.random.key(config.seed), _INIT)
        table = init_params(key, encoder, num_rows, config.model.width)["table"]
        table = jnp.where(jnp.arange(num_rows)[:, None] < num_ids, table, 0)
        return around({"encoder": encoder_params, "table": table})

    # Made as on one device, or they would differ in their last bits.
    few = jax.device_get(init_params(key, encoder, 1, config.model.width)["encoder"])
    lie = shardings(jax.eval_shape(init, few), layout)
    return jax.jit(init, out_shardings=lie)(few)


def specs(state: TrainState) -> TrainState:
    """How the arrays of a state lie over devices, as a tree of partition specs."""
    everywhere = jax.tree.map(lambda _: EVERYWHERE, state)
    # A dense optimiser keeps a count beside what it keeps of the rows.
    rows = jax.tree.map(lambda x: ROWS if x.ndim else EVERYWHERE, state.optimizer["table"])
    return everywhere.replace(
        params={**everywhere.params, "table": ROWS},
        optimizer={**everywhere.optimizer, "table": rows},
    )


def shardings(state: TrainState, layout: Layout) -> TrainState:
    """The same as shardings on the devices of `layout`, which are more than one."""
    return jax.tree.map(layout.sharding, specs(state))


def without_padding(state: TrainState, num_ids: int) -> TrainState:
    """The shapes of a state on one device; `num_ids` is V."""

    def real(x, spec):
        shape = (num_ids, *x.shape[1:]) if spec == ROWS else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return jax.tree.map(real, state, specs(state))


def make_train_step(
    config: Any, encoder: Encoder, num_steps: int, layout: Layout = ONE
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step `train_step(state, batch, hyper, key) -> (state, metrics)`.

    `state` is donated. `batch` is as `Objective` says, `key` the run's key: the step folds
    its own number in, so that (key, step) is all the randomness there is. `metrics` are the
    scalars loss, nll and infonce before the update. `num_steps` is where a learning-rate decay
    ends, `layout` how the state and the batch lie over devices.

    Raises:
      ConfigError: a field with an impossible value.
    """
    by_rows(config, 1)
    objective = Objective(config, encoder, layout)
    optimizer = config.optimizer
    encoder_adam, table_adam = _adams(config)

    def dense(state, batch, hyper, key):
        """Gradient of the whole table, and its new values by `table_adam`."""

        def loss(params):
            values = objective(params, batch, hyper.loss, key)
            return values["loss"], values

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        gradient = layout.total_of_copies(gradients["table"])

        def update(rate, scale):
            table = state.params["table"]
            updates, table_state = table_adam.update(
                scale * gradient, state.optimizer["table"], table
            )
            return table - rate * updates, table_state

        return gradients["encoder"], gradient, update, metrics

    def rowwise(state, batch, hyper, key):
        """Gradient of the rows that the step reads, and their new values by `row_adam`."""
        table, rows_state = state.params["table"], state.optimizer["table"]
        ids_key, loss_key = jax.random.split(key)
        ids = objective.ids(batch, ids_key, layout.count(table))

        def read(places):
            return row_adam.read_rows(
                table, rows_state, places, state.step, hyper.catch_up, optimizer
            )

        rows = objective.read(table, ids, read)

        def loss(encoder_params, rows):
            values = objective.loss(encoder_params, rows, ids, batch, hyper.loss, loss_key)
            return values["loss"], values

        gradients, metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            state.params["encoder"], rows
        )
        encoder_gradients, row_gradients = gradients
        width = table.shape[-1]

        def of_all(values, *shape):
            """One after another: those of all devices, and those that they share once."""
            found = []
            for name in sorted(values):
                parts = [x.reshape(-1, *shape) for x in jax.tree.leaves(values[name])]
                some = jnp.concatenate(parts)
                if name not in objective.shared:
                    some = layout.of_all(some)
                elif shape:
                    some = layout.total(some)
                found.append(some)
            return jnp.concatenate(found)

        places, here = layout.local(of_all(ids), table)
        rows_state, touched = row_adam.sum_duplicates(
            rows_state, places, of_all(row_gradients, width), here
        )

        def update(rate, scale):
            return row_adam.update_rows(
                table, rows_state, touched, state.step, rate, scale, hyper.catch_up, optimizer
            )

        of_rows = jnp.where(touched.first[:, None], touched.gradients, 0)
        return encoder_gradients, of_rows, update, metrics

    def on_device(state, batch, hyper, key):
        step_key = jax.random.fold_in(key, state.step)
        work = rowwise if isinstance(state.optimizer["table"], row_adam.RowAdam) else dense
        gradients, of_rows, update_table, metrics = work(state, batch, hyper, step_key)
        gradients, metrics = jax.tree.map(layout.total, (gradients, metrics))
        scale = 1.0
        if optimizer.clip_norm:
            norm = squares(gradients) + layout.total_of_rows(squares(of_rows))
            scale = clip_factor(optimizer.clip_norm, norm)
        rate = hyper.learning_rate * schedule_factor(optimizer, state.step, num_steps)
        params = state.params["encoder"]
        gradients = jax.tree.map(lambda gradient: scale * gradient, gradients)
        updates, encoder_state = encoder_adam.update(gradients, state.optimizer["encoder"], params)
        updates = jax.tree.map(lambda update: -rate * update, updates)
        table, table_state = update_table(rate, scale)
        params = {"encoder": optax.apply_updates(params, updates), "table": table}
        return TrainState(
            state.step + 1, params, {"encoder": encoder_state, "table": table_state}
        ), metrics

    def train_step(
        state: TrainState, batch: Mapping[str, Any], hyper: Hyperparameters, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        lie = specs(state)
        mapped = layout.on_devices(
            on_device, (lie, SESSIONS, EVERYWHERE, EVERYWHERE), (lie, EVERYWHERE)
        )
        return mapped(state, batch, hyper, key)

    return jax.jit(train_step, donate_argnames="state")


def make_flush(
    config: Any, layout: Layout = ONE
) -> Callable[[TrainState, Hyperparameters], TrainState]:
    """The jitted `flush(state, hyper)`, after which every row of the table is up to date.

    Before a table is read other than by a training step, it must be flushed. `state` is donated.
    Copies of the table become the same to the bit, too: a GPU adds up gradients in no fixed order.
    """

    def on_device(state, hyper):
        rows = state.optimizer["table"]
        if not isinstance(rows, row_adam.RowAdam) or (hyper.catch_up is None and layout.data == 1):
            return state
        table, rows = row_adam.flush(
            state.params["table"],
            rows,
            state.step,
            hyper.catch_up,
            config.optimizer,
            layout.of_first_copy,
        )
        return state.replace(
            params={**state.params, "table": table}, optimizer={**state.optimizer, "table": rows}
        )

    def flush(state: TrainState, hyper: Hyperparameters) -> TrainState:
        lie = specs(state)
        return layout.on_devices(on_device, (lie, EVERYWHERE), lie)(state, hyper)

    return jax.jit(flush, donate_argnames="state")


def _adams(config: Any) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Of the encoder, and of a dense table."""
    optimizer = config.optimizer
    return (
        make_adam(optimizer, optimizer.epsilon),
        make_adam(optimizer, optimizer.table_epsilon),
    )


def train_key(config: Any) -> jax.Array:
    """The key of all random draws of training, a function of `config.seed`."""
    return jax.random.fold_in(jax.random.key(config.seed), _TRAIN)


# Purposes that keys are split by.
_INIT, _TRAIN = 0, 1
