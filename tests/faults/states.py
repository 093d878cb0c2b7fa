"""States to save that cost nothing to make, and whether two are the same to the last bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.step import TrainState


def make_state(step: int) -> TrainState:
    """As many arrays as a small run has, all of them a function of `step`."""
    rng = np.random.default_rng(step)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    def layers():
        return {f"layer_{i}": {"kernel": array(8, 8), "bias": array(8)} for i in range(3)}

    table = array(300, 8)
    rows = jnp.asarray(rng.integers(0, step + 1, 300).astype(np.int32))
    return TrainState(
        step=jnp.int32(step),
        params={"encoder": layers(), "table": table},
        optimizer={
            "encoder": {"count": jnp.int32(step), "mu": layers(), "nu": layers()},
            "table": {"direction": array(300, 8), "root": array(300, 8), "last": rows},
        },
    )


def differing(ours: Any, theirs: Any) -> list[str]:
    """The leaves of which not all bits are the same."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(jax.device_get(ours)),
        jax.tree.leaves(jax.device_get(theirs)),
        strict=True,
    )
    return [
        jax.tree_util.keystr(path)
        for (path, a), b in pairs
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes()
    ]
