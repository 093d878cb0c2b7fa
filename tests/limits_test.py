import importlib
import math

import pytest

from skipjax.errors import ConfigError
from skipjax.limits import check_limits


@pytest.mark.parametrize(
    "name", ["common", "sasrec", "sasrec_skip", "bert4rec", "bert4rec_skip", "tiny"]
)
def test_every_config_is_within_the_limits(name):
    check_limits(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "min_length", 3),
        ("model", "dropout", 1.0),
        ("model", "init_stddev", 0.0),
        ("model", "init_stddev", math.inf),
        ("loss", "alpha", math.nan),
        ("loss", "temperature", 0.0),
        ("optimizer", "clip_norm", math.inf),
        ("optimizer", "b1", 1.0),
        ("train", "patience", 0),
        ("eval", "seed", -1),
    ],
)
def test_values_outside_are_named_with_their_limits(section, field, value):
    config = importlib.import_module("configs.tiny").get_config()
    config[section][field] = value
    with pytest.raises(ConfigError, match=rf"config\.{section}\.{field} is {value}; it must be"):
        check_limits(config)
