"""The session store: flat event columns, offsets and a vocabulary, as Arrow files on disk."""

import dataclasses
import os
from typing import Any

import numpy as np
import pyarrow as pa

PLAYED_LEVEL = 0  # not skipped
BRIEFLY_LEVEL = 2  # what a plain yes/no skip flag is stored as


@dataclasses.dataclass(frozen=True)
class Sessions:
    """Listening sessions, their events in order of listening.

    Session s holds events `offsets[s]` to `offsets[s + 1]`.

    Attributes:
      offsets: [S + 1] int64, first event of each session, and the number of events E.
      tracks: [E] int32, index into `track_ids`.
      levels: [E] int8, skip level as in the paper, section 3: 0 not skipped, 1 played very
        briefly, 2 briefly, 3 mostly.
      session_ids: [S] large_string array of ids, all different.
      track_ids: [T] large_string array, sorted; every track has at least one event.
      context: table of E rows with whatever else was logged per event (`context_type`, ...).
      info: JSON-able facts of the preparation: `source`, what was left out, and so on.
    """

    offsets: np.ndarray
    tracks: np.ndarray
    levels: np.ndarray
    session_ids: pa.LargeStringArray
    track_ids: pa.LargeStringArray
    context: pa.Table
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Sessions":
        """Memory-maps the sessions that `SessionsWriter` left in `folder`."""
        raise NotImplementedError
