"""Ids that are not tracks, codes of feedback, what splits hold out; ids out of range."""

from typing import Any

import numpy as np

from skipjax.errors import DataError

PAD_ID = 0
MASK_ID = 1
FIRST_TRACK_ID = 2  # real tracks, by falling count in the training spans
UNKNOWN, PLAYED, SKIPPED = 0, 1, 2  # feedback on a track, as an encoder may read it
# At the end of each session that is trained on, by config.data.split: leave-one-out holds out one
# track for validation and one for the test, a split in time takes other sessions for those.
HELD_OUT = {"leave_one_out": 2, "temporal": 0}
LEAVE_ONE_OUT = "leave-one-out"  # what results call the one; the other's name has its hours


def check_ids(ids: Any, num_ids: int, what: str) -> None:
    """Refuses ids that a table of `num_ids` rows does not have.

    A device would not: it clamps them, wraps them to int32, or gives NaN.

    Args:
      ids: an array of any shape and integer type, from 0.
      num_ids: rows of the table.
      what: the name of `ids`, for the message.

    Raises:
      DataError: naming the first such id and where it stands.
    """
    ids = np.asarray(ids)
    if not ids.size:
        return
    if ids.dtype.kind not in "iu":
        raise DataError(f"{what} holds {ids.dtype}; ids must be whole numbers.")
    if ids.min() < 0 or ids.max() >= num_ids:
        place = tuple(np.argwhere((ids < 0) | (ids >= num_ids))[0].tolist())
        raise DataError(
            f"{what}[{', '.join(map(str, place))}] is {ids[place]}; there are {num_ids}, 0 to "
            f"{num_ids - 1}."
        )
