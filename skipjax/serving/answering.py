"""One model's answers to sessions that ask for different things, in few compiled shapes."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from skipjax.data.histories import Histories
from skipjax.ids import PAD_ID
from skipjax.recommend import Recommender, Report
from skipjax.serving.schema import MOST_RECOMMENDED, MOST_TRACKS

BATCH = 256  # sessions at a time; the cost of each hardly falls from here on, and the wait grows
_FEW = 20  # k that is asked for mostly; for any larger one the largest is, so little compiles
_LONG = 16  # sessions at a time of those that are long: few are, and a batch of many compiles, too


class Listened(Protocol):
    """A session: ids of tracks, and perhaps whether each was skipped."""

    tracks: list[str]
    skipped: list[bool] | None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A session, and what is asked for it."""

    session: Listened
    k: int
    exclude_seen: bool


@dataclasses.dataclass(frozen=True)
class Best:
    """The tracks that fit best after a session.

    Attributes:
      track_ids: best first.
      scores: of each; None where the session had no track that the model knows.
      unknown: tracks of the session that the model does not know, each once.
      fallback: whether these are the most played tracks instead.
    """

    track_ids: list[str]
    scores: list[float | None]
    unknown: list[str]
    fallback: bool


class Answerer:
    """Works in one thread, as the recommender does.

    Attributes:
      model: whose answers these are.
      max_k: the largest k.
    """

    def __init__(self, recommender: Recommender):
        self.model = recommender.model
        self.max_k = min(self.model.max_k, MOST_RECOMMENDED)
        self._recommender = recommender

    def best(self, asked: Sequence[Asked]) -> list[Best]:
        """For each session, as if it had been asked for alone."""
        alike: dict[tuple, list[int]] = {}  # places in `asked` of what may go into one call
        for place, ask in enumerate(asked):
            session = ask.session
            reads = self.model.reads_skips and session.skipped is not None
            long = ask.exclude_seen and len(session.tracks) > self.model.lengths[-1]
            kind = (self._compiled_k(ask.k), ask.exclude_seen, reads, long)
            alike.setdefault(kind, []).append(place)
        found: dict[int, Best] = {}
        for (k, exclude_seen, reads, long), places in alike.items():
            size = _LONG if long else BATCH
            for start in range(0, len(places), size):
                some = places[start : start + size]
                best = self._best([asked[place] for place in some], k, exclude_seen, reads)
                found.update(zip(some, best, strict=True))
        return [found[place] for place in range(len(asked))]

    def similar(self, track_id: str, k: int) -> pa.Table:
        """As `Recommender.similar`."""
        most = min(self.max_k, len(self.model.catalogue) - 1)
        return self._recommender.similar(track_id, most)[:k]

    def warm_up(self, stopped: Callable[[], bool] = lambda: False) -> float:
        """Asks for everything once that has a shape of its own; returns the seconds.

        Args:
          stopped: whether to leave it at that, asked before each shape.
        """
        start = time.perf_counter()
        model = self.model
        names = model.catalogue.track_ids[:MOST_TRACKS].to_pylist()
        whole = model.lengths[-1]
        # What is left out is padded to few widths, too (recommend.py): the first of each.
        seen = [n for n in (1, 1 + whole, 1 + 4 * whole, 1 + 16 * whole) if n <= len(names)]
        ks = sorted({self._compiled_k(1), self.max_k})
        sizes = [size for size in model.sizes if size <= BATCH]
        enough = next((size for size in sizes if size >= _LONG), sizes[-1])  # for long ones
        for size in sizes:

            def run(length: int, k: int, exclude_seen: bool, reads: bool, size: int = size) -> None:
                if stopped():
                    return
                made = _Made((names * (1 + length // len(names)))[:length], [False] * length)
                self._best([Asked(made, k, exclude_seen)] * size, k, exclude_seen, reads)

            for k in ks:
                run(1, k, False, False)
                for number in seen if size <= enough else seen[:1]:
                    run(number, k, True, False)
            for reads in {False, model.reads_skips}:
                for length in (1, model.longest):
                    run(length, ks[0], True, reads)
        if len(model.catalogue) > 1 and not stopped():
            self.similar(names[0], 1)
        return time.perf_counter() - start

    def _compiled_k(self, k: int) -> int:
        """The next larger k that is compiled; more than was asked for is cut off."""
        return _FEW if k <= _FEW < self.max_k else self.max_k

    def _best(self, asked: Sequence[Asked], k: int, exclude_seen: bool, reads: bool) -> list[Best]:
        sessions = [ask.session for ask in asked]
        lengths = [len(session.tracks) for session in sessions]
        texts = pa.array([t for s in sessions for t in s.tracks], pa.large_string())
        skipped = np.array([x for s in sessions for x in s.skipped], bool) if reads else None
        histories = Histories(
            session_ids=pa.array(np.arange(len(sessions))),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            tracks=texts.dictionary_encode(),
            skipped=skipped,
        )
        report = Report()
        (table,) = self._recommender.tables([histories], k, exclude_seen, report)
        counts = np.bincount(table["session_id"].to_numpy(), minlength=len(sessions))
        ends = np.cumsum(counts).tolist()
        ids, scores = table["track_id"].to_pylist(), table["score"].to_pylist()
        strange: set[str] = set()
        if report.unknown:
            names = histories.tracks.dictionary
            known = self.model.catalogue.ids_of(names) != PAD_ID
            strange.update(names.filter(pa.array(~known)).to_pylist())
        found = []
        start = 0
        for ask, end in zip(asked, ends, strict=True):
            tracks, stop = ask.session.tracks, min(end, start + ask.k)
            unknown = [t for t in dict.fromkeys(tracks) if t in strange] if strange else []
            fallback = all(track in strange for track in tracks)
            found.append(Best(ids[start:stop], scores[start:stop], unknown, fallback))
            start = end
        return found


@dataclasses.dataclass
class _Made:
    tracks: list[str]
    skipped: list[bool] | None
