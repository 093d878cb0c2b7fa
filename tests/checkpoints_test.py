import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax.checkpoints import Checkpoints
from skipjax.errors import CheckpointError


@flax.struct.dataclass
class State:
    step: jnp.ndarray
    table: jnp.ndarray


def state(step, rows=3):
    return State(jnp.int32(step), jnp.full((rows, 2), float(step)))


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    yield checkpoints
    checkpoints.close()


def test_what_was_saved_comes_back(checkpoints):
    assert checkpoints.latest_step is None
    history = [0.25]
    for step in (1, 2):
        checkpoints.save(state(step), {"history": history}, best_step=1)
        history.append(0.5)  # the background save must not see this
    checkpoints.wait()
    assert checkpoints.latest_step == 2
    assert checkpoints.progress(1) == {"history": [0.25]}
    assert checkpoints.progress(2) == {"history": [0.25, 0.5]}
    restored = checkpoints.restore(1, state(0))
    assert int(restored.step) == 1
    np.testing.assert_array_equal(restored.table, np.ones((3, 2)))


def test_the_newest_two_and_the_best_are_kept(checkpoints, tmp_path):
    for step, best in enumerate([1, 1, 3, 3, 3, 6, 6, 6], start=1):
        checkpoints.save(state(step), {}, best_step=best)
    checkpoints.wait()
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {6, 7, 8}
    checkpoints.save(state(9), {}, best_step=6)
    checkpoints.wait()
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {6, 8, 9}


def test_a_step_that_is_there_already_is_not_called_saved(checkpoints):
    checkpoints.save(state(4), {}, best_step=-1)
    with pytest.raises(CheckpointError, match="step 4"):
        checkpoints.save(state(4), {}, best_step=-1)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (state(0, rows=4), r"holds float32\[3, 2\] as \.table, but this run has float32\[4, 2\]"),
        (State(jnp.int32(0), jnp.zeros((3, 2), jnp.int32)), r"this run has int32\[3, 2\]"),
        ({"step": jnp.int32(0)}, r"holds int32\[\] as \.step, but this run has nothing"),
    ],
)
def test_another_shape_is_refused_in_one_line(checkpoints, like, message):
    checkpoints.save(state(4), {}, best_step=-1)
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.restore(4, like)
    assert "\n" not in str(caught.value)
