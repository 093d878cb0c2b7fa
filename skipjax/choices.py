"""Config fields of which there are only a few values, and what these are."""

from typing import Any

from skipjax.errors import ConfigError

CHOICES = {
    "data.source": (
        *("demo", "mssd", "yambda", "lastfm", "spotify", "inter", "table", "prepared"),
    ),
    "data.split": ("leave_one_out", "temporal"),
    "data.table.time_unit": ("", "s", "ms", "us", "ns"),
    "data.on_bad_session": ("error", "drop"),
    "data.labels": ("logged", "shuffled", "ignored"),
    "model.activation": ("relu", "gelu"),
    "model.positions": ("from_end", "absolute"),
    "loss.context": ("track", "hidden"),
    "loss.anchors": ("all", "played"),
    "loss.negatives": ("own", "future", "shifted", "random", "batch"),
    "loss.polarity": ("skipped", "played"),
    "loss.target": ("next", "next_played"),
    "loss.skipped_target": ("recommend", "not_to_recommend"),
    "sampling.scope": ("session", "batch", "full"),
    "optimizer.decay": ("constant", "linear", "cosine"),
    "optimizer.table": ("deferred", "dense", "lazy"),
    "eval.precision": ("float32", "bfloat16"),
}


def check_choices(section: Any, name: str) -> None:
    """Refuses a field of `section`, which is `config.NAME`, with another value.

    Raises:
      ConfigError: naming the field, its value and the choices.
    """
    for field, choices in CHOICES.items():
        within, _, last = field.rpartition(".")
        if within == name and (value := getattr(section, last)) not in choices:
            raise ConfigError(f"config.{field} is {value!r}; choose one of {choices}.")
