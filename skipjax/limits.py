"""What config fields may be: checked before anything else is done.

Every field of configs/common.py and of `config.study` has a rule here; one without is refused.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from skipjax import memory, metrics
from skipjax.choices import CHOICES
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT

_LARGEST_INT = 2**31 - 1  # of an int32
_DEMO_TRACK_BYTES = 150
_LARGEST_FLOAT = 3.4e38  # of a float32, nearly


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a field may be: `wanted` completes "it must be ...", `choices` are all there are."""

    allows: Callable[[Any], bool]
    wanted: str = ""
    choices: tuple[str, ...] = ()


def _whole(low: int, high: int = _LARGEST_INT) -> _Rule:
    limits = f"of at least {low}" if high == _LARGEST_INT else f"from {low} to {high}"
    return _Rule(lambda x: type(x) is int and low <= x <= high, f"a whole number {limits}")


def _number(low: float, high: float = _LARGEST_FLOAT) -> _Rule:
    limits = f"of at least {low}" if high == _LARGEST_FLOAT else f"from {low} to {high}"

    def allows(x):
        return isinstance(x, int | float) and type(x) is not bool and low <= x <= high

    return _Rule(allows, f"a finite number {limits}")


def _one_of(*choices: str) -> _Rule:
    return _Rule(lambda x: type(x) is str and x in choices, choices=choices)


def _tuple_of(item: Callable[[Any], bool], wanted: str, least: int = 0) -> _Rule:
    def allows(x):
        return isinstance(x, tuple | list) and len(x) >= least and all(map(item, x))

    return _Rule(allows, wanted)


def _is_text(x: Any) -> bool:
    """Of one line, so that what names it is one, too."""
    return isinstance(x, str) and not re.search("[\x00-\x1f\x7f\x85\u2028\u2029]", x)


_FLAG = _Rule(lambda x: type(x) is bool, "True or False")
_TEXT = _Rule(_is_text, "text of one line")
_NAME = _Rule(lambda x: _is_text(x) and x != "", "text of one line, and not empty")
_RATE = _number(0)


def _is_ratio(x: Any) -> bool:
    pair = isinstance(x, tuple | list) and len(x) == 2
    return pair and all(map(_RATE.allows, x)) and any(x)


_COUNT = _whole(1)
_RULES = {
    "name": _Rule(
        lambda x: isinstance(x, str) and re.fullmatch(r"\w[\w.-]*", x) is not None,
        "the name of a folder: letters, digits, '_', '-' and '.'",
    ),
    "seed": _whole(0),
    "data.path": _TEXT,
    "data.cache_dir": _NAME,
    "data.num_sessions": _whole(0),
    "data.min_length": _whole(2),  # one to learn from, one to predict; see also _check_together
    "data.max_length": _whole(4),
    "data.gap_minutes": _Rule(
        lambda x: x == -1 or _number(0, 1e9).allows(x),
        "a number from 0 to 1e9, or -1 for the source's own",
    ),
    "data.min_plays": _whole(1),
    "data.skip_levels": _tuple_of(
        lambda x: type(x) is int and 0 <= x <= 3, "a tuple of levels, each 0, 1, 2 or 3"
    ),
    "data.skip_below_percent": _number(0, 100),
    "data.skip_dislikes": _FLAG,
    "data.skip_rating": _number(0),
    "data.require_skip": _FLAG,
    "data.temporal.test_hours": _number(1e-3, 1e6),
    "data.temporal.valid_hours": _number(1e-3, 1e6),
    "data.temporal.gap_minutes": _number(0, 1e6),
    # Which of the columns must be named, data/table.py says.
    "data.table.session_column": _TEXT,
    "data.table.track_column": _TEXT,
    "data.table.position_column": _TEXT,
    "data.table.time_column": _TEXT,
    "data.table.level_column": _TEXT,
    "data.table.skip_column": _TEXT,
    "data.table.rating_column": _TEXT,
    "data.table.percent_column": _TEXT,
    "data.table.context_columns": _tuple_of(_NAME.allows, "a tuple of columns' names"),
    "data.demo.num_sessions": _whole(1),
    "data.demo.num_tracks": _whole(100, 50_000_000),
    "data.demo.skip_share": _Rule(
        lambda x: _RATE.allows(x) and x < 1, "a number from 0 to below 1; 0 is for MSSD's shares"
    ),
    "data.demo.seed": _whole(0),
    "model.causal": _FLAG,
    "model.width": _whole(1),
    "model.num_layers": _whole(1),
    "model.num_heads": _whole(1),
    "model.feedforward_width": _whole(1),
    "model.dropout": _number(0, 0.99),
    "model.pre_norm": _FLAG,
    "model.skip_embedding": _FLAG,
    "model.init_stddev": _number(1e-12),
    "model.init_bound": _number(1e-12),
    "model.init_norms": _FLAG,
    "loss.alpha": _number(0),
    "loss.beta": _number(0),
    "loss.temperature": _number(1e-6),
    "loss.skipped_weight": _number(0),
    "loss.skipped_negatives": _FLAG,
    "loss.cloze_fraction": _number(1e-6, 1),
    "sampling.num_negatives": _whole(1),
    "optimizer.learning_rate": _RATE,
    "optimizer.warmup_steps": _whole(0),
    "optimizer.b1": _number(0, 0.999999),
    "optimizer.b2": _number(0, 0.999999),
    "optimizer.epsilon": _number(1e-30),  # 0 / 0 where there never was a gradient
    "optimizer.table_epsilon": _number(1e-30),
    "optimizer.weight_decay": _number(0),
    "optimizer.clip_norm": _number(0),
    "train.batch_size": _whole(1),
    "train.num_epochs": _whole(1),
    "train.patience": _whole(1),
    "train.log_every_steps": _whole(1),
    "train.checkpoint_every_steps": _whole(0),
    "train.watchdog_seconds": _number(1),
    "mesh.data": _Rule(
        lambda x: (x == -1 and type(x) is int) or _COUNT.allows(x),
        "a whole number of at least 1, or -1",
    ),
    "mesh.tracks": _whole(1),
    "eval.seed": _whole(0, 2**63 - 1),
    # With fewer, HR@10 on validation, by which epochs are chosen, would be 1 for every session.
    "eval.num_candidates": _whole(10),
    "eval.metrics": _tuple_of(_NAME.allows, "a tuple of one metric at least", least=1),
    "eval.keep_top": _whole(0),
    "eval.batch_size": _whole(1),
    "eval.chunk_size": _whole(1),
}

_RULES |= {field: _one_of(*choices) for field, choices in CHOICES.items()}
_STUDY_RULES = {
    "study.learning_rates": _tuple_of(_RATE.allows, "a tuple of finite numbers of at least 0"),
    "study.ratios": _tuple_of(_is_ratio, "a tuple of pairs (alpha, beta), neither below 0"),
    "study.most_tuning_runs": _whole(0),
    "study.other_seeds": _whole(1),
    "study.keep_checkpoints": _FLAG,
    "study.arms": _tuple_of(lambda x: hasattr(x, "keys"), "a tuple of arms", least=1),
}


def check_limits(config: Any) -> None:
    """Names the first thing that is wrong with a config, as far as no data is needed to see it.

    Raises:
      ConfigError: a field that is missing, unknown, of the wrong type or outside its limits, or
        fields that do not go together; with the field, its value, and what it must be.
    """
    values = dict(fields(config))
    rules = _RULES | (_STUDY_RULES if "study" in config else {})
    for field in rules:
        if field not in values:
            whole = "configs/table1.py" if field in _STUDY_RULES else "configs/common.py"
            raise ConfigError(f"config.{field} is missing; begin with {whole}, which has it.")
    for field, value in values.items():
        if field not in rules:
            hint = did_you_mean(field, rules, "config.")
            raise ConfigError(f"there is no field config.{field}.{hint}")
        if instead := wanted(field, value):
            raise ConfigError(f"config.{field} is {value!r}; {instead}")
    _check_together(config)
    _check_fits(config, 0, memory.physical_bytes())


def _check_together(config: Any) -> None:
    """What no field shows alone."""
    data, model, loss, evaluation = config.data, config.model, config.loss, config.eval
    least = 2 + HELD_OUT[data.split]
    if data.min_length < least:
        raise ConfigError(
            f"config.data.min_length is {data.min_length}, but config.data.split "
            f"{data.split!r} needs two tracks to learn from and two to hold out; it must be a "
            f"whole number of at least {least}."
        )
    if data.min_length > data.max_length:
        raise ConfigError(
            f"config.data.min_length is {data.min_length}, more than config.data.max_length "
            f"({data.max_length}); lower the one or raise the other."
        )
    if data.source == "demo" and data.path:
        raise ConfigError(
            f"config.data.path is {data.path!r}, but config.data.source is 'demo', which reads no "
            "files; set config.data.source to what lies there, such as 'mssd' or 'table', or leave "
            "out the path."
        )
    bytes_there = memory.physical_bytes()
    if data.source == "demo" and data.demo.num_tracks * _DEMO_TRACK_BYTES > bytes_there:
        raise ConfigError(
            f"config.data.demo.num_tracks is {data.demo.num_tracks}, which takes "
            f"{data.demo.num_tracks * _DEMO_TRACK_BYTES:,} bytes to draw, but there are "
            f"{bytes_there:,} bytes of memory; lower it."
        )
    if model.width % model.num_heads:
        raise ConfigError(
            f"config.model.width ({model.width}) must be divisible by config.model.num_heads "
            f"({model.num_heads})."
        )
    if not loss.alpha and not loss.beta:
        raise ConfigError(
            "config.loss.alpha and config.loss.beta are both 0: nothing to learn; raise one."
        )
    for field, default in (("skipped_target", "recommend"), ("skipped_weight", 1.0)):
        if loss.target == "next_played" and loss[field] != default:
            raise ConfigError(
                f"config.loss.{field} is {loss[field]!r}, but config.loss.target is 'next_played', "
                f"and such a target was never skipped; set the one to {default!r} or the other to "
                "'next'."
            )
    for name in evaluation.metrics:
        try:
            cutoff = metrics.canonical(name).partition("@")[2]
        except ConfigError as error:
            raise ConfigError(f"config.eval.metrics is {evaluation.metrics!r}: {error}") from None
        # Of more places than there are tracks to fill them, every target has one.
        if cutoff and int(cutoff) > evaluation.num_candidates:
            raise ConfigError(
                f"config.eval.metrics has {name!r}, but config.eval.num_candidates is "
                f"{evaluation.num_candidates}; lower the cutoff or raise the other."
            )


def _check_fits(config: Any, num_tracks: int, available: int) -> None:
    """Whether so many bytes can hold all parameters and, for each, Adam's two moments."""
    model, length = config.model, config.data.max_length
    width, layers, inner = model.width, model.num_layers, model.feedforward_width
    parts = {
        f"config.model.width ({width}) and {num_tracks:,} tracks": width * num_tracks,
        f"config.model.width ({width}) and config.data.max_length ({length})": width * length,
        f"config.model.width ({width}), config.model.feedforward_width ({inner}) and "
        f"config.model.num_layers ({layers})": layers * (4 * width + 2 * inner) * width,
    }
    needed = 3 * 4 * sum(parts.values())
    if needed > available:
        raise ConfigError(
            f"{max(parts, key=parts.get)} make parameters and Adam's moments of {needed:,} bytes, "
            f"but there are {available:,} bytes of memory; lower one of them."
        )


def check_data_limits(config: Any, split: Any, available: int | None = None) -> None:
    """Names what a config asks of data that cannot give it.

    Args:
      config: within `check_limits`.
      split: the data, a `data.parts.Split`.
      available: bytes of memory for parameters; None for the machine's.

    Raises:
      ConfigError: with the field, its value, what the data has, and what to change.
    """
    train, draws, optimizer = config.train, config.sampling, config.optimizer
    sessions = len(split.parts["train"].sessions)
    tracks = split.num_ids - FIRST_TRACK_ID
    if train.batch_size > sessions:
        raise ConfigError(
            f"config.train.batch_size is {train.batch_size}, but there are only {sessions} "
            f"sessions to train on; lower it to {sessions} at most, or use more data."
        )
    if draws.scope != "full" and draws.num_negatives >= tracks:
        raise ConfigError(
            f"config.sampling.num_negatives is {draws.num_negatives}, but there are only {tracks} "
            f"tracks to draw from; lower it to less, or set config.sampling.scope to 'full', which "
            "takes them all."
        )
    if config.eval.keep_top > tracks:
        raise ConfigError(
            f"config.eval.keep_top is {config.eval.keep_top}, but there are only {tracks} tracks; "
            f"lower it to {tracks} at most."
        )
    _check_fits(config, tracks, available or memory.physical_bytes())
    per_epoch = -(-sessions // train.batch_size)
    steps = train.num_epochs * per_epoch
    if steps > _LARGEST_INT:
        raise ConfigError(
            f"config.train.num_epochs is {train.num_epochs}, of {per_epoch} steps each; lower it "
            f"to {_LARGEST_INT // per_epoch} at most."
        )
    if optimizer.decay != "constant" and optimizer.warmup_steps >= steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps is {optimizer.warmup_steps}, but the run and its "
            f"{optimizer.decay} decay end after {steps} steps ({train.num_epochs} epochs of "
            f"{per_epoch}); lower it below {steps}, or raise config.train.num_epochs."
        )


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each field."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def wanted(field: str, value: Any) -> str:
    """What the config field `field` must be instead of `value`; "" if it may be that."""
    rule = {**_RULES, **_STUDY_RULES}.get(field)
    if rule is None or rule.allows(value):
        return ""
    if not rule.choices:
        return f"it must be {rule.wanted}."
    choices = [repr(choice) for choice in rule.choices]
    return f"choose one of {', '.join(choices)}.{did_you_mean(repr(value), choices)}"


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence that names what is most like `name`, with `prefix` before it, if anything is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {prefix}{close[0]}?" if close else ""
