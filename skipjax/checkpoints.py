"""Checkpoints of a run: the only door to orbax, which writes and reads the arrays.

Each step is a folder with a manifest (`skipjax/files.py`) that appears when all of it is on disk.

What is saved on one layout of devices is restored on any other. The rows of a table that lies over
several devices are padded to a multiple of their number, so the array in a checkpoint depends on
the layout; the manifest has the shape of what counts, without the padding.

Several processes have the folder in common. Each writes the parts of arrays that lie on its devices
and reads those that it needs; the rest is done by the first alone, which tells the others.
"""

import contextlib
import copy
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from skipjax import files, processes
from skipjax.errors import CheckpointError, DataError, DivergedError, OutputError

_FORMAT_VERSION = 1
_STATE = "state"
_PARAMS = ".params"  # how names of a state's leaves begin that are parameters
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_NEWEST = 2  # so many are kept besides the best
_MEETINGS = 2  # of all processes in an orbax save: before the first completes it, and after
_MEETING_MS = 1_200_000  # as orbax has it
_PART = "part-of-process-"  # a file for each other process: nothing, or why it failed


class Checkpoints:
    """The newest two checkpoints of a run, and the one that was best as of each of them.

    One run at a time may have a folder open; `train_and_evaluate` holds a lock for it. With several
    processes, all of them make the same calls in the same order: each of these but `close` may need
    all of them.
    """

    def __init__(self, folder: str | os.PathLike, say: Callable[[str], None] = print):
        """
        Args:
          folder: made when something is saved.
          say: told what happens to a damaged checkpoint.
        """
        self._folder = Path(folder).absolute()
        self._say = say
        self._sound: dict[int, dict[str, Any]] = {}  # manifests of steps that were verified
        self._best: dict[int, int] = {}  # as of each step that was saved or verified
        self._saving: threading.Thread | None = None
        self._failure: Exception | None = None
        self._told = True  # whether all processes know how the last save ended
        self._met = 0  # of the meetings in the save under way
        self._meet = ocp.multihost.get_barrier_sync_fn()
        self._arrays = ocp.StandardCheckpointer(
            async_options=ocp.options.AsyncOptions(
                # Otherwise its threads wait, for minutes, for a folder that could not be made, and
                # the end of the process waits for them.
                create_directories_asynchronously=False,
                barrier_sync_fn=self._count_and_meet,
            )
        )
        if processes.first():
            files.remove_leftovers(self._folder)

    @property
    def latest_step(self) -> int | None:
        """The newest step that is whole, or None.

        A damaged one is renamed to `damaged-STEP`, and said to be so.
        """
        self._join()
        found = processes.by_first(self._newest)
        if found is None:
            return None
        step, manifest = found
        self._keep(step, manifest)
        return step

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        for step in reversed(self._steps()):
            try:
                return step, self._manifest(step)
            except DataError as error:
                aside = self._set_aside(step)
                self._say(f"{error} Set aside as {aside.name}.")
        return None

    @property
    def best_step(self) -> int | None:
        """The step that was best as of the newest one; None if there is none.

        Of the newest, only the manifest is read; what is then taken of the best is verified there.
        Nothing is set aside, so that whoever only reads may ask, whatever else goes on here.

        Raises:
          CheckpointError: the manifest of the newest is damaged.
        """
        self._join()
        best = processes.by_first(self._best_of_newest)
        return best if best >= 0 else None

    def _best_of_newest(self) -> int:
        steps = self._steps()
        return self._known(steps[-1], whole=False)["best_step"] if steps else -1

    def save(
        self, state: Any, progress: dict[str, Any], best_step: int, logical: Any = None
    ) -> None:
        """Saves `state` under its `step`, in the background.

        Args:
          state: a pytree with a `step`.
          progress: JSON-able, whatever else resuming needs; kept in the manifest.
          best_step: the step whose checkpoint must outlive the newest two; -1 for none.
          logical: like `state`, the shapes without padding; None if there is none.

        Raises:
          DivergedError: a value in it is not finite; nothing is saved.
          OutputError: this save, or the one before it, did not succeed.
        """
        real = _real(state, logical)
        self.wait()
        step = int(state.step)
        if not _all_finite(state):
            raise DivergedError(
                f"parameters are not finite after step {step}, so they are not saved; lower "
                "config.optimizer.learning_rate, or set config.optimizer.clip_norm."
            )
        folder = files.new_folder(
            self._folder / str(step),
            format=_FORMAT_VERSION,
            step=step,
            best_step=best_step,
            progress=copy.deepcopy(progress),  # the caller's may change meanwhile
            leaves=_described(real),
        )

        def begin():
            with self._not_saved(step):
                return str(stack.enter_context(folder))

        with contextlib.ExitStack() as stack:
            temporary = Path(processes.by_first(begin))
            self._met = 0
            with self._not_saved(step):
                self._arrays.save(temporary / _STATE, state)  # returns when it has a copy
            stack = stack.pop_all()
        self._best[step] = best_step
        self._told = False
        self._saving = threading.Thread(target=self._finish, args=(step, temporary, stack))
        self._saving.start()

    def _finish(self, step: int, temporary: Path, stack: contextlib.ExitStack) -> None:
        """No work for devices in here: the main thread's may be in another order elsewhere."""
        try:
            with self._not_saved(step), stack:
                self._write_parts(temporary)
            if processes.first():
                steps = self._steps()
                newest = steps[-_NEWEST:]
                for old in set(steps) - set(newest) - {self._best.get(one) for one in newest}:
                    files.remove_folder(self._folder / str(old))
        except Exception as error:  # raised where somebody waits
            self._failure = error

    def _write_parts(self, temporary: Path) -> None:
        """Returns when all processes' parts of the arrays are on disk.

        Raises:
          Exception: this process, or another, could not write its own.
        """
        failure = None
        try:
            self._arrays.wait_until_finished()
        except Exception as error:
            failure = error
        while self._met < _MEETINGS:  # the others wait there
            self._count_and_meet()
        if not processes.first():
            with contextlib.suppress(OSError):  # then the first misses it
                text = "" if failure is None else _cause(failure)
                (temporary / f"{_PART}{processes.index()}").write_text(text)
        self._count_and_meet()
        if processes.first() and (theirs := _failed_part(temporary)):
            raise OSError(theirs) from failure
        if failure is not None:
            raise failure

    def _count_and_meet(self, *, key: str = "", timeout_ms: int = _MEETING_MS) -> None:
        """Returns when all processes are here; not under the `key` of orbax, which may vary."""
        self._met += 1
        self._meet(key="skipjax checkpoint", timeout_ms=timeout_ms)

    @contextlib.contextmanager
    def _not_saved(self, step):
        try:
            yield
        except Exception as error:
            if isinstance(error, OutputError) and not isinstance(error.__cause__, OSError):
                raise  # it is there already
            cause, before = _cause(error), self._steps()
            fix = "make room" if cause in _FULL else "mend that"
            then = f"goes on from step {before[-1]}" if before else "begins anew"
            raise OutputError(
                f"{self._folder / str(step)}: not saved: {cause}; {fix} and run the same command "
                f"again: it {then}."
            ) from error

    def progress(self, step: int) -> dict[str, Any]:
        """The `progress` saved with `step`.

        Raises:
          CheckpointError: it is not there, or damaged.
        """
        return self._checked(step)["progress"]

    def restore(self, step: int, like: Any, logical: Any = None) -> Any:
        """The state saved at `step`, wherever its arrays lay then.

        A device gets its part of an array alone. What is decoded for it are the whole parts of the
        devices that it was saved from, as far as they overlap.

        Args:
          step: of a checkpoint.
          like: arrays, or shapes, dtypes and shardings, that it must have.
          logical: like `like`, the shapes without padding; None if there is none. The padding comes
            back as zeros, whatever it was.

        Raises:
          CheckpointError: it is not there, damaged, or of another shape.
        """
        real = _real(like, logical)
        self._check_leaves(step, self._checked(step)["leaves"], _described(real))
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with self._not_restored(step):
            # Not strict: it cuts off, or adds, rows; of padding, as what counts is of one shape.
            state = self._arrays.restore(self._folder / str(step) / _STATE, like, strict=False)
        return jax.tree.map(_with_zeros, state, real)

    def restore_params(self, step: int, like: Any, logical: Any = None) -> Any:
        """The `params` of the state saved at `step`; nothing else is read.

        Args:
          step: of a checkpoint.
          like: arrays, or shapes and dtypes, that they must have. Those without a sharding go to
            this process's first device.
          logical: as `restore` has it.

        Raises:
          CheckpointError: it is not there, damaged, or of another shape.
        """
        saved = self._checked(step)["leaves"]
        saved = {leaf: kind for leaf, kind in saved.items() if leaf.startswith(_PARAMS)}
        real = _real(like, logical)
        wanted = {f"{_PARAMS}{leaf}": kind for leaf, kind in _described(real).items()}
        self._check_leaves(step, saved, wanted)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        item = {
            "params": jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(
                    x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here
                ),
                like,
            )
        }
        arrays = ocp.args.PyTreeRestore(
            item=item,
            restore_args=jax.tree.map(
                lambda x: ocp.ArrayRestoreArgs(
                    sharding=x.sharding, global_shape=x.shape, dtype=x.dtype, strict=False
                ),
                item,
            ),
            partial_restore=True,
        )
        with (
            self._not_restored(step),
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
        ):
            params = checkpointer.restore(self._folder / str(step) / _STATE, args=arrays)["params"]
        return jax.tree.map(_with_zeros, params, real)

    def _check_leaves(self, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
        for leaf in sorted(saved.keys() | wanted.keys()):
            if saved.get(leaf) != wanted.get(leaf):
                raise CheckpointError(
                    f"{self._folder / str(step)} holds {saved.get(leaf, 'nothing')} as {leaf}, but "
                    f"this run has {wanted.get(leaf, 'nothing')}; choose another --workdir."
                )

    @contextlib.contextmanager
    def _not_restored(self, step):
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self._folder / str(step)} cannot be restored ({_first_line(error)}); remove "
                "that folder to go on from the checkpoint before it."
            ) from error

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          OutputError: one of them failed.
        """
        self._join()
        failure, self._failure = self._failure, None
        told, self._told = self._told, True
        said = None if told else processes.from_first(failure and str(failure))
        if failure is not None:
            raise failure
        if said is not None:
            raise OutputError(said)

    def close(self) -> None:
        """Returns when nothing is being written any more. Failures are told by `wait` alone."""
        self._join()
        with contextlib.suppress(Exception):  # orbax would raise once more what `wait` has raised
            self._arrays.close()

    def _join(self) -> None:
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def _steps(self) -> list[int]:
        """Whole or damaged, rising."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _checked(self, step: int) -> dict[str, Any]:
        """The manifest of `step`, which is verified, once."""
        self._join()
        if step not in self._sound:
            self._keep(step, processes.by_first(lambda: self._known(step)))
        return self._sound[step]

    def _keep(self, step: int, manifest: dict[str, Any]) -> None:
        self._sound[step] = manifest
        self._best[step] = manifest["best_step"]

    def _known(self, step: int, *, whole: bool = True) -> dict[str, Any]:
        try:
            return self._manifest(step, whole=whole)
        except DataError as error:
            fix = "Choose another --workdir to train again."
            if self._steps()[-1:] == [step]:
                fix = (
                    "Run main.py in this --workdir once more: it sets that aside and goes on from "
                    "the one before it, or begins anew."
                )
            raise CheckpointError(f"{error} {fix}") from error

    def _manifest(self, step: int, *, whole: bool = True) -> dict[str, Any]:
        """Of `step`, after checking its files; unless `whole`, the manifest alone."""
        if step in self._sound:
            return self._sound[step]
        folder = self._folder / str(step)
        if not folder.is_dir():
            raise DataError(f"{folder} is missing.")
        manifest = files.read_manifest(folder, check_files=whole)
        if manifest.get("format") != _FORMAT_VERSION or manifest.get("step") != step:
            raise DataError(
                f"{folder} is not step {step} in format {_FORMAT_VERSION}: its manifest says "
                f"step {manifest.get('step')} in format {manifest.get('format')}."
            )
        return manifest

    def _set_aside(self, step: int) -> Path:
        number, aside = 1, self._folder / f"damaged-{step}"
        while aside.exists():
            number += 1
            aside = self._folder / f"damaged-{step}-{number}"
        try:
            os.rename(self._folder / str(step), aside)
        except OSError as error:
            raise CheckpointError(
                f"{self._folder / str(step)} is damaged, and cannot be renamed "
                f"({error.strerror}); remove it to go on from the checkpoint before it."
            ) from error
        return aside


def _failed_part(folder: Path) -> str:
    """What another process says of why its part of a save failed; '' if none does."""
    for index in range(1, processes.number()):
        part = folder / f"{_PART}{index}"
        text = part.read_text() if part.exists() else "cannot write there"
        if text:
            return f"process {index}: {text}"
        part.unlink()
    return ""


@jax.jit
def _all_finite(state: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(x).all() for x in floats]).all()


def _real(tree: Any, logical: Any) -> Any:
    """`logical`, or `tree` itself where that is None.

    Raises:
      ValueError: an array in `tree` has no room for what it is in `logical`.
    """
    if logical is None:
        return tree

    def check(x, real):
        axes = zip(x.shape, real.shape, strict=True)
        if x.dtype != real.dtype or any(size < rows for size, rows in axes):
            raise ValueError(f"{x.dtype}{list(x.shape)} cannot be {real.dtype}{list(real.shape)}.")
        return real

    return jax.tree.map(check, tree, logical)


def _with_zeros(x: jax.Array, real: Any) -> jax.Array:
    """`x` with zeros where it is larger than `real`; in place, wherever its parts are."""
    if x.shape == real.shape:
        return x

    def zeros(x):
        for axis, size in enumerate(real.shape):
            inside = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < size
            x = jnp.where(inside, x, 0)
        return x

    return jax.jit(zeros, donate_argnums=0, out_shardings=x.sharding)(x)


def _described(state: Any) -> dict[str, str]:
    """Dtype and shape of each leaf, such as "float32[3, 2]"."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _cause(error: Exception) -> str:
    """What the operating system said, if it is in there; tensorstore's text has it near its end."""
    texts = [str(error), str(error.__cause__)]
    said = [name for name in map(os.strerror, errno.errorcode) if any(name in t for t in texts)]
    return max(said, key=len, default=_first_line(error)[-200:])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
