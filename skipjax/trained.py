"""What training left in a workdir, as a model: its config and the parameters of its best epoch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from skipjax import ranking
from skipjax.checkpoints import Checkpoints
from skipjax.data.catalogue import TRACKS, Catalogue
from skipjax.encoders import Encoder, init_params, make_encoder
from skipjax.errors import CheckpointError, ConfigError, DataError
from skipjax.ids import HELD_OUT
from skipjax.limits import check_limits
from skipjax.mesh import EVERYWHERE, ONE, ROWS, SESSIONS, Layout, make_layout
from skipjax.model import Model
from skipjax.workdir import check_same_config, saved_config, with_added_fields


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best epoch of a run.

    Attributes:
      config: as `configs/common.py`.
      encoder, params: the model.
      catalogue: the tracks that it knows.
      history: validation HR@10 of each epoch up to this one.
      results: the run's `results.json`, or {} where that is not there or of another epoch.
      data: digest of what it was trained on.
      workdir: of the run.
      layout: how the parameters lie over devices.
    """

    config: Any
    encoder: Encoder
    params: dict[str, Any]
    catalogue: Catalogue
    history: list[float]
    results: dict[str, Any]
    data: str
    workdir: Path
    layout: Layout = ONE

    @property
    def about(self) -> str:
        """What it is, in a line."""
        return (
            f"{self.config.name}, epoch {len(self.history)} "
            f"(validation HR@10 {self.history[-1]:.4f})"
        )

    def model(self) -> Model:
        """Scores as evaluation does, to the bit on a CPU."""
        return model_of(
            self.config, self.encoder, self.params, self.catalogue, self.about, self.layout
        )


def read(workdir: Path, devices: Any = None) -> Trained:
    """The best epoch of the run in `workdir`; of its checkpoint, only the parameters are read.

    Args:
      workdir: of the run.
      devices: as `config.mesh`, how the parameters are to lie, whatever they were trained on; None
        for one device.

    Raises:
      ConfigError: there are not so many devices.
      CheckpointError: it holds no run, none with a finished epoch, or something is damaged.
    """
    config = _read_config(workdir)
    held_out = HELD_OUT[config.data.split]
    encoder = make_encoder(config.model, config.data.max_length, held_out)
    try:
        catalogue = Catalogue.open(workdir / TRACKS)
    except DataError as error:
        raise CheckpointError(f"{error} Choose another --workdir to train again.") from error
    layout = make_layout(devices, catalogue.num_ids) if devices else ONE
    params, progress = _best_params(config, workdir, encoder, catalogue.num_ids, layout)
    history = progress["history"]
    try:
        results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
        results = results if results["best_epoch"] == len(history) else {}
    except (OSError, ValueError, KeyError, TypeError):
        results = {}  # it has not been tested yet
    return Trained(
        config, encoder, params, catalogue, history, results, progress["data"], workdir, layout
    )


def model_of(
    config: Any,
    encoder: Encoder,
    params: dict[str, Any],
    catalogue: Catalogue,
    about: str = "",
    layout: Layout = ONE,
) -> Model:
    """Parameters as a model that scores as evaluation does, to the bit on a CPU."""
    precision, chunk_size = config.eval.precision, config.eval.chunk_size

    def hidden(params, tracks, valid, feedback):
        return ranking.next_hidden(encoder, params, tracks, valid, feedback, layout=layout)

    def best(table, hidden, exclude, k):
        def on_device(table, hidden, exclude):
            return ranking.top_k(
                hidden,
                table,
                k,
                chunk_size=chunk_size,
                exclude=exclude,
                precision=precision,
                layout=layout,
            )

        return layout.on_devices(on_device, (ROWS, SESSIONS, SESSIONS), SESSIONS)(
            table, hidden, exclude
        )

    lie = {"encoder": EVERYWHERE, "table": ROWS}
    hidden = jax.jit(layout.on_devices(hidden, (lie, SESSIONS, SESSIONS, SESSIONS), SESSIONS))
    best = jax.jit(best, static_argnames="k")
    whole = config.data.max_length
    return Model(
        name=config.name,
        about=about,
        catalogue=catalogue,
        table=params["table"],
        skip_levels=tuple(config.data.skip_levels),
        reads_skips=encoder.skip_embedding,
        longest=whole - (not encoder.causal),
        # That of a test, whose last track is held out; sums depend on it in their last bits.
        lengths=(whole - 1, whole),
        # ranking.py pads to the first anyway, on each device.
        sizes=(layout.size * ranking.SESSIONS, 4 * layout.size * ranking.SESSIONS),
        max_k=len(catalogue),
        hidden=lambda *batch: hidden(params, *batch),
        best=lambda hidden, exclude, k: best(params["table"], hidden, exclude, k=k),
        layout=layout,
    )


def _read_config(workdir: Path) -> ConfigDict:
    """The `config.json` of a run, or what its newest checkpoint has instead if that is damaged.

    Raises:
      CheckpointError: neither is there, or can be used.
    """
    path = workdir / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        found = saved_config(workdir)
        if found is None:
            if any(workdir.glob("*.jaxexport")):
                raise CheckpointError(
                    f"{workdir} is an exported model, and the workdir of a run of main.py is "
                    "needed here; give that of the run it was exported from."
                ) from None
            what = error.strerror if isinstance(error, OSError) else "damaged"
            raise CheckpointError(
                f"{path}: {what}; give the --workdir of a run of main.py."
            ) from None
        print(f"{path} is lost or damaged; the newest checkpoint's is used.", flush=True)
    config = ConfigDict(with_added_fields(found))
    try:
        check_limits(config)
    except ConfigError as error:
        raise CheckpointError(
            f"{path} cannot be used ({error}); choose another --workdir."
        ) from error
    return config


def _best_params(
    config: Any, workdir: Path, encoder: Encoder, num_ids: int, layout: Layout
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a run's best epoch, and the progress saved with it.

    Raises:
      CheckpointError: there is none, it is damaged, or of another config or number of tracks.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        step = checkpoints.best_step
        if step is None:
            raise CheckpointError(f"{workdir} has no finished epoch yet; train it with main.py.")
        progress = checkpoints.progress(step)
        check_same_config(progress["config"], config, workdir)
        real = jax.eval_shape(
            lambda key: init_params(key, encoder, num_ids, config.model.width), jax.random.key(0)
        )
        if layout.mesh is None:
            return checkpoints.restore_params(step, real), progress

        def lying(x, rows, spec):
            shape = (rows, *x.shape[1:])
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=layout.sharding(spec))

        like = {
            "encoder": jax.tree.map(lambda x: lying(x, len(x), EVERYWHERE), real["encoder"]),
            "table": lying(real["table"], layout.padded(num_ids), ROWS),
        }
        return checkpoints.restore_params(step, like, real), progress
    finally:
        checkpoints.close()
