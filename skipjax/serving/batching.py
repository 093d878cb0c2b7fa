"""The one thread that works for a model, and takes what is waiting for it together."""

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pyarrow as pa

from skipjax.errors import BusyError
from skipjax.recommend import Recommender
from skipjax.serving.answering import BATCH, Answerer, Asked, Best, Listened
from skipjax.serving.schema import MOST_SESSIONS

WAITING = 4 * MOST_SESSIONS  # sessions that may wait: seconds of work, which a client can sit out
_LATEST = 0.2  # weight of the last batch in what a session takes


class Full(BusyError):
    """More waits already than may.

    Attributes:
      seconds: until there is room, roughly.
    """

    def __init__(self, waiting: int, seconds: int):
        super().__init__(f"{waiting:,} sessions wait already; try again in {seconds} s.")
        self.seconds = seconds


@dataclasses.dataclass
class _Ask:
    """Part of a request, of a batch's size at most."""

    asked: list[Asked]
    answer: Future = dataclasses.field(default_factory=Future)

    @property
    def size(self) -> int:
        return len(self.asked)


@dataclasses.dataclass
class _Lookup:
    track_id: str
    k: int
    answer: Future = dataclasses.field(default_factory=Future)
    size = 1


class Worker:
    """Answers for one model, in one thread: batches of whatever waits, in order.

    Nothing is waited for: a session that comes alone is answered alone. All shapes that can be
    asked for have been compiled when `ready` is done.

    Attributes:
      answerer: what it answers with.
      ready: done when it is warm; its result is the seconds that took.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        most_waiting: int = WAITING,
        observe: Callable[[int, float], None] = lambda sessions, seconds: None,
    ):
        """
        Args:
          recommender: used by no other thread from here on.
          most_waiting: sessions; more are refused.
          observe: called after each batch with its number of sessions, and its seconds.
        """
        self.answerer = Answerer(recommender)
        self.ready: Future[float] = Future()
        self._most_waiting, self._observe = most_waiting, observe
        self._asks: deque[_Ask | _Lookup] = deque()
        self._waiting = 0  # sessions
        self._seconds = 0.0  # that a session takes, of late
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="skipjax-worker")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Returns when all that waits has been answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident:
            self._thread.join()

    @property
    def warm(self) -> bool:
        return self.ready.done() and not self.ready.exception()

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return self._waiting

    def recommend(
        self, sessions: Sequence[Listened], k: int, exclude_seen: bool
    ) -> list["Future[list[Best]]"]:
        """What fits best after each session: a future for each part of a batch's size.

        Raises:
          Full: too many wait; none of these do.
        """
        asked = [Asked(session, k, exclude_seen) for session in sessions]
        asks = [_Ask(asked[start : start + BATCH]) for start in range(0, len(asked), BATCH)]
        self._put(asks, len(sessions))
        return [ask.answer for ask in asks]

    def similar(self, track_id: str, k: int) -> "Future[pa.Table]":
        """A future of what `Recommender.similar` returns, or raises.

        Raises:
          Full: too many wait.
        """
        lookup = _Lookup(track_id, k)
        self._put([lookup], lookup.size)
        return lookup.answer

    def _put(self, asks: Sequence[_Ask | _Lookup], size: int) -> None:
        with self._changed:
            if self._waiting + size > self._most_waiting:
                raise Full(self._waiting, max(1, math.ceil(self._waiting * self._seconds)))
            self._waiting += size
            self._asks.extend(asks)
            self._changed.notify()

    def _work(self) -> None:
        try:
            self.ready.set_result(self.answerer.warm_up(lambda: self._closed))
        except BaseException as error:
            self.ready.set_exception(error)
            return
        while (asks := self._next()) is not None:
            try:
                if asks and isinstance(asks[0], _Lookup):
                    found = self.answerer.similar(asks[0].track_id, asks[0].k)
                    asks[0].answer.set_result(found)
                elif asks:
                    self._recommend(asks)
            except Exception as error:
                for ask in asks:
                    ask.answer.set_exception(error)

    def _next(self) -> list | None:
        """What to do next: some asks together, or one lookup; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._asks or self._closed)
            if not self._asks:
                return None
            taken = [self._asks.popleft()]
            size = taken[0].size
            while self._asks and size + self._asks[0].size <= BATCH:
                if isinstance(taken[0], _Lookup) or isinstance(self._asks[0], _Lookup):
                    break
                taken.append(self._asks.popleft())
                size += taken[-1].size
            self._waiting -= size
        # False for those that nobody waits for any more.
        return [ask for ask in taken if ask.answer.set_running_or_notify_cancel()]

    def _recommend(self, asks: Sequence[_Ask]) -> None:
        begun = time.perf_counter()
        best = self.answerer.best([asked for ask in asks for asked in ask.asked])
        seconds = time.perf_counter() - begun
        self._seconds += _LATEST * (seconds / len(best) - self._seconds)
        self._observe(len(best), seconds)
        start = 0
        for ask in asks:
            ask.answer.set_result(best[start : start + ask.size])
            start += ask.size
