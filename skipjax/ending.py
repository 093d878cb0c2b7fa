"""When processes that train together end, once one of them was asked to."""

from collections import deque

import jax
import numpy as np

from skipjax import processes
from skipjax.mesh import EVERYWHERE, Layout

_LATER = 4  # steps, so that nobody waits for the exchange


class Ending:
    """Lets all processes know of a signal that came to one of them, at the same step."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._asked: deque[jax.Array] = deque()
        self._most = jax.jit(lambda x: x.max(), out_shardings=layout.sharding(EVERYWHERE))

    def __call__(self, number: int, last: bool = False) -> int:
        """To be called by all processes, after each step.

        Args:
          number: of the signal that this process was sent, or 0.
          last: whether no step follows, so that nothing is left for later.

        Returns:
          That of one that any of them was sent some steps ago, the same on all of them, or 0; with
          one process, `number`.
        """
        if processes.number() == 1:
            return number
        mine = np.full(len(self._layout.mine), number, np.int32)
        self._asked.append(self._most(self._layout.put(mine)))
        if last:
            return max(map(int, self._asked))
        return int(self._asked.popleft()) if len(self._asked) > _LATER else 0
