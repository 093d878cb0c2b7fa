"""The tracks that a held-out one is ranked among."""

import numpy as np

from skipjax.data.parts import Split
from skipjax.errors import ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID


class Candidates:
    """Distinct uniform tracks that are not in the session, to rank its target among.

    Fixed by (seed, session id), so the same for every model, batch size and order. They are kept
    once drawn, unless they would take more than `keep_bytes`.
    """

    def __init__(self, split: Split, num: int, seed: int, *, keep_bytes: int = 2 << 30):
        """
        Args:
          split: the data.
          num: candidates for each session.
          seed: at least 0.
          keep_bytes: how much memory to spend.

        Raises:
          ConfigError: some session may have fewer than `num` tracks outside it.
          DataError: some session may have none.
        """
        self._split, self._num, self._seed = split, num, seed
        num_tracks = split.num_ids - FIRST_TRACK_ID
        # Those that are asked for a track; by time, sessions to train on are not.
        self._asked = np.union1d(split.parts["valid"].sessions, split.parts["test"].sessions)
        longest = int(split.lengths[self._asked].max())
        if num_tracks <= longest:
            raise DataError(
                f"there are {num_tracks} tracks and sessions of up to {longest}, so no others to "
                "rank a target among; use more data."
            )
        if not 1 <= num <= num_tracks - longest:
            raise ConfigError(
                f"config.eval.num_candidates is {num}; with {num_tracks} tracks and sessions of up "
                f"to {longest} it must be from 1 to {num_tracks - longest}."
            )
        keep = 4 * num * len(self._asked) <= keep_bytes
        self._kept = np.zeros((len(self._asked) if keep else 0, num), np.int32)

    def __call__(self, sessions: np.ndarray) -> np.ndarray:
        """[N, num] int32, those of N sessions of the split, each for validation or the test."""
        if not len(self._kept):
            return np.stack([self._draw(session) for session in sessions])
        places = np.searchsorted(self._asked, sessions)
        for place in places[self._kept[places, 0] == 0]:  # PAD stands for not drawn yet
            self._kept[place] = self._draw(self._asked[place])
        return self._kept[places]

    def _draw(self, session: int) -> np.ndarray:
        split = self._split
        start = split.starts[session]
        own = np.unique(split.tracks[start : start + split.lengths[session]]) - FIRST_TRACK_ID
        rng = np.random.default_rng((self._seed, int(split.session_hashes[session])))
        num_others = split.num_ids - FIRST_TRACK_ID - len(own)
        others = rng.choice(num_others, self._num, replace=False, shuffle=False)
        # The x-th track outside the session is x plus how many of the session's come before it.
        before = ((own - np.arange(len(own)))[:, None] <= others).sum(axis=0)
        return (FIRST_TRACK_ID + others + before).astype(np.int32)
