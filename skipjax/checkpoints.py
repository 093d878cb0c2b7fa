"""Checkpoints of a run: the only door to orbax."""

import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from skipjax.errors import CheckpointError


@dataclasses.dataclass
class _KeepStep:
    """Preserves the checkpoint of one step, whichever it is at the time."""

    step: int = -1

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The newest two checkpoints of a run, and its best one."""

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder).absolute()
        self._best = _KeepStep()
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(2), self._best]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The newest step on disk, or None."""
        return self._manager.latest_step()

    def save(self, state: Any, progress: dict[str, Any], best_step: int) -> None:
        """Saves `state` under its `step`, in the background.

        Args:
          state: a pytree with a `step`.
          progress: JSON-able, whatever else resuming needs.
          best_step: the step whose checkpoint must outlive the newest two; -1 for none.

        Raises:
          CheckpointError: this save, or the one before it, did not succeed.
        """
        self._best.step = best_step
        step = int(state.step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            # A copy: it is written in the background, while the caller's may change.
            progress=ocp.args.JsonSave(
                {"progress": copy.deepcopy(progress), "leaves": _described(state)}
            ),
        )
        try:
            saved = self._manager.save(step, args=args)
        except Exception as error:
            raise CheckpointError(f"{self._folder}: step {step} not saved: {error}") from error
        if not saved:
            raise CheckpointError(
                f"{self._folder}: step {step} was not saved, as it is there already; remove it."
            )

    def progress(self, step: int) -> dict[str, Any]:
        """The `progress` saved with `step`."""
        return self._json(step)["progress"]

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, with the structure, shapes and dtypes of `like`.

        Raises:
          CheckpointError: it cannot be read, or is of another shape.
        """
        saved, wanted = self._json(step)["leaves"], _described(like)
        for leaf in sorted(saved.keys() | wanted.keys()):
            if saved.get(leaf) != wanted.get(leaf):
                raise CheckpointError(
                    f"{self._folder / str(step)} holds {saved.get(leaf, 'nothing')} as {leaf}, but "
                    f"this run has {wanted.get(leaf, 'nothing')}; choose another --workdir."
                )
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._restore(step, args)["state"]

    def _json(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return self._restore(step, args)["progress"]

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{self._folder / str(step)} cannot be restored ({first_line}); remove that "
                "folder to go on from the checkpoint before it."
            ) from error

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          CheckpointError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(f"{self._folder}: a save failed: {error}") from error

    def close(self) -> None:
        self._manager.close()


def _described(state: Any) -> dict[str, str]:
    """Dtype and shape of each leaf, such as "float32[3, 2]"."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}
