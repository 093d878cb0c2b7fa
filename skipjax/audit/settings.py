"""What an audit reads of a config, so that it needs no config file.

The values are those of configs/common.py, which has the reasons; a test holds them equal.
"""

from ml_collections import ConfigDict


def defaults() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "split": "leave_one_out",
                "temporal": {"test_hours": 24.0, "valid_hours": 24.0, "gap_minutes": 30.0},
                "min_length": 4,
                "max_length": 20,
                "min_plays": 1,
                "skip_levels": (1, 2),
                "skip_below_percent": 50.0,
                "skip_dislikes": True,
                "skip_rating": 2.0,
                "require_skip": False,
                "labels": "logged",
            },
            "eval": {"num_candidates": 1_000},
            "sampling": {"num_negatives": 1_000, "scope": "session"},
            "train": {"batch_size": 64},
        }
    )
