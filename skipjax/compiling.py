"""Functions whose first call compiles them, which takes long and is not hanging."""

from collections.abc import Callable
from typing import Any

from skipjax import processes
from skipjax.watchdog import Watchdog


def unwatched_at_first(function: Callable[..., Any], watchdog: Watchdog) -> Callable[..., Any]:
    """`function`, jitted, called with one set of shapes alone, that `watchdog` lets compile.

    Several processes wait for each other before they run it for the first time: on CPUs, exchanges
    fail where one of them is half a minute late for the first.
    """
    ready = None

    def call(*arguments):
        nonlocal ready
        if ready is not None:
            return ready(*arguments)
        with watchdog.paused("compiling"):
            if processes.number() == 1:
                result, ready = function(*arguments), function
                return result
            ready = function.lower(*arguments).compile()
            processes.barrier("compiled")
        return ready(*arguments)

    return call
